"""Whatever is changed in a stored file, whoever wrote it: right numbers, or one line that cures."""

import io
import itertools
import json
import os
import pickle
import random
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from experiments.laboratory import disk, packing, run, runs
from experiments.laboratory.errors import CorruptRun, UserError
from experiments.laboratory.store import main
from tests.experiments.laboratory.code_copy import contents
from tests.experiments.laboratory.tiny import Config, Model

FILES = ("meta.json", "config.json", "metrics.json", "arrays/score.npy", "arrays/none.npy")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Make a results folder the one in force; at first one named `here`."""
    monkeypatch.setattr("os.fsync", lambda _: None)

    def use(name: str) -> Path:
        monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / name))
        return tmp_path / name

    use("here")
    return use


def outcome(level: float = 0.5) -> dict:
    return {"level": level, "score": np.arange(40.0) * level, "none": np.zeros((0, 4), np.float32)}


def made(size: int = 1, level: float = 0.5, name: str = "a") -> Path:
    return runs.once(name, Config(size=size), lambda _: outcome(level)).path


def read(path: Path) -> None:
    """Read all that is in a run, as load and analysis do."""
    found = runs.Run.at(path)
    assert found.metrics["level"] == 0.5
    np.testing.assert_array_equal(found.arrays()["score"], np.arange(40.0) * 0.5)
    assert found.array("none").shape == (0, 4)


def refusal(path: Path) -> str:
    with pytest.raises(CorruptRun) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert f"remove it with `rm -r {path}`" in message
    return message


def flips(content: bytes, step: int = 1) -> list[bytes]:
    """The content with one bit changed, at places all over it."""
    changed = []
    for place in range(0, len(content), step):
        one = bytearray(content)
        one[place] ^= 1 << (place % 8)
        changed.append(bytes(one))
    return changed


def cuts(content: bytes) -> list[bytes]:
    lengths = {0, 1, len(content) // 3, len(content) // 2, len(content) - 1}
    return [content[:length] for length in sorted(lengths)] + [content + b"\n", content + content]


@pytest.mark.parametrize("name", FILES)
def test_every_changed_bit_and_every_cut_of_every_file_is_found(name):
    path = made()
    content = (path / name).read_bytes()
    read(path)
    for changed in [*flips(content, step=max(1, len(content) // 150)), *cuts(content)]:
        (path / name).write_bytes(changed)
        refusal(path)
    (path / name).unlink()
    refusal(path)
    (path / name).mkdir()
    refusal(path)
    (path / name).rmdir()
    (path / name).write_bytes(content)
    read(path)


def test_files_of_other_runs_do_not_fit():
    for name in FILES:
        paths = [made(), made(2, 0.25), made(1, 0.125, "b")]
        assert paths[0].name == paths[2].name, "the same config in another experiment"
        for other in paths[1:]:
            shutil.rmtree(runs.results())
            made(), made(2, 0.25), made(1, 0.125, "b")
            mine, theirs = (paths[0] / name).read_bytes(), (other / name).read_bytes()
            if mine != theirs:
                (paths[0] / name).write_bytes(theirs)
                refusal(paths[0])
        for whole in paths[1:]:
            shutil.rmtree(paths[0])
            shutil.copytree(whole, paths[0])
            assert "another run" in (message := refusal(paths[0])) or "a run of b" in message
        shutil.rmtree(runs.results())


def test_arrays_are_compared_with_their_checksum_once_a_process_and_again_if_changed(monkeypatch):
    path, sums = made(), []
    plain = disk.file_checksum
    monkeypatch.setattr(disk, "file_checksum", lambda file: sums.append(file.name) or plain(file))
    for _ in range(3):
        runs.find("a", Config(size=1)).array("score")
    assert sums == ["score.npy"]
    file = path / "arrays" / "score.npy"
    before = file.stat()
    file.write_bytes(flips(file.read_bytes())[-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CorruptRun, match=r"arrays/score\.npy was changed"):
        runs.find("a", Config(size=1)).array("score")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_run_that_may_not_be_read_is_not_called_corrupt():
    path = made()
    (path / "meta.json").chmod(0)
    with pytest.raises(UserError, match=r"permission denied.*may be whole"):
        read(path)


@pytest.mark.parametrize("number", [5, 13, 116])
def test_an_error_of_the_disk_does_not_condemn_a_run(number, monkeypatch):
    path = made()

    def fail(self):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(UserError, match=r"cannot read .*meta\.json.*may be whole") as caught:
        runs.Run.at(path)
    assert not isinstance(caught.value, CorruptRun)


def forged(path: Path, change) -> None:
    """meta.json as `change` leaves it, with checksums as an earlier or a hostile version has."""
    meta = json.loads((path / "meta.json").read_bytes())
    for name in ("sha256", "format"):
        meta.pop(name, None)
    for name, facts in meta["arrays"].items():
        content = (path / "arrays" / f"{name}.npy").read_bytes()
        facts |= {"sha256": disk.checksum(content), "bytes": len(content)}
    changed = change(meta)
    text = changed if isinstance(changed, str) else json.dumps(meta)
    (path / "meta.json").write_text(text)


def put(*where, value):
    def change(meta):
        inner = meta
        for name in where[:-1]:
            inner = inner[name]
        inner[where[-1]] = value

    return change


def drop(*where):
    def change(meta):
        inner = meta
        for name in where[:-1]:
            inner = inner[name]
        del inner[where[-1]]

    return change


HOSTILE = {
    "deep": lambda meta: "[" * 200_000 + "]" * 200_000,
    "deep inside": lambda meta: json.dumps(meta)[:-1] + ', "x": ' + '{"a":' * 100_000,
    "no object": lambda meta: "[]",
    "a number": lambda meta: "7",
    "not UTF-8": lambda meta: "\udcff{}".encode("utf-8", "surrogateescape").decode("latin-1"),
    "NaN": lambda meta: json.dumps(meta | {"seconds": float("nan")}),
    "infinite": lambda meta: json.dumps(meta).replace('"seconds": ', '"seconds": 1e999, "was": '),
    "huge": lambda meta: json.dumps(meta).replace('"seconds": ', '"seconds": 1' + "0" * 4000 + "."),
    "whole": put("peak_memory_bytes", value=10**400),
    "digits": lambda meta: json.dumps(meta)[:-1] + ', "x": ' + "9" * 10_000 + "}",
    "no arrays": drop("arrays"),
    "no files": drop("files"),
    "no parts": drop("parts"),
    "no seconds": drop("seconds"),
    "seconds in words": put("seconds", value="long"),
    "a list of files": put("files", value=["config.json", "metrics.json"]),
    "another file": put("files", "../../../../etc/passwd", value="0" * 64),
    "one file less": drop("files", "metrics.json"),
    "a sum that is none": put("files", "metrics.json", value=7),
    "a list of arrays": put("arrays", value=["score"]),
    "an array elsewhere": lambda meta: meta["arrays"].update({"../../x": meta["arrays"]["score"]}),
    "an absolute array": lambda meta: meta["arrays"].update({"/etc/x": meta["arrays"]["score"]}),
    "an array in words": put("arrays", "score", value="float64"),
    "bytes in words": put("arrays", "score", "bytes", value="many"),
    "negative bytes": put("arrays", "score", "bytes", value=-1),
    "true bytes": put("arrays", "score", "bytes", value=True),
    "no shape": drop("arrays", "score", "shape"),
    "another shape": put("arrays", "score", "shape", value=[20, 2]),
    "a huge shape": put("arrays", "score", "shape", value=[10**17, 10**17]),
    "a shape in words": put("arrays", "score", "shape", value=["4"]),
    "another dtype": put("arrays", "score", "dtype", value="int64"),
    "no dtype": put("arrays", "score", "dtype", value=None),
    "parts by name": put("parts", value={"a": 1}),
    "a part elsewhere": put("parts", value=[{"name": "../..", "key": "0" * 16}]),
    "a part without key": put("parts", value=[{"name": "a"}]),
    "no versions": put("versions", value=[1]),
    "numbers for versions": put("versions", value={"numpy": 1}),
    "another experiment": put("name", value="b"),
    "a commit by number": put("commit", value=7),
    "data in words": put("data", value="all"),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_hostile_meta_json_is_one_line(fault):
    path = made()
    forged(path, lambda meta: None)
    read(path)
    forged(path, HOSTILE[fault])
    refusal(path)
    with pytest.raises(CorruptRun):  # what is said of an array is checked when it is read
        runs.once("a", Config(size=1), lambda _: outcome()).array("score")


def header(**facts) -> bytes:
    file = io.BytesIO()
    described = {"descr": "<f8", "fortran_order": False, "shape": (40,)} | facts
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue()


class Evil:
    def __reduce__(self):
        return (os.system, ("touch evil",))


def zipped() -> bytes:
    file = io.BytesIO()
    np.savez(file, score=np.arange(40.0))
    return file.getvalue()


def objects() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Evil()], dtype=object), allow_pickle=True)
    return file.getvalue()


DATA = np.arange(40.0).tobytes()
LYING = {
    "more than there is": header(shape=(41,)) + DATA,
    "far more than there is": header(shape=(10**14,)) + DATA,
    "beyond all numbers": header(shape=(2**40, 2**40)) + DATA,
    "negative": header(shape=(-4,)) + DATA,
    "none of it": header(shape=(0,)) + DATA,
    "another shape": header(shape=(8, 5)) + DATA,
    "another dtype": header(descr="<i8") + DATA,
    "other bytes": header(descr=">f8") + DATA,
    "half as wide": header(descr="<f4", shape=(80,)) + DATA,
    "fields": header(descr=[("a", "<f8")]) + DATA,
    "objects": objects(),
    "an object header": header(descr="|O") + DATA,
    "a pickle": pickle.dumps(Evil()),
    "a zip of arrays": zipped(),
    "no header": DATA,
    "words in the header": header().replace(b"'shape'", b"'shale'") + DATA,
    "code in the header": header().replace(b"(40,)", b"f(4) ") + DATA,
    "another magic": b"\x93NUMPZ" + header()[6:] + DATA,
    "another version": b"\x93NUMPY\x09\x00" + header()[8:] + DATA,
    "nothing": b"",
}


@pytest.mark.parametrize("lie", LYING)
def test_an_array_whose_header_lies_is_one_line_and_never_unpickled(lie, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = made()
    (path / "arrays" / "score.npy").write_bytes(LYING[lie])
    forged(path, lambda meta: None)
    refusal(path)
    assert not Path("evil").exists()


@pytest.mark.parametrize("lie", ["far more than there is", "objects", "a pickle", "no header"])
def test_so_is_one_that_should_be_empty(lie, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = made()
    (path / "arrays" / "none.npy").write_bytes(LYING[lie])
    forged(path, lambda meta: None)
    refusal(path)
    assert not Path("evil").exists()


LISTS = {
    "cut off": lambda listed: json.dumps(listed)[:-9],
    "empty": lambda listed: "",
    "no list": lambda listed: json.dumps({"key": 1}),
    "deep": lambda listed: "[" * 200_000,
    "numbers": lambda listed: "[1, 2]",
    "no key": lambda listed: json.dumps([{"config": {}, "parts": {}}]),
    "another key": lambda listed: json.dumps([listed[0] | {"key": "0" * 16}]),
    "a key elsewhere": lambda listed: json.dumps([listed[0] | {"key": "../../x"}]),
    "a key in numbers": lambda listed: json.dumps([listed[0] | {"key": 7}]),
    "another config": lambda listed: json.dumps([listed[0] | {"config": listed[1]["config"]}]),
    "a config in words": lambda listed: json.dumps([listed[0] | {"config": "all"}]),
    "NaN": lambda listed: json.dumps([listed[0] | {"config": {"a": float("nan")}}]),
    "no parts": lambda listed: json.dumps([listed[0] | {"parts": None}]),
    "parts elsewhere": lambda listed: json.dumps([listed[0] | {"parts": {"model": "../x"}}]),
    "another part": lambda listed: json.dumps([listed[0] | {"parts": {"model": "0" * 16}}]),
}


@pytest.mark.parametrize("fault", LISTS)
def test_a_damaged_list_of_runs_says_how_to_write_it_again(fault, place, capsys):
    cells = [Config(size=1), Config(Model(3), size=2)]
    other = place("there")
    runs.plan("a", "small", cells)
    made()
    file = other / "runs" / "a" / "presets" / "small.json"
    file.write_text(LISTS[fault](runs.planned("a", "small")))
    for use in (lambda: runs.load("a", "small"), lambda: packing.pack(other / "x.tar", ["a"])):
        with pytest.raises(UserError, match=r"cannot be read.*--preset small`") as caught:
            use()
        assert "\n" not in str(caught.value)
    here = place("here")
    assert main(["merge", str(other)]) == 2
    assert "a/presets/small.json" in capsys.readouterr().err
    assert not (here / "runs" / "a" / "presets").exists()
    runs.plan("a", "small", cells)
    assert main(["merge", str(other)]) == 0, "ours is whole"
    file.unlink()
    place("there")
    runs.plan("a", "small", cells)
    ours = here / "runs" / "a" / "presets" / "small.json"
    whole = ours.read_bytes()
    ours.write_text("broken")
    place("here")
    assert main(["merge", str(other)]) == 0
    assert ours.read_bytes() == whole


def test_a_corrupt_run_of_ours_is_replaced_by_theirs(place, capsys):
    other = place("there")
    theirs = [made(size) for size in (1, 2, 3)]
    here = place("here")
    ours = [made(size) for size in (1, 2, 3)]
    for path in ours[:2]:
        content = (path / "arrays" / "score.npy").read_bytes()
        (path / "arrays" / "score.npy").write_bytes(flips(content)[-1])
    (theirs[1] / "metrics.json").write_text("{}")
    assert main(["merge", str(other)]) == 2
    out, err = capsys.readouterr()
    assert "0 runs taken, 1 were here" in out
    assert f"a/{ours[0].name}: ours was corrupt and is replaced by theirs" in out
    assert f"1 run corrupt here and damaged there (a/{ours[1].name})" in err
    read(ours[0])
    read(ours[2])
    refusal(ours[1])
    assert not (here / "runs" / "a" / ".scratch").exists()


LINKS = {
    "runs": lambda root, path: root / "runs",
    "experiment": lambda root, path: path.parent,
    "run": lambda root, path: path,
    "meta": lambda root, path: path / "meta.json",
    "arrays": lambda root, path: path / "arrays",
    "array": lambda root, path: path / "arrays" / "score.npy",
    "presets": lambda root, path: path.parent / "presets",
    "list": lambda root, path: path.parent / "presets" / "small.json",
}


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("leads", ["there", "nowhere"])
def test_a_symbolic_link_in_a_source_is_refused_before_anything_is_taken(
    kind, leads, place, capsys, tmp_path
):
    other = place("there")
    runs.plan("a", "small", [Config(size=1)])
    path = made()
    link = LINKS[kind](other, path)
    link.rename(tmp_path / "elsewhere")
    link.symlink_to(tmp_path / ("elsewhere" if leads == "there" else "gone"))
    here = place("here")
    assert main(["merge", str(other)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {link} is a symbolic link")
    assert err.count("\n") == 1
    assert not here.exists()


def test_a_packed_store_has_checksums_of_all_it_holds(place, tmp_path):
    runs.plan("a", "small", [Config(size=1)])
    made()
    made(1, 0.25, "b")
    assert main(["pack", str(tmp_path / "x.tar")]) == 0
    with tarfile.open(tmp_path / "x.tar") as tar:
        names = tar.getnames()
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert names[0] == packing.SUMS
    lines = (tmp_path / "unpacked" / packing.SUMS).read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == names[1:]
    check = ["sha256sum", "--strict", "-c", packing.SUMS]
    subprocess.run(check, cwd=tmp_path / "unpacked", check=True, capture_output=True)


def test_whatever_is_changed_in_a_packed_store_nothing_changed_is_taken(place, capsys, tmp_path):
    runs.plan("a", "small", [Config(size=1)])
    made()
    made(2)
    file = tmp_path / "x.tar"
    assert main(["pack", str(file)]) == 0
    whole, wanted = file.read_bytes(), contents(place("here"))
    moments = random.Random(0)
    places = moments.sample(range(len(whole)), 60)
    changes = []
    for at in places:
        one = bytearray(whole)
        one[at] ^= 1 << (at % 8)
        changes.append(bytes(one))
    changes += [whole[: len(whole) * part // 8] for part in range(8)]
    for number, changed in enumerate(changes):
        file.write_bytes(changed)
        here = place(f"taken {number}")
        code = main(["merge", str(file)])
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert err.count("\n") == (1 if code else 0)
        taken = contents(here)
        assert taken.items() <= wanted.items()
        lists = list(here.glob("runs/a/presets/small.json"))
        complete = taken == wanted and len(lists) == 1
        assert complete or code == 2, f"something is missing without a word: {number}"
        for path in here.glob("runs/a/*/meta.json"):
            run.Run.at(path.parent).verify()


def test_packed_stores_of_earlier_versions_are_merged_and_said_to_have_no_checksums(
    place, capsys, tmp_path
):
    path = made()
    with tarfile.open(tmp_path / "old.tar", "w") as tar:
        for name in FILES:
            tar.add(path / name, f"runs/a/{path.name}/{name}")
    place("new")
    assert main(["merge", str(tmp_path / "old.tar")]) == 0
    out = capsys.readouterr().out
    assert "1 run taken" in out
    assert f"without {packing.SUMS}" in out


def test_a_sealed_file_is_whole_or_refused_and_streamed_as_it_is_read(tmp_path):
    path = tmp_path / "state.pt"
    for content in (b"", b"x", b"\nsha256 ", os.urandom(300)):
        disk.write_sealed(path, content)
        disk.check_sealed(path)
        assert disk.read_sealed(path) == content
        whole = path.read_bytes()
        for changed in [*flips(whole), *cuts(whole)]:
            path.write_bytes(changed)
            for check in (disk.read_sealed, disk.check_sealed):
                with pytest.raises(disk.Damaged):
                    check(path)
    disk.write_sealed(path, b"mine")
    path.rename(tmp_path / "other.pt")
    with pytest.raises(disk.Damaged):
        disk.read_sealed(tmp_path / "other.pt")


def test_the_newest_whole_file_is_used_and_a_damaged_one_is_said_and_removed(tmp_path, capsys):
    path = tmp_path / "two words.npz"
    faults = {
        "cut": lambda file: os.truncate(file, 3),
        "changed": lambda file: file.write_bytes(flips(file.read_bytes())[0]),
        "gone": lambda file: file.unlink(),
        "folder": lambda file: file.unlink() or file.mkdir(),
    }
    for newest, before in itertools.product(["whole", *faults], repeat=2):
        for content in (b"first", b"second"):
            disk.write_sealed(path, content, keep=True)
        for file, fault in ((path, newest), (disk.before(path), before)):
            if fault in faults:
                faults[fault](file)
        found = [content for _, content in disk.intact(path)]
        wanted = [b"second"] if newest == "whole" else []
        assert found == wanted + ([b"first"] if before == "whole" else [])
        lines = capsys.readouterr().err.splitlines()
        said = [fault for fault in (newest, before) if fault not in ("whole", "gone")]
        assert len(lines) == len(said), (newest, before)
        assert all("two words.npz" in line and " is discarded (" in line for line in lines)
        for file in (path, disk.before(path)):
            shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)


def test_a_damaged_checkpoint_of_arrays_is_computed_again(tmp_path, capsys):
    def compute():
        return {"x": np.arange(3.0)}

    disk.checkpointed(tmp_path, "block", compute)
    whole = (tmp_path / "block.npz").read_bytes()
    for changed in [*flips(whole, 31), *cuts(whole)]:
        (tmp_path / "block.npz").write_bytes(changed)
        np.testing.assert_array_equal(disk.checkpointed(tmp_path, "block", compute)["x"], range(3))
        assert capsys.readouterr().err.count("that work is done again") == 1
        assert (tmp_path / "block.npz").read_bytes() == whole
    with zipfile.ZipFile(tmp_path / "block.npz") as plain:
        assert plain.namelist() == ["x.npy"]
