"""The demo: every file it promises, numbers that agree with each other, and failures that lose nothing else."""

import hashlib
import json

import demo
import numpy as np
import pytest
import torch
from evaluation import video_labels
from evaluation.checkpoint_limits import SHIPPED, WORLDS_ONLY_NOTE, unknown_words
from evaluation.video_labels import NONE_FITS, VideoLabels
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer
from worlds import WorldConfig, render_world

from modeling_trajtok import TrajTokModel, TrajTokVideoProcessor, TrajViT2Model, TrajViT2Processor
from modeling_trajtok.processors import decode_coco_rle, decode_video
from modeling_trajtok.processors.trajectory_drawing import write_video

RESULT_FILES = {
    "overlay.mp4",
    "contact_sheet.png",
    "tracks_rle.json",
    "tracks_mot.txt",
    "tokens.safetensors",
    "manifest.json",
}


@pytest.fixture
def checkpoint(tmp_path, tiny_config):
    torch.manual_seed(0)
    folder = tmp_path / "checkpoint"
    TrajTokModel(tiny_config).save_pretrained(folder)
    TrajTokVideoProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.fixture
def clip_checkpoint(tmp_path, save_trajvit2):
    return save_trajvit2(tmp_path / "clip_checkpoint", ["a", "red", "blue", "star", "moves", "left", "right"], 64)


@pytest.fixture
def run(checkpoint, tmp_path, monkeypatch):
    """run(*videos and options) -> exit status; 4 frames of 64 px, results in tmp_path/out, no default labels."""
    monkeypatch.setattr(demo, "CLIP_CHECKPOINT", tmp_path / "no_clip_checkpoint")

    def demo_main(*arguments):
        fixed = ["--model", checkpoint, "--out", tmp_path / "out", "--num-frames", 4, "--size", 64]
        return demo.main([str(argument) for argument in (*fixed, *arguments)])

    return demo_main


@pytest.fixture
def clip(tmp_path):
    """clip(name) writes a video of 6 frames, 48 x 80 px, 10 per second."""

    def write(name):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        write_video(path, render_world(0, 0, WorldConfig(num_frames=6, height=48, width=80)).frames_uint8, fps=10)
        return path

    return write


def names_in(folder):
    return {path.name for path in folder.iterdir()} - {".lock"}


def manifest_in(folder):
    return json.loads((folder / "manifest.json").read_text())


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_without_a_video_the_demo_writes_a_world_and_tokenizes_it(run, tmp_path, capsys):
    assert run() == 0
    out = tmp_path / "out"
    assert names_in(out) == RESULT_FILES | {"world.mp4"}
    assert decode_video(out / "world.mp4").frames_uint8.shape == (32, 256, 256, 3)
    table = capsys.readouterr().out.splitlines()
    results = manifest_in(out)["results"]
    assert table[0].split() == list(results)
    assert table[1].split() == [str(value) for value in results.values()]


def test_the_files_of_a_video_agree_with_each_other(run, clip, checkpoint, tmp_path):
    video = clip("clip.mp4")
    assert run(video, "--min-area-fraction", 0) == 0
    out = tmp_path / "out"
    manifest = manifest_in(out)
    assert manifest["input"] == {"name": str(video), "sha256": sha256(video), "size_hw": [48, 80]}
    assert manifest["frame_indices"] == [0, 1, 3, 4]
    np.testing.assert_allclose(manifest["frame_times_s"], [0, 0.1, 0.3, 0.4])
    assert manifest["checkpoint"]["sha256"]["model.safetensors"] == sha256(checkpoint / "model.safetensors")
    assert manifest["checkpoint"]["sha256"]["config.json"] == sha256(checkpoint / "config.json")

    tokens, results = load_file(out / "tokens.safetensors"), manifest["results"]
    assert tokens["trajectory_embeds"].shape == (12, 48)  # K 6, L 2, D 48
    assert tokens["trajectory_ids"].shape == (4, 16, 24)  # sides of 64 and 96 px, in patches of 4
    assert results["patches"] == 4 * 16 * 24
    assert results["tokens"] == int(tokens["token_valid"].sum())
    assert results["trajectories"] == len(tokens["trajectory_ids"].unique()) == results["tokens"] // 2
    assert results["patches_per_token"] == pytest.approx(results["patches"] / results["tokens"], abs=0.05)

    tracks = json.loads((out / "tracks_rle.json").read_text())
    owners = sum(decode_coco_rle(code).astype(int) for masks in tracks["masks"] for code in masks)
    assert owners.shape == (48, 80)
    assert (owners == 4).all()  # in each of the 4 frames each pixel has one owner
    assert len(tracks["ids"]) == len(tracks["masks"]) == results["drawn"]
    boxes = [line.split(",") for line in (out / "tracks_mot.txt").read_text().splitlines()]
    assert {int(box[1]) for box in boxes} == set(tracks["ids"])
    assert {int(box[0]) for box in boxes} == {1, 2, 4, 5}

    overlay = decode_video(out / "overlay.mp4")
    assert overlay.frames_uint8.shape == (4, 48, 80, 3)
    assert overlay.source_fps == pytest.approx(7.5, rel=0.01)  # 3 steps in 0.4 s
    assert Image.open(out / "contact_sheet.png").width > 4 * 240


