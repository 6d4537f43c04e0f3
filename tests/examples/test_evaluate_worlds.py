"""The script that judges shipped checkpoints on worlds, with small ones of both kinds."""

import json

import pytest
from evaluate_worlds import CHECKPOINT, main

from modeling_trajtok import TrajVLMForConditionalGeneration, TrajVLMProcessor

SHIPPED = CHECKPOINT.parent / "trajvlm-tiny"


def test_a_trajvit2_is_judged_by_captions(save_trajvit2, tmp_path, capsys):
    folder, record = save_trajvit2(tmp_path / "model", ["red", "star", "moves"], 32), tmp_path / "record.json"
    assert main(["--model", str(folder), "--worlds", "4", "--out", str(record)]) == 0
    assert "4 easy worlds, 3 of 3 frames" in capsys.readouterr().out
    found = json.loads(record.read_text())
    assert 0 <= found["scores"]["zero_shot_top1"] <= 1 and found["settings"]["difficulty"] == "easy"


def test_a_trajvlm_is_judged_by_its_answers(vlm_config, vlm_tokenizer, tmp_path, capsys):
    TrajVLMForConditionalGeneration(vlm_config).save_pretrained(tmp_path / "model")
    processor = TrajVLMProcessor.from_model_config(vlm_config, vlm_tokenizer, num_frames=3)
    processor.save_pretrained(tmp_path / "model")
    record = tmp_path / "record.json"
    options = ["--worlds", "3", "--world-frames", "6", "--out", str(record)]
    assert main(["--model", str(tmp_path / "model"), *options]) == 0
    assert "3 eventful worlds, 3 of 6 frames" in capsys.readouterr().out
    scores = json.loads(record.read_text())["scores"]
    assert scores["clips"] == 3
    kinds = [name for name in scores if name.startswith("exact_match/")]
    assert scores["exact_match"] == pytest.approx(sum(scores[kind] for kind in kinds) / len(kinds))
    assert all(0 < scores[kind.replace("exact_match", "majority")] <= 1 for kind in kinds)


def test_no_checkpoint_is_one_line(tmp_path, capsys):
    assert main(["--model", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_the_shipped_trajvlm_answers(tmp_path, capsys):
    record = tmp_path / "record.json"
    assert main(["--model", str(SHIPPED), "--worlds", "12", "--out", str(record)]) == 0
    scores = json.loads(record.read_text())["scores"]
    assert scores["exact_match"] > 0.6 and scores["exact_match/colour"] > 0.7
