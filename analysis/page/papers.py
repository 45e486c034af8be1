"""The papers by their short names, and whose an artifact is."""

from dataclasses import dataclass

BEYOND = "Beyond the papers: goals of our own"


@dataclass(frozen=True)
class Source:
    """A paper: its authors and year, its title, and how `Artifact.paper` begins."""

    authors: str
    title: str
    begins: tuple[str, ...]


PAPERS = {
    "TracIn": Source(
        "Pruthi et al., 2020",
        "Estimating Training Data Influence by Tracing Gradient Descent",
        ("TracIn",),
    ),
    "FastIF": Source(
        "Guo et al., 2021",
        "Scalable Influence Functions for Efficient Model Interpretation and Debugging",
        ("FastIF",),
    ),
    "Arnoldi": Source(
        "Schioppa et al., 2022",
        "Scaling Up Influence Functions",
        ("Arnoldi", "Scaling Up Influence Functions"),
    ),
    "Subsets": Source(
        "Doubov et al., 2022",
        "How many trained neural networks are needed for influence estimation?",
        ("Subsets", "How many trained neural networks are needed"),
    ),
}


def source(paper: str) -> str:
    """The short name of the paper that an artifact's field `paper` names, or BEYOND."""
    names = (name for name, one in PAPERS.items() if paper.startswith(one.begins))
    return next(names, BEYOND)