def test_an_overlay_holds_what_the_video_holds(run, tmp_path):
    frames = render_world(0, 0, WorldConfig(num_frames=4, height=48, width=80)).frames_uint8
    times_s = np.array([0.0, 0.1, 0.2, 2.0])
    write_video(tmp_path / "held.mp4", frames, 10, frame_times_s=times_s)
    assert run(tmp_path / "held.mp4") == 0
    manifest, overlay = manifest_in(tmp_path / "out"), decode_video(tmp_path / "out" / "overlay.mp4")
    np.testing.assert_allclose(manifest["frame_times_s"], times_s, atol=1e-6)
    # 1.5 frames per second are shown as 4.
    np.testing.assert_allclose(overlay.frame_times_s, times_s * 1.5 / 4, atol=1e-4)


def test_size_of_two_numbers_is_height_and_width(run, clip, tmp_path):
    assert run(clip("clip.mp4"), "--size", "96x64") == 0
    assert load_file(tmp_path / "out" / "tokens.safetensors")["trajectory_ids"].shape == (4, 24, 16)


def test_small_trajectories_are_counted_but_not_drawn(run, clip, tmp_path):
    assert run(clip("clip.mp4"), "--min-area-fraction", 0.9) == 0
    results = manifest_in(tmp_path / "out")["results"]
    assert results["drawn"] == 1 < results["trajectories"]


def test_a_bad_video_is_named_on_one_line_and_the_others_go_on(run, clip, tmp_path, capfd):
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    assert run(clip("first.mp4"), text, tmp_path / "missing.mp4", clip("last.mp4")) == 1
    out = tmp_path / "out"
    assert names_in(out) == {"first", "last"}
    assert names_in(out / "first") == names_in(out / "last") == RESULT_FILES
    printed, complaints = capfd.readouterr()
    errors = [line for line in complaints.splitlines() if line.startswith("error: ")]
    assert [str(text) in errors[0], str(tmp_path / "missing.mp4") in errors[1], len(errors)] == [True, True, 2]
    assert "ffmpeg" in errors[0]
    assert "Check the path" in errors[1]
    assert "2 of 4 videos failed" in complaints
    assert "Traceback" not in complaints
    assert [line.split()[0] for line in printed.splitlines()[1:3]] == ["first.mp4", "last.mp4"]


def test_videos_of_one_stem_do_not_share_a_folder(run, clip, tmp_path):
    assert run(clip("a/clip.mp4"), clip("b/clip.mp4")) == 0
    assert names_in(tmp_path / "out") == {"1-clip", "2-clip"}


def test_a_manifest_never_stands_beside_files_of_another_run(run, clip, tmp_path, capfd):
    video = clip("clip.mp4")
    assert run(video) == 0
    sheet = tmp_path / "out" / "contact_sheet.png"
    sheet.unlink()
    sheet.mkdir()
    assert run(video) == 1
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert str(sheet) in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["missing", "of another model"])
def test_a_bad_checkpoint_is_an_error_on_one_line(run, clip, checkpoint, tmp_path, capfd, kind):
    if kind == "missing":
        model = tmp_path / "nowhere"
    else:
        model = checkpoint
        (model / "config.json").write_text('{"model_type": "trajtok", "hidden_size": 64}')
    assert run(clip("clip.mp4"), "--model", model) == 1
    complaint = capfd.readouterr().err.splitlines()[-1]
    assert complaint.startswith(f"error: {model}: no TrajTok checkpoint can be read; pass --model FOLDER.")


@pytest.fixture
def one_label_fits(monkeypatch):
    """one_label_fits(cosine): the small checkpoints count as shipped ones, and labels fit from this cosine on."""

    def pretend(cosine):
        monkeypatch.setattr(video_labels, "SHIPPED_FITS_FROM", cosine)
        monkeypatch.setattr(video_labels, "knows_worlds_only", lambda *_records: True)

    return pretend


