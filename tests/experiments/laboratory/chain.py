"""An experiment for tests whose cells need each other: networks, a basis of one, scores by it.

It declares a GPU so that one can be asked for, and computes on the CPU.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.laboratory import runs
from experiments.laboratory.experiment import Experiment
from experiments.laboratory.work import Step, Work


@dataclass(frozen=True)
class Network:
    seed: int = 0


@dataclass(frozen=True)
class Basis:
    network: Network = Network()


@dataclass(frozen=True)
class Train:
    network: Network = Network()


@dataclass(frozen=True)
class Score:
    basis: Basis = Basis()
    k: int = 0


@dataclass(frozen=True)
class Compare:
    networks: tuple[Network, ...] = ()


NETWORKS = (Network(0), Network(1))
STEPS = (Step(1e15),)  # a hundred seconds of an A100 in float32
CHAIN = [
    *(Train(one) for one in NETWORKS),
    *(Score(Basis(), k) for k in range(3)),
    Compare(NETWORKS),
]


def work(config: Any) -> Work:
    def network(one: Network) -> Work:
        return Work("network", STEPS, (), "chain_network", one, memory=3e9)

    match config:
        case Train(one):
            return Work("train", parts=(network(one),))
        case Compare(some):
            return Work("compare", STEPS, tuple(map(network, some)), gpu=False)
    basis = Work("basis", STEPS, (network(config.basis.network),), "chain_basis", config.basis)
    return Work("score", STEPS, (basis,), memory=1e9)


def run(config: Any, scratch: Path) -> dict[str, Any]:
    def network(one: Network) -> Any:
        return runs.once("chain_network", one, lambda _: {"seed": one.seed})

    match config:
        case Train(one):
            return dict(network(one).metrics)
        case Compare(some):
            return {"sum": sum(network(one).metrics["seed"] for one in some)}
    basis = config.basis
    made = runs.once("chain_basis", basis, lambda _: dict(network(basis.network).metrics))
    return {"score": made.metrics["seed"] + config.k}


EXPERIMENT = Experiment(
    "chain", run, {"smoke": CHAIN, "small": CHAIN}, work=work, gpu=True, shared="none"
)

if __name__ == "__main__":
    raise SystemExit(EXPERIMENT.main())
