"""Attribution methods: pure functions of a trained model and examples.

`from methods import Task, TracIn` gives what a user of the library needs; each name is loaded from
its own file when it is first used. A file on this level is a method or the seam between methods and
models (task, attributor, examples); what methods share belongs in a room. Nothing here reads data,
trains or knows an experiment.
"""

from importlib import import_module
from typing import Any

_FILES = {
    "attributor": ["Attributor"],
    "checkpoints": ["Checkpoint"],
    "fitted.kept": ["Scores"],
    "fitted.scoring": ["Fitted"],
    "datainf": ["DataInf"],
    "fastif": ["FastIF"],
    "gradcos": ["GradCos"],
    "influence": ["Influence"],
    "ihvp.arnoldi": ["Arnoldi"],
    "ihvp.cg": ["CG"],
    "ihvp.compressed": ["Compressed"],
    "ihvp.deflated": ["Deflated"],
    "ihvp.exact": ["Exact"],
    "ihvp.kfac": ["EKFAC", "KFAC"],
    "ihvp.lissa": ["LiSSA"],
    "ihvp.sketch": ["Sketch"],
    "ensembles.masks": ["Packed"],
    "search.index": ["Index"],
    "search.projected": ["Projected"],
    "curvature.operators": ["GaussNewton", "Hessian"],
    "rows.projections": ["SJLT", "Gaussian", "Rademacher", "Select", "TwoSided"],
    "progress": ["show_with"],
    "random_projection": ["RandomProjection"],
    "logra": ["LoGra"],
    "relatif": ["RelatIF"],
    "replay": ["Adam", "SGD", "Training", "metagradients"],
    "representer": ["Representer"],
    "rows.factored": ["Rows"],
    "rows.gradients": ["gradient_rows"],
    "errors": ["MethodError"],
    "examples": ["Examples"],
    "sources": ["Source"],
    "task": ["Task"],
    "tracin": ["TracIn"],
    "trak": ["TRAK"],
    "unrolling": ["Unrolling"],
}
_WHERE = {name: file for file, names in _FILES.items() for name in names}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"methods has no {name!r}: it has {', '.join(__all__)}")
    return getattr(import_module(f"methods.{_WHERE[name]}"), name)
