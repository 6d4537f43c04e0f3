"""Outlines of objects as signed distance fields.

In:  x, y (h, w) object coordinates, y down; every outline fits the unit circle and is centred in it.
Out: (h, w) distance to the outline, negative inside.
Used by render.py to draw sprites; `SHAPES` also tells motion.py how symmetric an outline is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def _polygon(vertices: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Exact distance to a closed polygon; vertices (n, 2)."""
    squared = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        edge_x, edge_y = x1 - x0, y1 - y0
        from_x, from_y = x - x0, y - y0
        along = np.clip((from_x * edge_x + from_y * edge_y) / (edge_x**2 + edge_y**2), 0, 1)
        squared = np.minimum(squared, (from_x - edge_x * along) ** 2 + (from_y - edge_y * along) ** 2)
        if edge_y != 0:
            inside ^= ((y >= y0) != (y >= y1)) & (x < x0 + from_y * (edge_x / edge_y))
    return np.where(inside, -1, 1) * np.sqrt(squared)


def _regular(corners: int, inner_radius: float | None = None) -> np.ndarray:
    """Vertices of a regular polygon standing upright, or of a star when an inner radius is given."""
    count = corners if inner_radius is None else 2 * corners
    angles = -np.pi / 2 + 2 * np.pi * np.arange(count) / count
    radii = np.ones(count)
    if inner_radius is not None:
        radii[1::2] = inner_radius
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


_SQUARE = 0.7 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
_CROSS = (
    0.94
    * np.array(
        [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)]
    )
    / np.sqrt(10)
)
_ARROW = np.array(
    [(1.0, 0.0), (0.15, -0.8), (0.15, -0.3), (-0.9, -0.3), (-0.9, 0.3), (0.15, 0.3), (0.15, 0.8)],
)


def _circle(x, y, rng):
    return np.hypot(x, y) - 0.9


def _ellipse(x, y, rng):
    return (np.hypot(x, y / 0.52) - 1) * 0.52


def _ring(x, y, rng):
    return np.abs(np.hypot(x, y) - 0.72) - 0.25


def _heart(x, y, rng):
    """Two half circles over a wedge with its point at the bottom."""
    x, y = np.abs(x) / 1.48, (0.82 - y) / 1.48
    lobe = np.hypot(x - 0.25, y - 0.75) - np.sqrt(2) / 4
    diagonal = np.maximum(x + y, 0) / 2
    wedge = np.sign(x - y) * np.minimum(np.hypot(x, y - 1), np.hypot(x - diagonal, y - diagonal))
    return 1.48 * np.where(x + y > 1, lobe, wedge)


def _crescent(x, y, rng):
    return np.maximum(np.hypot(x - 0.2, y) - 0.85, 0.66 - np.hypot(x - 0.64, y))


def _blob(x, y, rng):
    """A rounded outline with a random number of bulges."""
    bulges = rng.integers(3, 5)
    angle = np.arctan2(y, x)
    phases = rng.uniform(0, 2 * np.pi, size=2)
    radius = 0.72 + 0.18 * np.cos(bulges * angle + phases[0]) + 0.08 * np.cos(2 * angle + phases[1])
    return (np.hypot(x, y) - radius) * 0.85


def _outline(vertices: np.ndarray) -> Callable:
    return lambda x, y, rng: _polygon(vertices, x, y)


@dataclass(frozen=True)
class Shape:
    """An outline and how it may be turned.

    Attributes:
        distance: Function (x, y, rng) -> signed distance.
        symmetry_deg: Smallest turn after which it looks the same; 0 when any turn does.
        any_orientation: True when it is recognised in every orientation, so that it may start in any.
    """

    distance: Callable
    symmetry_deg: float
    any_orientation: bool = False


SHAPES = {
    "circle": Shape(_circle, 0),
    "ellipse": Shape(_ellipse, 180, any_orientation=True),
    "ring": Shape(_ring, 0),
    "triangle": Shape(_outline(_regular(3)), 120),
    "square": Shape(_outline(_SQUARE), 90),
    "pentagon": Shape(_outline(_regular(5)), 72),
    "hexagon": Shape(_outline(_regular(6)), 60),
    "star": Shape(_outline(_regular(5, inner_radius=0.45)), 72),
    "cross": Shape(_outline(_CROSS), 90),
    "arrow": Shape(_outline(_ARROW), 360, any_orientation=True),
    "heart": Shape(_heart, 360),
    "crescent": Shape(_crescent, 360, any_orientation=True),
    "blob": Shape(_blob, 90, any_orientation=True),
}
