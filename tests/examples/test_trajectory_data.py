"""Reading and writing clips: what is written comes back, and what does not fit is refused by name."""

import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import av
import make_worlds
import numpy as np
import pytest
from evaluation import evaluate_clip
from PIL import Image
from storage import folder_locks
from trajectory_data import LAYOUTS, ClipRecord, open_dataset, write_clip
from trajectory_data.layout_sidecars import graph_from_ids, ids_from_graph
from worlds import WorldConfig, render_world

from modeling_trajtok.processors.trajectory_maps import encode_coco_rle

WRITABLE = ["worlds", "sidecars", "coco_rle"]


@pytest.fixture
def record() -> ClipRecord:
    """Five frames of 32 x 48 px: object 1 moves right, object 3 appears in frame 2, id 2 is unused."""
    frames = np.zeros((5, 32, 48, 3), dtype=np.uint8)
    ids = np.zeros((5, 32, 48), dtype=np.int16)
    for frame in range(5):
        ids[frame, 4:14, 4 + 6 * frame : 16 + 6 * frame] = 1
        if frame >= 2:
            ids[frame, 16:30, 20:36] = 3
    frames[ids == 0] = (60, 90, 60)
    frames[ids == 1] = (200, 60, 60)
    frames[ids == 3] = (60, 60, 200)
    return ClipRecord("one", frames, ids, np.arange(5) / 10, {"captions": ["a red box moves"]})


def write_pictures(folder: Path, record: ClipRecord) -> tuple[Path, Path]:
    """Folders `pictures` and `masks` of a clip, with file names as in DAVIS; unknown pixels are written as 255."""
    pictures, masks = folder / "pictures", folder / "masks"
    pictures.mkdir(parents=True)
    masks.mkdir(parents=True)
    for index, (frame, ids) in enumerate(zip(record.frames_uint8, record.trajectory_ids, strict=True)):
        Image.fromarray(frame).save(pictures / f"{index:05d}.jpg", quality=95)
        Image.fromarray(ids.astype(np.uint8)).save(masks / f"{index:05d}.png")
    return pictures, masks


def assert_same_clip(found: ClipRecord, expected: ClipRecord) -> None:
    np.testing.assert_array_equal(found.trajectory_ids, expected.trajectory_ids)
    assert found.trajectory_ids.dtype == np.int16
    np.testing.assert_allclose(found.frame_times_s, expected.frame_times_s, atol=1e-6)
    assert found.frames_uint8.shape == expected.frames_uint8.shape
    difference = np.abs(found.frames_uint8.astype(int) - expected.frames_uint8)
    assert difference.mean() < 4  # lossy video: the colours smear at edges only


@pytest.mark.parametrize("layout", WRITABLE)
def test_what_is_written_is_read(tmp_path, record, layout):
    write_clip(record, tmp_path / "new", layout)
    dataset = open_dataset(tmp_path / "new")
    assert (dataset.layout, dataset.names, len(dataset)) == (layout, ("one",), 1)
    assert_same_clip(dataset[0], record)
    assert dataset[0].metadata == record.metadata


@pytest.mark.parametrize("layout", WRITABLE)
def test_a_held_frame_stays_held(tmp_path, record, layout):
    record.frame_times_s = np.array([0.0, 0.1, 0.2, 3.0, 3.1])
    write_clip(record, tmp_path, layout)
    assert_same_clip(open_dataset(tmp_path)[0], record)


@pytest.mark.parametrize("layout", WRITABLE)
def test_some_frames_are_those_of_the_whole_clip(tmp_path, record, layout):
    write_clip(record, tmp_path, layout)
    whole, some = open_dataset(tmp_path)[0], open_dataset(tmp_path, num_frames=3)[0]
    for name in ("frames_uint8", "trajectory_ids", "frame_times_s"):
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[[0, 2, 4]])
    assert len(open_dataset(tmp_path, num_frames=9)[0].frame_times_s) == 5


