"""Attribution methods by the names that tables give them, configured as real runs have them."""

from typing import Any

from analysis.numbers.frame import read_name
from experiments.laboratory.attribution import Loss
from methods.ihvp.arnoldi import Arnoldi, Krylov
from methods.ihvp.compressed import Compressed
from methods.ihvp.exact import Exact
from methods.ihvp.lissa import LiSSA
from methods.influence import Influence
from methods.random_projection import RandomProjection
from methods.rows.projections import Gaussian, Select
from methods.tracin import TracIn


def attributor(name: str, draw: int = 0) -> Any:
    """The method of a name such as "RandProj 10"; TracIn saves a checkpoint every epoch."""
    method = read_name(name)
    dim = method.dim or 1
    if method.family.startswith("TracIn"):
        positions = {"TracIn@": (dim - 1,), "TracIn": (-1,) if method.dim == 1 else None}
        return TracIn(learning_rates=False, checkpoints=positions[method.family])
    basis = Krylov(dim, keep=dim)
    return {
        "RandProj": RandomProjection(Gaussian(dim, draw)),
        "RandSelect": RandomProjection(Select(dim, draw)),
        "GHG^T": Influence(Compressed(Gaussian(dim, draw))),
        "Arnoldi": Influence(Arnoldi(dim, basis)),
        "Arnoldi positive": Influence(Arnoldi(dim, basis, positive_only=True)),
        "LiSSA": Influence(LiSSA(dim)),
        "Exact": Influence(Exact()),
        "Loss": Loss(),
    }[method.family]
