"""Self-influence of a pool of sentence pairs, shard by shard, for wmt_filtering.

Each cell scores a shard of the pool by a basis that is computed once (Schioppa et al., 2022,
Sec. 5.2: ten directions, 2.2 million pairs an hour on a TPU v2 of 16 cores). On a cluster the
shards are an array of jobs; the first to need the model and the basis computes them.
"""

from collections.abc import Sequence

from experiments.laboratory.experiment import Experiment
from experiments.laboratory.runs import Run
from experiments.translation.filters import PAPER, SMALL, SMOKE, Setting
from experiments.translation.scores import SCORING, Scoring, score, work

CORPUS = 100_000_000  # pairs of ParaCrawl


def shards(setting: Setting) -> list[Scoring]:
    """The shards of the pools of all seeds."""
    pools = dict.fromkeys(
        pool for seed in range(setting.seeds) for pool in (setting.noisy(seed), setting.clean)
    )
    return [
        Scoring(setting.model, pool, setting.methods, shard)
        for pool in pools
        for shard in range(pool.shards)
    ]


def forecast(results: Sequence[Run]) -> str:
    """Pairs an hour, measured on finished shards, and the time for the whole corpus."""
    pairs = sum(int(run.metrics["n_pairs"]) for run in results)
    spent = sum(float(run.metrics["seconds_Arnoldi"]) for run in results)
    if not pairs or not spent:
        return "throughput: no shard is finished yet"
    rate = 3600 * pairs / spent
    devices = " and ".join(sorted({str(run.meta["device"]) for run in results}))
    return (
        f"throughput: {rate:,.0f} pairs an hour by Arnoldi on {devices}, with this preset's model; "
        f"{CORPUS:,} pairs would take {CORPUS / rate:,.0f} hours of one such device"
    )


PRESETS = {"smoke": shards(SMOKE), "small": shards(SMALL), "paper": shards(PAPER)}

EXPERIMENT = Experiment(
    SCORING,
    score,
    PRESETS,
    summary="self-influence of a pool of sentence pairs, shard by shard, through a fixed basis",
    columns=("n_pairs", "seconds_Arnoldi", "seconds_RandProj", "seconds_Loss"),
    shared="none",
    forecast=forecast,
    seconds={"smoke": 8, "small": 828},
    work=work,
    gpu=True,
)

if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