def test_clips_in_folders_are_found_in_order_and_survive_pickling(tmp_path, record):
    for name in ("b", "a/two", "a/one"):
        write_clip(ClipRecord(name, record.frames_uint8, record.trajectory_ids, record.frame_times_s), tmp_path)
    dataset = pickle.loads(pickle.dumps(open_dataset(tmp_path)))
    assert dataset.names == ("a/one", "a/two", "b")
    assert [clip.name for clip in dataset] == list(dataset.names)


def test_a_shorter_clip_replaces_a_longer_one(tmp_path, record):
    write_clip(record, tmp_path)
    short = ClipRecord("one", record.frames_uint8[:2], record.trajectory_ids[:2], record.frame_times_s[:2])
    write_clip(short, tmp_path)
    assert_same_clip(open_dataset(tmp_path)[0], short)


def test_unknown_pixels_are_kept_in_pictures_and_refused_elsewhere(tmp_path, record):
    record.trajectory_ids[:, :3] = -1
    write_clip(record, tmp_path)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "one_masks" / "00000.png"))[:3], 255)
    assert_same_clip(open_dataset(tmp_path)[0], record)
    for layout in ("sidecars", "coco_rle"):
        with pytest.raises(ValueError, match="Clip one has pixels of unknown truth"):
            write_clip(record, tmp_path / layout, layout)


def test_a_graph_links_segments_that_are_numbered_anew_in_each_frame():
    segments = np.array([[[1, 1, 2, 0]], [[7, 3, 3, 0]]])
    graph = np.array([[2, 3], [1, 0]])  # trajectory 1: segment 2, then 3; trajectory 2: segment 1, then gone
    np.testing.assert_array_equal(ids_from_graph(segments, graph), [[[2, 2, 1, 0]], [[0, 1, 1, 0]]])


