"""Files that others released: ensembles with their pairs, and C-scores.

released/ensemble/*.npz   masks and answers of Feldman and Zhang's models (2020, arXiv:2008.03703):
                          `subsample_idx`, `correctness_train`, `correctness_test`, of one model, or
                          of several along a first axis
released/pairs.npz        their influential pairs: `tr_idx`, `tt_idx`, `infl`
released/c-scores.npz     C-scores of Jiang et al. (2021, arXiv:2002.03206), `scores` and `labels`,
                          in the order of the training file

None is downloaded: a user who has them puts them there.
"""

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError, quoted

FOLDER = "released"
CONTENTS = f"{FOLDER}/ensemble/*.npz, {FOLDER}/pairs.npz, {FOLDER}/c-scores.npz"


def ensemble(n_models: int, n_train: int, n_query: int) -> tuple[np.ndarray, np.ndarray]:
    """The first models in the order of the files' names: masks (n_models, n_train) bool, and
    whether each is right, (n_models, n_train + n_query) bool, training examples first."""
    masks: list[np.ndarray] = []
    right: list[np.ndarray] = []
    for path in _files():
        for inside, trained, asked in _models(path, n_train, n_query):
            if len(masks) == n_models:
                break
            mask = np.zeros(n_train, dtype=bool)
            mask[inside] = True
            masks.append(mask)
            right.append(np.concatenate([trained, asked]))
    if len(masks) < n_models:
        where = quoted(data_folder.root() / FOLDER / "ensemble")
        raise UserError(f"{where} has {len(masks)} models of {n_models}: put the others there")
    return np.stack(masks), np.stack(right)


def _files() -> list[Path]:
    folder = data_folder.root() / FOLDER / "ensemble"
    found = sorted(folder.glob("*.npz"))
    if not found:
        what = f"no .npz file is in {quoted(folder)}"
        raise data_folder.missing(what, "none can be downloaded", "put them there", CONTENTS)
    return found


def _models(
    path: Path, n_train: int, n_query: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    names = ("subsample_idx", "correctness_train", "correctness_test")
    inside, trained, asked = (np.atleast_2d(column) for column in _columns(path, names))
    shapes = trained.shape[1], asked.shape[1]
    if shapes != (n_train, n_query) or not len(inside) == len(trained) == len(asked):
        raise UserError(
            f"{quoted(path)} answers about {shapes[0]:,} training and {shapes[1]:,} test examples,"
            f" not {n_train:,} and {n_query:,}: it is of another data set"
        )
    if inside.dtype.kind not in "iu" or inside.min() < 0 or inside.max() >= n_train:
        raise UserError(
            f"{quoted(path)} has a subsample_idx that is no position below {n_train:,}:"
            f" {data_folder.replace(path)}"
        )
    yield from zip(inside, trained.astype(bool), asked.astype(bool), strict=True)


def pairs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The published pairs: positions of training and of test examples, and influences, (n,)."""
    path = data_folder.root() / FOLDER / "pairs.npz"
    train, query, influence = _columns(path, ("tr_idx", "tt_idx", "infl"))
    if not train.shape == query.shape == influence.shape or train.ndim != 1:
        raise UserError(
            f"{quoted(path)} has columns of several lengths: {data_folder.replace(path)}"
        )
    return train.astype(np.int64), query.astype(np.int64), influence.astype(float)


def c_scores(index: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The C-scores of some training examples, (n,): how often each is right when it is held out.

    index, labels  (n,), their positions in the training file and their labels: scores in another
                   order are refused
    """
    path = data_folder.root() / FOLDER / "c-scores.npz"
    scores, theirs = _columns(path, ("scores", "labels"))
    if scores.shape != theirs.shape or index.max(initial=-1) >= len(scores):
        raise UserError(
            f"{quoted(path)} has {len(scores):,} scores and {len(theirs):,} labels, and example"
            f" {index.max(initial=-1):,} is asked for: it is of another data set"
        )
    if differing := int((theirs[index] != labels).sum()):
        raise UserError(
            f"{quoted(path)} has other labels at {differing:,} of {len(labels):,} examples: give"
            " the scores in the order of the training file"
        )
    return np.asarray(scores[index], dtype=float)


def _columns(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    if not path.exists():
        what = f"{path.name} is not in {quoted(path.parent)}"
        raise data_folder.missing(what, "cannot be downloaded", "put it there", CONTENTS)
    remedy = data_folder.replace(path)
    try:
        with np.load(io.BytesIO(data_folder.read(path, remedy))) as columns:
            absent = [name for name in names if name not in columns]
            if not absent:
                return [columns[name] for name in names]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{quoted(path)} is truncated or corrupt ({error}): {remedy}") from error
    raise UserError(f"{quoted(path)} has no {' and no '.join(absent)}: {remedy}")
