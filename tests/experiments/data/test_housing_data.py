"""California housing: the table's errors, its sources, and distances on the earth."""

import io
import re
import threading
import urllib.request

import numpy as np
import pytest

from experiments import housing as geography
from experiments.data import housing
from experiments.laboratory import data_folder, runs
from experiments.laboratory.errors import UserError
from experiments.models.housing_mlp import HousingMLP

HEADER = (
    "longitude,latitude,housing_median_age,total_rooms,total_bedrooms,population,households,"
    "median_income,median_house_value,ocean_proximity"
)
ROWS = [
    "-122.23,37.88,41.0,880.0,129.0,322.0,126.0,8.3252,452600.0,NEAR BAY",
    "-122.22,37.86,21.0,7099.0,,2401.0,1138.0,8.3014,358500.0,NEAR BAY",
    "-118.25,34.05,52.0,1000.0,300.0,800.0,270.0,3.5,150000.0,<1H OCEAN",
]


@pytest.fixture(autouse=True)
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_DATA", str(tmp_path))
    monkeypatch.setenv("RETRACE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(housing, "N_ROWS", len(ROWS))
    folder = tmp_path / "california_housing"
    folder.mkdir()
    return folder / "housing.csv"


def write(path, header=HEADER, rows=ROWS):
    path.write_text("\n".join([header, *rows]) + "\n")


# --- the table -----------------------------------------------------------------------------------


def test_rows_are_read_in_order_and_missing_bedrooms_follow_the_rooms(path):
    write(path)
    noted = {}

    def compute(_):
        whole = housing.load()
        np.testing.assert_allclose(whole.latitude, [37.88, 37.86, 34.05])
        np.testing.assert_allclose(whole.value, [452_600, 358_500, 150_000])
        bedrooms = whole.inputs[:, housing.INPUTS.index("total_bedrooms")]
        ratio = np.median([129 / 880, 300 / 1000])
        np.testing.assert_allclose(bedrooms, [129, 7099 * ratio, 300])
        return {}

    noted = runs.once("t", HousingMLP(), compute).meta["data"]
    assert noted["california_housing/housing.csv"].startswith("md5 ")


def test_a_truncated_table_is_named_with_both_numbers(path):
    write(path, rows=ROWS[:2])
    with pytest.raises(UserError, match=re.escape(f"{path} has 2 of 3 rows: remove it with `rm")):
        housing.load()


def test_a_table_cut_in_mid_row_names_the_line(path):
    write(path, rows=[*ROWS[:2], ROWS[2][:30]])
    with pytest.raises(UserError, match=r"line 4, has 5 of 10 cells"):
        housing.load()


def test_a_renamed_column_is_named_with_what_is_there_instead(path):
    write(path, HEADER.replace("median_house_value", "median_house_price"))
    with pytest.raises(
        UserError, match=r"no column median_house_value: did you mean 'median_house_"
    ):
        housing.load()


@pytest.mark.parametrize(("old", "new"), [("41.0", ""), ("8.3252", "high"), ("-122.23", "nan")])
def test_a_cell_that_is_no_number_is_named(path, old, new):
    write(path, rows=[ROWS[0].replace(old, new), *ROWS[1:]])
    with pytest.raises(UserError, match=rf"line 2: \w+ is '{new}', not a number"):
        housing.load()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"\x00" * 50])
def test_what_is_no_table_is_one_line(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        housing.load()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_table_without_a_network_says_what_to_do(path, monkeypatch):
    monkeypatch.setattr(data_folder, "reachable", lambda *_: False)
    with pytest.raises(UserError) as caught:
        housing.load()
    for phrase in ("housing.csv is not in ", "does not answer", "--data DIR", "RETRACE_DATA"):
        assert phrase in str(caught.value)


def test_the_second_source_gives_the_counts_back(path, monkeypatch):
    from sklearn import datasets
    from sklearn.utils import Bunch

    write(path)
    first = housing.load()
    path.unlink()
    age, income, rooms, bedrooms, population, households = first.inputs.T
    columns = {
        "MedInc": income,
        "HouseAge": age,
        "AveRooms": rooms / households,
        "AveBedrms": bedrooms / households,
        "Population": population,
        "AveOccup": population / households,
        "Latitude": first.latitude,
        "Longitude": first.longitude,
    }
    bunch = Bunch(
        data=np.stack(list(columns.values()), axis=1),
        target=first.value / 1e5,
        feature_names=list(columns),
    )
    (path.parent / "cal_housing_py3.pkz").write_bytes(b"kept")
    monkeypatch.setattr(datasets, "fetch_california_housing", lambda **_: bunch)
    second = housing.load()
    np.testing.assert_allclose(second.inputs, first.inputs, atol=0.5)  # counts are whole numbers
    np.testing.assert_array_equal(second.value, first.value)
    np.testing.assert_array_equal(second.latitude, first.latitude)


def test_a_failed_download_is_one_line(path, monkeypatch):
    from sklearn import datasets

    def broken(**_):
        raise OSError("the line broke")

    monkeypatch.setattr(data_folder, "reachable", lambda *_: True)
    monkeypatch.setattr(datasets, "fetch_california_housing", broken)
    with pytest.raises(UserError, match="scikit-learn's copy failed: the line broke"):
        housing.load()


def test_a_server_that_never_answers_is_given_up_soon(monkeypatch):
    monkeypatch.setattr(data_folder, "PROBE_SECONDS", 0.1)
    over, answers = threading.Event(), []

    def never(*_, **__):
        over.wait(30)
        answers.append(io.BytesIO())
        return answers[-1]

    monkeypatch.setattr(urllib.request, "urlopen", never)
    assert not data_folder.reachable("https://example.org")
    assert not answers, "given up before the server answered"
    over.set()


# --- on the earth --------------------------------------------------------------------------------

PARIS, LONDON = (48.8566, 2.3522), (51.5074, -0.1278)
SAN_FRANCISCO, LOS_ANGELES = (37.7749, -122.4194), (34.0522, -118.2437)


@pytest.mark.parametrize(
    ("one", "other", "km"),
    [
        (PARIS, LONDON, 343.6),
        (SAN_FRANCISCO, LOS_ANGELES, 559.1),
        ((0, 0), (0, 180), np.pi * geography.EARTH_KM),
        ((90, 0), (0, 77), np.pi / 2 * geography.EARTH_KM),
        ((12, 179.5), (12, -179.5), np.pi / 180 * geography.EARTH_KM * np.cos(np.radians(12))),
        (PARIS, PARIS, 0.0),
    ],
)
def test_great_circle_distances_are_the_known_ones(one, other, km):
    assert geography.great_circle(*one, *other) == pytest.approx(km, rel=1e-3, abs=1e-9)
    assert geography.great_circle(*other, *one) == pytest.approx(km, rel=1e-3, abs=1e-9)


def test_density_and_the_kth_neighbour_are_those_counted_by_hand():
    draw = np.random.default_rng(0)
    point = np.stack([draw.uniform(33, 41, 300), draw.uniform(-124, -115, 300)], axis=1)
    km = geography.distances(point[:7], point)
    np.testing.assert_array_equal(geography.within(point[:7], point, 150), (km <= 150).sum(1))
    np.testing.assert_allclose(
        geography.to_nearest(point[:7], point, 5), np.sort(km, axis=1)[:, 4], atol=1e-6
    )
    assert (geography.to_nearest(point[:7], point, 1) < 1e-6).all()
