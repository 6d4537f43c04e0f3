"""A world's ground truth agrees with its pixels, and the same seed and index always give the same world."""

import hashlib
import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from worlds import (
    BACKGROUNDS,
    CAMERA_MOTIONS,
    COLOURS,
    DIFFICULTIES,
    MATERIALS,
    OBJECT_MOTIONS,
    PHOTOGRAPHS,
    SHAPES,
    WorldConfig,
    render_world,
)
from worlds.motion import DIRECTIONS, SPINS, sample_camera
from worlds.textures import contrast, load_photograph, paint

CLEAN = {"lighting": 0.0, "noise": 0.0}
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def clean_worlds():
    """Worlds whose pixels are those of the sprites and the background, without light, noise or blur."""
    return [render_world(11, index, WorldConfig(**CLEAN)) for index in range(40)]


def _fingerprint(world) -> str:
    digest = hashlib.sha256(world.frames_uint8.tobytes() + world.trajectory_ids.tobytes())
    digest.update(json.dumps(world.to_record(), sort_keys=True).encode())
    return digest.hexdigest()


def _scene_centroid(world, number: int, frame: int) -> np.ndarray:
    """Centre of an object's pixels in scene coordinates: the camera's motion taken out."""
    rows, columns = np.nonzero(world.trajectory_ids[frame] == number)
    x, y, zoom = world.camera_path[frame]
    half = np.array([world.config.width, world.config.height]) / 2
    return (np.array([columns.mean(), rows.mean()]) + 0.5 - half) / zoom + (x, y)


def test_another_process_renders_the_same_worlds():
    here = [_fingerprint(render_world(3, index)) for index in (0, 7)]
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import hashlib, json; from worlds import render_world\n"
        "for index in (7, 0):\n"
        "    w = render_world(3, index); d = hashlib.sha256(w.frames_uint8.tobytes() + w.trajectory_ids.tobytes())\n"
        "    d.update(json.dumps(w.to_record(), sort_keys=True).encode()); print(d.hexdigest())\n"
    )
    there = subprocess.run([sys.executable, "-c", code, str(EXAMPLES)], capture_output=True, text=True, check=True)
    assert there.stdout.split() == here[::-1]
    assert here[0] != here[1]


def test_seed_and_index_both_matter():
    assert len({_fingerprint(render_world(seed, index)) for seed, index in product((0, 1), (0, 1))}) == 4


@pytest.mark.parametrize("num_frames, height, width", [(1, 32, 32), (3, 96, 160), (20, 64, 48)])
def test_any_length_and_size(num_frames, height, width):
    for index in range(4):
        world = render_world(0, index, WorldConfig(num_frames=num_frames, height=height, width=width))
        assert world.frames_uint8.shape == (num_frames, height, width, 3)
        assert world.frames_uint8.dtype == np.uint8
        assert world.trajectory_ids.shape == (num_frames, height, width)
        assert world.trajectory_ids.dtype == np.int16
        assert all(len(one.visible_fraction) == num_frames for one in world.objects)
        if num_frames == 1:
            assert world.camera == "static"
            assert {one.motion for one in world.objects} == {"stays still"}


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_ids_are_the_objects_and_their_number_is_in_range(difficulty):
    config = WorldConfig.named(difficulty)
    for index in range(12):
        world = render_world(2, index, config)
        numbers = list(range(1, len(world.objects) + 1))
        assert [number for number in np.unique(world.trajectory_ids) if number] == numbers
        assert [one.id for one in world.objects] == numbers
        assert config.min_objects <= len(numbers) <= config.max_objects
        assert len({one.name for one in world.objects}) == len(numbers)


def test_pixels_of_an_object_have_its_colour(clean_worlds):
    shades = np.linspace(-1, 1, 9)
    palette = np.concatenate([paint(colour, shades) for colour in COLOURS])
    owner = np.repeat(np.arange(len(COLOURS)), len(shades))
    for world in clean_worlds:
        for one in world.objects:
            pixels = world.frames_uint8[world.trajectory_ids == one.id].astype(float)
            nearest = owner[np.linalg.norm(pixels[:, None] - palette, axis=2).argmin(axis=1)]
            named = np.bincount(nearest, minlength=len(COLOURS))
            assert list(COLOURS)[named.argmax()] == one.colour, (world.index, one.name, one.material)
            assert named.max() > 0.5 * len(pixels), (world.index, one.name, one.material)