def test_segments_and_graph_give_back_the_ids(record):
    segments, graph = graph_from_ids(record.trajectory_ids)
    np.testing.assert_array_equal(graph, [[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [0, 0, 2, 2, 2]])
    np.testing.assert_array_equal(ids_from_graph(segments, graph), record.trajectory_ids)


def test_sidecars_have_the_names_that_the_original_reads(tmp_path, record):
    write_clip(record, tmp_path, "sidecars")
    assert np.load(tmp_path / "one_mask.npz")["arr_0"].shape == (5, 32, 48)
    assert np.load(tmp_path / "one_graph.npz")["tensor"].shape == (3, 5)


def test_sa_v_masks_of_every_fourth_frame(tmp_path, record):
    write_clip(record, tmp_path, "coco_rle")
    path = tmp_path / "one_manual.json"
    content = json.loads(path.read_text())
    content["masklet"] = content["masklet"][::4]  # frames 0 and 4 of 5
    (tmp_path / "one_auto.json").write_text(json.dumps(content))
    path.unlink()
    clip = open_dataset(tmp_path)[0]
    np.testing.assert_array_equal(clip.trajectory_ids, record.trajectory_ids[::4])
    np.testing.assert_allclose(clip.frame_times_s, [0.0, 0.4], atol=1e-6)


def test_run_length_codes_are_coco_s(tmp_path, record):
    """Down the first column, then the next: how many pixels outside, how many inside the object, and so on."""
    write_clip(record, tmp_path, "coco_rle")
    code = json.loads((tmp_path / "one_manual.json").read_text())["masklet"][0][0]
    assert code["size"] == [32, 48]
    # Object 1 in frame 0: rows 4 to 13 of the 12 columns 4 to 15.
    assert counts_of(code["counts"]) == [4 * 32 + 4, *[10, 22] * 11, 10, 18 + 32 * 32]


def counts_of(code: str) -> list[int]:
    """The run lengths in COCO's text form: base 32 digits from the lowest, from the fourth on as differences."""
    counts, position = [], 0
    while position < len(code):
        value, shift, more = 0, 0, True
        while more:
            digit = ord(code[position]) - 48
            value |= (digit & 31) << shift
            more = bool(digit & 32)
            position, shift = position + 1, shift + 5
            if not more and digit & 16:
                value |= -1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts


@pytest.mark.parametrize("resolution", ["", "480p"])
def test_davis_and_its_followers(tmp_path, record, resolution):
    record.trajectory_ids[0, 0, :5] = -1
    pictures, masks = write_pictures(tmp_path / "source", record)
    for kind, folder in (("JPEGImages", pictures), ("Annotations", masks)):
        target = tmp_path / "davis" / kind / resolution / "one"
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
    dataset = open_dataset(tmp_path / "davis")
    assert (dataset.layout, dataset.names) == ("frame_folders", ("one",))
    record.frame_times_s = np.arange(5) / 24
    assert_same_clip(dataset[0], record)


def write_youtube_vis(folder, record, **changes) -> None:
    """A record as YouTube-VIS has it: pictures of lossless PNG, run-length codes, null where an object is not seen."""
    pictures = folder / "JPEGImages" / "a0"
    pictures.mkdir(parents=True)
    names = [f"a0/{number:05d}.png" for number in range(len(record.frames_uint8))]
    for name, frame in zip(names, record.frames_uint8, strict=True):
        Image.fromarray(frame).save(folder / "JPEGImages" / name)
    objects = range(1, int(record.trajectory_ids.max()) + 1)
    codes = [
        [encode_coco_rle(ids == number) if (ids == number).any() else None for ids in record.trajectory_ids]
        for number in objects
    ]
    content = {
        "videos": [{"id": 5, "file_names": names}],
        "annotations": [{"video_id": 5, "segmentations": one} for one in codes],
    }
    (folder / "instances.json").write_text(json.dumps({**content, **changes}))


def test_youtube_vis(tmp_path, record):
    write_youtube_vis(tmp_path, record)
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.names) == ("youtube_vis", ("a0",))
    found = dataset[0]
    assert np.array_equal(found.frames_uint8, record.frames_uint8)
    assert np.array_equal(found.trajectory_ids, np.maximum(record.trajectory_ids, 0))
    some = open_dataset(tmp_path, num_frames=2)[0]
    assert np.array_equal(some.trajectory_ids, found.trajectory_ids[[0, -1]])
    assert np.array_equal(some.frame_times_s, np.asarray(found.frame_times_s)[[0, -1]])


def test_wrong_youtube_vis_annotations_are_named(tmp_path, record):
    write_youtube_vis(tmp_path, record, annotations=[{"video_id": 5, "segmentations": [None]}])
    with pytest.raises(ValueError, match="object 0 of a0 has 1 masks for"):
        open_dataset(tmp_path)[0]
    (tmp_path / "instances.json").write_text(json.dumps({"videos": [{"id": 1}], "annotations": []}))
    with pytest.raises(ValueError, match=r"instances.json cannot be read.*file_names"):
        open_dataset(tmp_path)


def test_clip_folders_and_the_ids_to_trust(tmp_path, record):
    pictures, _ = write_pictures(tmp_path / "data" / "one", record)
    pictures.rename(pictures.with_name("frames"))
    (tmp_path / "data" / "one" / "ids.json").write_text(json.dumps({"reliable": [3], "fps": 10}))
    record.trajectory_ids[record.trajectory_ids == 1] = -1
    for folder in (tmp_path / "data", tmp_path / "data" / "one"):
        dataset = open_dataset(folder)
        assert (dataset.layout, dataset.names) == ("clip_folders", ("one",))
        assert_same_clip(dataset[0], record)


def test_real_videos_with_masks(shared_data):
    dataset = open_dataset(shared_data / "gt")
    clips = {clip.name: clip for clip in dataset}
    kubric, chair = clips["kubric_teaser"], clips["pumavos_chair"]
    assert kubric.frames_uint8.shape == (24, 326, 326, 3)
    assert set(np.unique(kubric.trajectory_ids)) == {-1, 0, 1, 2, 3, 4, 5, 6, 7}
    assert kubric.fps == pytest.approx(12)
    assert chair.frames_uint8.shape == (60, 480, 720, 3)
    assert set(np.unique(chair.trajectory_ids)) == {0, 1}
    assert chair.fps == pytest.approx(30)


