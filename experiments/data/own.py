"""Labelled data of one's own; how many rows and classes there are is read from it.

.csv .tsv .jsonl .parquet  a row for each example: numbers, categories, texts, and the label
.npz                       an array of labels, and one other with as many rows: features or images
a folder of pictures       a folder for each class, as torchvision's ImageFolder has them
a folder of idx files      *images-idx3-ubyte and *labels-idx1-ubyte, .gz or not, as EMNIST has them
a folder of Hugging Face   what `save_to_disk` of a `datasets.Dataset` writes
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.data import cifar_n, digits, labels
from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError, nearest, one_line, quoted
from experiments.laboratory.runs import note

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
FORMS = (
    f"{', '.join(TABLES)}, .npz, a folder of pictures by class, of idx files, or of `save_to_disk`"
)
CATEGORIES = 20  # distinct words up to which a column is of categories, and above it of texts
EXCERPT = 300  # characters of a row that are shown
DIGITS_WRONG, DIGITS_SEED = 0.05, 0  # of the bundled digits, for the smoke tier
NAMED = ("digits", "cifar-10n")


@dataclass(frozen=True)
class Labelled:
    """Rows with labels: numbers of a shape for a network, texts beside them, and what to show.

    inputs   (n, channels, height, width) in [0, 1] of images, else (n, d) standardised, float32
    texts    columns of texts, each of n, which are not among the inputs
    label    (n,) int64, positions in `classes`; truth the same of better labels, if there are any
    names    (n,) what a row is called: its file, or its number from 0; excerpt(row) a text to show
    """

    inputs: Tensor
    texts: tuple[tuple[str, ...], ...]
    label: np.ndarray
    classes: tuple[str, ...]
    names: tuple[str, ...]
    excerpt: Callable[[int], str]
    truth: np.ndarray | None = None

    @property
    def examples(self) -> dict[str, Tensor]:
        """The columns of a task: `input` (the rows of `inputs`) and `label`."""
        return {"input": self.inputs, "label": torch.from_numpy(self.label)}

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row's inputs."""
        return tuple(self.inputs.shape[1:])

    @property
    def pictures(self) -> bool:
        """Whether the rows are images."""
        return self.inputs.ndim == 4


def place(source: str) -> Path:
    """Where data of that name is: at the path, or under the data folder."""
    given = Path(source).expanduser()
    found = next((path for path in (given, data_folder.root() / source) if path.exists()), None)
    if not source or found is None:
        known = nearest(source, NAMED)
        raise UserError(f"there is no data at {quoted(source)} ({known}): give {FORMS}")
    return found


