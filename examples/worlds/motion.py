"""Where the camera and the objects are at every frame.

In:  a random generator and the settings.
Out: CameraPath and ObjectPath: arrays over the T frames, in scene pixels.
Used by render.py. The scene's origin is the middle of the background; x right, y down; angles clockwise.
"""

from dataclasses import dataclass

import numpy as np

from .shapes import SHAPES
from .world import WorldConfig

CAMERA_MOTIONS = (
    "static",
    "pans left",
    "pans right",
    "tilts up",
    "tilts down",
    "zooms in",
    "zooms out",
    "shakes",
)

DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
TRANSLATIONS = {f"moves {name}": vector for name, vector in DIRECTIONS.items()}
SPINS = {"spins clockwise": 1.0, "spins counter-clockwise": -1.0}
OBJECT_MOTIONS = ("stays still", *TRANSLATIONS, *SPINS, "grows", "shrinks", "circles")

# The background is this much larger than the frame, so that the camera never looks past its edge.
SCENE_MARGIN = 1.5
_PAN = 0.32
_ZOOM = 1.45
_SHAKE = 0.035
# A turn per frame larger than this share of a shape's symmetry could be seen as a turn the other way.
_LARGEST_TURN = 0.35


@dataclass
class CameraPath:
    """A named camera motion.

    Attributes:
        name: One of `CAMERA_MOTIONS`.
        centre_px: (T, 2) scene point (x, y) shown at the middle of the frame.
        zoom: (T,) image pixels per scene pixel, at least 1.
    """

    name: str
    centre_px: np.ndarray
    zoom: np.ndarray


@dataclass
class ObjectPath:
    """A named object motion.

    Attributes:
        name: One of `OBJECT_MOTIONS`.
        second_name: A further motion, or "".
        plan: "stays", "enters" or "leaves": what the path was laid out to do.
        position_px: (T, 2) centre (x, y) in the scene.
        angle_rad: (T,) clockwise.
        radius_px: (T,) radius of the circle around the outline, in scene pixels.
        start_frame: First frame in which the motion shows, or None.
    """

    name: str
    second_name: str
    plan: str
    position_px: np.ndarray
    angle_rad: np.ndarray
    radius_px: np.ndarray
    start_frame: int | None


def sample_camera(rng: np.random.Generator, config: WorldConfig) -> CameraPath:
    """A camera path that keeps the frame inside the scene."""
    frames, size_px = config.num_frames, np.array([config.width, config.height], dtype=float)
    centre_px, zoom = np.zeros((frames, 2)), np.ones(frames)
    moves = config.camera_motion > 0 and frames > 1 and rng.random() < 0.75
    name = CAMERA_MOTIONS[rng.integers(1, len(CAMERA_MOTIONS))] if moves else "static"
    progress = np.linspace(0, 1, frames)
    verb, _, direction = name.partition(" ")
    extent = config.camera_motion * rng.uniform(0.6, 1.0)
    if verb in ("pans", "tilts"):
        centre_px += extent * _PAN * size_px * np.array(DIRECTIONS[direction]) * (progress - 0.5)[:, None]
    elif verb == "zooms":
        growth = (1 + extent * (_ZOOM - 1)) ** progress
        zoom = growth if direction == "in" else growth[::-1].copy()
    elif verb == "shakes":
        centre_px += extent * _SHAKE * size_px * rng.uniform(-1, 1, size=(frames, 2))
    return CameraPath(name, centre_px, zoom)


def to_image(camera: CameraPath, position_px: np.ndarray, config: WorldConfig) -> np.ndarray:
    """Scene points (T, 2) -> image points (T, 2), pixels, one per frame."""
    return (position_px - camera.centre_px) * camera.zoom[:, None] + np.array([config.width / 2, config.height / 2])


def to_scene(camera: CameraPath, frame: int, point_px: np.ndarray, config: WorldConfig) -> np.ndarray:
    """Image point (2,) of one frame -> scene point (2,)."""
    centred = point_px - np.array([config.width / 2, config.height / 2])
    return centred / camera.zoom[frame] + camera.centre_px[frame]


def sample_motion(rng: np.random.Generator, frames: int, shape: str) -> str:
    """One of `OBJECT_MOTIONS` that can be seen on this shape in this many frames."""
    if frames == 1:
        return "stays still"
    names = [(name, 0.13) for name in TRANSLATIONS]
    names += [("stays still", 0.1), ("grows", 0.08), ("shrinks", 0.08), ("circles", 0.1 if frames >= 6 else 0.0)]
    names += [(name, 0.08 if SHAPES[shape].symmetry_deg else 0.0) for name in SPINS]
    weights = np.array([weight for _, weight in names])
    return names[rng.choice(len(names), p=weights / weights.sum())][0]