def test_labels_are_scored_by_their_cosines_with_the_video(run, clip, clip_checkpoint, tmp_path, capsys):
    labels, out = ["a red star moves left", "a blue star", "moves right"], tmp_path / "out"
    assert run(clip("clip.mp4"), "--clip-model", clip_checkpoint, "--labels", *labels) == 0
    assert names_in(out) == RESULT_FILES | {"labels.png", "labels.json"}
    record = json.loads((out / "labels.json").read_text())
    assert record["checkpoint"]["sha256"]["model.safetensors"] == sha256(clip_checkpoint / "model.safetensors")

    model = TrajViT2Model.from_pretrained(clip_checkpoint).eval()
    processor = TrajViT2Processor.from_pretrained(clip_checkpoint)
    read = decode_video(tmp_path / "clip.mp4").frames_uint8[[0, 1, 3, 4]]
    videos = processor.video_processor(read, num_frames=3, return_tensors="pt")
    texts = processor.tokenizer(labels, padding=True, return_tensors="pt")
    with torch.no_grad():
        video_embeds = model.get_video_features(**videos).pooler_output
        text_embeds = model.get_text_features(texts["input_ids"], texts["attention_mask"]).pooler_output
    expected = dict(zip(labels, (text_embeds @ video_embeds[0]).tolist(), strict=True))
    cosines = {entry["label"]: entry["cosine"] for entry in record["labels"]}
    assert cosines == pytest.approx(expected, abs=1e-4)
    assert list(cosines) == sorted(labels, key=lambda label: -expected[label])

    best = max(expected, key=expected.get)
    results = manifest_in(out)["results"]
    assert results["label"] == record["answer"] == best  # nobody has measured from where on this model's labels fit
    assert record["fits_from_cosine"] is None
    assert results["label_cosine"] == pytest.approx(expected[best], abs=6e-3)
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].endswith(best)
    assert WORLDS_ONLY_NOTE not in printed
    assert manifest_in(out)["clip_checkpoint"] == record["checkpoint"]


@pytest.mark.parametrize("fits", [True, False])
def test_a_low_cosine_is_no_answer(run, clip, clip_checkpoint, one_label_fits, tmp_path, fits):
    one_label_fits(-1.0 if fits else 1.0)
    assert run(clip("clip.mp4"), "--clip-model", clip_checkpoint, "--labels", "a red star", "moves left") == 0
    record = json.loads((tmp_path / "out" / "labels.json").read_text())
    best = record["labels"][0]["label"]
    assert record["answer"] == manifest_in(tmp_path / "out")["results"]["label"] == (best if fits else NONE_FITS)


def test_labels_with_words_that_the_checkpoint_never_read_are_named_and_not_scored(
    run, clip, clip_checkpoint, one_label_fits, tmp_path, capsys
):
    one_label_fits(-1.0)
    out, labels = tmp_path / "out", ["a dog moves left", "a red star", "two dogs"]
    assert run(clip("clip.mp4"), "--clip-model", clip_checkpoint, "--labels", *labels) == 0
    record = json.loads((out / "labels.json").read_text())
    assert [entry["label"] for entry in record["labels"]] == ["a red star"]
    assert record["not_scored"] == [
        {"label": "a dog moves left", "unknown_words": ["dog"]},
        {"label": "two dogs", "unknown_words": ["two", "dogs"]},
    ]
    told = capsys.readouterr().err
    assert 'not scored: "a dog moves left": the checkpoint never read: dog.' in told

    assert run(clip("clip.mp4"), "--clip-model", clip_checkpoint, "--labels", "a dog") == 0
    assert names_in(out) == RESULT_FILES | {"labels.json"}
    assert json.loads((out / "labels.json").read_text())["answer"] == NONE_FITS


def test_bars_are_as_long_as_the_cosines_and_grey_where_they_do_not_fit():
    cosines = {"long " * 40: 0.75, "b": 0.25, "c": -0.5}
    labels = VideoLabels([{"label": label, "cosine": cosine} for label, cosine in cosines.items()], fits_from=0.9)
    for fits_from, colours in ((None, [demo.BAR_COLOUR] * 2), (0.5, [demo.BAR_COLOUR, demo.WEAK_COLOUR])):
        labels.fits_from = fits_from
        chart = np.asarray(demo.draw_label_chart(labels))
        lengths = []
        for colour in dict.fromkeys(colours):
            lengths += [int(length) for length in (chart == colour).all(axis=2).sum(axis=1) if length > 20]
        line = 1 if fits_from is not None else 0  # where labels begin to fit, across the first bar
        assert lengths == [240 - line] * demo.BAR_HEIGHT_PX + [80] * demo.BAR_HEIGHT_PX
        assert chart.shape[1] < 1400  # long labels are cut
    left_of_bars = chart[:, : np.flatnonzero((chart == demo.BAR_COLOUR).all(axis=2).any(axis=0))[0] - 4]
    rows = [slice(8 + 26 * row, 8 + 26 * row + demo.BAR_HEIGHT_PX) for row in range(3)]
    assert all((left_of_bars[row] < 100).any() for row in rows)  # each has its label


