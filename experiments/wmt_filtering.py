"""Filtering a noisy corpus: train on the least self-influential pairs of a pool, and translate.

Reproduces Table 3 of "Scaling Up Influence Functions" (Schioppa et al., 2022, Sec. 5.2), and its
second use, on a pool that is already clean. Every arm trains for the same number of steps. We add
two controls: a random share, and the loss. The scores are the runs of `wmt_scoring`. Deviations:
below the paper tier the noise is generated, of the kinds the paper lists, so that what is selected
can be counted; the pre-filter is a set of rules like those the paper takes from others.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.parallel import Corpus
from experiments.data.translation_noise import CLEAN, KINDS
from experiments.laboratory.errors import UserError
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.runs import Run
from experiments.laboratory.work import Work
from experiments.training.loop import descend, load_params
from experiments.training.models import training_work
from experiments.training.plans import Cycled
from experiments.translation import filters, models
from experiments.translation.models import Beam, Model, measure_bleu
from experiments.translation.scores import (
    SCORING,
    Crawl,
    Method,
    Polluted,
    Pool,
    Scoring,
    encoding,
    scores,
)
from experiments.translation.scores import work as scoring

SHOWN = 4  # pairs stored for reading, with the lowest and with the highest scores
LETTERS = 400  # of a stored sentence, at most


@dataclass(frozen=True)
class Config:
    """One training on the pairs of a pool that an arm selects.

    model    the bootstrap model, which scores
    retrain  the model to train; one epoch of its plan is `early` steps
    """

    model: Model = filters.SMOKE.model
    arm: filters.Arm = filters.Everything()
    pool: Polluted | Crawl = filters.SMOKE.noisy_pool
    methods: tuple[Method, ...] = filters.SMOKE.methods
    retrain: Model = filters.SMOKE.retrain
    early: int = filters.SMOKE.early
    test: Corpus = filters.SMOKE.test
    beam: Beam = Beam()
    seed: int = 0


def run(config: Config, scratch: Path) -> dict[str, Any]:
    models.scorer()
    if config.early < 1:
        raise UserError(f"early is {config.early}: give 1 step or more")
    chosen = filters.select(config.arm, config.model, config.pool, config.methods, config.seed)
    if len(chosen) == 0:
        raise UserError("no pair passes the rules: give a pool from German to English")
    model = replace(config.retrain, seed=config.seed)
    module = model.build()
    train = filters.encoded(model, config.pool, chosen)
    draws = Cycled(config.seed, len(chosen), config.early * model.fit.batch_size)
    outcome = descend(module, model.loss, train, model.fit, draws, scratch)
    test = config.test.load()
    measures: dict[str, Any] = {}
    for name, place in (("early", 0), ("late", -1)):
        load_params(module, outcome["params"][place])
        measured = measure_bleu(module, model, test, config.beam)
        measures |= {f"bleu_{name}": measured["bleu"], "signature": measured["signature"]}
        measures[f"steps_{name}"] = int(outcome["steps"][place])
    n = config.pool.size()
    clean = isinstance(config.pool, Polluted) and config.pool.share == 0
    return {
        "arm": display(config.arm),
        "pool": "clean" if clean else "noisy",
        **measures,
        "n_pool": n,
        "n_kept": len(chosen),
        "selected": len(chosen) / n,
        "train_loss": outcome["train_loss"],
        **_noise(config.pool, chosen),
        **(_shown(config) if isinstance(config.arm, filters.Lowest) else {}),
    }


def _noise(pool: Pool, chosen: np.ndarray) -> dict[str, Any]:
    """Pairs of each kind of noise, in the pool and in the selection; unknown for a crawl."""
    kinds = pool.kinds
    if kinds is None:
        return {}
    names = (CLEAN, *KINDS)
    return {
        "noise": float((kinds != CLEAN).mean()),
        "noise_kept": float((kinds[chosen] != CLEAN).mean()),
        "kinds": np.array(names),
        "of_kind": np.array([np.count_nonzero(kinds == name) for name in names]),
        "kept_of_kind": np.array([np.count_nonzero(kinds[chosen] == name) for name in names]),
    }


def _shown(config: Config) -> dict[str, Any]:
    """The pairs with the lowest and the highest scores, and what is wrong with them."""
    assert isinstance(config.arm, filters.Lowest)
    values = scores(config.model, config.pool, config.methods, config.arm.method)
    order = np.argsort(values, kind="stable")
    index = np.concatenate([order[:SHOWN], order[::-1][:SHOWN]])
    ascending = np.sort(index)
    text = dict(zip(ascending.tolist(), config.pool.chosen(ascending), strict=True))
    source, target = zip(*(text[i] for i in index.tolist()), strict=True)
    kinds = config.pool.kinds
    wrong = np.full(len(index), "not known") if kinds is None else kinds[index]
    return {
        "shown_role": np.array(
            [f"{w} {i + 1}" for w in ("lowest", "highest") for i in range(SHOWN)]
        ),
        "shown_source": np.array([one[:LETTERS] for one in source]),
        "shown_target": np.array([one[:LETTERS] for one in target]),
        "shown_kind": wrong,
        "shown_score": values[index],
    }


def work(config: Config) -> Work:
    """What a cell takes, with the scores of the pool if its arm needs them."""
    plan = config.retrain.fit
    of, seen = models.unit_of(config.retrain), config.early * plan.batch_size
    label = f"Transformer of {of.size:,} parameters, on a selection"
    trained = training_work("", None, of, seen, plan, label, kept=False)
    language, shards = config.retrain.language, range(config.pool.shards)
    needed: tuple[Work, ...] = (trained, *(encoding(language, config.pool, i) for i in shards))
    if isinstance(config.arm, filters.Lowest):
        wanted = [Scoring(config.model, config.pool, config.methods, one) for one in shards]
        needed += tuple(replace(scoring(one), name=SCORING, config=one) for one in wanted)
    tested = models.translation_steps(config.retrain, 2 * config.test.about, config.beam)
    return Work("translation", tested, needed)


def display(arm: filters.Arm) -> str:
    """The arm's name in tables and figures, such as `Arnoldi 10%`."""
    if isinstance(arm, filters.Everything):
        return "None 100%"
    if isinstance(arm, filters.Lowest | filters.Chance):
        name = arm.method if isinstance(arm, filters.Lowest) else "Random"
        return f"{name} {100 * arm.share:.3g}%"
    return "Pre-filtering"


