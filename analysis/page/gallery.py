"""A gallery: proponents and opponents by query, as one page with a search and as a picture.

The page holds its images, texts and scripts itself; nothing is fetched when it is opened.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from analysis.ink import examples, style
from analysis.numbers.found import SIDES, Example, Query, found
from analysis.page import artifact
from analysis.page.pictures import embedded

TEMPLATE = Path(__file__).with_name("gallery.html")
LARGEST = 128  # pixels of a side on the page
EXACT = 32 * 32  # pixels of a grey image up to which it is kept as it is
TITLE = "Proponents and opponents"


def gallery(
    scores: Any,
    query: Any,
    candidates: Any,
    folder: Path | str = "gallery",
    *,
    opponents: Any = None,
    k: int = 5,
    drawn: int = 5,
    title: str = TITLE,
) -> Path:
    """Write folder/index.html, all queries with a search, and folder/gallery.png, the first ones.

    scores      a `Scores`; scores (n_query, n_candidates); those of tokens (n_query, t,
                n_candidates), which highlight the words of the query; or the values and the index
                of the k best, (n_query, k) both. Of several methods: a dict by name.
    query, candidates  the data sets whose numbers the scores have: columns by name, a data frame,
                or a sequence of dicts. `image` is a picture, `text` a string or a list of words,
                `token_scores` a number for each word, every other column a fact.
    opponents   likewise, where `scores` are the proponents alone
    drawn       how many queries the picture has

    Returns the path of the page. What cannot be shown is a UserError.
    """
    queries = found(scores, query, candidates, opponents, k)
    home = Path(folder)
    with style.settings():
        ink = style.ink(examples.draw(queries[: max(1, drawn)], title))
    artifact.write(home / "gallery.png", ink["png"], "give another folder")
    page = home / "index.html"
    artifact.write(page, laid_out(queries, title).encode(), "give another folder")
    return page


def laid_out(queries: Sequence[Query], title: str, note: str = "", back: str = "") -> str:
    """The page of queries; `note` says what is shown, `back` is where a link leads."""
    methods = list(dict.fromkeys(name for query in queries for name in query.lists))
    places: dict[int, int] = {}  # by identity: an example that was found twice is kept once
    shown: list[Any] = []

    def place(example: Example) -> int:
        if id(example) not in places:
            places[id(example)] = len(shown)
            shown.append(_described(example))
        return places[id(example)]

    lines = [
        {
            "q": place(query.example),
            "lists": [
                [
                    methods.index(method),
                    side,
                    [
                        [place(i.example), _short(i.score), list(map(_short, i.weights))]
                        for i in items
                    ],
                ]
                for method, sides in query.lists.items()
                for side, items in sides.items()
            ],
        }
        for query in queries
    ]
    data = {"methods": methods, "sides": SIDES, "examples": shown, "queries": lines}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(TEMPLATE.name).render(
        title=title, note=note, back=back, count=len(queries), data=_in_script(data)
    )


def _described(example: Example) -> dict[str, Any]:
    about: dict[str, Any] = {"n": example.number, "facts": example.facts}
    if example.words:
        about["words"] = example.words
    if example.weights:
        about["weights"] = list(map(_short, example.weights))
    if example.pixels is not None:
        image = Image.fromarray(example.pixels)
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        exact = example.pixels.size <= EXACT
        about["image"] = embedded(image, **({"lossless": True} if exact else {"quality": 88}))
    return about


def _short(value: float) -> float:
    """A number with four digits, which is what is shown."""
    return float(f"{value:.4g}")


def _in_script(data: Any) -> str:
    """JSON that cannot end the element that holds it."""
    text = io.StringIO()
    json.dump(data, text, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.getvalue().replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