# What does not fit


@pytest.mark.parametrize(
    ("layout", "file", "message"),
    [
        ("worlds", "one_masks", "one_masks is missing: expected a folder with one mask"),
        ("worlds", "one.json", "one.json is missing"),
        ("sidecars", "one_mask.npz", "one_mask.npz is missing"),
        ("sidecars", "one_graph.npz", "one_graph.npz is missing"),
        ("coco_rle", "one_manual.json", "one_auto.json is missing"),
    ],
)
def test_a_missing_sidecar_is_named(tmp_path, record, layout, file, message):
    write_clip(record, tmp_path, layout)
    record.name = "two"
    write_clip(record, tmp_path, layout)
    (tmp_path / file).rename(tmp_path / "elsewhere")
    dataset = open_dataset(tmp_path, layout)
    with pytest.raises(ValueError, match=message):
        dataset[0]
    assert dataset[1].name == "two"


def test_a_mask_too_few_is_named(tmp_path, record):
    write_clip(record, tmp_path)
    (tmp_path / "one_masks" / "00004.png").unlink()
    with pytest.raises(ValueError, match=r"one.mp4 has 5 frames, but .*one_masks has 4 masks"):
        open_dataset(tmp_path)[0]


def test_a_masklet_too_few_is_named(tmp_path, record):
    write_clip(record, tmp_path, "coco_rle")
    path = tmp_path / "one_manual.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"masklet": content["masklet"][:3]}))
    with pytest.raises(ValueError, match=r"one.mp4 has 5 frames, but .*one_manual.json has 3 masks"):
        open_dataset(tmp_path)[0]
    path.write_text(json.dumps({"masks": []}))
    with pytest.raises(ValueError, match=r"one_manual.json has no list `masklet`, only \['masks'\]"):
        open_dataset(tmp_path)[0]


def test_a_graph_of_other_length_is_named(tmp_path, record):
    write_clip(record, tmp_path, "sidecars")
    np.savez(tmp_path / "one_graph.npz", tensor=np.ones((3, 4), dtype=np.int64))
    with pytest.raises(ValueError, match=r"one_graph.npz links 4 frames, but .*one_mask.npz has 5"):
        open_dataset(tmp_path)[0]


def test_masks_of_another_size_are_named(tmp_path, record):
    write_clip(record, tmp_path)
    Image.new("P", (47, 32)).save(tmp_path / "one_masks" / "00003.png")
    with pytest.raises(ValueError, match=r"00003.png has masks of \(32, 47\).* frames have \(32, 48\)"):
        open_dataset(tmp_path)[0]
    write_clip(record, tmp_path / "other", "sidecars")
    np.savez(tmp_path / "other" / "one_mask.npz", np.zeros((5, 32, 47), dtype=np.int64))
    with pytest.raises(ValueError, match=r"one_mask.npz has masks of \(32, 47\)"):
        open_dataset(tmp_path / "other")[0]


@pytest.mark.parametrize(
    ("layout", "file"),
    [
        ("worlds", "one.mp4"),
        ("worlds", "one_masks/00002.png"),
        ("worlds", "one.json"),
        ("sidecars", "one_mask.npz"),
        ("coco_rle", "one_manual.json"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, record, layout, file):
    write_clip(record, tmp_path, layout)
    (tmp_path / file).write_bytes(b"this is no such file")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / file))):
        open_dataset(tmp_path, layout)[0]


def test_a_video_that_breaks_off_is_named(tmp_path, record):
    """The index of frames lies in front, so a cut file still says that it has five."""
    write_clip(record, tmp_path)
    path = tmp_path / "one.mp4"
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ValueError, match=r"one.mp4: is (truncated|corrupt)"):
        open_dataset(tmp_path)[0]


