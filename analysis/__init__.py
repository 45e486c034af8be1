"""Tables and figures: numbers from finished runs, then ink from the numbers alone.

A file on this level defines ARTIFACT, one table or figure, named paper_artifact. What artifacts
share belongs in the rooms numbers, ink and page. Nothing here trains, imports torch or reads W&B.
"""

from experiments.laboratory import spelling  # its package ends imports in one line at ctrl-C

spelling.answer(__name__, __path__[0], "artifact", "docs/results.md lists them", {"readme": "docs"})
