"""California housing, the census of 1990: `california_housing/housing.csv` under the data folder.

Rows are block groups (Pace & Barry, 1997). The file is the edition with `ocean_proximity`, which
is not used: it is a place in words, and scikit-learn's copy, the second source, lacks it.
207 block groups lack `total_bedrooms`: they are given the median of bedrooms per room, times their
rooms. scikit-learn's copy has ratios, from which counts are computed back; there none is missing.
"""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.laboratory import data_folder
from experiments.laboratory.data_folder import reachable
from experiments.laboratory.errors import UserError, nearest
from experiments.laboratory.runs import note

N_ROWS = 20_640
INPUTS = (
    "housing_median_age",
    "median_income",
    "total_rooms",
    "total_bedrooms",
    "population",
    "households",
)
PLACE, VALUE, WORDS = ("latitude", "longitude"), "median_house_value", "ocean_proximity"
MAY_LACK = "total_bedrooms"


@dataclass(frozen=True)
class Houses:
    """Block groups: degrees north and east, inputs other than the place, and the median value.

    latitude, longitude (n,); inputs (n, 6) in the order of INPUTS, income in tens of thousands of
    dollars; value (n,) in dollars, where the census wrote 500,001 for all above 500,000.
    """

    latitude: np.ndarray
    longitude: np.ndarray
    inputs: np.ndarray
    value: np.ndarray


def load() -> Houses:
    """All 20,640 rows in the order of the file; from scikit-learn's download if it is missing."""
    path = data_folder.root() / "california_housing" / "housing.csv"
    columns = _read(path) if path.exists() else _second_source(path)
    bedrooms, rooms = columns[MAY_LACK], columns["total_rooms"]
    columns[MAY_LACK] = np.where(
        np.isnan(bedrooms), rooms * np.nanmedian(bedrooms / rooms), bedrooms
    )
    inputs = np.stack([columns[name] for name in INPUTS], axis=1)
    return Houses(columns["latitude"], columns["longitude"], inputs, columns[VALUE])


def _read(path: Path) -> dict[str, np.ndarray]:
    mend = f"remove it with `rm {path}` and copy a whole one there"
    try:
        content = path.read_bytes()
        header, *lines = csv.reader(content.decode().splitlines())
    except OSError as error:
        raise UserError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is not a table of values separated by commas: {mend}") from error
    wanted = [*INPUTS, *PLACE, VALUE]
    for name in wanted:
        if name not in header:
            unknown = [column for column in header if column not in (*wanted, WORDS)]
            raise UserError(f"{path} has no column {name}: {nearest(name, unknown)} {mend}")
    if len(lines) != N_ROWS:
        raise UserError(f"{path} has {len(lines):,} of {N_ROWS:,} rows: {mend}")
    columns = {name: np.empty(N_ROWS) for name in wanted}
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise UserError(
                f"{path}, line {number}, has {len(line)} of {len(header)} cells: {mend}"
            )
        cells = dict(zip(header, line, strict=True))
        for name in wanted:
            columns[name][number - 2] = _number(cells[name], name, path, number, mend)
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    note("data", {"california_housing/housing.csv": f"md5 {digest}"})
    return columns


def _number(cell: str, name: str, path: Path, number: int, mend: str) -> float:
    if not cell and name == MAY_LACK:
        return float("nan")
    try:
        value = float(cell)
        if np.isfinite(value):
            return value
    except ValueError:
        pass
    raise UserError(f"{path}, line {number}: {name} is {cell!r}, not a number: {mend}")


def _second_source(path: Path) -> dict[str, np.ndarray]:
    """scikit-learn's copy, `cal_housing_py3.pkz` in the same folder, downloaded if missing."""
    from sklearn.datasets import _california_housing as source
    from sklearn.datasets import fetch_california_housing

    kept = path.parent / "cal_housing_py3.pkz"
    if not kept.exists() and not reachable(source.ARCHIVE.url):
        raise _missing(path, "the server that scikit-learn downloads it from does not answer")
    try:
        bunch = fetch_california_housing(data_home=str(path.parent), n_retries=0)
    except Exception as error:  # whatever it was: the remedy is the same
        raise _missing(path, f"scikit-learn's copy failed: {error}") from error
    column = {
        name: np.asarray(bunch.data[:, i], dtype=float)
        for i, name in enumerate(bunch.feature_names)
    }
    if len(bunch.data) != N_ROWS:
        raise UserError(f"{kept} has {len(bunch.data):,} of {N_ROWS:,} rows: `rm {kept}`")
    digest = hashlib.md5(kept.read_bytes(), usedforsecurity=False).hexdigest()
    note("data", {f"california_housing/{kept.name}": f"md5 {digest}"})
    households = (column["Population"] / column["AveOccup"]).round()
    return {
        "housing_median_age": column["HouseAge"],
        "median_income": column["MedInc"],
        "total_rooms": (column["AveRooms"] * households).round(),
        "total_bedrooms": (column["AveBedrms"] * households).round(),
        "population": column["Population"],
        "households": households,
        "latitude": column["Latitude"],
        "longitude": column["Longitude"],
        VALUE: (np.asarray(bunch.target, dtype=float) * 1e5).round(),
    }


def _missing(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path.name} is not in {path.parent} and {reason}: put the table of {N_ROWS:,} rows "
        "there, or name another place with --data DIR or RETRACE_DATA=DIR, where DIR has "
        "california_housing/housing.csv"
    )
