"""From a seed to pixels: place the objects, draw them over the background, light the scene, add the camera's faults.

In:  seed, index, WorldConfig.
Out: World: frames_uint8 (T, H_px, W_px, 3), trajectory_ids (T, H_px, W_px), and what is known about them.
Objects are placed from the nearest to the farthest, so a new one can only be hidden by those already there; each is
drawn once as a sprite in its own coordinates, and the sprite is turned, scaled and moved for every frame.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from .language import describe_events, make_captions, make_questions
from .motion import SCENE_MARGIN, CameraPath, ObjectPath, sample_camera, sample_motion, sample_path, to_image
from .shapes import SHAPES
from .textures import BACKGROUNDS, COLOURS, MATERIALS, contrast, paint, paint_background
from .world import World, WorldConfig, WorldObject

# A motion is tried with this many paths before another is drawn; a look is given up after so many paths.
_PATHS_PER_MOTION = 20
_PATHS_PER_LOOK = 60
_SPARE_LOOKS = 4
# RGB distance of an object to the patches of background along its path: on average, and in the worst place.
_MEAN_CONTRAST = 85.0
_LEAST_CONTRAST = 50.0
_PATCH_PX = 8
# An object must be seen: this share of it in its best frame, and of its part inside the picture on average.
_BEST_VISIBLE = 0.75
_MEAN_UNHIDDEN = 0.55
_OCCLUDED_SHARE = 0.1


@dataclass
class _Layer:
    """One object in one frame: a square cut-out whose top left pixel lies at (top, left) of the picture."""

    top: int
    left: int
    premultiplied_rgba: np.ndarray

    def inside(self, height: int, width: int) -> tuple[tuple[slice, slice], np.ndarray]:
        """The part within the picture: slices of the picture, and the same part of the cut-out."""
        size = len(self.premultiplied_rgba)
        y0, y1 = max(self.top, 0), max(min(self.top + size, height), 0)
        x0, x1 = max(self.left, 0), max(min(self.left + size, width), 0)
        part = self.premultiplied_rgba[y0 - self.top : y1 - self.top, x0 - self.left : x1 - self.left]
        return (slice(y0, y1), slice(x0, x1)), part


@dataclass
class _Placed:
    """An object that found its place, with what was measured of it."""

    shape: str
    colour: str
    material: str
    path: ObjectPath
    layers: list[_Layer | None]
    inside_fraction: np.ndarray
    visible_fraction: np.ndarray
    occluded_by: list[int]


def render_world(seed: int, index: int, config: WorldConfig | None = None) -> World:
    """Render world `index` of the data set `seed`; the same arguments always give the same world.

    Args:
        seed: Seed of the data set, at least 0.
        index: Index of the world in it, at least 0.
        config: Settings; None means `WorldConfig()`.

    Raises:
        ValueError: seed or index is negative, or photographs are wanted and scikit-image is not installed.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be at least 0, got seed={seed}, index={index}.")
    config = config or WorldConfig()
    rng = np.random.default_rng([seed, index])

    background_name = _sample_background(rng, config)
    scene_height, scene_width = int(SCENE_MARGIN * config.height), int(SCENE_MARGIN * config.width)
    background = paint_background(rng, background_name, scene_height, scene_width, config.clutter)
    camera = sample_camera(rng, config)
    trajectory_ids = np.zeros((config.num_frames, config.height, config.width), dtype=np.int16)
    placed = _place_objects(rng, config, camera, background, trajectory_ids)

    canvas = _draw_background(background, camera, config)
    for one in reversed(placed):
        _draw_object(canvas, one.layers)
    _light(canvas, rng, config.lighting)
    frames_uint8 = _record(canvas, rng, config.noise)

    objects = [_describe(number, one, camera, config) for number, one in enumerate(placed, start=1)]
    events = describe_events(objects)
    return World(
        frames_uint8=frames_uint8,
        trajectory_ids=trajectory_ids,
        objects=objects,
        camera=camera.name,
        camera_path=np.concatenate([camera.centre_px, camera.zoom[:, None]], axis=1),
        background=background_name,
        events=events,
        captions=make_captions(objects, camera.name, background_name, events),
        questions=make_questions(rng, objects, events, config.num_frames),
        seed=seed,
        index=index,
        config=config,
    )


