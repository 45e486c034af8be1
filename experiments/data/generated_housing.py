"""A generated country of two cities and empty land between them, where price depends on place."""

import numpy as np

from experiments.data.housing import Houses
from experiments.laboratory import data_folder
from methods.randomness import numpy_generator

CITIES = ((37.44, -122.14, 260_000.0), (34.05, -118.25, 190_000.0))  # degrees, dollars
IN_A_CITY, SPREAD = 0.4, 0.12  # share of all houses, standard deviation in degrees


def generate(n: int, seed: int) -> Houses:
    """n block groups: two fifths around each city, the rest uniform over the whole country."""
    draw = numpy_generator(seed, "towns")
    which = draw.choice(3, n, p=(IN_A_CITY, IN_A_CITY, 1 - 2 * IN_A_CITY))
    centres = np.array([*(city[:2] for city in CITIES), (np.nan, np.nan)])
    near = centres[which] + SPREAD * draw.normal(size=(n, 2))
    anywhere = draw.uniform((33.0, -122.5), (38.5, -116.5), (n, 2))
    point = np.where((which == 2)[:, None], anywhere, near)
    inputs = np.exp(0.4 * draw.normal(size=(n, 6))) * (28, 3.9, 2_600, 540, 1_400, 500)
    level = np.array([*(city[2] for city in CITIES), 90_000.0])[which]
    value = level * (inputs[:, 1] / 3.9) ** 0.6 * np.exp(0.15 * draw.normal(size=n))
    data_folder.note_content(f"generated housing, seed {seed}", point.tobytes(), value.tobytes())
    return Houses(point[:, 0], point[:, 1], inputs, value)
