"""Videos become a data set of tokens, from which every model gives the numbers that it gives from the videos."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from evaluation.video_prompts import EncodedVideo, video_prompts
from storage import folder_lock, folder_locks
from token_data import clip_reading, collate_tokens, list_videos, open_tokens, video_features
from tokenize_dataset import main
from trajectory_data import ClipRecord, write_clip
from transformers import AutoConfig, AutoProcessor, AutoVideoProcessor
from worlds import WorldConfig, render_world

from modeling_trajtok import (
    TrajAdapterConfig,
    TrajAdapterForVideoClassification,
    TrajTokVideoProcessor,
    TrajViT2Model,
    TrajVLMForConditionalGeneration,
    TrajVLMProcessor,
)
from modeling_trajtok.processors import (
    decode_video,
    decoder_backends,
    frame_decoding,
    media_container,
    sample_frame_indices,
)
from modeling_trajtok.processors.trajectory_maps import decode_coco_rle

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "tokenize_dataset.py"
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture
def videos(tmp_path) -> Path:
    """Four clips of 5, 3, 5 and 2 frames in folders, and a file that is no video."""
    folder = tmp_path / "videos"
    for number, frames in enumerate((5, 3, 5, 2)):
        world = render_world(1, number, WorldConfig(num_frames=frames, height=48, width=64))
        times_s = np.arange(frames) / 8
        clip = ClipRecord(f"clip{number}", world.frames_uint8, world.trajectory_ids, times_s)
        write_clip(clip, folder / ("a" if number % 2 else "b"))
    (folder / "a" / "broken.mp4").write_bytes(b"no video")
    return folder


NAMES = ["a/clip1.mp4", "a/clip3.mp4", "b/clip0.mp4", "b/clip2.mp4"]


@pytest.fixture
def checkpoint(save_trajvit2, tmp_path) -> Path:
    return save_trajvit2(tmp_path / "model", ["red"], 40)


def run(videos, checkpoint, out, *options) -> int:
    return main([str(videos), "--model", str(checkpoint), "--out", str(out), "--workers", "0", *options])


def test_a_row_tells_all_of_a_clip(videos, checkpoint, tmp_path, capsys):
    out = tmp_path / "tokens"
    assert run(videos, checkpoint, out, "--masks", "--dtype", "float32") == 0
    printed = capsys.readouterr()
    assert "4 videos" in printed.out and "1 cannot be read" in printed.out and "a/broken.mp4" in printed.err
    rows = open_tokens(out, str(checkpoint))
    assert rows["name"] == NAMES
    processor, model = AutoVideoProcessor.from_pretrained(checkpoint), TrajViT2Model.from_pretrained(checkpoint)
    for row in rows:
        inputs = processor(str(videos / row["name"]), return_tensors="pt", return_metadata=True)
        [facts] = inputs.pop("video_metadata")
        with torch.no_grad():
            output = model.video_model.trajtok(**inputs)
        length, valid = int(inputs["frame_valid"].sum()), output.token_valid[0]
        ids = output.trajectory_ids[0, :length].numpy()
        np.testing.assert_allclose(np.array(row["tokens"]), output.trajectory_embeds[0, valid].numpy(), **CLOSE)
        assert row["trajectories"] == (torch.arange(12)[valid] // 2).tolist()  # L = 2
        assert row["size_hw"] == [48, 64] == [facts["height"], facts["width"]]
        assert row["frame_times_s"] == pytest.approx(list(facts["frame_times_s"])[:length])
        height, width = row["grid_hw"]
        for token, trajectory in enumerate(row["trajectories"]):
            owned = ids == trajectory
            assert row["area_shares"][token] == pytest.approx(owned.mean(), abs=1e-6)
            for time_index, (frame, box) in enumerate(zip(owned, row["boxes_xyxy_px"][token], strict=True)):
                if not frame.any():
                    assert np.isnan(box).all()
                    continue
                y, x = np.nonzero(frame)
                expected = [x.min() * 64 / width, y.min() * 48 / height, (x.max() + 1) * 64 / width]
                assert box == pytest.approx([*expected, (y.max() + 1) * 48 / height], abs=1e-3)
                [counts] = [one["counts"] for one in row["masks"] if one["trajectory"] == trajectory]
                code = {"size": [height, width], "counts": counts[time_index]}
                assert np.array_equal(decode_coco_rle(code), frame)
            seen = [row["frame_times_s"][t] for t in np.flatnonzero(owned.any(axis=(1, 2)))]
            assert row["time_spans_s"][token] == pytest.approx([seen[0], seen[-1]])


@pytest.fixture
def long_videos(tmp_path) -> Path:
    """Of 23, 4 and 9 frames at 8 per second, and one of which the end is lost."""
    folder = tmp_path / "long"
    for name, frames in (("red/long", 23), ("red/short", 4), ("blue/medium", 9), ("blue/torn", 60)):
        world = render_world(2, frames, WorldConfig(num_frames=frames, height=48, width=64))
        clip = ClipRecord(Path(name).name, world.frames_uint8, world.trajectory_ids, np.arange(frames) / 8)
        write_clip(clip, folder / Path(name).parent)
    torn = folder / "blue" / "torn.mp4"
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size * 2 // 3])
    return folder


@pytest.mark.parametrize(("workers", "batch_size"), [("0", "1"), ("2", "3")])
def test_a_row_for_every_window(long_videos, checkpoint, tmp_path, workers, batch_size, capsys):
    """Two windows of a second and what remains, tokenized as those frames are; all of a video in one shard."""
    out = tmp_path / "tokens"
    options = ["--window-seconds", "1", "--num-frames", "4", "--clips-per-shard", "1", "--dtype", "float32"]
    options += ["--workers", workers, "--batch-size", batch_size]
    assert run(long_videos, checkpoint, out, *options) == 0
    assert "3 videos, 5 clips" in capsys.readouterr().out
    rows = open_tokens(out, str(checkpoint))
    places = [
        ("blue/medium.mp4", 0),
        ("red/long.mp4", 0),
        ("red/long.mp4", 1),
        ("red/long.mp4", 2),
        ("red/short.mp4", 0),
    ]
    assert list(zip(rows["name"], rows["window"], strict=True)) == places
    assert [json.loads(told) for told in rows["annotations"]] == [
        [{"label": name.split("/")[0]}] for name, _ in places
    ]
    shards = [pq.read_table(path)["name"].to_pylist() for path in sorted(out.glob("shard-*.parquet"))]
    assert sorted(len(names) for names in shards) == [1, 1, 3] and all(len(set(names)) == 1 for names in shards)

    processor, model = AutoVideoProcessor.from_pretrained(checkpoint), TrajViT2Model.from_pretrained(checkpoint)
    for row in rows:
        video = decode_video(long_videos / row["name"])
        last = row["window"] == max(number for name, number in places if name == row["name"])
        stretch = np.arange(8 * row["window"], len(video.frames_uint8) if last else 8 * row["window"] + 8)
        chosen = stretch[sample_frame_indices(len(stretch), num_frames=4, strategy="middle")]
        assert row["frame_times_s"] == pytest.approx(chosen / 8)
        inputs = processor([video.frames_uint8[chosen]], do_sample_frames=False, return_tensors="pt")
        with torch.no_grad():
            output = model.video_model.trajtok(**inputs)
        expected = output.trajectory_embeds[0, output.token_valid[0]].numpy()
        np.testing.assert_allclose(np.array(row["tokens"]), expected, **CLOSE)

    assert run(long_videos, checkpoint, out, *options) == 0
    assert "0 videos" in capsys.readouterr().out and len(open_tokens(out)) == 5
    assert run(long_videos, checkpoint, out, "--window-seconds", "2", *options[2:]) == 1
    assert "window_seconds 1.0, this run has 2.0" in capsys.readouterr().err


@pytest.mark.parametrize("batch_size", ["1", "8"])
def test_a_video_that_breaks_off_leaves_no_rows(long_videos, checkpoint, tmp_path, monkeypatch, batch_size):
    """Its first two windows have been tokenized, or wait for others, when that is known."""
    read = clip_reading.read_windows

    def read_until(video, *settings, **decoder):
        for number, windows in enumerate(read(video, *settings, **decoder)):
            yield from ([window] for window in windows)
            if "long" in Path(video).name and number == 1:
                raise ValueError(f"{video} breaks off after window {number}")

    monkeypatch.setattr(clip_reading, "read_windows", read_until)
    out = tmp_path / "tokens"
    assert run(long_videos, checkpoint, out, "--window-seconds", "1", "--batch-size", batch_size) == 0
    assert open_tokens(out)["name"] == ["blue/medium.mp4", "red/short.mp4"]
    bad = [json.loads(line) for line in (out / "bad_videos-00000.jsonl").read_text().splitlines()]
    assert [one["name"] for one in bad] == ["blue/torn.mp4", "red/long.mp4"] and "breaks off" in bad[1]["error"]


def test_rows_without_a_video_are_bad_videos(long_videos, checkpoint, tmp_path, capsys):
    rows = Dataset.from_dict({"video": [None, str(long_videos / "red" / "long.mp4"), ""]})
    rows.save_to_disk(tmp_path / "rows")
    for number, options in enumerate(([], ["--window-seconds", "1"])):
        assert run(tmp_path / "rows", checkpoint, tmp_path / f"tokens{number}", *options) == 0
        assert "000000000: NoneType is no video" in capsys.readouterr().err
        assert set(open_tokens(tmp_path / f"tokens{number}")["name"]) == {"000000001"}


def test_more_time_for_slow_files_is_no_other_setting(long_videos, checkpoint, tmp_path, capsys):
    slow = ["--decode-timeout-s", "0.001"]
    assert run(long_videos / "red", checkpoint, tmp_path / "tokens", *slow) == 1
    assert "did not end within 0.001 s" in capsys.readouterr().err
    assert run(long_videos / "red", checkpoint, tmp_path / "tokens", "--decode-timeout-s", "60") == 0
    assert len(open_tokens(tmp_path / "tokens")) == 2


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "four"])
def test_windows_have_a_length(seconds, checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, checkpoint, tmp_path / "tokens", "--window-seconds", seconds)
    assert "--window-seconds" in capsys.readouterr().err


def test_windows_need_a_number_of_frames(long_videos, checkpoint, tmp_path, capsys):
    processor = AutoProcessor.from_pretrained(checkpoint)
    processor.video_processor = AutoVideoProcessor.from_pretrained(checkpoint, fps=2.0)
    processor.save_pretrained(checkpoint)
    assert run(long_videos, checkpoint, tmp_path / "tokens", "--window-seconds", "1") == 1
    assert "samples with 'fps', expected a number of frames" in capsys.readouterr().err


def test_trajvit2_from_tokens(videos, checkpoint, tmp_path):
    out = tmp_path / "tokens"
    assert run(videos, checkpoint, out, "--dtype", "float32", "--batch-size", "3") == 0
    model, processor = TrajViT2Model.from_pretrained(checkpoint), AutoVideoProcessor.from_pretrained(checkpoint)
    rows = open_tokens(out, str(checkpoint))
    with torch.no_grad():
        found = model.get_video_features(**collate_tokens(rows)).pooler_output
        inputs = processor([str(videos / name) for name in NAMES], return_tensors="pt")
        expected = model.get_video_features(**inputs).pooler_output
    torch.testing.assert_close(found, expected, **CLOSE)
    # In half precision nearly so, in half the space.
    assert run(videos, checkpoint, tmp_path / "half") == 0
    with torch.no_grad():
        half = model.get_video_features(**collate_tokens(open_tokens(tmp_path / "half"))).pooler_output
    torch.testing.assert_close(half, expected, atol=2e-2, rtol=2e-2)
    table = pq.read_table(next((tmp_path / "half").glob("shard-*.parquet")))
    assert str(table.schema.field("tokens").type.value_type.value_type) == "halffloat"


def test_models_that_read_empty_trajectories_get_them(videos, checkpoint, tmp_path):
    """The released TrajViT2 attends to them, so clips of different scenes have the same number of tokens."""
    model = TrajViT2Model.from_pretrained(checkpoint)
    model.config.transformer_config.mask_empty_trajectories = False
    model.save_pretrained(checkpoint)
    assert run(videos, checkpoint, tmp_path / "tokens", "--dtype", "float32", "--masks") == 0
    rows = open_tokens(tmp_path / "tokens", model)
    model, processor = TrajViT2Model.from_pretrained(checkpoint), AutoVideoProcessor.from_pretrained(checkpoint)
    with torch.no_grad():
        inputs = processor([str(videos / name) for name in NAMES], return_tensors="pt")
        expected = model.get_video_features(**inputs)
        found = model.get_video_features(**collate_tokens(rows))
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, **CLOSE)
    assert torch.equal(found.token_valid, expected.token_valid) and not found.token_valid.all()


def test_a_model_in_bfloat16(videos, checkpoint, tmp_path, capsys):
    out = tmp_path / "tokens"
    options = ["--dtype", "float32", "--batch-size", "1"]  # roundings depend on the batch
    assert run(videos, checkpoint, out, *options, "--model-dtype", "bfloat16") == 0
    rows = open_tokens(out, str(checkpoint))
    model = TrajViT2Model.from_pretrained(checkpoint, dtype=torch.bfloat16)
    processor = AutoVideoProcessor.from_pretrained(checkpoint)
    for row in rows:
        inputs = processor(str(videos / row["name"]), return_tensors="pt")
        with torch.no_grad():
            output = model.video_model.trajtok(inputs["pixel_values_videos"].bfloat16(), inputs["frame_valid"])
        expected = output.trajectory_embeds[0, output.token_valid[0]].float()
        torch.testing.assert_close(torch.tensor(row["tokens"]), expected)
    assert run(videos, checkpoint, out, *options) == 1
    assert "model_dtype" in capsys.readouterr().err


def test_trajadapter_from_tokens(videos, tiny_config, tmp_path):
    vision = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 48, "patch_size": 8}
    trajtok = tiny_config.to_dict() | {"encoder_input_size": None, "encoder_output_size": None}
    config = TrajAdapterConfig(
        backbone_config=AutoConfig.for_model("dinov2", **vision), trajtok_config=trajtok, num_pooler_heads=2
    )
    model = TrajAdapterForVideoClassification(config).eval()
    model.save_pretrained(tmp_path / "model")
    processor = TrajTokVideoProcessor(size={"height": 48, "width": 48}, num_frames=3)
    processor.save_pretrained(tmp_path / "model")
    assert run(videos, tmp_path / "model", tmp_path / "tokens", "--dtype", "float32") == 0
    with torch.no_grad():
        found = model(**collate_tokens(open_tokens(tmp_path / "tokens"))).logits
        expected = model(**processor([str(videos / name) for name in NAMES], return_tensors="pt")).logits
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("kind", ["vlm_config", "trajvit2_config"])
def test_trajvlm_from_tokens(kind, videos, vlm_tokenizer, tmp_path, request):
    """Clips of 5 frames are two chunks; trajectories of the second have numbers of their own."""
    config = request.getfixturevalue(kind)
    TrajVLMForConditionalGeneration(config).save_pretrained(tmp_path / "model")
    TrajVLMProcessor.from_model_config(config, vlm_tokenizer, num_frames=5).save_pretrained(tmp_path / "model")
    assert run(videos, tmp_path / "model", tmp_path / "tokens", "--dtype", "float32") == 0
    model = TrajVLMForConditionalGeneration.from_pretrained(tmp_path / "model").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    rows = open_tokens(tmp_path / "tokens", str(tmp_path / "model"))
    question = "how many objects ?"
    for row in rows:
        [tokens] = video_features([row])["video"].pooler_output
        video = EncodedVideo((processor.video_token_id,) * len(tokens), tokens)
        [prompt] = video_prompts(processor, video, [question])
        content = [{"type": "video", "video": str(videos / row["name"])}, {"type": "text", "text": question}]
        expected = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
        with torch.no_grad():
            input_ids = torch.tensor([prompt.input_ids])
            found = model(input_ids=input_ids, mm_encoder_outputs=video_features([row])).logits
            torch.testing.assert_close(found, model(**expected).logits, **CLOSE)
        # A trajectory is in the frames of its chunk and in no other.
        for number, share, boxes in zip(row["trajectories"], row["area_shares"], row["boxes_xyxy_px"], strict=True):
            seen = {time_index // 3 for time_index, box in enumerate(boxes) if not np.isnan(box).any()}
            assert seen == ({number // 6} if share else set())
        assert sum(row["area_shares"]) == pytest.approx(1.0)
    chunks = {row["name"]: {number // 6 for number in row["trajectories"]} for row in rows}
    assert chunks == {"a/clip1.mp4": {0}, "a/clip3.mp4": {0}, "b/clip0.mp4": {0, 1}, "b/clip2.mp4": {0, 1}}


# --- going on --------------------------------------------------------------------------------------------------------


def command(videos, checkpoint, out, *options) -> list[str]:
    fixed = ["--model", str(checkpoint), "--out", str(out), "--clips-per-shard", "1", "--batch-size", "1"]
    return [str(SCRIPT), str(videos), *fixed, *options]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}


def test_killed_work_goes_on(videos, checkpoint, tmp_path, capsys):
    out = tmp_path / "tokens"
    process = subprocess.Popen(
        [sys.executable, *command(videos, checkpoint, out)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("shard-*.parquet")):
        assert process.poll() is None and time.monotonic() < deadline, "it ended before its first shard"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in out.glob("shard-*.parquet")}
    assert run(videos, checkpoint, out) == 0
    assert "; 0 videos were there before" not in capsys.readouterr().out
    assert open_tokens(out)["name"] == NAMES  # each once
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    assert run(videos, checkpoint, out) == 0
    assert "0 videos, 0 clips, 0 tokens" in capsys.readouterr().out


def test_two_processes_share_the_work(videos, checkpoint, tmp_path):
    out = tmp_path / "tokens"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, *command(videos, checkpoint, out)], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "4 videos" in done.stdout
    assert open_tokens(out)["name"] == NAMES
    assert {path.name.split("-")[1] for path in out.glob("shard-*.parquet")} == {"00000", "00001"}


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_full_disk_stops_the_work_cleanly(workers, videos, checkpoint, tmp_path):
    """A limit on the size of files stands for the disk (and for shared memory): the first shard finds no room."""
    out = tmp_path / "tokens"
    done = subprocess.run(
        [sys.executable, *command(videos, checkpoint, out, "--workers", workers, "--dtype", "float32")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert done.returncode == 1
    assert "there is no room for it" in done.stderr and "start the same command again" in done.stderr
    assert not list(out.glob("shard-*")) and not list(out.glob(".*.part"))
    bad = [json.loads(line)["name"] for file in out.glob("bad_videos-*") for line in file.read_text().splitlines()]
    assert set(bad) <= {"a/broken.mp4"}
    assert run(videos, checkpoint, out, "--dtype", "float32") == 0
    assert open_tokens(out)["name"] == NAMES


@pytest.mark.parametrize("window", [(), ("--window-seconds", "1", "--num-frames", "4")])
def test_a_machine_that_cannot_decode_calls_no_video_bad(window, videos, checkpoint, tmp_path, capsys, monkeypatch):
    out = tmp_path / "tokens"
    frame_decoding._passes_probe.cache_clear()
    for module in (media_container, decoder_backends):
        monkeypatch.setattr(module, "av", None)
    try:
        assert run(videos, checkpoint, out, *window) == 1
    finally:
        frame_decoding._passes_probe.cache_clear()
    told = capsys.readouterr().err
    assert "this machine could not read it (no video decoder works here: `pip install av` brings one along)" in told
    assert "What is finished stays; the same command goes on." in told
    assert sorted(path.name for path in out.iterdir()) == [".lock", "made_with.json"]


def test_a_second_run_in_the_same_folder_is_refused(videos, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(folder_locks, "PATIENCE_S", 0.1)
    out = tmp_path / "tokens"
    with folder_lock(out):
        assert run(videos, checkpoint, out) == 1
    assert f"{out} is in use by another process" in capsys.readouterr().err
    assert not list(out.glob("shard-*"))


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_tokens_of_another_checkpoint_are_refused(videos, checkpoint, save_trajvit2, tmp_path, capsys):
    out, other = tmp_path / "tokens", save_trajvit2(tmp_path / "other", ["red"], 40, seed=1)
    assert run(videos, checkpoint, out) == 0
    with pytest.raises(ValueError, match=r"made with model, the model is other: weights \w+ instead of \w+ make"):
        open_tokens(out, str(other))
    assert run(videos, other, out) == 1
    assert "were made with checkpoint" in capsys.readouterr().err
    assert run(videos, checkpoint, out, "--num-frames", "2") == 1
    assert "were made with processor" in capsys.readouterr().err
    with pytest.raises(ValueError, match="holds no shard"):
        open_tokens(tmp_path)


def test_what_was_trained_on_the_tokens_still_reads_them(videos, checkpoint, tmp_path, tiny_config):
    assert run(videos, checkpoint, tmp_path / "tokens", "--dtype", "float32") == 0
    model = TrajViT2Model.from_pretrained(checkpoint)
    with torch.no_grad():
        model.video_model.transformer.norm.weight += 1.0
    assert len(open_tokens(tmp_path / "tokens", model)) == 4
    assert len(open_tokens(tmp_path / "tokens", model.double())) == 4
    with torch.no_grad():
        next(model.video_model.trajtok.encoder.parameters()).add_(1.0)
    with pytest.raises(ValueError, match="weights"):
        open_tokens(tmp_path / "tokens", model)
    changed = TrajViT2Model.from_pretrained(checkpoint)
    changed.video_model.trajtok.config.num_neighbours = 3
    with pytest.raises(ValueError, match="settings"):
        open_tokens(tmp_path / "tokens", changed)


def test_other_videos_do_not_go_to_the_same_folder(videos, checkpoint, tmp_path, capsys):
    """Names are those of files or numbers of rows, so a second source would be taken for done."""
    column = [str(videos / "b" / "clip0.mp4")]
    for name, other in (("first", column), ("second", [str(videos / "a" / "clip3.mp4")])):
        Dataset.from_dict({"video": other}).save_to_disk(tmp_path / name)
    assert run(tmp_path / "first", checkpoint, tmp_path / "tokens") == 0
    assert run(tmp_path / "second", checkpoint, tmp_path / "tokens") == 1
    assert "were made with source first split=train" in capsys.readouterr().err
    assert run(tmp_path / "first", checkpoint, tmp_path / "tokens") == 0


@pytest.mark.parametrize("options", [[], ["--window-seconds", "0.625", "--num-frames", "2"]], ids=["whole", "windows"])
def test_streams_that_were_joined_are_one_video(videos, checkpoint, tmp_path, options):
    """Two streams one after the other, as `cat a.ts b.ts` makes them, each as long as a window."""
    joined = b""
    for name in ("b/clip0.mp4", "b/clip2.mp4"):
        with av.open(str(videos / name)) as source, av.open(str(tmp_path / "part.ts"), "w") as target:
            stream = target.add_stream("mpeg2video", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for frame in source.decode(video=0):
                target.mux(stream.encode(av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"), format="rgb24")))
            target.mux(stream.encode())
        joined += (tmp_path / "part.ts").read_bytes()
    (videos / "a" / "joined.ts").write_bytes(joined)
    assert run(videos, checkpoint, tmp_path / "tokens", *options) == 0
    rows = [row for row in open_tokens(tmp_path / "tokens") if row["name"] == "a/joined.ts"]
    assert len(rows) == (2 if options else 1)
    times_s = np.concatenate([row["frame_times_s"] for row in rows])
    assert (np.diff(times_s) > 0).all() and 0.625 < times_s[-1] < 1.25


def test_annotations_stay_with_their_videos(videos, checkpoint, tmp_path):
    assert run(videos, checkpoint, tmp_path / "folder") == 0
    told = [json.loads(row["annotations"]) for row in open_tokens(tmp_path / "folder")]
    assert told == [[{"label": "a"}]] * 2 + [[{"label": "b"}]] * 2
    manifest = videos / "list.json"
    entries = [
        {"video": "b/clip2.mp4", "caption": "x"},
        {"video": "a/clip1.mp4"},
        {"video": "b/clip2.mp4", "caption": "y"},
    ]
    manifest.write_text(json.dumps(entries))
    assert run(manifest, checkpoint, tmp_path / "manifest") == 0
    told = [json.loads(row["annotations"]) for row in open_tokens(tmp_path / "manifest")]
    assert told == [[{}], [{"caption": "x"}, {"caption": "y"}]]
    rows = {
        "video": [str(videos / "b" / "clip0.mp4"), str(videos / "a" / "clip1.mp4")],
        "kind": [1, -1],  # -1: no class
        "words": [["a", "b"], []],
        "image": [b"1", b"2"],
    }
    features = Features(
        {"video": Value("string"), "kind": ClassLabel(names=["red", "blue"]), "words": [Value("string")],
         "image": Value("binary")}
    )  # fmt: skip
    Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    assert run(tmp_path / "saved", checkpoint, tmp_path / "rows") == 0
    first, second = (json.loads(row["annotations"]) for row in open_tokens(tmp_path / "rows"))
    assert first == [{"kind": "blue", "words": ["a", "b"]}] and second == [{"kind": None, "words": []}]


def test_other_sources(videos, checkpoint, tmp_path):
    manifest = videos / "list.json"
    manifest.write_text(
        json.dumps([{"video": "b/clip2.mp4", "caption": "x"}, {"video": "a/clip1.mp4"}, {"video": "b/clip2.mp4"}])
    )
    found = list_videos(str(manifest))
    assert found.names == ["b/clip2.mp4", "a/clip1.mp4"]  # each once
    assert found.video(1) == str(videos / "a" / "clip1.mp4")
    lines = videos / "list.jsonl"
    lines.write_text('{"video": "a/clip1.mp4"}\n{"video": "b/clip0.mp4"}\n')
    assert run(lines, checkpoint, tmp_path / "lines") == 0
    assert open_tokens(tmp_path / "lines")["name"] == ["a/clip1.mp4", "b/clip0.mp4"]
    column = [str(videos / "b" / "clip0.mp4"), str(videos / "a" / "clip3.mp4")]
    Dataset.from_dict({"clip": column}).save_to_disk(tmp_path / "saved")
    assert run(tmp_path / "saved", checkpoint, tmp_path / "rows", "--column", "clip") == 0
    assert open_tokens(tmp_path / "rows")["name"] == ["000000000", "000000001"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("[]", "names no video"), ("{", "JSONDecodeError"), ('[{"clip": "a"}]', "KeyError: 'video'")],
)
def test_bad_manifests_are_refused(content, message, tmp_path, checkpoint, capsys):
    (tmp_path / "list.json").write_text(content)
    assert run(tmp_path / "list.json", checkpoint, tmp_path / "tokens") == 1
    assert message in capsys.readouterr().err


def test_no_videos_and_no_column(tmp_path, checkpoint, capsys):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", checkpoint, tmp_path / "tokens") == 1
    assert "holds no video, expected files such as" in capsys.readouterr().err
    Dataset.from_dict({"clip": ["a.mp4"]}).save_to_disk(tmp_path / "saved")
    assert run(tmp_path / "saved", checkpoint, tmp_path / "tokens") == 1
    assert "no column 'video', expected one of clip" in capsys.readouterr().err