# --- placing -------------------------------------------------------------------------------------------------------


def _sample_background(rng: np.random.Generator, config: WorldConfig) -> str:
    if config.photographs and rng.random() < 0.5:
        return "photograph"
    procedural = [name for name in BACKGROUNDS if name != "photograph"]
    return procedural[rng.integers(len(procedural))]


def _place_objects(
    rng: np.random.Generator,
    config: WorldConfig,
    camera: CameraPath,
    background: np.ndarray,
    trajectory_ids: np.ndarray,
) -> list[_Placed]:
    """Place objects from the nearest to the farthest and write their ids into `trajectory_ids`."""
    materials = [name for name in MATERIALS if config.photographs or name != "photographic"]
    looks = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    patches = _mean_of_patches(background)
    wanted = rng.integers(config.min_objects, config.max_objects + 1)
    order = rng.permutation(len(looks))
    placed: list[_Placed] = []
    for look in order[: wanted + _SPARE_LOOKS]:
        if len(placed) == wanted:
            break
        colour, shape = looks[look]
        material = materials[rng.integers(len(materials))]
        one = _place_object(rng, config, camera, placed, trajectory_ids, patches, (shape, colour, material))
        if one is not None:
            placed.append(one)
    return placed


def _place_object(rng, config, camera, placed, trajectory_ids, patches, look) -> _Placed | None:
    """Try paths until one is seen well enough behind the objects already placed; None when there is no room."""
    shape, colour, material = look
    first_size = rng.uniform(*config.object_size_range)
    sprite_seed = rng.integers(2**32)
    for attempt in range(_PATHS_PER_LOOK):
        if attempt % _PATHS_PER_MOTION == 0:
            motion = sample_motion(rng, config.num_frames, shape)
        size = max(first_size * 0.98**attempt, config.object_size_range[0])
        target_px = None
        if placed and config.allow_occlusion and rng.random() < 0.4:
            target_px = placed[rng.integers(len(placed))].path.position_px[config.num_frames // 2]
        path = sample_path(rng, config, camera, shape, motion, size, target_px)
        if path is None or not _stands_out(colour, _below(path, patches)):
            continue
        if not config.allow_occlusion and any(_come_close(path, other.path) for other in placed):
            continue
        largest_px = float((path.radius_px * camera.zoom).max())
        sprite = _draw_sprite(np.random.default_rng(sprite_seed), shape, colour, material, largest_px)
        layers = _move_sprite(sprite, largest_px, path, camera, config)
        inside, visible, hidden_by = _measure(layers, trajectory_ids)
        if not _is_seen_well(inside, visible, path.plan, config.allow_occlusion):
            continue
        if any(placed[other - 1].colour == colour for other in hidden_by):
            continue
        number = len(placed) + 1
        for ids, layer in zip(trajectory_ids, layers, strict=True):
            if layer is not None:
                place, part = layer.inside(*ids.shape)
                ids[place][(part[..., 3] >= 128) & (ids[place] == 0)] = number
        return _Placed(shape, colour, material, path, layers, inside, visible, hidden_by)
    return None


def _mean_of_patches(background: np.ndarray) -> np.ndarray:
    """Background (h, w, 3) -> mean colour of its patches (h / 8, w / 8, 3) float32."""
    height, width, _ = background.shape
    small = Image.fromarray(background).resize((width // _PATCH_PX, height // _PATCH_PX), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


def _below(path: ObjectPath, patches: np.ndarray) -> np.ndarray:
    """Mean colours (T, 3) of the background patches below the object's centre."""
    rows, columns, _ = patches.shape
    column, row = np.floor(path.position_px / _PATCH_PX + np.array([columns, rows]) / 2).astype(int).T
    return patches[row.clip(0, rows - 1), column.clip(0, columns - 1)]


def _come_close(one: ObjectPath, other: ObjectPath) -> bool:
    """True when the circles around two objects overlap clearly in some frame; cheaper than drawing them."""
    distance_px = np.linalg.norm(one.position_px - other.position_px, axis=1)
    return bool((distance_px < 0.85 * (one.radius_px + other.radius_px)).any())


def _stands_out(colour: str, below: np.ndarray) -> bool:
    distances = contrast(colour, below)
    return distances.mean() >= _MEAN_CONTRAST and distances.min() >= _LEAST_CONTRAST


def _draw_sprite(rng, shape: str, colour: str, material: str, radius_px: float) -> Image.Image:
    """An object in its own coordinates, its unit circle `radius_px` wide, alpha premultiplied."""
    half = int(np.ceil(radius_px)) + 2
    line = (np.arange(2 * half, dtype=np.float32) + 0.5 - half) / radius_px
    x, y = np.meshgrid(line, line)
    distance = SHAPES[shape].distance(x, y, rng)
    alpha = np.clip(0.5 - distance * radius_px, 0, 1)
    light_angle = rng.uniform(0, 2 * np.pi)
    shade = MATERIALS[material](x, y, rng)
    shade = shade + (0.5 if material == "plain" else 0.2) * (x * np.cos(light_angle) + y * np.sin(light_angle))
    shade = shade - 0.7 * np.clip(1 + distance / 0.14, 0, 1)
    rgba = np.empty((*alpha.shape, 4), dtype=np.uint8)
    rgba[..., :3] = np.clip(paint(colour, np.clip(shade, -1, 1)), 0, 255)
    rgba[..., 3] = np.round(255 * alpha)
    return Image.fromarray(rgba).convert("RGBa")


def _move_sprite(sprite, sprite_radius_px, path, camera, config) -> list[_Layer | None]:
    """The sprite turned, scaled and moved for every frame; None where it lies outside the picture."""
    layers: list[_Layer | None] = []
    image_px = to_image(camera, path.position_px, config)
    for (x, y), radius_px, angle_rad in zip(image_px, path.radius_px * camera.zoom, path.angle_rad, strict=True):
        half = int(np.ceil(radius_px)) + 2
        left, top = int(np.floor(x)) - half, int(np.floor(y)) - half
        size = 2 * half + 1
        if left >= config.width or top >= config.height or left + size <= 0 or top + size <= 0:
            layers.append(None)
            continue
        scale = sprite_radius_px / radius_px
        cosine, sine = scale * np.cos(angle_rad), scale * np.sin(angle_rad)
        shift_x, shift_y = left - x, top - y
        matrix = (
            cosine,
            sine,
            cosine * shift_x + sine * shift_y + sprite.width / 2,
            -sine,
            cosine,
            cosine * shift_y - sine * shift_x + sprite.height / 2,
        )
        moved = sprite.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        layers.append(_Layer(top, left, np.asarray(moved)))
    return layers


def _measure(layers, trajectory_ids) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Share of the object inside the picture (T,), share seen (T,), and the ids that hide a tenth of it."""
    inside, visible = np.zeros(len(layers)), np.zeros(len(layers))
    hidden_by: set[int] = set()
    for frame, (layer, ids) in enumerate(zip(layers, trajectory_ids, strict=True)):
        if layer is None:
            continue
        whole_px = np.count_nonzero(layer.premultiplied_rgba[..., 3] >= 128)
        place, part = layer.inside(*ids.shape)
        in_front = np.bincount(ids[place][part[..., 3] >= 128], minlength=1)
        inside[frame] = in_front.sum() / whole_px
        visible[frame] = in_front[0] / whole_px
        hidden_by.update(int(number) for number in np.flatnonzero(in_front >= _OCCLUDED_SHARE * whole_px) if number)
    return inside, visible, sorted(hidden_by)


def _is_seen_well(inside, visible, plan: str, allow_occlusion: bool) -> bool:
    present = inside > 0.3
    if visible.max() < _BEST_VISIBLE or (visible[present] / inside[present]).mean() < _MEAN_UNHIDDEN:
        return False
    if not allow_occlusion and (visible < inside).any():
        return False
    seen_at_start, seen_at_end = visible[0] > 0.2, visible[-1] > 0.2
    if plan == "enters":
        return inside[0] == 0 and seen_at_end
    if plan == "leaves":
        return inside[-1] == 0 and seen_at_start
    return seen_at_start or seen_at_end


def _describe(number: int, one: _Placed, camera: CameraPath, config: WorldConfig) -> WorldObject:
    seen = one.inside_fraction > 0
    centres = to_image(camera, one.path.position_px, config) / np.array([config.width, config.height])
    return WorldObject(
        id=number,
        shape=one.shape,
        colour=one.colour,
        material=one.material,
        size=round(2 * float(one.path.radius_px[0]) / min(config.height, config.width), 4),
        motion=one.path.name,
        second_motion=one.path.second_name,
        start_frame=one.path.start_frame,
        enters_frame=bool(not seen[0] and seen.any()),
        leaves_frame=bool(not seen[-1] and seen.any()),
        visible_fraction=[round(float(share), 4) for share in one.visible_fraction],
        occluded_by=one.occluded_by,
        centres=centres.round(4).tolist(),
    )


# --- drawing -------------------------------------------------------------------------------------------------------


def _draw_background(background: np.ndarray, camera: CameraPath, config: WorldConfig) -> np.ndarray:
    """The scene as the camera sees it: (T, H_px, W_px, 3) float32, 0..255."""
    picture = Image.fromarray(background)
    canvas = np.empty((config.num_frames, config.height, config.width, 3), dtype=np.float32)
    for frame, ((x, y), zoom) in enumerate(zip(camera.centre_px, camera.zoom, strict=True)):
        left = x + picture.width / 2 - config.width / 2 / zoom
        top = y + picture.height / 2 - config.height / 2 / zoom
        matrix = (1 / zoom, 0, left, 0, 1 / zoom, top)
        canvas[frame] = picture.transform(
            (config.width, config.height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
    return canvas


def _draw_object(canvas: np.ndarray, layers: list[_Layer | None]) -> None:
    for frame, layer in zip(canvas, layers, strict=True):
        if layer is not None:
            place, part = layer.inside(*frame.shape[:2])
            frame[place] *= 1 - part[..., 3:] * np.float32(1 / 255)
            frame[place] += part[..., :3]


def _light(canvas: np.ndarray, rng: np.random.Generator, strength: float) -> None:
    """Brightness that changes over time and across the picture, and a slight tint."""
    frames, height, width, _ = canvas.shape
    time = np.linspace(0, 1, frames)
    course = (np.zeros(frames), time - 0.5, 0.5 * np.sin(2 * np.pi * (rng.uniform(0.5, 1.5) * time + rng.random())))
    over_time = 1 + strength * rng.uniform(-0.45, 0.45) * course[rng.integers(3)]
    tint = 1 + strength * rng.uniform(-0.05, 0.05, size=3)
    slope_y, slope_x = strength * rng.uniform(-0.15, 0.15, size=2)
    across = 1 + slope_y * np.linspace(-1, 1, height)[:, None] + slope_x * np.linspace(-1, 1, width)
    across = (across[..., None] * tint).astype(np.float32)
    for frame, gain in zip(canvas, over_time, strict=True):
        frame *= across * np.float32(gain)


def _record(canvas: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """What a camera would store of (T, H_px, W_px, 3): blur, sensor noise, JPEG artefacts, eight bits."""
    if strength > 0:
        sigma = np.float32(strength * rng.uniform(0, 9))
        canvas += sigma * rng.standard_normal(canvas.shape, dtype=np.float32)
    frames_uint8 = np.clip(canvas + 0.5, 0, 255, out=canvas).astype(np.uint8)
    blur_px = strength * rng.uniform(0.4, 1.0) if rng.random() < 0.3 * strength else 0.0
    quality = int(rng.integers(30, 90)) if rng.random() < 0.6 * strength else None
    if blur_px or quality:
        frames_uint8 = np.stack([_degrade(frame, blur_px, quality) for frame in frames_uint8])
    return frames_uint8


def _degrade(frame_uint8: np.ndarray, blur_px: float, quality: int | None) -> np.ndarray:
    picture = Image.fromarray(frame_uint8)
    if blur_px:
        picture = picture.filter(ImageFilter.GaussianBlur(blur_px))
    if quality:
        stored = io.BytesIO()
        picture.save(stored, format="JPEG", quality=quality)
        picture = Image.open(stored)
    return np.asarray(picture)
