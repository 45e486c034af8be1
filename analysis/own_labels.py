"""Labels that look wrong: the first rows to look at, and how many of them are wrong.

`python -m analysis.own_labels --look KEY` shows one run of `experiments.own_labels`, a run on data
of one's own too, as results/own_labels/NAME-KEY/suspicious.csv and gallery.png.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ink.pixels import show
from analysis.ink.style import BLACK, FOOT, GREY, PAGE, VERMILLION, ink, new_grid
from analysis.ink.text_table import wrapped
from analysis.numbers.cells import packed
from analysis.numbers.claims import Claim, Ours
from analysis.numbers.statistics import Interval, over_seeds, share, single
from analysis.numbers.table import Row, claim, curve, from_csv, records, tabulated, to_csv, written
from analysis.page.artifact import Artifact
from experiments.laboratory.runs import Run

SCORES = {
    "held_out": "Held out",
    "tracin": "TracIn",
    "influence": "Influence (EK-FAC)",
    "loss": "Loss",
}
QUALITY = {"precision": ("precision, as many as are wrong", "%"), "auc": ("AUC", "x100")}
QUALITY |= {"ap": ("AP", "x100")}
FIRST = 100  # rows that a person may look at
IN_A_ROW, PICTURES, TEXTS = 10, 40, 20
LINE, GAP, TOP = 0.14, 0.08, 0.4  # inches
COLUMNS = (0.01, 0.09, 0.30)  # where rank, labels and text start, as shares of the width

WRONG = Claim(
    "suspicious labels are wrong",
    Ours("This is what the command is for."),
    f"The share of wrong labels among the {FIRST} most suspicious rows minus that of all rows.",
    null=0.0,
)
UNSEEN = Claim(
    "a network that did not see the row judges better",
    Ours("A network that trained on a wrong label may have learned it by heart."),
    "AP of the loss of networks that did not train on the row minus that of one that did.",
    null=0.0,
)
NOTES = (
    "The order is declared beforehand: by the loss of the given label in networks that did not see"
    " the row. Intervals are over seeds, which share all rows; that of the first rows of one seed"
    " is Wilson's, over rows."
)


def tabulate(runs: list[Run]) -> pd.DataFrame:
    known = [run for run in runs if "n_wrong" in run.metrics]
    return tabulated([*(_measured(known) if known else []), *_rows(runs[0])])


def _measured(runs: list[Run]) -> list[Row]:
    rows, excess = [], []
    for score, name in SCORES.items():
        for metric, (quantity, unit) in QUALITY.items():
            values = over_seeds([100 * run.metrics[f"{score}_{metric}"] for run in runs])
            rows.append(curve(name, quantity, unit, values))
        wrong = _wrong_first(runs[0], score)
        found = share(int(wrong.sum()), len(wrong))
        percent = Interval(100 * found.mean, 100 * found.low, 100 * found.high, found.n)
        rows.append(curve(name, f"precision, first {len(wrong)}", "%", percent))
    rates = [100 * float(run.array("wrong").mean()) for run in runs]
    rows.append(curve("chance", "AP", "x100", over_seeds(rates)))
    agreement = over_seeds([100 * run.metrics["agreement"] for run in runs])
    rows.append(curve("networks", "given label predicted, held out", "%", agreement))
    for run, rate in zip(runs, rates, strict=True):
        excess.append(100 * float(_wrong_first(run, "held_out").mean()) - rate)
    gain = [100 * (run.metrics["held_out_ap"] - run.metrics["loss_ap"]) for run in runs]
    label = f"Held out, first {FIRST} − all"
    rows.append(claim(label, "wrong", "points", over_seeds(excess), of=WRONG, at_least=0.0))
    rows.append(claim("Held out − Loss", "AP", "points", over_seeds(gain), of=UNSEEN, at_least=0.0))
    return rows


def _wrong_first(run: Run, score: str) -> np.ndarray:
    """Whether the labels of the first rows by a score are wrong, (FIRST,) or fewer."""
    order = np.argsort(-run.array(score), kind="stable")[:FIRST]
    return np.asarray(run.array("wrong"), dtype=bool)[order]


def _rows(run: Run) -> list[Row]:
    """The most suspicious rows of one run, as images or texts."""
    pixels, texts = run.array("shown_pixels"), run.array("shown_text")
    classes, names, order = (run.array(name) for name in ("classes", "names", "order"))
    rows = []
    for rank, place in enumerate(order[: PICTURES if len(pixels) else TEXTS], start=1):
        labels = {what: str(classes[run.array(what)[place]]) for what in ("given", "suggested")}
        if "n_wrong" in run.metrics:
            labels["true"] = str(classes[run.array("true")[place]])
        about = {"rank": rank, "name": str(names[place]), **labels}
        row = curve("Held out", "loss", "nats", single(run.array("held_out")[place]), **about)
        if len(pixels):
            image = pixels[rank - 1]
            shape = {"height": len(image), "channels": image.shape[-1]}
            row |= {"kind": "image", "pixels": packed(image), **shape}
        else:
            row |= {"kind": "text", "content": str(texts[rank - 1])}
        rows.append(row)
    return rows


def draw(table: pd.DataFrame) -> Figure:
    rows = records(table[table["kind"].isin(["image", "text"])])
    pictures = rows[0]["kind"] == "image"
    figure = _pictures(rows) if pictures else _texts(rows)
    wrong, mark = sum(map(_is_wrong, rows)), "framed" if pictures else "red"
    found = f": {wrong} are wrong ({mark})" if "true" in rows[0] else ""
    at = 1 - 0.12 / figure.get_figheight()
    title = f"The {len(rows)} most suspicious labels{found}"
    figure.text(0.5, at, title, ha="center", va="center", fontsize=9)
    return figure


def _pictures(rows: list[Row]) -> Figure:
    lines = math.ceil(len(rows) / IN_A_ROW)
    figure, grid = new_grid(lines, IN_A_ROW, width=PAGE, height=0.5 + 1.02 * lines)
    figure.subplots_adjust(hspace=0.55)
    for axes, row in zip(grid, rows, strict=False):
        _picture(axes, row)
    return figure


def _picture(axes: Axes, row: Row) -> None:
    wrong = _is_wrong(row)
    axes.set_axis_on()
    show(axes, row, VERMILLION if wrong else GREY, 2.2 if wrong else 0.7)
    label = f"{_word(row['given'])}\n{_word(row['suggested'])}?"
    colour = VERMILLION if wrong else BLACK
    axes.set_xlabel(label, color=colour, fontsize=6.5, labelpad=2, parse_math=False)


def _is_wrong(row: Row) -> bool:
    return "true" in row and row["true"] != row["given"]


def _word(label: Any) -> str:
    """A class as a word: a CSV gives numbers back as 3.0."""
    return f"{label:g}" if isinstance(label, float) else str(label)


def _texts(rows: list[Row]) -> Figure:
    """Texts or tables: the given label above the suggested one, beside the row's content."""
    wide = (0.99 - COLUMNS[2]) * PAGE
    bodies = [wrapped(str(row["content"]), wide, 3) or [""] for row in rows]
    lengths = [max(2, len(body)) * LINE + GAP for body in bodies]
    height = TOP + sum(lengths) + FOOT
    figure, at = Figure(figsize=(PAGE, height)), TOP
    for row, body, length in zip(rows, bodies, lengths, strict=True):
        colour = VERMILLION if _is_wrong(row) else BLACK
        labels = [_word(row["given"])[:28], f"{_word(row['suggested'])}?"[:28]]
        columns = ([_word(row["rank"]), f"row {_word(row['name'])}"[:12]], labels, body)
        for start, lines in zip(COLUMNS, columns, strict=True):
            for place, line in enumerate(lines):
                y = 1 - (at + (place + 0.7) * LINE) / height
                figure.text(start, y, line, color=colour, fontsize=7, parse_math=False)
        at += length
    return figure


