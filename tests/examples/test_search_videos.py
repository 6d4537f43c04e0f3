"""Search: what is embedded and when, time spans, scores, the picture, and errors that say what to do."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import search_videos
import torch
from evaluation.checkpoint_limits import WORLDS_ONLY_NOTE
from evaluation.embedding_cache import VideoRequest, decode_stretch
from PIL import Image
from search import answer_sheet, video_windows
from search.answer_sheet import Answer, highlight
from search.video_windows import read_windows, window_edges
from storage import folder_lock, whole_files

from modeling_trajtok import TrajViT2Model, TrajViT2Processor
from modeling_trajtok.processors import FrameTimeline, TrajectoryMap, VideoDecodeError, decode_video
from modeling_trajtok.processors.trajectory_drawing import write_video

TEXT = "a red ball rolls left"
WINDOW_S = 0.4
WORDS = (*TEXT.split(), "dog")
MAX_TOKENS = 8


@pytest.fixture
def save_checkpoint(tmp_path, save_trajvit2):
    """save_checkpoint(seed) -> folder of a TrajViT2 with processor."""

    def save(seed=0):
        return save_trajvit2(tmp_path / f"checkpoint-{seed}", WORDS, 32, seed, model_max_length=MAX_TOKENS)

    return save


@pytest.fixture
def folder(tmp_path, shared_data):
    """Real clips: 10 frames in 1 s, 3 frames in 0.1 s (in a folder within), a GIF of 24 frames; and a text."""
    folder = tmp_path / "videos"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(shared_data / "clips/torchcodec/h265_video.mp4", folder / "ten.mp4")
    shutil.copy(shared_data / "clips/decord_edge/video_90.mov", folder / "sub" / "KEYS.MOV")
    shutil.copy(shared_data / "clips/kubric_movi/movi_a_1.gif", folder / "cubes.gif")
    (folder / "notes.txt").write_text("no video, and not named like one")
    for path in folder.rglob("*.*"):
        path.chmod(0o644)
    return folder


@pytest.fixture
def embedded(monkeypatch):
    """Names of the videos embedded since this list was last cleared."""
    names, embed_video = [], search_videos.embed_video

    def note_and_embed(path, *arguments):
        names.append(path.name)
        return embed_video(path, *arguments)

    monkeypatch.setattr(search_videos, "embed_video", note_and_embed)
    return names


@pytest.fixture
def run(folder, save_checkpoint, tmp_path):
    """run(*texts and options) -> exit status; results in tmp_path/out."""
    checkpoint = save_checkpoint()

    def search_main(*arguments, videos=folder):
        fixed = ["--model", checkpoint, "--window-seconds", WINDOW_S, "--out", tmp_path / "out" / "found.png"]
        return search_videos.main([str(argument) for argument in (videos, *(arguments or (TEXT,)), *fixed)])

    return search_main


@pytest.fixture
def results(tmp_path):
    """results(number of the query) -> its best clips."""
    return lambda number=0: json.loads((tmp_path / "out" / "found.json").read_text())["queries"][number]["results"]


def shards(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / ".trajtok_index" / "videos").iterdir()}


def errors(capture):
    return [line for line in capture.readouterr().err.splitlines() if line.startswith("error: ")]


def test_every_video_is_cut_into_windows_that_tile_it(run, folder, results):
    assert run(TEXT, "--top", 100) == 0
    spans = {}
    for entry in sorted(results(), key=lambda entry: entry["start_s"]):
        spans.setdefault(entry["file"], []).append((entry["start_s"], entry["end_s"], entry["frame_indices"]))
    assert set(spans) == {"ten.mp4", "sub/KEYS.MOV", "cubes.gif"}
    assert spans["ten.mp4"] == [(0.0, 0.4, [0, 1, 2]), (0.4, 0.8, [4, 5, 6]), (0.8, 1.0, [8, 9])]
    assert spans["sub/KEYS.MOV"] == [(0.0, 0.1, [0, 1, 2])]
    times_s = decode_video(folder / "cubes.gif").frame_times_s
    starts = [0, 5, 10, 15, 20]  # 4.78 frames each
    assert [start for start, _, _ in spans["cubes.gif"]] == pytest.approx(times_s[starts], abs=1e-3)
    assert [end for _, end, _ in spans["cubes.gif"][:-1]] == pytest.approx(times_s[starts[1:]], abs=1e-3)
    assert spans["cubes.gif"][-1][1] > times_s[-1]


@pytest.mark.parametrize(
    ("total", "fps", "seconds", "expected"),
    [
        (250, 25.0, 4.0, [0, 100, 200, 250]),
        (241, 25.0, 4.0, [0, 100, 200, 241]),
        (104, 25.0, 4.0, [0, 104]),  # 4 frames alone are no clip
        (240, 29.97, 4.0, [0, 120, 240]),
        (3, 25.0, 4.0, [0, 3]),
        (4, 10.0, 0.01, [0, 1, 2, 3, 4]),  # a window is never empty
        (7, None, 4.0, [0, 7]),
    ],
)
def test_window_edges(total, fps, seconds, expected):
    assert window_edges(FrameTimeline.at_rate(total, fps), seconds).tolist() == expected


def test_windows_go_by_time_stamps(held_picture):
    """12 pictures: six in half a second, the last of them held to second 5, six more."""
    timeline = FrameTimeline(12, held_picture.times_s, 5.6)
    assert window_edges(timeline, 1.0).tolist() == [0, 6, 12]
    assert window_edges(timeline, 0.3).tolist() == [0, 3, 6, 7, 10, 12]
    assert window_edges(timeline, 4.0).tolist() == [0, 6, 12]
    indices = [[0, 1, 2], [3, 4, 5], [6], [7, 8, 9], [10, 11]]
    for backend in ("pyav", *(["torchcodec"] if find_spec("torchcodec") else [])):
        windows = [
            window
            for read in read_windows(held_picture.path, 0.3, 9, "middle", timeout_s=60.0, backend=backend)
            for window in read
        ]
        assert [window.frame_indices.tolist() for window in windows] == indices
        spans = [(window.start_s, window.end_s) for window in windows]
        starts = [0.0, 0.3, 5.0, 5.1, 5.4]
        assert [start for start, _ in spans] == pytest.approx(starts, abs=2e-3)
        assert [end for _, end in spans[:-1]] == pytest.approx(starts[1:], abs=2e-3)
        assert 5.5 < spans[-1][1] < 5.8
        for window in windows:
            np.testing.assert_allclose(window.frame_times_s, held_picture.times_s[window.frame_indices], atol=2e-3)
            grey = window.frames_uint8.mean(axis=(1, 2, 3))
            np.testing.assert_allclose(grey, 20 * window.frame_indices, atol=4)


def test_seconds_of_a_stretch_go_by_time_stamps(held_picture):
    def read(start_s, end_s, num_frames=20):
        return decode_stretch(VideoRequest("a", held_picture.path, start_s, end_s), num_frames).frame_indices.tolist()

    assert read(0.2, 0.4) == [2, 3]
    assert read(1.0, 4.0) == [5]  # held
    assert read(4.0, 5.2) == [5, 6, 7]
    assert read(5.2, None) == [8, 9, 10, 11]
    assert read(None, None, num_frames=2) == [2, 8]
    with pytest.raises(VideoDecodeError, match="before the stretch from 7 s"):
        read(7.0, 8.0)


def test_windows_of_a_long_video_come_some_at_a_time_with_the_right_frames(tmp_path):
    path = tmp_path / "long.mp4"
    grey = np.arange(60, dtype=np.uint8) * 4
    write_video(path, np.broadcast_to(grey[:, None, None, None], (60, 32, 32, 3)), fps=10)
    reads = list(read_windows(path, 0.5, 2, "middle", timeout_s=60.0))
    assert [len(read) for read in reads] == [1, 8, 3]
    windows = [window for read in reads for window in read]
    for number, window in enumerate(windows):
        assert (window.start_s, window.end_s) == pytest.approx((number * 0.5, number * 0.5 + 0.5))
        assert window.frame_indices.tolist() == [number * 5, number * 5 + 3]
        shown = window.frames_uint8.mean(axis=(1, 2, 3))
        np.testing.assert_allclose(shown, grey[window.frame_indices], atol=2.5)
        np.testing.assert_allclose(window.frame_times_s, window.frame_indices / 10)


def test_a_file_whose_length_is_told_differently_is_refused(tmp_path, monkeypatch):
    path, decode, reads = tmp_path / "long.mp4", video_windows.decode_video, []
    write_video(path, np.zeros((60, 32, 32, 3), np.uint8), fps=10)

    def shrinking(source, choose_frames, **options):
        reads.append(source)

        def choose(timeline):
            return choose_frames(replace(timeline, total_num_frames=timeline.total_num_frames - len(reads) + 1))

        return decode(source, choose, **options)

    monkeypatch.setattr(video_windows, "decode_video", shrinking)
    with pytest.raises(VideoDecodeError, match=r"long\.mp4: 60 frames were found first, now 59"):
        list(read_windows(path, 0.5, 2, "middle", timeout_s=60.0))


def test_windows_follow_the_timeline_that_decoding_finds(tmp_path, monkeypatch):
    """A decoder that cannot trust the packets of a file asks again, with the timeline of its pictures."""
    path, decode = tmp_path / "clip.mp4", video_windows.decode_video
    write_video(path, np.zeros((12, 32, 32, 3), np.uint8), fps=10)

    def correcting(source, choose_frames, **options):
        def choose(timeline):
            choose_frames(FrameTimeline.at_rate(20, 10.0))
            return choose_frames(timeline)

        return decode(source, choose, **options)

    monkeypatch.setattr(video_windows, "decode_video", correcting)
    [[window]] = list(read_windows(path, 4.0, 2, "middle", timeout_s=60.0))
    assert (window.start_s, window.end_s, window.frame_indices.tolist()) == (0.0, pytest.approx(1.2), [2, 8])


@torch.no_grad()
def test_scores_are_cosines_of_what_the_model_gives(run, folder, save_checkpoint, results):
    assert run(TEXT, "a dog", "--top", 100) == 0
    checkpoint = save_checkpoint()
    model, processor = TrajViT2Model.from_pretrained(checkpoint).eval(), TrajViT2Processor.from_pretrained(checkpoint)
    for number, text in enumerate([TEXT, "a dog"]):
        scores = [entry["score"] for entry in results(number)]
        assert scores == sorted(scores, reverse=True)
        assert max(scores) - min(scores) > 0.01
        text_embed = model.get_text_features(**_tokens(processor, text)).pooler_output[0]
        for entry in (results(number)[0], results(number)[-1]):
            frames = decode_video(folder / entry["file"]).frames_uint8[entry["frame_indices"]]
            inputs = processor.video_processor(frames, do_sample_frames=False, return_tensors="pt")
            videos = model.get_video_features(**inputs, output_trajectory_features=True)
            assert entry["score"] == pytest.approx(float(videos.pooler_output[0] @ text_embed), abs=1e-4)
            cosines = (videos.trajectory_features[0, ::2] @ text_embed).tolist()  # L = 2: the first token counts
            present = videos.trajectory_ids.unique().tolist()
            assert {one["id"]: one["score"] for one in entry["trajectories"]} == pytest.approx(
                {k: cosines[k] for k in present}, abs=1e-4
            )
            assert entry["answering_trajectory"] == max(present, key=cosines.__getitem__)


def _tokens(processor, text):
    tokens = processor.tokenizer(text, return_tensors="pt")
    return {name: tokens[name] for name in ("input_ids", "attention_mask")}


def test_only_new_and_changed_videos_are_embedded_and_deleted_ones_drop_out(run, folder, embedded, results, capsys):
    assert run() == 0
    assert sorted(embedded) == ["KEYS.MOV", "cubes.gif", "ten.mp4"]
    assert "3 embedded, 0 not changed, 0 gone, 0 skipped" in capsys.readouterr().out
    embedded.clear()
    before = shards(folder)
    assert run() == 0
    assert embedded == []
    assert shards(folder) == before

    (folder / "cubes.gif").unlink()
    shutil.copy(folder / "sub" / "KEYS.MOV", folder / "ten.mp4")
    shutil.copy(folder / "sub" / "KEYS.MOV", folder / "new.mov")
    assert run(TEXT, "--top", 100) == 0
    assert sorted(embedded) == ["new.mov", "ten.mp4"]
    assert "2 embedded, 1 not changed, 1 gone, 0 skipped" in capsys.readouterr().out
    assert sorted(entry["file"] for entry in results()) == ["new.mov", "sub/KEYS.MOV", "ten.mp4"]
    assert {entry["end_s"] for entry in results()} == {0.1}  # ten.mp4 has its new length

    embedded.clear()
    later = (folder / "new.mov").stat().st_mtime_ns + 1
    os.utime(folder / "new.mov", ns=(later, later))
    assert run() == 0
    assert embedded == ["new.mov"]


def test_an_unreadable_video_is_listed_and_not_tried_again_before_it_changes(run, folder, embedded, tmp_path, capsys):
    bad = folder / "bad.mp4"
    bad.write_text("no video")
    for attempts in (1, 0):
        embedded.clear()
        assert run() == 0
        assert embedded.count("bad.mp4") == attempts
        printed, complaints = capsys.readouterr()
        assert "1 skipped" in printed
        [line] = [line for line in complaints.splitlines() if line.startswith("skipped: ")]
        assert str(bad) in line
    unreadable = json.loads((tmp_path / "out" / "found.json").read_text())["videos"]["unreadable"]
    assert list(unreadable) == ["bad.mp4"]
    embedded.clear()
    shutil.copy(folder / "ten.mp4", bad)
    assert run() == 0
    assert embedded == ["bad.mp4"]
    assert "skipped: " not in capsys.readouterr().err


def test_a_failure_of_the_machine_is_tried_again(run, embedded, monkeypatch, capsys):
    def out_of_memory(*_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(search_videos.ClipEmbedder, "embed_windows", out_of_memory)
        assert run() == 1
    assert "none of its 3 videos can be read" in errors(capsys)[0]
    embedded.clear()
    assert run() == 0
    assert len(embedded) == 3


def test_an_index_of_another_checkpoint_or_other_settings_is_refused(run, folder, save_checkpoint, embedded, capsys):
    assert run() == 0
    before, other = shards(folder), save_checkpoint(seed=1)
    for options, told in (
        (["--model", other], "another checkpoint"),
        (["--window-seconds", 2], "other settings (window_seconds)"),
    ):
        embedded.clear()
        arguments = [str(part) for part in (folder, TEXT, "--model", save_checkpoint(), "--window-seconds", WINDOW_S)]
        arguments += [str(part) for part in (*options, "--out", folder.parent / "out" / "other.png")]
        assert search_videos.main(arguments) == 1
        [line] = errors(capsys)
        assert told in line
        assert "--rebuild" in line
        assert embedded == []
        assert shards(folder) == before
        assert not (folder.parent / "out" / "other.png").exists()
    assert search_videos.main([*arguments, "--rebuild"]) == 0
    assert len(embedded) == 3
    assert search_videos.main(arguments) == 0
    assert len(embedded) == 3


def test_an_index_elsewhere_belongs_to_one_folder(run, folder, tmp_path, capsys):
    place = tmp_path / "index"
    assert run(TEXT, "--index", place) == 0
    assert not (folder / ".trajtok_index").exists()
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    assert run(TEXT, "--index", place, videos=other) == 1
    assert "another folder of videos" in errors(capsys)[0]


def test_interrupted_indexing_goes_on_where_it_was(run, folder, embedded, monkeypatch):
    fsync, shards_written = os.fsync, []

    def die_at_the_second_shard(descriptor):
        shards_written.append(descriptor)
        if len(shards_written) == 3:  # the manifest comes first
            raise KeyboardInterrupt
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(whole_files.os, "fsync", die_at_the_second_shard)
        with pytest.raises(KeyboardInterrupt):
            run()
    first, second = embedded
    left = set(shards(folder))
    assert [name.rpartition(".")[2] for name in left] == ["parquet"]  # what could not be finished is gone
    (folder / ".trajtok_index" / "videos" / ".killed.part").write_bytes(b"half")  # unless the process was killed
    embedded.clear()
    assert run() == 0
    assert first not in embedded
    assert second in embedded
    assert len(embedded) == 2
    assert {name.rpartition(".")[2] for name in shards(folder)} == {"parquet"}

    embedded.clear()
    broken = next((folder / ".trajtok_index" / "videos").iterdir())
    broken.write_bytes(broken.read_bytes()[:100])
    assert run() == 0
    assert len(embedded) == 1


def test_a_killed_search_goes_on_with_the_videos_that_are_left(folder, save_checkpoint, run, results, tmp_path):
    """SIGKILL: no handler runs, no file is closed. Twelve more files keep the work going until then."""
    for number in range(12):
        shutil.copy(folder / "ten.mp4", folder / f"ten-{number:02}.mp4")
    command = [sys.executable, search_videos.__file__, folder, TEXT, "--top", 100]
    command += ["--model", save_checkpoint(), "--window-seconds", WINDOW_S, "--out", tmp_path / "out" / "found.png"]
    command = [str(part) for part in command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    place, deadline = folder / ".trajtok_index" / "videos", time.monotonic() + 240
    while len(list(place.glob("*.parquet"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline, "the search ended before its second video"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {name: time_ns for name, time_ns in shards(folder).items() if name.endswith(".parquet")}
    assert 2 <= len(finished) < 15 and not (tmp_path / "out").exists()

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert f"{15 - len(finished)} embedded, {len(finished)} not changed, 0 gone, 0 skipped" in done.stdout
    now = shards(folder)
    assert len(now) == 15 and finished.items() <= now.items()
    resumed = {(entry["file"], entry["start_s"]): entry["score"] for entry in results()}
    assert run(TEXT, "--top", 100, "--index", tmp_path / "whole") == 0
    whole = {(entry["file"], entry["start_s"]): entry["score"] for entry in results()}
    assert len(whole) == 3 * 13 + 1 + 5 and resumed == pytest.approx(whole, abs=1e-5)


def test_two_searches_at_once_share_one_index(folder, save_checkpoint, tmp_path):
    """Both are started and wait for the index; then one of them embeds, and the other finds all done."""
    command = [sys.executable, search_videos.__file__, folder, TEXT, "--model", save_checkpoint()]
    command += ["--window-seconds", WINDOW_S, "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    logs = [(tmp_path / f"{number}.out", tmp_path / f"{number}.err") for number in range(2)]
    processes = []
    with folder_lock(folder / ".trajtok_index"):
        for number, (out, err) in enumerate(logs):
            with out.open("w") as stdout, err.open("w") as stderr:
                place = tmp_path / str(number) / "found.png"
                whole = [str(part) for part in (*command, place)]
                processes.append(subprocess.Popen(whole, env=environment, stdout=stdout, stderr=stderr))
        deadline = time.monotonic() + 240
        while not all("waiting: another process is at work" in err.read_text() for _, err in logs):
            assert all(process.poll() is None for process in processes) and time.monotonic() < deadline
            time.sleep(0.05)
    assert [process.wait(timeout=240) for process in processes] == [0, 0], [err.read_text() for _, err in logs]
    told = sorted(line for out, _ in logs for line in out.read_text().splitlines() if line.startswith("Videos: "))
    assert told == [
        "Videos: 0 embedded, 3 not changed, 0 gone, 0 skipped.",
        "Videos: 3 embedded, 0 not changed, 0 gone, 0 skipped.",
    ]
    assert len(shards(folder)) == 3
    first, second = (json.loads((tmp_path / str(n) / "found.json").read_text())["queries"] for n in range(2))
    assert first == second


def test_words_that_the_checkpoint_does_not_know_are_named(run, tmp_path, capsys):
    assert run("a zebra rolls, zebra!", TEXT) == 0
    printed, complaints = capsys.readouterr()
    assert '"a zebra rolls, zebra!" - unknown to the checkpoint: zebra' in printed.splitlines()
    assert f'"{TEXT}"' in printed.splitlines()
    warnings = [line for line in complaints.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and "the checkpoint has no token for zebra." in warnings[0]
    queries = json.loads((tmp_path / "out" / "found.json").read_text())["queries"]
    assert [query["unknown_words"] for query in queries] == [["zebra"], []]
    assert WORLDS_ONLY_NOTE not in printed


def test_highlight_outlines_the_answer_and_dims_the_rest():
    frames = np.full((2, 20, 40, 3), 200, np.uint8)
    labels = np.zeros((2, 20, 40), np.int64)
    labels[0, :, 20:] = 3
    drawn = highlight(frames, TrajectoryMap(labels, np.arange(2.0), np.arange(2)), 3)
    assert (drawn[0, :, :19] == 70).all()
    assert (drawn[0, :, 19] == 255).all()
    assert (drawn[0, :, 20] == 24).all()
    inside = drawn[0, :, 21:].reshape(-1, 3)
    assert (inside.min(axis=0) > 150).all()
    assert (inside != 200).any()
    assert (drawn[1] == 70).all()
    assert (frames == 200).all()
    with pytest.raises(ValueError, match="do not fit"):
        highlight(frames[:, :10], TrajectoryMap(labels, np.arange(2.0), np.arange(2)), 3)


def test_the_sheet_has_a_row_per_clip_and_its_frames_are_highlighted():
    labels = np.zeros((9, 30, 40), np.int64)
    labels[:, :, 20:] = 3
    tracks = TrajectoryMap(labels, np.arange(9.0), np.arange(9))
    clip = Answer(["x" * 200, "0.0 - 1.0 s"], np.full((9, 30, 40, 3), 200, np.uint8), tracks, 3)
    sheet = np.asarray(answer_sheet.answer_sheet([("first", [clip, clip]), ("second", [clip])]))
    width, height = answer_sheet.FRAME_WIDTH_PX, answer_sheet.FRAME_HEIGHT_PX
    gap, heading = answer_sheet.GAP_PX, answer_sheet.HEADING_PX
    row = height + answer_sheet.LINE_PX + gap
    for top in (gap + heading, gap + heading + row, gap + 2 * (heading + row)):
        frames = sheet[top : top + height, answer_sheet.MARGIN_PX :]
        assert (frames == 70).all(axis=2).sum() == 6 * height * (width // 2 - 1)  # the left halves less the outline
    assert (sheet[:, : answer_sheet.MARGIN_PX] < 128).any()
    assert (sheet[:, answer_sheet.MARGIN_PX - 4 : answer_sheet.MARGIN_PX] == 255).all()  # long names are cut


def test_the_picture_shows_the_best_clips(run, tmp_path, results):
    assert run(TEXT, "a dog", "--top", 2) == 0
    assert [entry["rank"] for entry in results()] == [1, 2]
    sheet = np.asarray(Image.open(tmp_path / "out" / "found.png"))
    row = answer_sheet.FRAME_HEIGHT_PX + answer_sheet.LINE_PX + answer_sheet.GAP_PX
    assert len(sheet) == answer_sheet.GAP_PX + 2 * (answer_sheet.HEADING_PX + 2 * row)
    first = sheet[answer_sheet.GAP_PX + answer_sheet.HEADING_PX :, answer_sheet.MARGIN_PX :][:20, :20]
    assert (first < 250).any()


def test_a_long_text_is_cut_with_a_warning(run, results, capsys):
    long = "a red ball rolls left left dog dog dog dog"
    assert run(long, "a red ball rolls left left") == 0
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert f"12 tokens and is cut to {MAX_TOKENS}" in line
    assert results(0)[0]["score"] == pytest.approx(results(1)[0]["score"], abs=1e-6)


@pytest.mark.parametrize("kind", ["no folder", "no videos", "empty text", "no checkpoint", "no seconds", "no png"])
def test_what_cannot_be_done_is_an_error_on_one_line(run, folder, tmp_path, capsys, kind):
    empty = tmp_path / "empty"
    empty.mkdir()
    arguments, told = {
        "no folder": ([tmp_path / "nowhere", TEXT], f"{tmp_path / 'nowhere'}: no such folder"),
        "no videos": ([empty, TEXT], f"{empty}: no videos"),
        "empty text": ([folder, TEXT, "  "], "A text is empty"),
        "no checkpoint": ([folder, TEXT], f"{empty}: no TrajViT2 checkpoint can be read; pass --model"),
        "no seconds": ([folder, TEXT, "--window-seconds", 0], "--window-seconds 0"),
        "no png": ([folder, TEXT, "--out", tmp_path / "found.json"], "ends in .png"),
    }[kind]
    assert search_videos.main([str(argument) for argument in (*arguments, "--model", empty)]) == 1
    [line] = errors(capsys)
    assert told in line
    assert not (folder / ".trajtok_index").exists()