def test_sound_without_pictures_is_named(tmp_path, record):
    write_clip(record, tmp_path)
    with av.open(str(tmp_path / "one.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        file.mux(stream.encode(sound))
        file.mux(stream.encode())
    with pytest.raises(ValueError, match=r"one.mp4: has no video stream"):
        open_dataset(tmp_path)[0]


def test_colour_masks_are_refused(tmp_path, record):
    write_clip(record, tmp_path)
    Image.new("RGB", (48, 32)).save(tmp_path / "one_masks" / "00000.png")
    with pytest.raises(ValueError, match=r"00000.png is a RGB picture"):
        open_dataset(tmp_path)[0]


def test_a_folder_without_clips_says_what_it_holds(tmp_path):
    with pytest.raises(ValueError, match=r"layout of worlds, manifest, chat, sidecars.*it holds nothing"):
        open_dataset(tmp_path)
    (tmp_path / "readme.txt").touch()
    (tmp_path / "videos").mkdir()
    with pytest.raises(ValueError, match=r"it holds readme.txt, videos/"):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match=r"nowhere is no folder"):
        open_dataset(tmp_path / "nowhere")


def test_an_unknown_layout_is_refused_with_the_known_ones(tmp_path, record):
    with pytest.raises(ValueError, match=f"Unknown layout 'davis': expected one of auto, {', '.join(LAYOUTS)}"):
        open_dataset(tmp_path, "davis")
    with pytest.raises(ValueError, match=f"Unknown layout 'clip_folders': expected one of {', '.join(WRITABLE)}"):
        write_clip(record, tmp_path, "clip_folders")


def test_two_layouts_in_one_folder_must_be_told_apart(tmp_path, record):
    write_clip(record, tmp_path, "worlds")
    write_clip(record, tmp_path, "coco_rle")
    with pytest.raises(ValueError, match="fits several layouts: worlds, coco_rle"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, "coco_rle")[0].name == "one"


def test_odd_sizes_and_too_many_ids_are_refused_before_the_video_is_there(tmp_path, record):
    odd = ClipRecord("odd", record.frames_uint8[:, :31], record.trajectory_ids[:, :31], record.frame_times_s)
    with pytest.raises(ValueError, match="even sides, got 31 x 48"):
        write_clip(odd, tmp_path)
    record.trajectory_ids[0, 0, 0] = 255
    with pytest.raises(ValueError, match="holds the ids 0 to 254, got 255"):
        write_clip(record, tmp_path)
    assert not list(tmp_path.glob("*.mp4"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames_uint8": np.zeros((5, 32, 48, 3))}, "float64"),
        (
            {"trajectory_ids": np.zeros((5, 32, 47), dtype=int)},
            r"ids \(5, 32, 48\) like its frames, got \(5, 32, 47\)",
        ),
        ({"trajectory_ids": np.full((5, 32, 48), -2)}, "got -2 to -2"),
        ({"frame_times_s": np.zeros(5)}, "5 rising frame times"),
    ],
)
def test_a_record_checks_itself(record, change, message):
    with pytest.raises(ValueError, match=message):
        ClipRecord(**(vars(record) | change))


def test_overlapping_masklets_show_the_smaller_object(tmp_path, record):
    write_clip(record, tmp_path, "coco_rle")
    path = tmp_path / "one_manual.json"
    content = json.loads(path.read_text())
    whole = {"size": [32, 48], "counts": [0, 32 * 48]}  # listed last, would hide the others
    content["masklet"] = [[frame[0], frame[2], whole] for frame in content["masklet"]]
    path.write_text(json.dumps(content))
    expected = np.select([record.trajectory_ids == 1, record.trajectory_ids == 3], [1, 2], 3)
    np.testing.assert_array_equal(open_dataset(tmp_path)[0].trajectory_ids, expected)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ({"size": [32, 47], "counts": [32 * 47]}, r"one_manual.json has masks of \(32, 47\)"),
        ({"size": [32, 48], "counts": [7]}, "one_manual.json cannot be read.*add up"),
        ({"counts": [7]}, "one_manual.json cannot be read.*size"),
    ],
)
def test_a_wrong_masklet_is_named(tmp_path, record, code, message):
    write_clip(record, tmp_path, "coco_rle")
    path = tmp_path / "one_manual.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"masklet": [[code]] * 5}))
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path)[0]


