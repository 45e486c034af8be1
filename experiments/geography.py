"""Distances on the earth, and how many others live nearby."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

EARTH_KM = 6371.0088  # mean radius


def great_circle(
    latitude: ArrayLike, longitude: ArrayLike, other_latitude: ArrayLike, other_longitude: ArrayLike
) -> np.ndarray:
    """Kilometres between points given in degrees on a sphere, by the haversine; broadcasts."""
    phi, psi = np.radians(latitude), np.radians(other_latitude)
    across = np.radians(np.asarray(other_longitude) - np.asarray(longitude))
    half = np.sin((psi - phi) / 2) ** 2 + np.cos(phi) * np.cos(psi) * np.sin(across / 2) ** 2
    return 2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(half, 0, 1)))


def distances(point: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Kilometres from each of `point` (n, 2) to each of `others` (m, 2), degrees, (n, m)."""
    return great_circle(point[:, :1], point[:, 1:], others[None, :, 0], others[None, :, 1])


def within(point: np.ndarray, others: np.ndarray, km: float) -> np.ndarray:
    """How many of `others` (m, 2) lie within `km` of each of `point` (n, 2), (n,)."""
    chord = 2 * np.sin(km / (2 * EARTH_KM))
    tree = cKDTree(_on_sphere(others))
    return np.asarray(tree.query_ball_point(_on_sphere(point), chord, return_length=True))


def to_nearest(point: np.ndarray, others: np.ndarray, k: int) -> np.ndarray:
    """Kilometres from each of `point` (n, 2) to its k-th nearest of `others` (m, 2), (n,)."""
    chord, _ = cKDTree(_on_sphere(others)).query(_on_sphere(point), [k])
    return 2 * EARTH_KM * np.arcsin(np.clip(chord[:, 0] / 2, 0, 1))


def _on_sphere(point: np.ndarray) -> np.ndarray:
    phi, lam = np.radians(point).T
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=1)