def digest(source: str) -> str:
    """What data is in a file or a folder, wherever it is; a known data set's is its name."""
    if source in NAMED:
        return source
    path = place(source)
    if not path.is_dir():
        return data_folder.checksum(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    whole = hashlib.md5(usedforsecurity=False)
    for file in files:
        whole.update(f"{file.relative_to(path)} {data_folder.checksum(file)}\n".encode())
    return whole.hexdigest()


def images(source: str) -> dict[str, Tensor]:
    """Columns `image` (n, channels, height, width) and `label` of data of one's own."""
    data = load(source)
    if not data.pictures:
        raise UserError(
            f"{quoted(source)} has no images: give a folder of pictures by class, of idx files, or "
            "an .npz with an array (n, height, width) or (n, height, width, channels)"
        )
    return {"image": data.inputs, "label": torch.from_numpy(data.label)}


def load(
    source: str, label: str = "label", columns: Sequence[str] = (), truth: str = "", side: int = 32
) -> Labelled:
    """The rows of a file or folder.

    label    the column, or array, of labels; truth one of better labels, to judge by
    columns  those that are inputs; all others, if empty
    side     pixels that pictures in files are scaled to, as squares
    """
    if source == "digits":
        return _digits()
    if source == "cifar-10n":
        return _pixels(*cifar_n.load())
    path = place(source)
    note("data", {path.name: f"md5 {digest(source)}"})
    if path.is_dir():
        return _folder(path, label, columns, truth, side)
    if path.suffix == ".npz":
        return _arrays(path, label, columns, truth)
    if path.suffix not in TABLES:
        raise UserError(f"{quoted(path)} is of no known kind: give {FORMS}")
    return _table(path.name, _frame(path), label, columns, truth)


def _digits() -> Labelled:
    whole = digits.load_sklearn()
    true = whole["label"].numpy()
    given, _ = labels.reassign(true, DIGITS_WRONG, 10, DIGITS_SEED)
    return _pixels(whole["image"], given, true, tuple("0123456789"))


def _pixels(
    images: Tensor, given: np.ndarray, true: np.ndarray | None, classes: tuple[str, ...]
) -> Labelled:
    return Labelled(images, (), given, classes, _numbers(len(given)), lambda row: "", true)


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _frame(path: Path) -> Any:
    """A table as pandas reads it."""
    import pandas as pd

    readers: dict[str, Callable[[Path], Any]] = {
        ".csv": lambda file: pd.read_csv(file, low_memory=False),
        ".tsv": lambda file: pd.read_csv(file, sep="\t", low_memory=False),
        ".jsonl": lambda file: pd.read_json(file, lines=True),
        ".parquet": pd.read_parquet,
    }
    try:
        return readers[path.suffix](path)
    except OSError:
        raise
    except Exception as error:  # the readers raise errors of many kinds, with one remedy
        raise UserError(
            f"{quoted(path)} cannot be read as a {path.suffix} table ({one_line(error)}): "
            "correct that, or save it anew"
        ) from error


def _table(name: str, table: Any, label: str, columns: Sequence[str], truth: str) -> Labelled:
    """A table of pandas: numbers are standardised, categories are 0 or 1, texts stay texts."""
    import pandas as pd

    for wanted in (label, *filter(None, [truth]), *columns):
        if wanted not in table.columns:
            known = nearest(wanted, map(str, table.columns))
            raise UserError(f"{name} has no column {wanted!r}: {known}")
    chosen = list(columns) or [c for c in table.columns if c not in (label, truth)]
    if not chosen:
        raise UserError(f"{name} has no column beside {label!r}: a model needs inputs")
    given, true, classes = _labels(name, label, table[label], table[truth] if truth else None)
    numbers, texts = [], []
    for column in chosen:
        values = table[column]
        if (missing := values.isna()).any():
            raise UserError(
                f"column {column!r} of {name} has {int(missing.sum()):,} empty or NaN values, the "
                f"first in row {int(missing.to_numpy().argmax())}: fill them, drop the rows, or "
                "choose other columns with --columns"
            )
        if pd.api.types.is_numeric_dtype(values):
            numbers.append(_finite(name, column, values.to_numpy(dtype=np.float64))[:, None])
            continue
        if not all(isinstance(value, str) for value in values):
            kind = type(next(value for value in values if not isinstance(value, str))).__name__
            raise UserError(
                f"column {column!r} of {name} has values of kind {kind}: give numbers or texts, or "
                "choose other columns with --columns"
            )
        if values.nunique() <= CATEGORIES:
            numbers.append(pd.get_dummies(values).to_numpy(dtype=np.float64))
        else:
            texts.append(tuple(values))
    features = np.hstack(numbers) if numbers else np.empty((len(table), 0))
    shown = table[chosen]

    def excerpt(row: int) -> str:
        values = shown.iloc[row]
        if len(texts) == len(chosen):
            return " / ".join(values)[:EXCERPT]
        return ", ".join(f"{column} {_word(value)}" for column, value in values.items())[:EXCERPT]

    return Labelled(
        torch.from_numpy(_standardised(features)).float(),
        tuple(texts),
        given,
        classes,
        _numbers(len(table)),
        excerpt,
        true,
    )


def _word(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _finite(name: str, column: str, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        row = int((~np.isfinite(values)).reshape(len(values), -1).any(1).argmax())
        raise UserError(
            f"{column!r} of {name} has values that are NaN or infinite, the first in row {row}: "
            "correct them or drop the rows"
        )
    return values


def _standardised(features: np.ndarray) -> np.ndarray:
    deviation = features.std(0)
    return (features - features.mean(0)) / np.where(deviation > 0, deviation, 1)


def _labels(
    name: str, column: str, given: Any, true: Any = None
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Labels as positions in the classes, those of `true` as well; refuse what are no classes."""
    import pandas as pd

    about = f"labels {column!r} of {name}"
    words = {}
    for which, values in (("", given), ("true ", true)):
        if values is None:
            continue
        values = pd.Series(values)
        if (missing := values.isna()).any():
            raise UserError(
                f"the {which}{about}: {int(missing.sum()):,} are empty, the first in row "
                f"{int(missing.to_numpy().argmax())}: fill them or drop the rows"
            )
        if pd.api.types.is_float_dtype(values) and (values == values.round()).all():
            values = values.astype(np.int64)  # as pandas reads numbers in a column with blanks
        words[which] = values.astype(str).str.strip()
    every = pd.concat(list(words.values()))
    classes = sorted(every.unique())
    numeric = [bool(re.fullmatch(r"[-+]?\d+(\.\d+)?", word)) for word in classes]
    if any(numeric) and not all(numeric):
        one, other = classes[numeric.index(True)], classes[numeric.index(False)]
        raise UserError(
            f"the {about} are of mixed types, such as {one!r} and {other!r}: write all as numbers "
            "or all as words"
        )
    if numeric and all(numeric):
        classes.sort(key=float)
    if any("." in word for word, number in zip(classes, numeric, strict=True) if number):
        raise UserError(
            f"the {about} are numbers with fractions, such as {classes[0]}: give classes, such as "
            "ranges of the number"
        )
    position = {word: place for place, word in enumerate(classes)}
    made = {
        which: values.map(position).to_numpy(np.int64, copy=True) for which, values in words.items()
    }
    counts = np.bincount(made[""], minlength=len(classes))
    if (counts > 0).sum() < 2:
        found = f"one class, {classes[0]!r}" if len(given) else "no rows"
        raise UserError(f"the {about} have {found}: give rows of two classes or more")
    lonely = [word for word, count in zip(classes, counts, strict=True) if count == 1]
    if lonely:
        raise UserError(
            f"the {about} have a single row of {_listed(lonely)}, which no model that did not see "
            "it can know: drop such rows, or merge the class with another"
        )
    return made[""], made.get("true "), tuple(classes)


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - 3} other classes" if len(words) > 3 else ""
    return ", ".join(repr(word) for word in words[:3]) + more


def _arrays(path: Path, label: str, columns: Sequence[str], truth: str) -> Labelled:
    """An .npz: images are the array of three or four axes, features that of two."""
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    except OSError:
        raise
    except Exception as error:  # of a zip file that is damaged, or of pickled objects
        raise UserError(
            f"{quoted(path)} is no .npz of plain arrays ({one_line(error)}): save it anew"
        ) from error
    for wanted in (label, *filter(None, [truth]), *columns):
        if wanted not in arrays:
            raise UserError(f"{path.name} has no array {wanted!r}: {nearest(wanted, arrays)}")
    true = arrays[truth] if truth else None
    n = len(arrays[label])
    others = [
        name for name, array in arrays.items()
        if name not in (label, truth) and array.ndim > 1 and len(array) == n
    ]  # fmt: skip
    chosen = list(columns) or others
    if len(chosen) != 1:
        found = f"{len(chosen)} arrays of {n:,} rows ({', '.join(chosen) or 'none'})"
        raise UserError(f"{path.name} has {found} beside {label!r}: name one with --columns")
    values = arrays[chosen[0]]
    if values.ndim not in (2, 3, 4) or values.dtype.kind not in "biuf" or len(values) != n:
        raise UserError(
            f"{chosen[0]!r} of {path.name} is {values.dtype} of shape {values.shape}: give numbers "
            "of shape (n, d), (n, height, width) or (n, height, width, channels)"
        )
    if true is not None and len(true) != n:
        raise UserError(f"{truth!r} of {path.name} has {len(true):,} of {n:,} labels")
    given, true, classes = _labels(path.name, label, arrays[label], true)
    values = _finite(path.name, chosen[0], values)
    if values.ndim > 2:
        return _pixels(_images(values), given, true, classes)
    inputs = torch.from_numpy(_standardised(values.astype(np.float64))).float()
    names = _numbers(n)
    return Labelled(inputs, (), given, classes, names, lambda row: _written(values[row]), true)


def _written(values: np.ndarray) -> str:
    return " ".join(f"{value:.4g}" for value in values)[:EXCERPT]


def _images(pixels: np.ndarray) -> Tensor:
    """(n, height, width), or with channels, as (n, channels, height, width) in [0, 1]."""
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    most = 255.0 if pixels.dtype == np.uint8 else max(float(pixels.max()), 1.0)
    return torch.from_numpy(pixels.astype(np.float32) / most).permute(0, 3, 1, 2).contiguous()


def _folder(path: Path, label: str, columns: Sequence[str], truth: str, side: int) -> Labelled:
    if digits.has_idx(path):
        return _idx(path)
    if (path / "dataset_dict.json").exists():
        splits = sorted(child.name for child in path.iterdir() if child.is_dir())
        raise UserError(
            f"{quoted(path)} holds {' and '.join(splits)}: name one, as {path / splits[0]}"
        )
    if (path / "dataset_info.json").exists():
        return _hugging_face(path, label, columns, truth, side)
    return _pictures(path, side)


def _idx(path: Path) -> Labelled:
    pixels, given = digits.read_idx_folder(path)
    made, _, classes = _labels(path.name, "labels", given)
    return _pixels(_images(pixels), made, None, classes)


def _pictures(path: Path, side: int) -> Labelled:
    """A folder with a folder of pictures for each class."""
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(path))
    except FileNotFoundError as error:
        raise UserError(
            f"{quoted(path)} is no folder of pictures by class ({one_line(error)}): make one "
            "folder for each class, with pictures in it"
        ) from error
    files = [Path(file) for file, _ in found.samples]
    pictures, damaged = [], []
    for file in files:
        try:
            pictures.append(_opened(file))
        except Exception as error:  # a changed byte of a picture may cause any
            damaged.append((file, one_line(error)))
    if damaged:
        first, reason = damaged[0]
        raise UserError(
            f"{len(damaged):,} of {len(files):,} pictures cannot be read, the first is "
            f"{quoted(first)} ({reason}): replace or remove them"
        )
    words = [found.classes[place] for _, place in found.samples]
    given, _, classes = _labels(path.name, "folders", words)
    names = tuple(str(file.relative_to(path)) for file in files)
    return Labelled(_squares(pictures, side), (), given, classes, names, lambda row: "")


def _opened(file: Path) -> Any:
    from PIL import Image

    with Image.open(file) as image:
        image.load()
        return image


def _squares(pictures: Sequence[Any], side: int) -> Tensor:
    """Pictures of PIL as squares: grey if all are."""
    if side < 1:
        raise UserError(f"side is {side}: give the pixels that pictures are scaled to")
    mode = "L" if all(image.mode in ("1", "L") for image in pictures) else "RGB"
    made = [np.asarray(image.convert(mode).resize((side, side))) for image in pictures]
    return _images(np.stack(made))


def _hugging_face(
    path: Path, label: str, columns: Sequence[str], truth: str, side: int
) -> Labelled:
    from datasets import ClassLabel, Image, load_from_disk

    try:
        rows: Any = load_from_disk(str(path))
    except Exception as error:  # the library raises errors of many kinds, with one remedy
        raise UserError(
            f"{quoted(path)} cannot be read ({one_line(error)}): save it anew"
        ) from error
    kinds = dict(rows.features)
    pictures = [name for name, kind in kinds.items() if isinstance(kind, Image)]
    table = rows.remove_columns(pictures).to_pandas()
    for name, kind in kinds.items():
        if isinstance(kind, ClassLabel):
            table[name] = table[name].map(dict(enumerate(kind.names)))
    if not pictures:
        return _table(path.name, table, label, columns, truth)
    if label not in table.columns:
        raise UserError(f"{path.name} has no column {label!r}: {nearest(label, table.columns)}")
    given, true, classes = _labels(
        path.name, label, table[label], table[truth] if truth in table.columns else None
    )
    return _pixels(_squares(rows[pictures[0]], side), given, true, classes)