def test_sidecars_of_another_kind_are_named(tmp_path, record):
    write_clip(record, tmp_path, "sidecars")
    np.savez(tmp_path / "one_graph.npz", tensor=np.ones((3, 5)))
    with pytest.raises(ValueError, match=r"one_graph.npz: expected 2 axes of integers.* got \(3, 5\) float64"):
        open_dataset(tmp_path)[0]


def test_pictures_and_masks_must_have_the_same_names(tmp_path, record):
    pictures, masks = write_pictures(tmp_path / "one", record)
    pictures.rename(pictures.with_name("frames"))
    (masks / "00004.png").rename(masks / "00005.png")
    with pytest.raises(ValueError, match=r"frames has 5 frames, but .*masks has 5 masks.* of the same name"):
        open_dataset(tmp_path)[0]


def test_no_frames_cannot_be_asked_for(tmp_path, record):
    write_clip(record, tmp_path)
    with pytest.raises(ValueError, match="num_frames must be at least 1, or None"):
        open_dataset(tmp_path, num_frames=0)


# make_worlds.py


def test_worlds_on_disk_are_those_of_the_generator(tmp_path):
    arguments = ["--out", str(tmp_path), "--seed", "3", "--num-frames", "4", "--size", "64"]
    assert make_worlds.main([*arguments, "--num-worlds", "1"]) == 0
    before = (tmp_path / "world_3_000000.mp4").stat().st_mtime_ns
    assert make_worlds.main([*arguments, "--num-worlds", "2"]) == 0
    assert (tmp_path / "world_3_000000.mp4").stat().st_mtime_ns == before  # resumed, not rendered again
    dataset = open_dataset(tmp_path)
    assert dataset.names == ("world_3_000000", "world_3_000001")
    world = render_world(3, 1, WorldConfig(num_frames=4, height=64, width=64))
    clip = dataset[1]
    assert evaluate_clip(clip.trajectory_ids, world.trajectory_ids)["veq"] == 1.0
    np.testing.assert_array_equal(clip.trajectory_ids, world.trajectory_ids)
    assert clip.metadata == json.loads(json.dumps(world.to_record()))
    assert clip.fps == pytest.approx(8)


