"""Tables and figures: numbers from finished runs, then ink from the numbers alone.

A file on this level defines ARTIFACT, one table or figure, named paper_artifact. What artifacts
share belongs in the rooms numbers, ink and page. Nothing here trains, imports torch or reads W&B.

`from analysis import gallery` shows the proponents and opponents of one's own queries.
"""

from typing import Any

from experiments.laboratory import spelling  # its package ends imports in one line at ctrl-C

spelling.answer(__name__, __path__[0], "artifact", "docs/results.md lists them", {"readme": "docs"})


def __getattr__(name: str) -> Any:
    if name != "gallery":
        raise AttributeError(f"analysis has no {name!r}")
    from analysis.page.gallery import gallery  # with matplotlib: only where it is used

    return gallery