def page(table: pd.DataFrame) -> pd.DataFrame:
    """The scores side by side."""
    wide: dict[str, dict[str, str]] = {}
    for row in records(table[table["kind"] == "curve"]):
        line = wide.setdefault(row["method"], {"score": row["method"]})
        line[f"{row['quantity']} ({row['unit']})"] = written(row, ".1f")
    return pd.DataFrame(list(wide.values())).fillna("")


def look(run: Run) -> dict[str, bytes]:
    """All rows of a run, worst first, as a table, and a picture of the first."""
    order = run.array("order")
    classes, names = (np.asarray(run.array(name)) for name in ("classes", "names"))
    texts = pd.Series(run.array("shown_text"), dtype=object).reindex(range(len(order)))
    columns = {
        "rank": np.arange(1, len(order) + 1),
        "row": names[order],
        "given": classes[run.array("given")[order]],
        "suggested": classes[run.array("suggested")[order]],
        "probability_given": np.exp(-run.array("held_out")[order]),
        "probability_suggested": run.array("probability")[order],
        "held_out_loss": run.array("held_out")[order],
        "tracin": run.array("tracin")[order],
        "influence": run.array("influence")[order],
        "loss": run.array("loss")[order],
        "excerpt": texts.fillna("").to_numpy(),
    }
    if "n_wrong" in run.metrics:
        columns["true"] = classes[run.array("true")[order]]
    table = pd.DataFrame(columns).to_csv(index=False, lineterminator="\n", float_format="%.6g")
    gallery = ink(draw(from_csv(to_csv(tabulated(_rows(run))))))
    home = f"{run.metrics['data']}-{run.key[:8]}"
    return {f"{home}/suspicious.csv": table.encode(), f"{home}/gallery.png": gallery["png"]}


ARTIFACT = Artifact(
    id="own_labels",
    experiment="own_labels",
    tabulate=tabulate,
    draw=draw,
    claims=(WRONG, UNSEEN),
    notes=NOTES,
    title="Labels that look wrong, where better ones are known",
    claim="Rows with a high loss in networks that did not see them are mostly those whose label"
    " people got wrong.",
    paper="no paper: a tool for labels of one's own",
    tier_notes={
        "smoke": "Smoke tier: the digits that scikit-learn ships, 5% of them with a random wrong"
        " label, and one linear layer.",
        "small": "Small tier: the first 5,000 images of CIFAR-10 (JPEG-recompressed) with the"
        " label that one person gave each (CIFAR-10N, `random_label1`); the labels of CIFAR-10"
        " count as true.",
    },
    page=page,
    look=look,
)

if __name__ == "__main__":
    raise SystemExit(ARTIFACT.main())
