"""Where a method of one's own lands: the example of the docs, and the mistakes."""

import re
from dataclasses import replace

import numpy as np
import pytest

from analysis.page import docs
from experiments import __main__ as command
from experiments.ensembles import judge
from experiments.ensembles.judge import Standing, report
from experiments.laboratory import registry, runs
from experiments.laboratory.errors import UserError
from experiments.lds_published import EXPERIMENT, Row, Train
from methods.gradcos import GradCos
from methods.tracin import TracIn
from tests.experiments.test_lds_published import PLAN

PAGE = (docs.ROOT / "docs" / "methods.md").read_text()
ROWS = [Row("Grad-Dot", (TracIn(False, (-1,)),), PLAN), Row("Grad-Cos", (GradCos(),), PLAN)]
TINY = replace(EXPERIMENT, presets={"smoke": [*map(Train, PLAN.parts), *ROWS]})


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(registry, "named", lambda _: TINY)
    (block,) = re.findall(r'```python\n("""methods/halfway.py.*?)```', PAGE, re.DOTALL)
    (tmp_path / "halfway.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.long
def test_the_example_of_the_docs_lands_where_a_method_of_the_table_does(capsys):
    assert command.main(["judge", "halfway:Halfway"]) == 2
    assert "parts of the ensemble are not trained here" in capsys.readouterr().err
    for cell in TINY.presets["smoke"]:
        TINY.once(cell)
    assert command.main(["judge", "halfway:Halfway"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"> Halfway +-?0\.\d{3} \[", told)
    assert re.search(r"Halfway lands at place [123] of 3 by LDS\.", told)
    same = judge.judged(GradCos(), "Mine", PLAN, 1, "loo")
    row = runs.find("lds_published", ROWS[1])
    np.testing.assert_allclose(same.draws, row.array("loo_draws")[1])
    assert same.score == pytest.approx(float(row.array("loo")[1].mean()))


def test_ties_are_called_ties():
    draws = np.random.default_rng(0).normal(size=1_000)
    mine = Standing("Mine", 0.3, 0.3 + 0.05 * draws, 1, 0.5)
    near = Standing("Near", 0.31, 0.31 + 0.05 * draws[::-1], 1, 0.5)
    far = Standing("Far", 0.1, 0.1 + 0.05 * draws, 51, 0.5)
    said = report(mine, [far, near], "LDS")
    assert "Mine lands at place 2 of 3 by LDS." in said
    assert re.search(r"behind Near: -0\.010 .*, a tie", said)
    assert "ahead of Far: +0.200 [+0.200, +0.200]." in said, "paired: the same draws"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("gradcos", "names no method: give MODULE:CLASS"),
        ("no_such_module:X", "no module 'no_such_module'"),
        ("methods.gradcos:GradCoz", "has no 'GradCoz'.*GradCos"),
        ("methods.task:Task", "needs settings"),
        ("methods.tracin:CALM", "is a Calm, not an Attributor"),
    ],
)
def test_mistakes_are_one_line(place, message):
    with pytest.raises(UserError, match=message):
        judge.named(place)


def test_more_networks_than_there_are():
    with pytest.raises(UserError, match="--networks 3: give 1 to 2"):
        judge.judged(GradCos(), "Mine", PLAN, 3, "lds")
