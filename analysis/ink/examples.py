"""Proponents and opponents of a few queries as a picture: images in strips, texts line by line."""

from collections.abc import Sequence
from typing import Any

from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.ink.style import BLACK, BLUE, FOOT, GREY, PAGE, VERMILLION
from analysis.ink.text_table import width, wrapped
from analysis.numbers.found import SIDES, Example, Query, extremes

SIDE_COLOURS = dict(zip(SIDES, (BLUE, VERMILLION), strict=True))
STRIPS, METHOD, LEFT = 1.75, 0.92, 0.08  # inches: where strips, names of methods, queries begin
IMAGE, NOTE, HEAD, ROOM = 0.46, 0.09, 0.24, 0.14  # inches: an image at most, a line under it
LINE, GAP, LINES = 0.135, 0.09, 4  # of texts; lines shown of each
FACTS, TEXT = 0.95, 2.25  # inches: where facts and texts begin
STRONGEST = 0.55  # opacity behind the word with the largest weight


def draw(queries: Sequence[Query], title: str = "") -> Figure:
    """Draw queries below each other, with what every method found for them."""
    examples = [query.example for query in queries]
    pictured = any(one.pixels is not None for one in [*examples, *map(_first, queries)])
    return (_pictures if pictured else _texts)(queries, title)


def _first(query: Query) -> Example:
    return next(
        (items[0].example for sides in query.lists.values() for items in sides.values() if items),
        query.example,
    )


def _pictures(queries: Sequence[Query], title: str) -> Figure:
    shown = [side for side in SIDES if any(side in s for q in queries for s in q.lists.values())]
    most = max(len(i) for q in queries for s in q.lists.values() for i in s.values())
    strip = (PAGE - STRIPS - 0.05) / len(shown)
    pitch = min(IMAGE + 0.06, (strip - 0.12) / most)
    side, facts = pitch - 0.06, max(len(_notes(_first(q))) for q in queries)
    line = side + NOTE * (facts + 1) + 0.08
    tall = [HEAD + ROOM + max(len(q.lists) * line, 1.5 * side + 4 * NOTE) for q in queries]
    above = 0.3 if title else 0.06
    figure = Figure(figsize=(PAGE, above + sum(tall) + FOOT))
    _write(figure, LEFT, 0.05, title, fontsize=9, weight="bold")
    top = above
    for query, height in zip(queries, tall, strict=True):
        _write(figure, LEFT, top + 0.02, f"query {query.example.number}", weight="bold")
        for place, name in enumerate(shown):
            colour = SIDE_COLOURS[name]
            _write(figure, STRIPS + place * strip, top + 0.02, name, weight="bold", color=colour)
        _draw_image(figure, query.example, LEFT, top + HEAD, 1.5 * side, BLACK, "")
        for row, (method, sides) in enumerate(query.lists.items()):
            at = top + HEAD + row * line
            for number, part in enumerate(wrapped(method, STRIPS - METHOD - 0.08, 3, 6.5)):
                _write(figure, METHOD, at + 0.1 + 0.11 * number, part, fontsize=6.5)
            for place, name in enumerate(shown):
                for rank, item in enumerate(sides.get(name, ())):
                    x = STRIPS + place * strip + rank * pitch
                    score = f"{item.score:+.3g}".replace("-", "−")
                    _draw_image(figure, item.example, x, at, side, SIDE_COLOURS[name], score)
        top += height
    return figure


def _notes(example: Example) -> list[str]:
    return [f"{name} {fact}" if fact.isdigit() else fact for name, fact in example.facts.items()]


def _draw_image(
    figure: Figure, one: Example, x: float, top: float, side: float, colour: str, score: str
) -> None:
    """An image with its facts under it; a frame alone where an example has none."""
    high = figure.get_figheight()
    axes = figure.add_axes((x / PAGE, 1 - (top + side) / high, side / PAGE, side / high))
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set(visible=True, color=colour, linewidth=0.8)
    if one.pixels is not None:
        axes.imshow(one.pixels, cmap="gray", vmin=0, vmax=255)
    for number, note in enumerate([*([score] if score else []), *_notes(one)]):
        cut = (wrapped(note, side + 0.05, 1, 5.0) or [""])[0]
        _write(figure, x, top + side + 0.02 + NOTE * number, cut, fontsize=5.0)


