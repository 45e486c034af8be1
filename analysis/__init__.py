"""Tables and figures: numbers from finished runs, then ink from the numbers alone.

A file on this level defines ARTIFACT, one table or figure, named paper_artifact. What artifacts
share belongs in the rooms numbers, ink and page. Nothing here trains, imports torch or reads W&B.
"""

import sys

# While Python looks for the module named after -m it imports this package first.
if sys.argv[:1] == ["-m"] and "analysis.readme" in sys.orig_argv:
    print("error: analysis.readme is now a verb: `python -m analysis docs`", file=sys.stderr)
    sys.exit(2)