def test_objects_stand_out_from_the_background(clean_worlds):
    for world in clean_worlds:
        for one in world.objects:
            frame = int(np.argmax(one.visible_fraction))
            rows, columns = np.nonzero(world.trajectory_ids[frame] == one.id)
            around = np.zeros(world.trajectory_ids.shape[1:], dtype=bool)
            around[max(rows.min() - 4, 0) : rows.max() + 5, max(columns.min() - 4, 0) : columns.max() + 5] = True
            around &= world.trajectory_ids[frame] == 0
            assert contrast(one.colour, world.frames_uint8[frame][around].astype(float)).mean() > 45, (
                world.index,
                one.name,
            )


def test_camera_path_is_how_the_background_moves(clean_worlds):
    """Frame t, looked up where the camera path says frame 0 went, is frame 0 again."""
    checked = 0
    for world in clean_worlds:
        if world.camera == "static":
            continue
        checked += 1
        (x0, y0, zoom0), (x1, y1, zoom1) = world.camera_path[0], world.camera_path[-1]
        height, width = world.trajectory_ids.shape[1:]
        rows, columns = np.mgrid[:height, :width].astype(float)
        there_columns = ((columns + 0.5 - width / 2) / zoom0 + x0 - x1) * zoom1 + width / 2 - 0.5
        there_rows = ((rows + 0.5 - height / 2) / zoom0 + y0 - y1) * zoom1 + height / 2 - 0.5
        inside = (there_columns > 0) & (there_columns < width - 1) & (there_rows > 0) & (there_rows < height - 1)
        there = [there_rows, there_columns]
        ids = map_coordinates(world.trajectory_ids[-1].astype(float), there, order=1, cval=1)
        background = inside & (world.trajectory_ids[0] == 0) & (ids == 0)
        first, last = (world.frames_uint8[frame].mean(axis=2) for frame in (0, -1))
        followed = np.abs(map_coordinates(last, there, order=1) - first)[background].mean()
        ignored = np.abs(last - first)[background].mean()
        assert followed < 0.6 * ignored, (world.index, world.camera, followed, ignored)
    assert checked >= 20


def test_camera_name_is_what_the_path_does():
    signs = {
        "static": (0, 0, 0),
        "pans left": (-1, 0, 0),
        "pans right": (1, 0, 0),
        "tilts up": (0, -1, 0),
        "tilts down": (0, 1, 0),
        "zooms in": (0, 0, 1),
        "zooms out": (0, 0, -1),
    }
    cameras = [sample_camera(np.random.default_rng(seed), WorldConfig()) for seed in range(200)]
    assert {camera.name for camera in cameras} == set(CAMERA_MOTIONS)
    for camera in cameras:
        path = np.column_stack([camera.centre_px, camera.zoom])
        if camera.name != "shakes":
            assert tuple(np.sign(path[-1] - path[0])) == signs[camera.name]


def test_named_motion_is_the_measured_motion(clean_worlds):
    """Displacement of the pixels' centre with the camera's motion taken out; size and rest likewise."""
    seen = set()
    for world in clean_worlds:
        for one in world.objects:
            whole = np.flatnonzero(np.array(one.visible_fraction) > 0.97)
            if len(whole) < 2:
                continue
            first, last = whole[0], whole[-1]
            moved = _scene_centroid(world, one.id, last) - _scene_centroid(world, one.id, first)
            area = [
                np.count_nonzero(world.trajectory_ids[t] == one.id) / world.camera_path[t, 2] ** 2
                for t in whole[[0, -1]]
            ]
            side = min(world.config.height, world.config.width)
            if one.motion.startswith("moves ") and one.start_frame <= last and last - first >= 3:
                assert np.dot(moved, DIRECTIONS[one.motion.removeprefix("moves ")]) > 0.9 * np.linalg.norm(moved)
                seen.add(one.motion)
            elif one.motion == "stays still" or one.motion in SPINS:
                assert np.linalg.norm(moved) < 0.06 * side
                seen.add(one.motion)
            elif one.motion in ("grows", "shrinks") and len(whole) == world.config.num_frames:
                assert area[1] > 2 * area[0] if one.motion == "grows" else area[0] > 2 * area[1]
                seen.add(one.motion)
            elif one.motion == "circles" and len(whole) == world.config.num_frames:
                path = np.stack([_scene_centroid(world, one.id, frame) for frame in whole])
                assert (np.ptp(path, axis=0) > 0.15 * side).all()
                seen.add(one.motion)
    assert seen == set(OBJECT_MOTIONS)


