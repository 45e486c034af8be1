"""California housing, the census of 1990: `california_housing/housing.csv` under the data folder.

Rows are block groups (Pace & Barry, 1997). The file is the edition with `ocean_proximity`, which
is not used: it describes the place in words, and scikit-learn's copy, the second source, lacks it.
207 block groups lack `total_bedrooms`: they get the median of bedrooms per room, times their rooms.
scikit-learn's copy has ratios, from which counts are computed back; none is missing there.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.laboratory import data_folder
from experiments.laboratory.errors import UserError, nearest, quoted

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
    dollars; value (n,) in dollars, where the census wrote 500,001 for every value above 500,000.
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
    remedy = data_folder.replace(path)
    text = data_folder.read_text(path, remedy)
    try:
        header, *lines = csv.reader(text.splitlines())
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"{quoted(path)} is not a table of values separated by commas: {remedy}"
        ) from error
    wanted = [*INPUTS, *PLACE, VALUE]
    for name in wanted:
        if name not in header:
            unknown = [column for column in header if column not in (*wanted, WORDS)]
            raise UserError(
                f"{quoted(path)} has no column {name}: {nearest(name, unknown)} {remedy}"
            )
    if len(lines) != N_ROWS:
        raise UserError(f"{quoted(path)} has {len(lines):,} of {N_ROWS:,} rows: {remedy}")
    columns = {name: np.empty(N_ROWS) for name in wanted}
    for row, line in enumerate(lines):
        place = f"{quoted(path)}, line {row + 2}"
        if len(line) != len(header):
            raise UserError(f"{place}, has {len(line)} of {len(header)} cells: {remedy}")
        cells = dict(zip(header, line, strict=True))
        for name in wanted:
            value = _number(cells[name], may_lack=name == MAY_LACK)
            if value is None:
                raise UserError(f"{place}: {name} is {cells[name]!r}, not a number: {remedy}")
            columns[name][row] = value
    return columns


def _number(cell: str, may_lack: bool) -> float | None:
    """A cell as a number, NaN if it is empty and may be, None if it is not a finite number."""
    if not cell and may_lack:
        return float("nan")
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _second_source(path: Path) -> dict[str, np.ndarray]:
    """scikit-learn's copy, `cal_housing_py3.pkz` in the same folder, downloaded if missing."""
    from sklearn.datasets import _california_housing as source
    from sklearn.datasets import fetch_california_housing

    def failure(reason: str) -> UserError:
        what, remedy = f"{path.name} is not in {quoted(path.parent)}", "put the table there"
        return data_folder.missing(what, reason, remedy, "california_housing/housing.csv")

    pickled = path.parent / "cal_housing_py3.pkz"
    if not pickled.exists() and not data_folder.reachable(source.ARCHIVE.url):
        raise failure("the server that scikit-learn downloads it from does not answer")
    try:
        bunch = fetch_california_housing(data_home=str(path.parent), n_retries=0)
    except Exception as error:  # scikit-learn raises errors of many kinds, with one remedy
        raise failure(f"scikit-learn's copy failed: {error}") from error
    if len(bunch.data) != N_ROWS:
        raise UserError(
            f"{quoted(pickled)} has {len(bunch.data):,} of {N_ROWS:,} rows: `rm {quoted(pickled)}`"
        )
    data_folder.note_file(pickled)
    columns = np.asarray(bunch.data, dtype=float).T
    column = dict(zip(bunch.feature_names, columns, strict=True))
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
