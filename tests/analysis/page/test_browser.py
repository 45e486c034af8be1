"""The report and a gallery in a real browser: no error, no broken picture, nothing too wide.

Needs Chromium on the path; without one its tests are skipped, which .ci/run does not allow.
"""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from analysis import __main__ as everything
from analysis import gallery
from analysis.page import report

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")

LAZY = ' loading="lazy"', 'img.loading = "lazy";'
PROBE = """<script>
window.onload = () => {
  const all = [...document.images];
  const broken = all.filter((one) => !one.complete || one.naturalWidth === 0).length;
  const page = document.documentElement;
  const wide = page.scrollWidth - page.clientWidth;
  const dark = getComputedStyle(document.body).backgroundColor;
  document.title = JSON.stringify({ pictures: all.length, broken, wide, ground: dark });
};
</script></body>"""


ASK = """<script>
window.onload = () => {
  const field = document.querySelector("input[type=search]");
  const seen = () => document.querySelectorAll(%r).length;
  const before = seen();
  field.value = %r;
  field.dispatchEvent(new Event("input"));
  const said = document.querySelector("[role=status]").textContent;
  document.title = JSON.stringify({ before, after: seen(), said });
};
</script></body>"""


def looked_at(page: Path, width: int, *options: str, probe: str = PROBE) -> dict:
    """Findings of a browser `width` pixels wide on a page; below 500 Chromium takes 500."""
    probed = page.with_name(f"probed{width}.html")
    text = page.read_text()
    for lazy in LAZY:  # so that `onload` waits for every picture
        text = text.replace(lazy, "")
    probed.write_text(text.replace("</body>", probe))
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--enable-logging=stderr", f"--user-data-dir={page.parent / 'profile'}",
            f"--window-size={width},900", "--virtual-time-budget=20000", "--dump-dom", *options,
            probed.as_uri(),
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {**json.loads(unescape(title[1])), "console": console}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of every committed artifact."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("report")
        shutil.copytree(ROOT / "results" / "artifacts", home / "artifacts")
        patch.setenv("RETRACE_RESULTS", str(home))
        return report.build(everything.artifacts()[0])


@pytest.mark.long
@pytest.mark.parametrize("width", [500, 760, 1100, 1280])
def test_the_report_is_whole_at_every_width(page, width):
    seen = looked_at(page, width)
    assert seen["pictures"] == page.read_text().count("<img ") > 0
    assert seen["broken"] == 0
    assert seen["wide"] == 0, "the page scrolls sideways"
    assert seen["console"] == []


@pytest.mark.long
def test_the_report_follows_a_dark_screen(page):
    light, dark = (
        looked_at(page, 1280, f"--blink-settings=preferredColorScheme={scheme}")["ground"]
        for scheme in (1, 0)
    )
    assert light == "rgb(251, 250, 247)"
    assert dark == "rgb(20, 24, 27)"


@pytest.mark.long
def test_the_report_is_small_and_finds_what_is_searched(page):
    assert page.stat().st_size < 4_000_000
    seen = looked_at(page, 1280, probe=ASK % ("tr[data-of]:not([hidden])", "california houses"))
    assert seen["before"] == len(everything.artifacts()[0])
    assert 1 <= seen["after"] < 5
    assert seen["said"] == f"{seen['after']} of {seen['before']} artifacts"
    assert seen["console"] == []


def test_a_gallery_is_whole_and_finds_what_is_searched(tmp_path):
    draw = np.random.default_rng(0)
    images, labels = draw.random((30, 3, 8, 8)), [f"class {i % 3}" for i in range(30)]
    examples = {"image": images, "label": labels, "text": [["some", "words"]] * 30}
    page = gallery({"one": draw.normal(size=(25, 2, 30))}, examples, examples, tmp_path)
    for width in (500, 1280):
        seen = looked_at(page, width)
        assert seen["pictures"] == 20 * 11, "twenty queries at a time, each with its ten"
        assert (seen["broken"], seen["wide"], seen["console"]) == (0, 0, [])
    seen = looked_at(page, 1280, probe=ASK % ("article", "#7 label: class"))
    assert (seen["before"], seen["after"]) == (20, 1)
    assert seen["said"] == "1 of 25 queries"


def test_a_broken_page_is_seen(tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text(
        "<!doctype html><html><head><title>broken</title></head><body>"
        '<img src="data:image/png;base64,AAAA" alt="no picture">'
        '<div style="width: 3000px">wide</div><script>console.error("something")</script>'
        "</body></html>"
    )
    seen = looked_at(broken, 500)
    assert seen["broken"] == 1
    assert seen["wide"] > 2000
    assert any("something" in line for line in seen["console"])