def test_spins_turn_the_named_way():
    """The axis of an elongated shape, followed from frame to frame, turns as named (clockwise on the screen)."""
    seen = set()
    for index in range(200):
        world = render_world(4, index, WorldConfig.named("easy", **CLEAN))
        for one in world.objects:
            if one.shape != "ellipse" or one.motion not in SPINS or min(one.visible_fraction) < 0.97:
                continue
            turns = []
            for ids in world.trajectory_ids:
                rows, columns = np.nonzero(ids == one.id)
                (xx, xy), (_, yy) = np.cov(columns, rows)
                turns.append(0.5 * np.arctan2(2 * xy, xx - yy))
            clockwise = np.unwrap(turns, period=np.pi)
            assert np.sign(clockwise[-1] - clockwise[0]) == (1 if one.motion == "spins clockwise" else -1)
            seen.add(one.motion)
    assert seen == set(SPINS)


def test_nearer_objects_hide_farther_ones(clean_worlds):
    """Where an object is hidden, its lost area shows the pixels of those named in `occluded_by`, all nearer."""
    hidden = [(world, one) for world in clean_worlds for one in world.objects if one.occluded_by]
    assert len(hidden) >= 20
    for world, one in hidden:
        assert all(other < one.id for other in one.occluded_by)
        assert min(one.visible_fraction) < 0.95
        for other in one.occluded_by:
            touching = [
                np.any((ids[:, 1:] == one.id) & (ids[:, :-1] == other))
                or np.any((ids[:, 1:] == other) & (ids[:, :-1] == one.id))
                or np.any((ids[1:] == one.id) & (ids[:-1] == other))
                or np.any((ids[1:] == other) & (ids[:-1] == one.id))
                or not np.any(ids == one.id)
                for ids in world.trajectory_ids
            ]
            assert any(touching)


def test_without_occlusion_nothing_is_hidden():
    for index in range(20):
        world = render_world(5, index, WorldConfig(allow_occlusion=False))
        assert not any(one.occluded_by for one in world.objects)


def test_entering_and_leaving_agree_with_visibility(clean_worlds):
    entered = left = 0
    for world in clean_worlds:
        for one in world.objects:
            drawn = (world.trajectory_ids == one.id).any(axis=(1, 2))
            np.testing.assert_array_equal(drawn, np.array(one.visible_fraction) > 0)
            if one.enters_frame:
                entered += 1
                assert not drawn[0] and drawn[-1]
            if one.leaves_frame:
                left += 1
                assert drawn[0] and not drawn[-1]
            frame = int(np.argmax(one.visible_fraction))
            assert one.visible_fraction[frame] >= 0.75
    assert entered >= 5 and left >= 5


def test_colours_are_clearly_different():
    values = np.array(list(COLOURS.values()), dtype=float)
    distance = np.linalg.norm(values[:, None] - values, axis=2) + 1000 * np.eye(len(values))
    assert distance.min() > 85


def test_variety():
    worlds = [render_world(6, index, WorldConfig(num_frames=2, height=64, width=64)) for index in range(100)]
    objects = [one for world in worlds for one in world.objects]
    assert {one.shape for one in objects} == set(SHAPES)
    assert {one.colour for one in objects} == set(COLOURS)
    assert {one.material for one in objects} == set(MATERIALS)
    assert {world.background for world in worlds} == set(BACKGROUNDS)
    assert {world.camera for world in worlds} == set(CAMERA_MOTIONS)


@pytest.mark.parametrize("shape", SHAPES)
def test_outline_fills_the_unit_circle_and_is_centred_in_it(shape):
    y, x = np.mgrid[-1.3:1.3:131j, -1.3:1.3:131j]
    inside = SHAPES[shape].distance(x, y, np.random.default_rng(0)) < 0
    radius = np.hypot(x, y)[inside]
    assert 0.85 < radius.max() <= 1.01
    assert inside.mean() * 2.6**2 > 1.1
    assert np.hypot(x[inside].mean(), y[inside].mean()) < 0.16


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photograph_is_inside_the_installed_wheel(name):
    photograph = load_photograph(name)
    assert photograph.mode == "RGB" and min(photograph.size) >= 256
    assert np.asarray(photograph).std() > 5


def test_photographs_false_needs_no_scikit_image(monkeypatch):
    monkeypatch.setattr("worlds.textures.find_spec", lambda name: None)
    load_photograph.cache_clear()
    for index in range(5):
        render_world(0, index, WorldConfig(photographs=False))
    with pytest.raises(ValueError, match="scikit-image"):
        for index in range(20):
            render_world(0, index)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_frames": 0},
        {"height": 8},
        {"fps": 0},
        {"min_objects": 5, "max_objects": 3},
        {"noise": 1.5},
        {"object_size_range": (0.5, 0.2)},
    ],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        WorldConfig(**wrong)


def test_unknown_difficulty_lists_the_known_ones():
    with pytest.raises(ValueError, match="easy, eventful, default, hard"):
        WorldConfig.named("impossible")


def test_negative_index_is_refused():
    with pytest.raises(ValueError, match="index=-1"):
        render_world(0, -1)
