"""Colours, materials of objects, backgrounds, and the photographs inside scikit-image.

In:  a random generator and sizes in pixels.
Out: materials as shade patterns (h, w) in -1 (dark) .. 1 (light); backgrounds as (h, w, 3) float32, 0..255.
Used by render.py. Photographs are read from the installed scikit-image package; nothing is downloaded.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {
    "red": (214, 32, 38),
    "orange": (250, 134, 20),
    "yellow": (246, 222, 48),
    "green": (46, 160, 54),
    "cyan": (44, 208, 214),
    "blue": (36, 72, 214),
    "purple": (136, 48, 180),
    "pink": (250, 136, 190),
    "white": (244, 244, 242),
    "black": (22, 22, 26),
}

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)

_LARGEST_PHOTOGRAPH_PX = 512


@cache
def load_photograph(name: str) -> Image.Image:
    """One of `PHOTOGRAPHS` as RGB, its longer side at most 512 pixels.

    Raises:
        ValueError: scikit-image is not installed, or its package lacks the file.
    """
    package = find_spec("skimage")
    path = None if package is None else Path(package.origin).parent / "data" / name
    if path is None or not path.is_file():
        raise ValueError(
            f"the photograph {name!r} was expected inside the scikit-image package and is not there; "
            "install scikit-image, or set photographs=False in WorldConfig."
        )
    photograph = Image.open(path).convert("RGB")
    photograph.thumbnail((_LARGEST_PHOTOGRAPH_PX, _LARGEST_PHOTOGRAPH_PX))
    return photograph


def photograph_crop(rng: np.random.Generator, height: int, width: int, mode: str) -> np.ndarray:
    """A random part of a random photograph, resized: (height, width, 3) for mode "RGB", (height, width) for "L"."""
    photograph = load_photograph(PHOTOGRAPHS[rng.integers(len(PHOTOGRAPHS))])
    scale = rng.uniform(0.45, 1.0) * min(photograph.width / width, photograph.height / height)
    crop_width, crop_height = width * scale, height * scale
    left = rng.uniform(0, photograph.width - crop_width)
    top = rng.uniform(0, photograph.height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    crop = photograph.resize((width, height), Image.Resampling.BILINEAR, box=box).convert(mode)
    return np.asarray(crop, dtype=np.float32)


def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: float, octaves: int = 3) -> np.ndarray:
    """Perlin-like noise (height, width) in -1..1 with about `cells` bumps along the shorter side."""
    noise = np.zeros((height, width), dtype=np.float32)
    for octave in range(octaves):
        cell_px = min(height, width) / (cells * 2**octave)
        grid = rng.uniform(-1, 1, size=(int(height / cell_px) + 2, int(width / cell_px) + 2)).astype(np.float32)
        layer = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        noise += np.asarray(layer) / 2**octave
    return noise / np.abs(noise).max()


# --- materials: shade patterns in object coordinates ---------------------------------------------------------------


def _turned(x: np.ndarray, y: np.ndarray, angle_rad: float) -> tuple[np.ndarray, np.ndarray]:
    cosine, sine = np.cos(angle_rad), np.sin(angle_rad)
    return x * cosine + y * sine, y * cosine - x * sine


def _plain(x, y, rng):
    return np.zeros_like(x)


def _striped(x, y, rng):
    across, _ = _turned(x, y, rng.uniform(0, np.pi))
    return 0.85 * np.clip(3 * np.sin(across * rng.uniform(6, 9) + rng.uniform(0, 6)), -1, 1)


def _checked(x, y, rng):
    across, along = _turned(x, y, rng.uniform(0, np.pi / 2))
    frequency = rng.uniform(5, 7)
    return 0.85 * np.clip(4 * np.sin(across * frequency) * np.sin(along * frequency), -1, 1)


def _dotted(x, y, rng):
    across, along = _turned(x, y, rng.uniform(0, np.pi / 2))
    frequency = rng.uniform(8, 11)
    sign = 1 if rng.random() < 0.5 else -1
    return sign * 0.9 * np.clip(3 * (np.cos(across * frequency) + np.cos(along * frequency) - 0.5), -0.4, 1)


def _marbled(x, y, rng):
    noise = smooth_noise(rng, *x.shape, cells=2.5)
    return 0.85 * np.sin(6 * noise + 3 * x)


def _speckled(x, y, rng):
    return 0.9 * smooth_noise(rng, *x.shape, cells=9, octaves=2)


def _photographic(x, y, rng):
    grey = photograph_crop(rng, *x.shape, mode="L")
    return np.clip(0.45 * (grey - grey.mean()) / (grey.std() + 1e-3), -0.9, 0.9)


MATERIALS = {
    "plain": _plain,
    "striped": _striped,
    "checked": _checked,
    "dotted": _dotted,
    "marbled": _marbled,
    "speckled": _speckled,
    "photographic": _photographic,
}


def paint(colour: str, shade: np.ndarray) -> np.ndarray:
    """Lighten and darken a named colour without leaving its name: (h, w) in -1..1 -> (h, w, 3), 0..255."""
    base = np.array(COLOURS[colour], dtype=np.float32)
    if colour == "white":
        darken, lighten = 0.09 * (1 - shade), np.zeros_like(shade)
    elif colour == "black":
        darken, lighten = np.zeros_like(shade), 0.13 * (1 + shade)
    else:
        darken, lighten = 0.38 * np.maximum(-shade, 0), 0.38 * np.maximum(shade, 0)
    darken, lighten = darken[..., None], lighten[..., None]
    return (base * (1 - darken)) * (1 - lighten) + 255 * lighten


# --- backgrounds: (h, w, 3) float32, 0..255 ------------------------------------------------------------------------


def _two_tones(rng: np.random.Generator, weight: np.ndarray) -> np.ndarray:
    """Mix two muted random colours by a weight (h, w) in 0..1."""
    first = rng.uniform(50, 215) + rng.uniform(-45, 45, size=3)
    second = first + rng.choice([-1, 1]) * rng.uniform(40, 90) + rng.uniform(-35, 35, size=3)
    return (first + (second - first) * weight[..., None]).astype(np.float32)


def _coordinates(height: int, width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Randomly turned coordinates (h, w), about -1..1 along the shorter side."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    half = min(height, width) / 2
    return _turned((x - width / 2) / half, (y - height / 2) / half, rng.uniform(0, 2 * np.pi))


def _gradient(rng, height, width):
    across, _ = _coordinates(height, width, rng)
    return _two_tones(rng, np.clip(0.5 + 0.4 * across, 0, 1))


def _clouds(rng, height, width):
    return _two_tones(rng, 0.5 + 0.5 * smooth_noise(rng, height, width, cells=rng.uniform(2, 6), octaves=4))


def _stripes(rng, height, width):
    across, _ = _coordinates(height, width, rng)
    return _two_tones(rng, 0.5 + 0.5 * np.clip(2 * np.sin(across * rng.uniform(6, 24)), -1, 1))


def _checkerboard(rng, height, width):
    across, along = _coordinates(height, width, rng)
    frequency = rng.uniform(6, 16)
    return _two_tones(rng, 0.5 + 0.5 * np.clip(4 * np.sin(across * frequency) * np.sin(along * frequency), -1, 1))


def _mosaic(rng, height, width):
    """Voronoi cells, each in one tone."""
    cells = rng.integers(10, 25)
    centre_y, centre_x = rng.uniform(0, height, cells), rng.uniform(0, width, cells)
    y, x = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    squared = ((y - centre_y[:, None]) ** 2)[:, :, None] + ((x - centre_x[:, None]) ** 2)[:, None, :]
    return _two_tones(rng, rng.uniform(0, 1, cells)[squared.argmin(axis=0)])


def _photograph(rng, height, width):
    crop = photograph_crop(rng, height, width, mode="RGB")
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return crop


BACKGROUNDS = {
    "gradient": _gradient,
    "clouds": _clouds,
    "stripes": _stripes,
    "checkerboard": _checkerboard,
    "mosaic": _mosaic,
    "photograph": _photograph,
}


def paint_background(rng: np.random.Generator, name: str, height: int, width: int, clutter: float) -> np.ndarray:
    """A background (height, width, 3) uint8 whose contrast grows with clutter in 0..1."""
    picture = BACKGROUNDS[name](rng, height, width)
    if name != "photograph":
        picture += 14 * smooth_noise(rng, height, width, cells=rng.uniform(10, 40), octaves=2)[..., None]
    mean = picture.mean(axis=(0, 1))
    picture = mean + (picture - mean) * (0.35 + 0.65 * clutter)
    return np.clip(picture, 0, 255).astype(np.uint8)


def contrast(colour: str, pixels: np.ndarray) -> np.ndarray:
    """Distances (n,) of a named colour to pixels (n, 3), in units of 0..255 RGB."""
    return np.linalg.norm(pixels - np.array(COLOURS[colour], dtype=np.float32), axis=-1)