def sample_path(
    rng: np.random.Generator,
    config: WorldConfig,
    camera: CameraPath,
    shape: str,
    name: str,
    size: float,
    target_px: np.ndarray | None = None,
) -> ObjectPath | None:
    """Draw one object path; None when the drawn path does not keep to its plan in the picture.

    Args:
        rng: Source of every choice.
        config: Settings.
        camera: Path of the camera.
        shape: Key of `SHAPES`; decides in which orientations it may start and how fast it may spin.
        name: One of `OBJECT_MOTIONS`.
        size: Diameter as a fraction of the shorter frame side.
        target_px: Scene point (2,) that the path should come near, to make objects cross; None = anywhere.
    """
    frames, side_px = config.num_frames, min(config.height, config.width)
    symmetry_deg = SHAPES[shape].symmetry_deg
    plan = "stays"
    if config.allow_enter_leave and name in TRANSLATIONS and rng.random() < 0.4:
        plan = "enters" if rng.random() < 0.5 else "leaves"

    begin = rng.uniform(0.15, 0.45) if frames >= 4 and rng.random() < 0.35 else 0.0
    progress = np.clip((np.linspace(0, 1, frames) - begin) / (1 - begin), 0, 1)
    if plan == "stays" and rng.random() < 0.3:
        progress = progress**2 * (3 - 2 * progress)

    # Turn and size.
    largest_tilt_deg = 180 if SHAPES[shape].any_orientation else 15
    angle_rad = np.full(frames, np.deg2rad(rng.uniform(-largest_tilt_deg, largest_tilt_deg)))
    radius_px = np.full(frames, size * side_px / 2)
    second_name = ""
    if config.allow_second_motion and name in TRANSLATIONS and rng.random() < 0.35:
        choices = ["grows", "shrinks"] + (list(SPINS) if symmetry_deg else [])
        second_name = choices[rng.integers(len(choices))]
    for motion in (name, second_name):
        if motion in SPINS:
            largest_step = np.deg2rad(_LARGEST_TURN * symmetry_deg)
            turn = np.deg2rad(rng.uniform(100, 220)) * progress
            angle_rad = angle_rad + SPINS[motion] * turn * min(1.0, largest_step / np.diff(turn).max())
        elif motion in ("grows", "shrinks"):
            growth = rng.uniform(1.6, 2.2) ** progress
            radius_px = radius_px * (growth / growth[-1] ** 0.5 if motion == "grows" else growth[-1] ** 0.5 / growth)

    # Travel.
    if name in TRANSLATIONS:
        direction = np.array(TRANSLATIONS[name])
        aside = np.array([-direction[1], direction[0]]) * rng.uniform(-0.15, 0.15)
        travel_px = side_px * rng.uniform(0.3, 0.6)
        if plan != "stays":
            travel_px += 0.2 * side_px + radius_px[0]
        offset_px = (direction + aside) * travel_px * progress[:, None]
    elif name == "circles":
        phase = rng.uniform(0, 2 * np.pi) + rng.choice([-1, 1]) * 2 * np.pi * rng.uniform(0.8, 1.0) * progress
        offset_px = side_px * rng.uniform(0.14, 0.22) * np.stack([np.cos(phase), np.sin(phase)], axis=1)
    else:
        offset_px = np.zeros((frames, 2))

    # Place.
    frame_px = np.array([config.width, config.height], dtype=float)
    anchor = {"stays": frames // 2, "enters": 0, "leaves": frames - 1}[plan]
    if plan == "stays":
        point_px = rng.uniform(0.12, 0.88, size=2) * frame_px
        if target_px is not None:
            point_px = to_image(camera, np.tile(target_px, (frames, 1)), config)[anchor]
            point_px = point_px + rng.uniform(-0.15, 0.15, size=2) * side_px
    else:
        outside_px = radius_px[anchor] * camera.zoom[anchor] + 2
        point_px = rng.uniform(0.15, 0.85, size=2) * frame_px
        axis, sign = (0, direction[0]) if direction[0] else (1, direction[1])
        comes_from_low_side = (sign > 0) == (plan == "enters")
        point_px[axis] = -outside_px if comes_from_low_side else frame_px[axis] + outside_px
    position_px = offset_px - offset_px[anchor] + to_scene(camera, anchor, point_px, config)

    path = ObjectPath(name, second_name, plan, position_px, angle_rad, radius_px, None)
    path.start_frame = _start_frame(path, side_px)
    return path if _keeps_to_plan(path, camera, config) else None


def _start_frame(path: ObjectPath, side_px: int) -> int | None:
    """First frame that differs visibly from the first: 3 % of the frame side, 8 degrees, or 8 % in size."""
    moved = np.linalg.norm(path.position_px - path.position_px[0], axis=1) > 0.03 * side_px
    turned = np.abs(path.angle_rad - path.angle_rad[0]) > np.deg2rad(8)
    resized = np.abs(path.radius_px / path.radius_px[0] - 1) > 0.08
    changed = moved | turned | resized
    return int(changed.argmax()) if changed.any() else None


def _keeps_to_plan(path: ObjectPath, camera: CameraPath, config: WorldConfig) -> bool:
    """True when the object is well inside the picture wherever its plan wants it there."""
    image_px = to_image(camera, path.position_px, config)
    margin_px = 0.55 * (path.radius_px * camera.zoom)[:, None]
    inside = ((image_px > margin_px) & (image_px < np.array([config.width, config.height]) - margin_px)).all(axis=1)
    if path.plan == "enters":
        return bool(inside[-1] and inside.sum() >= config.num_frames / 4)
    if path.plan == "leaves":
        return bool(inside[0] and inside.sum() >= config.num_frames / 4)
    return bool(inside.all())