def test_worlds_of_other_settings_are_not_mixed(tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--num-worlds", "1", "--num-frames", "2", "--size", "64"]
    assert make_worlds.main(arguments) == 0
    assert make_worlds.main([*arguments, "--seed", "1"]) == 1
    assert "holds worlds of other settings" in capsys.readouterr().err


def worlds_command(out, num_worlds):
    arguments = ["--num-worlds", str(num_worlds), "--num-frames", "4", "--size", "64"]
    return [sys.executable, make_worlds.__file__, "--out", str(out), *arguments]


def test_two_processes_do_not_render_into_one_folder_and_a_killed_one_goes_on(tmp_path, monkeypatch, capsys):
    process = subprocess.Popen(worlds_command(tmp_path, 1000), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("*.mp4")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        monkeypatch.setattr(folder_locks, "PATIENCE_S", 0.1)
        assert make_worlds.main(worlds_command(tmp_path, 2)[2:]) == 1
        assert f"{tmp_path} is in use by another process. Wait" in capsys.readouterr().err
    finally:
        process.kill()  # no handler runs
        process.wait()
    num_worlds = len(list(tmp_path.glob("*.mp4"))) + 1
    assert make_worlds.main(worlds_command(tmp_path, num_worlds)[2:]) == 0
    dataset = open_dataset(tmp_path)
    assert len(dataset) == num_worlds
    for number in (0, num_worlds - 1):
        assert len(dataset[number].frames_uint8) == 4
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".lock"]


@pytest.mark.parametrize("layout", WRITABLE)
def test_a_full_disk_ends_the_rendering_cleanly(tmp_path, layout):
    """A limit on the size of files stands for the disk."""
    out, told = tmp_path / "worlds", tmp_path / "told.txt"
    arguments = [*worlds_command(out, 2)[2:], "--layout", layout]
    process = os.fork()
    if not process:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1200, 1200))
        sys.stderr = told.open("w", buffering=1)
        status = 99  # an error that `main` does not catch
        try:
            status = make_worlds.main(arguments)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1
    [error] = [line for line in told.read_text().splitlines() if line.startswith("error: ")]
    assert "cannot be written: there is no room for it" in error and "start the same command again" in error
    assert not list(out.rglob("*.part")) and not list(out.rglob("*.mp4"))
    assert make_worlds.main(arguments) == 0
    dataset = open_dataset(out)
    assert len(dataset) == 2 and dataset[1].frames_uint8.shape == (4, 64, 64, 3)


@pytest.mark.parametrize("layout", ["worlds", "sidecars"])
def test_too_many_open_files_are_no_fault_of_a_clip(tmp_path, layout):
    """A training that leaves bad clips out must not remember this one as bad."""
    assert make_worlds.main([*worlds_command(tmp_path, 1)[2:], "--layout", layout]) == 0
    dataset = open_dataset(tmp_path)
    (limit, most), taken = resource.getrlimit(resource.RLIMIT_NOFILE), []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 10, most))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(OSError, match="Too many open files"):
            dataset[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
        for descriptor in taken:
            os.close(descriptor)
    assert len(dataset[0].frames_uint8) == 4


# --- manifests -------------------------------------------------------------------------------------------------------


def manifest_folder(tmp_path, shared_data):
    shutil.copy(shared_data / "clips" / "moviepy" / "chaplin.mp4", tmp_path / "chaplin.mp4")
    ids = np.zeros((4, 32, 48), dtype=np.int16)
    ids[:, 8:16, 8:24] = 2
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype=np.uint8)
    write_clip(ClipRecord("a/masked", frames, ids, np.arange(4) / 8, {"note": 1}), tmp_path, layout="sidecars")
    entries = [
        {"video": "chaplin.mp4", "caption": "a man walks"},
        {"video": "a/masked.mp4", "caption": ["a box", "a box rests"]},
        {"video": "chaplin.mp4", "caption": "a tramp"},
    ]
    (tmp_path / "manifest.json").write_text(json.dumps(entries))
    return entries


def test_a_manifest_brings_captions_and_masks_where_there_are_any(tmp_path, shared_data):
    manifest_folder(tmp_path, shared_data)
    dataset = open_dataset(tmp_path, num_frames=4)
    assert (dataset.layout, dataset.names) == ("manifest", ("chaplin.mp4", "a/masked.mp4"))
    plain, masked = dataset[0], dataset[1]
    assert plain.metadata == {"captions": ["a man walks", "a tramp"]} and (plain.trajectory_ids == -1).all()
    assert masked.metadata == {"note": 1, "captions": ["a box", "a box rests"]}
    assert set(np.unique(masked.trajectory_ids)) == {0, 2} and len(plain.frames_uint8) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"video": "a.mp4"}, "expected a list of entries"),
        ([{"caption": "a dog"}], "cannot be read"),
        ([{"video": "a.mp4", "caption": 3}], r"entry 0 \(a.mp4\): the caption is 3"),
        ([{"video": "gone.mp4", "caption": "a dog"}], "gone.mp4 is missing"),
    ],
)
def test_a_bad_manifest_is_named(tmp_path, content, message):
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path)[0]
