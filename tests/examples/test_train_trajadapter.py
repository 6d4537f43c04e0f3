"""Training a probe on a frozen backbone: on worlds and on folders of classes, and what is saved of it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from train_trajadapter import main
from trajectory_data import ClipRecord, open_dataset, write_clip
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification, AutoVideoProcessor
from worlds import OBJECT_MOTIONS

RECIPE = """
backbone: {backbone}
model:
  num_pooler_heads: 2
  trajtok_config: {{backbone_config: {{depths: [1, 1, 1, 1], hidden_sizes: [8, 8, 8, 8]}}, hidden_size: 32,
                    num_attention_heads: 2, num_trajectories: 6, num_encoder_layers: 1, track_embedding: true}}
train: {{seed: 1, num_clips: 6, num_frames: 4, difficulty: easy}}
held_out: {{seed: 2, num_clips: 3, num_frames: 4, difficulty: easy}}
size_px: 32
num_frames: 4
batch_size: 4
num_steps: 4
warmup_steps: 1
num_workers: 0
checkpoint_every: 2
evaluate_every: 4
"""


@pytest.fixture
def recipe_path(tmp_path) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    AutoModel.from_config(AutoConfig.for_model("dinov2", **sizes)).save_pretrained(tmp_path / "backbone")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(backbone=tmp_path / "backbone"))
    return path


@pytest.fixture
def class_folders(tmp_path) -> Path:
    """Clips of squares at the left and at the right."""
    for number in range(6):
        frames = np.zeros((4, 32, 32, 3), np.uint8)
        side = 16 * (number % 2)
        frames[:, 8:24, side : side + 16] = 200
        clip = ClipRecord(f"{number}", frames, np.zeros(frames.shape[:3], np.int16), np.arange(4) / 4)
        write_clip(clip, tmp_path / "all")
        folder = tmp_path / "classes" / ("left", "right")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / f"{number}.mp4").rename(folder / f"{number}.mp4")
    return tmp_path / "classes"


def losses_of(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("probe", ["trajectories", "mean"])
def test_a_run_continues_and_its_head_classifies(probe, recipe_path, tmp_path):
    run, again = tmp_path / "run", tmp_path / "again"
    fixed = ["--recipe", str(recipe_path), "--cache", str(tmp_path / "clips"), f"model.probe={probe}"]
    assert main([*fixed, "--out", str(run)]) == 0
    kept = load_file(run / "checkpoints" / "step-2" / "model.safetensors")  # the backbone has files of its own
    assert any("classifier" in name for name in kept) and not any(".backbone.model." in name for name in kept)
    (again / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "step-2").rename(again / "checkpoints" / "step-2")
    assert main([*fixed, "--out", str(again)]) == 0
    assert losses_of(again) == pytest.approx(losses_of(run)[2:], abs=1e-6)

    model = AutoModelForVideoClassification.from_pretrained(run / "final").eval()
    assert list(model.config.id2label.values()) == list(OBJECT_MOTIONS)
    assert model.config.backbone_checkpoint == str(tmp_path / "backbone")
    processor = AutoVideoProcessor.from_pretrained(run / "final")
    assert processor.num_frames == 4 and processor.size["height"] == 32
    backbone = AutoModel.from_pretrained(tmp_path / "backbone").state_dict()
    frozen = model.adapter.backbone.model.state_dict()
    assert all(torch.equal(value, backbone[name]) for name, value in frozen.items())


def test_it_learns_the_classes_of_folders(recipe_path, class_folders, tmp_path):
    dataset = open_dataset(class_folders)
    assert dataset.layout == "class_folders" and len(dataset) == 6
    assert dataset[0].metadata == {"label": "left"} and dataset[5].metadata == {"label": "right"}
    change = [
        f"train.path={class_folders}",
        f"held_out.path={class_folders}",
        "held_out.num_clips=5",
        "num_steps=60",
        "learning_rate=0.005",
    ]
    change += ["checkpoint_every=60", "evaluate_every=60"]
    assert main(["--recipe", str(recipe_path), "--out", str(tmp_path / "run"), *change]) == 0
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["held_out/accuracy"] == 1.0 and last["held_out/clips"] == 5
    assert np.mean(losses_of(tmp_path / "run")[-5:]) < 0.5
    model = AutoModelForVideoClassification.from_pretrained(tmp_path / "run" / "final")
    assert model.config.id2label == {0: "left", 1: "right"}


def test_what_does_not_fit_is_one_line(recipe_path, class_folders, tmp_path, capsys):
    other = tmp_path / "other"
    for name in ("left", "up"):
        (other / name).mkdir(parents=True)
        (other / name / "1.mp4").write_bytes((class_folders / "left" / "0.mp4").read_bytes())
    fixed = ["--recipe", str(recipe_path), "--out", str(tmp_path / "run")]
    assert main([*fixed, f"train.path={class_folders}", f"held_out.path={other}"]) == 1
    assert "classes that are not trained: up. Expected some of the 2" in capsys.readouterr().err
    assert main([*fixed, "label=size"]) == 1
    assert "label is 'size', expected one of motion, shape, colour" in capsys.readouterr().err
    assert main([*fixed, "backbone=''"]) == 1
    assert "names no backbone" in capsys.readouterr().err
    assert main([*fixed, f"backbone={tmp_path / 'nothing'}"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "nothing" in error


def test_held_out_files_that_cannot_be_read(recipe_path, class_folders, tmp_path, capsys):
    held_out = tmp_path / "held_out"
    shutil.copytree(class_folders, held_out)
    (held_out / "left" / "9.mp4").write_bytes(b"no video")
    fixed = ["--recipe", str(recipe_path), f"train.path={class_folders}", f"held_out.path={held_out}"]
    fixed += ["held_out.num_clips=0"]
    assert main([*fixed, "--out", str(tmp_path / "strict")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "9.mp4" in error and "Set held_out.skip_bad=true" in error
    assert main([*fixed, "--out", str(tmp_path / "lenient"), "held_out.skip_bad=true"]) == 0
    last = json.loads((tmp_path / "lenient" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["held_out/clips"] == 6