def test_the_default_world_is_labelled_by_its_true_caption_among_false_ones(run, clip_checkpoint, tmp_path):
    assert run("--clip-model", clip_checkpoint) == 0
    labels = [entry["label"] for entry in json.loads((tmp_path / "out" / "labels.json").read_text())["labels"]]
    assert len(set(labels)) == 1 + demo.NUM_FALSE_CAPTIONS
    world = render_world(**demo.DEFAULT_WORLD)
    assert labels.count("Four objects: the largest, a white pentagon, moves up.") == 1
    assert len(world.objects) == 4 and world.captions[0] == "A white pentagon moves up."


def test_the_shipped_checkpoints_answer_the_default_world_and_say_what_they_know(tmp_path, shared_data, capsys):
    assert demo.main(["--num-frames", "4", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "labels.json").read_text())
    assert record["answer"] == "Four objects: the largest, a white pentagon, moves up."
    assert len(record["labels"]) == 1 + demo.NUM_FALSE_CAPTIONS and record["not_scored"] == []
    assert record["labels"][0]["cosine"] >= record["fits_from_cosine"] > record["labels"][1]["cosine"]
    assert capsys.readouterr().out.splitlines()[-1] == WORLDS_ONLY_NOTE

    dog = str(shared_data / "clips/sam2/01_dog.mp4")
    texts = ["Two objects: the largest, a red star, grows.", "A red star moves left."]
    assert demo.main([dog, "--num-frames", "2", "--out", str(tmp_path), "--labels", "a dog runs", *texts]) == 0
    record = json.loads((tmp_path / "labels.json").read_text())
    assert record["answer"] == manifest_in(tmp_path)["results"]["label"] == NONE_FITS
    assert record["not_scored"] == [{"label": "a dog runs", "unknown_words": ["dog", "runs"]}]
    assert capsys.readouterr().out.splitlines()[-1] == WORLDS_ONLY_NOTE


def test_every_shipped_checkpoint_is_known_by_its_weights():
    folders = [path.parent for path in (demo.REPOSITORY / "checkpoints").glob("*/model.safetensors")]
    assert {sha256(folder / "model.safetensors"): folder.name for folder in folders} == SHIPPED


def test_words_that_are_read_in_pieces_or_not_at_all_are_unknown(clip_checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(demo.CLIP_CHECKPOINT)
    assert unknown_words(tokenizer, "Two red stars: the star, a dog-like star, and a Dog move COUNTER-clockwise.") == [
        "stars",
        "dog",
        "like",
        "Dog",
    ]
    assert unknown_words(tokenizer, "Five objects, one object: six; three") == []
    small = TrajViT2Processor.from_pretrained(clip_checkpoint).tokenizer  # no pieces at all, only [UNK]
    assert unknown_words(small, "A Red star sings") == ["sings"]


def test_own_videos_have_labels_only_if_texts_are_given(run, clip, clip_checkpoint, tmp_path, capsys):
    video = clip("clip.mp4")
    assert run(video, "--clip-model", clip_checkpoint, "--labels", "a red star", "a blue star") == 0
    assert (tmp_path / "out" / "labels.png").exists()
    assert run(video) == 0
    assert names_in(tmp_path / "out") == RESULT_FILES  # none of the run before
    assert "labels are left out" not in capsys.readouterr().err
    assert run(video, "--labels", "a red star") == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "labels are left out" in line]
    assert len(notes) == 1
    assert str(demo.CLIP_CHECKPOINT) in notes[0]
    assert manifest_in(tmp_path / "out")["clip_checkpoint"] is None
    assert run(video, "--clip-model", clip_checkpoint) == 1
    assert "expected texts after --labels" in capsys.readouterr().err.splitlines()[-1]


def test_a_bad_clip_model_or_an_empty_label_is_an_error_on_one_line(run, clip, checkpoint, tmp_path, capfd):
    video = clip("clip.mp4")
    assert run(video, "--clip-model", checkpoint, "--labels", "a") == 1  # a TrajTok
    complaint = capfd.readouterr().err.splitlines()[-1]
    assert complaint.startswith(f"error: {checkpoint}: no TrajViT2 checkpoint can be read; pass --clip-model FOLDER.")
    assert run(video, "--labels", "a red star", " ") == 1
    assert "--labels is empty" in capfd.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
