"""Cost cards: counted from configs, over a rate, corrected by what finished runs took."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from experiments.laboratory import counting, provenance, registry, runs
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.work import A100, CORES, RATES, Rate, Step, Unit, Work, rate
from experiments.training.models import training_work
from experiments.training.plans import Adam, Fit, SharpnessAware, cross_entropy
from methods.ihvp.arnoldi import Arnoldi, Krylov, StoredKrylov
from methods.ihvp.lissa import LiSSA
from methods.influence import Influence
from methods.random_projection import RandomProjection
from methods.rows.projections import Gaussian, Select
from methods.tracin import TracIn

PAPER = [name for name in registry.names() if "paper" in registry.named(name).presets]
UNIT = Unit(size=1_000, operations=6_000, forward=2_000, kernels=10, held=40)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path))
    for name in ("RETRACE_RATE", "RETRACE_PRICE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("name", PAPER)
def test_every_paper_preset_has_a_complete_estimate(name, store):
    experiment = registry.named(name)
    card = experiment.cost_card("paper", experiment.presets["paper"], speed="a100", price="2")
    lines = {line.split(":")[0]: line for line in card.splitlines()}
    total = next(line for line in card.splitlines() if line.startswith("all"))
    assert "unknown" not in card
    assert "at least" not in card
    hours = float(total.split()[1].replace(",", ""))
    assert hours > 0
    money = float(lines["price"].split()[1].strip(",").replace(",", ""))
    assert money == pytest.approx(2 * hours, rel=0.06, abs=0.01)
    assert float(lines["memory"].split()[2]) > 0
    assert float(lines["disk"].split("about ")[1].split()[0]) > 0


def test_the_operations_of_a_small_network_are_those_of_arithmetic():
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))

    columns = {"image": ((3, 2, 2), torch.float32), "label": ((), torch.int64)}
    one = counting.unit(build, cross_entropy, columns)
    assert one.size == 12 * 5 + 5 + 5 * 3 + 3
    assert one.forward == 2 * (12 * 5 + 5 * 3)
    # Of the first layer the derivative by the input is not needed.
    assert one.operations == 2 * (2 * 12 * 5 + 3 * 5 * 3)
    assert one.kernels > 8


def test_a_convolution_is_counted_at_every_position():
    class Convolved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.layer(image).mean((2, 3))

    columns = {"image": ((3, 6, 5), torch.float32), "label": ((), torch.int64)}
    one = counting.unit(Convolved, cross_entropy, columns)
    assert one.forward == 2 * 6 * 5 * 8 * 3 * 9
    assert one.operations == 2 * one.forward


def test_counting_does_no_arithmetic_and_leaves_random_numbers_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    counting.image_unit.cache_clear()
    registry.named("subset_ensembles").works(
        "paper", registry.named("subset_ensembles").presets["paper"][:1]
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_training_takes_its_epochs_and_stores_its_checkpoints():
    plan = Fit(epochs=7, batch_size=10, every=3)
    one = training_work("x", None, UNIT, 100, plan, "net")
    assert one.operations == 6_000 * 100 * 7
    assert (one.kind, one.disk) == ("training", 4 * 1_000 * 3)
    assert training_work("x", None, UNIT, 100, plan, "net", networks=5).operations == 5 * 4.2e6
    sam = SharpnessAware(epochs=7, batch_size=10)
    assert training_work("x", None, UNIT, 100, sam, "net").operations == 2 * 4.2e6
    adam = training_work("x", None, UNIT, 100, replace(plan, adam=Adam()), "net")
    assert adam.memory == one.memory + 4 * 1_000


def operations(*steps: Step) -> float:
    return sum(step.operations * step.times for step in steps)


def test_methods_are_counted_in_passes_and_products():
    n, queries = 512, 256
    inner = 2 * 1_000 * n * queries
    passes = 6_000 * (n + queries)
    assert operations(*counting.scores(TracIn(), UNIT, n, queries, 3)) == 3 * (passes + inner)
    last = TracIn(checkpoints=(-1,))
    assert operations(*counting.scores(last, UNIT, n, queries, 3)) == passes + inner
    drawn = RandomProjection(Gaussian(16))
    projected = passes + 2 * (n + queries) * 1_000 * 16 + 2 * n * 16 * queries
    assert operations(*counting.scores(drawn, UNIT, n, queries)) == projected
    chosen = RandomProjection(Select(16))
    assert operations(*counting.scores(chosen, UNIT, n, queries)) < projected
    lissa = Influence(LiSSA(depth=20, sample=8, scale=1.0, repeats=2))
    steps = counting.scores(lissa, UNIT, n, 32)
    assert operations(*steps) == 6_000 * (n + 32) + 40 * 8 * 6_000 * 65 + 2 * 1_000 * n * 32


def test_a_basis_is_counted_with_its_orthogonalisation_memory_and_disk():
    made = counting.once_per_model("b", None, Influence(Arnoldi(5, Krylov(20, 64, 0, 9))), UNIT, 99)
    assert made is not None
    assert made.steps[0].operations * made.steps[0].times == 20 * 64 * 6_000 * 3
    assert (made.memory, made.disk, made.scratch) == (4e3 * 20, 4e3 * 9, 0)
    from methods.curvature.krylov_basis import Disk

    basis = StoredKrylov(20, 64, 0, 9, Disk())
    stored = counting.once_per_model("b", None, Influence(Arnoldi(5, basis)), UNIT, 99)
    assert stored is not None
    assert (stored.memory, stored.scratch) == (4e3 * 9, 4e3 * 20)
    assert counting.once_per_model("b", None, TracIn(), UNIT, 99) is None


def test_a_step_takes_what_limits_it():
    device = Rate("device", float32=1e6, tf32=4e6, bf16=8e6, kernel=0.1)
    assert Step(2e6, 1, 3).seconds(device) == pytest.approx(6)
    assert Step(2e6, 1, 3, "bf16").seconds(device) == pytest.approx(0.75)
    assert Step(2e6, 50, 3).seconds(device) == pytest.approx(15)
    assert Step(2e6, 50, 3, replayed=True).seconds(device) == pytest.approx(
        6
    )  # no calls to speak of


def test_the_rate_is_that_of_the_device_unless_given():
    assert rate(None, "NVIDIA A100-SXM4-80GB", True) is A100
    assert rate(None, None, True) is A100
    assert rate(None, None, False) is CORES
    assert rate("H100", None, False) is RATES["h100"]
    assert rate("40e12", "NVIDIA A100", True).of("bf16") == 40e12
    for wrong in ("fast", "-1", "0", "nan", "inf"):
        with pytest.raises(UserError, match=r"give operations a second, as 40e12, or one of cpu"):
            rate(wrong, None, False)


@dataclass(frozen=True)
class Trained:
    seed: int = 0


@dataclass(frozen=True)
class Cell:
    seed: int = 0
    scoring: str = "fast"


def run(config: Cell, folder: Path) -> runs.Outcome:
    runs.once("toy_model", Trained(config.seed), lambda _: {"value": 1.0})
    return {"value": 2.0}


def work(config: Cell) -> Work:
    model = Trained(config.seed)
    learned = Work("net", (Step(8e9),), (), "toy_model", model, "training", 2e9, 1e6)
    return Work(config.scoring, (Step(1e9),), (learned,), memory=1e9, disk=1e3)


CELLS = [Cell(seed, way) for seed in range(2) for way in ("fast", "slow", "other")]
TOY = Experiment("toy", run, {"paper": CELLS}, work=work)


def rows(card: str) -> dict[str, list[str]]:
    """The columns of each row of a card, by the name of the work."""
    table = card.splitlines()[4 : card.splitlines().index("", 4)]
    return {line.split("  ")[0]: line.split("  ", 1)[1].split() for line in table}


def take(run_: runs.Run, seconds: float, **more: Any) -> None:
    """Rewrite how long a run took, as an earlier version did: without a checksum."""
    meta = json.loads((run_.path / "meta.json").read_text())
    meta |= {"own_seconds": seconds, "device": "cpu (x86_64)", **more}
    meta = {name: value for name, value in meta.items() if name not in ("format", "sha256")}
    (run_.path / "meta.json").write_text(json.dumps(meta))


def test_a_network_that_cells_share_is_counted_once_and_apart(store):
    card = TOY.cost_card("paper", CELLS, speed="1e9")
    assert rows(card)["training net"] == ["2", "2", "1.6e+10", "8", "counted", "0.0044"]
    assert rows(card)["fast"] == ["2", "2", "2e+09", "1", "counted", "0.00056"]
    assert rows(card)["all"] == [f"{(16 + 6) / 3600:.2g}"]
    assert "memory: about 2.5 GB at most" in card
    assert "about 2.04 MB to come" in card  # two networks, six cells, and eight times their JSON


def test_twice_the_rate_takes_half_the_hours_and_half_the_money(store, monkeypatch):
    def total(**given: str) -> tuple[str, str]:
        card = TOY.cost_card("paper", CELLS, **given)
        return rows(card)["all"][0], card.splitlines()[-1]

    assert total(speed="1e6", price="3") == ("6.11", "price: 18.33, at 3 an hour")
    monkeypatch.setenv("RETRACE_RATE", "2e6")
    monkeypatch.setenv("RETRACE_PRICE", "3")
    assert total() == ("3.06", "price: 9.17, at 3 an hour")
    assert total(speed="1e6")[0] == "6.11"
    for wrong in ("much", "-2", "nan"):
        with pytest.raises(UserError, match="give what an hour of a device costs"):
            total(price=wrong)


def test_finished_runs_correct_what_is_like_them(store):
    TOY.once(CELLS[0])
    found, learned = runs.find("toy", CELLS[0]), runs.find("toy_model", Trained(0))
    assert found is not None
    assert learned is not None
    take(found, 5.0)
    take(learned, 100.0)
    shown = rows(TOY.cost_card("paper", CELLS, speed="1e9"))
    # The network that cell 0 trained does not make scoring dear.
    assert shown["training net"][:2] + shown["training net"][3:5] == ["2", "1", "100", "measured"]
    assert shown["fast"][:2] + shown["fast"][3:5] == ["2", "1", "5", "measured"]
    assert shown["other"][:2] + shown["other"][3:5] == ["2", "2", "5", "corrected"]
    assert shown["all"] == [f"{(100 + 5 + 10 + 10) / 3600:.2g}"]
    take(found, 5.0, resumed=True)
    assert rows(TOY.cost_card("paper", CELLS, speed="1e9"))["fast"][4] == "counted"


def test_runs_on_another_device_correct_nothing(store):
    TOY.once(CELLS[0])
    found = runs.find("toy", CELLS[0])
    assert found is not None
    take(found, 5.0, device="NVIDIA A100-SXM4-80GB")
    assert rows(TOY.cost_card("paper", CELLS, speed="h100"))["fast"][4] == "counted"
    assert rows(TOY.cost_card("paper", CELLS, speed="a100"))["fast"][4] == "measured"


def test_what_a_finished_cell_was_made_of_is_not_missing(store):
    for cell in CELLS[:3]:
        TOY.once(cell)
    model = runs.find("toy_model", Trained(0))
    assert model is not None
    for file in sorted(model.path.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    model.path.rmdir()
    shown = rows(TOY.cost_card("paper", CELLS, speed="1e9"))
    assert shown["training net"][:2] == ["2", "1"]


def test_declared_seconds_scale_what_is_counted_on_cores(store):
    declared = replace(TOY, seconds={"paper": 44.0})
    card = declared.cost_card("paper", CELLS, speed="cpu")
    assert rows(card)["all"] == ["0.012"]
    assert rows(card)["training net"][3:5] == ["16", "declared"]
    assert rows(declared.cost_card("paper", CELLS, speed="1e9"))["training net"][4] == "counted"


def test_a_run_knows_its_seconds_without_those_computed_inside(store, monkeypatch):
    clock = iter(range(1_000))
    monkeypatch.setattr(provenance.time, "perf_counter", lambda: float(next(clock)))

    def passing(count: int) -> runs.Outcome:
        return {"value": float(max(next(clock) for _ in range(count)))}

    def outer(folder: Path) -> runs.Outcome:
        runs.once("toy_model", Trained(7), lambda _: passing(300))
        return passing(50)

    meta = runs.once("toy", Cell(7), outer).meta
    inner = runs.find("toy_model", Trained(7))
    assert inner is not None
    assert inner.meta["own_seconds"] >= 300
    assert 50 <= meta["own_seconds"] < 70
    assert meta["seconds"] >= 350