def cells(setting: filters.Setting) -> list[Config]:
    """The cells seed by seed: those of the first seed already make a table."""
    made = []
    for seed in range(setting.seeds):
        at = Config(
            setting.model,
            filters.Everything(),
            setting.noisy(seed),
            setting.methods,
            setting.retrain,
            setting.early,
            setting.test,
            Beam(4) if setting is filters.PAPER else Beam(),
            seed,
        )
        made += [replace(at, arm=arm) for arm in setting.arms()]
        made += [replace(at, arm=arm, pool=setting.clean) for arm in setting.of_clean()]
    return made


def table(results: list[Run]) -> tuple[list[str], list[list[str]]]:
    """One line per arm: means over seeds."""
    arms: dict[tuple[str, str], list[Run]] = {}
    for run in results:
        arms.setdefault((str(run.metrics["pool"]), str(run.metrics["arm"])), []).append(run)
    rows = []
    for (pool, arm), seeds in arms.items():
        names = ("bleu_early", "bleu_late", "selected", "noise_kept")
        means = [np.mean([float(run.metrics.get(name, np.nan)) for run in seeds]) for name in names]
        rows.append([pool, arm, *(f"{mean:.3f}" for mean in means), str(len(seeds))])
    return ["pool", "arm", "BLEU early", "BLEU late", "selected", "noise in it", "seeds"], rows


PRESETS = {
    "smoke": cells(filters.SMOKE),
    "small": cells(filters.SMALL),
    "paper": cells(filters.PAPER),
}

EXPERIMENT = Experiment(
    "wmt_filtering",
    run,
    PRESETS,
    summary="BLEU of Transformers trained on the least self-influential pairs of a noisy corpus",
    columns=("bleu_early", "bleu_late", "selected", "noise_kept"),
    table=table,
    seconds={"smoke": 14, "small": 3_051},
    shared="none",
    work=work,
    gpu=True,
)

if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
