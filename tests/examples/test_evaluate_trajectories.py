"""The evaluation script on a few small clips, and its baselines."""

import json

import numpy as np
import pytest
from evaluate_trajectories import main, slic_supervoxels, uniform_cells
from plot_training_curve import main as plot
from trajectory_data import ClipRecord, write_clip

from modeling_trajtok import TrajTokModel, TrajTokVideoProcessor


def test_uniform_cells_are_a_grid_through_all_frames():
    cells = uniform_cells(np.zeros((2, 4, 8, 3), np.uint8), 8)
    assert cells[0].tolist() == cells[1].tolist()
    assert cells[0].tolist() == [[1, 1, 2, 2, 3, 3, 4, 4]] * 2 + [[5, 5, 6, 6, 7, 7, 8, 8]] * 2


def test_supervoxels_keep_to_one_colour_and_go_through_time():
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    frames[:, :, 14:] = 255
    segments = slic_supervoxels(frames, 4)
    assert len(np.unique(segments)) > 1
    for segment in np.unique(segments):
        assert len(np.unique(frames[segments == segment])) == 1
    assert len(np.unique(segments[:, 5, 5])) == 1


@pytest.fixture
def checkpoint(tiny_config, tmp_path):
    folder = tmp_path / "checkpoint"
    TrajTokModel(tiny_config).save_pretrained(folder)
    TrajTokVideoProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_clips_of_a_folder_are_judged_beside_the_baselines(checkpoint, tmp_path, capsys):
    rng = np.random.default_rng(0)
    ids = np.zeros((3, 32, 48), np.int16)
    ids[:, 8:20, 8:20] = 1
    for name in ("one", "two"):
        frames = rng.integers(0, 255, (3, 32, 48, 3), dtype=np.uint8)
        write_clip(ClipRecord(name, frames, ids, [0.0, 0.1, 0.2]), tmp_path / "data")
    record = tmp_path / "record.json"
    assert main([str(tmp_path / "data"), "--model", str(checkpoint), "--out", str(record)]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in ("2 clips", "TrajTok", "SLIC supervoxels", "uniform cells"))
    clips = json.loads(record.read_text())["clips"]
    assert [clip["clip"] for clip in clips] == ["one", "two"]
    assert 0 <= clips[0]["scores"]["TrajTok"]["mean_best_iou"] <= 1


def test_a_missing_folder_is_one_line(checkpoint, tmp_path, capsys):
    assert main([str(tmp_path / "nowhere"), "--model", str(checkpoint)]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_the_curve_of_a_run_becomes_a_picture(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    scores = {"held_out/fg_ari": 0.5, "held_out/ari": 0.4, "held_out/mean_best_iou": 0.3}
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, **scores}]
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert plot([str(run), str(run), "--out", str(tmp_path / "curve.png")]) == 0
    assert (tmp_path / "curve.png").stat().st_size > 5000
    assert plot([str(tmp_path), "--out", str(tmp_path / "no.png")]) == 1
    assert "metrics.jsonl" in capsys.readouterr().err