def _texts(queries: Sequence[Query], title: str) -> Figure:
    lines: list[tuple[str, str, Example, float, list[list[tuple[float, str, float]]]]] = []
    for query in queries:
        most = extremes(query)
        own = query.example
        lines.append((f"query {own.number}", BLACK, own, most, _laid_out(own, own.weights)))
        several = len(query.lists) > 1
        for method, sides in query.lists.items():
            for side, items in sides.items():
                for item in items:
                    name = f"{side[:-1]} {item.score:+.3g}".replace("-", "−")
                    label = f"{name} ({method})" if several else name
                    body = _laid_out(item.example, item.example.weights)
                    lines.append((label, SIDE_COLOURS[side], item.example, most, body))
                    if item.weights:
                        again = _laid_out(own, item.weights)
                        lines.append(("  adds to the query", GREY, own, most, again))
    above = 0.3 if title else 0.08
    tall = [max(len(body), len(_labels(label))) * LINE + GAP for label, _, _, _, body in lines]
    figure = Figure(figsize=(PAGE, above + sum(tall) + FOOT))
    _write(figure, LEFT, 0.05, title, fontsize=9, weight="bold")
    top = above
    for (label, colour, example, most, body), height in zip(lines, tall, strict=True):
        if label.startswith("query "):
            y = 1 - (top - GAP / 2) / figure.get_figheight()
            figure.add_artist(Line2D([0.01, 0.99], [y, y], color=GREY, linewidth=0.6))
        for number, part in enumerate(_labels(label)):
            bold = "bold" if label.startswith("query ") else "normal"
            look = {"color": colour, "weight": bold, "fontsize": 7 if number == 0 else 6}
            _write(figure, LEFT, top + LINE * number, part, **look)
        if example.words:
            facts = wrapped(", ".join(example.facts.values()), TEXT - FACTS - 0.3, LINES, 6.5)
            for number, part in enumerate(facts):
                _write(figure, FACTS + 0.2, top + LINE * number, part, fontsize=6.5)
        for number, words in enumerate(body):
            for x, word, weight in words:
                _write_word(figure, x, top + LINE * number, word, weight / most if most else 0.0)
        top += height
    return figure


def _labels(label: str) -> list[str]:
    return wrapped(label, FACTS + 0.1, 3, 7)


def _laid_out(example: Example, weights: Sequence[float]) -> list[list[tuple[float, str, float]]]:
    """Lines of words with their places in inches and weights; facts where there is no text."""
    if not example.words:
        facts = "   ".join(f"{name} {fact}" for name, fact in example.facts.items())
        return [[(FACTS + 0.2, line, 0.0)] for line in wrapped(facts, PAGE - FACTS - 0.3, LINES)]
    if not weights:
        return [[(TEXT, line, 0.0)] for line in wrapped(example.text, PAGE - TEXT - 0.1, LINES)]
    space, x = width("a b") - width("ab"), TEXT
    lines: list[list[tuple[float, str, float]]] = [[]]
    for word, weight in zip(example.words, weights, strict=False):
        wide = width(word.strip())
        if lines[-1] and x + wide > PAGE - 0.1:
            if len(lines) == LINES:
                lines[-1].append((x, "…", 0.0))
                break
            lines.append([])
            x = TEXT
        lines[-1].append((x, word.strip(), weight))
        x += wide + space
    return lines


def _write_word(figure: Figure, x: float, down: float, word: str, share: float) -> None:
    """Write a word on a ground that says how much it matters: blue for, vermillion against."""
    ground = to_rgba(BLUE if share > 0 else VERMILLION, STRONGEST * min(1.0, abs(share)))
    box = {"facecolor": ground, "edgecolor": "none", "pad": 0.8} if share else None
    _write(figure, x, down, word, bbox=box)


def _write(figure: Figure, x: float, down: float, text: str, **more: Any) -> None:
    """Write a line whose top is `down` inches below that of the figure."""
    style: dict[str, Any] = {"fontsize": 7.5, **more}
    place = 1 - (down + 0.11) / figure.get_figheight()
    figure.text(x / PAGE, place, text, va="baseline", parse_math=False, **style)
