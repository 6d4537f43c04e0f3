"""LoRA from the command line: a small adapter, the same answers merged, and no other base."""

import pytest
import torch
from evaluation.question_evaluation import answer_questions
from finetune_trajvlm_lora import BASE_RECORD, load_adapted, main
from safetensors.torch import load_file
from training.clip_cache import open_clips
from training.recipe import ClipSource
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_trajtok import TrajVLMForConditionalGeneration, TrajVLMProcessor

RECIPE = """
train: {seed: 1, num_clips: 4, num_frames: 4, difficulty: eventful}
held_out: {seed: 2, num_clips: 2, num_frames: 4, difficulty: eventful}
size_px: 48
num_frames: 4
batch_size: 4
accumulation_steps: 2
num_steps: 3
learning_rate: 0.02
warmup_steps: 1
questions_per_clip: 2
lora_rank: 2
gradient_checkpointing: true
merge: true
num_workers: 0
checkpoint_every: 3
evaluate_every: 3
"""


@pytest.fixture
def base(vlm_config, vlm_tokenizer, tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "base"
    TrajVLMForConditionalGeneration(vlm_config).save_pretrained(folder)
    TrajVLMProcessor.from_model_config(vlm_config, vlm_tokenizer, num_frames=4).save_pretrained(folder)
    return folder


def test_an_adapter_is_trained_saved_and_merged(base, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    out = tmp_path / "run"
    arguments = ["--recipe", str(tmp_path / "recipe.yaml"), "--out", str(out), f"initial_checkpoint={base}"]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert "before" in table and "colour" in table and "order_of_events" in table

    trained = load_file(out / "final" / "adapter_model.safetensors")
    assert all(".lora_" in name or ".connector." in name for name in trained)
    adapted = load_adapted(str(base), out / "final").eval()
    merged = AutoModelForImageTextToText.from_pretrained(out / "merged").eval()
    plain = AutoModelForImageTextToText.from_pretrained(base).eval()
    processor = AutoProcessor.from_pretrained(out / "merged")
    clip = open_clips(ClipSource(seed=3, num_clips=1, num_frames=4, difficulty="eventful"), 48)[0]
    asked = ["What colour is the object?", "How many objects?", "two or three ?"]
    answers = [answer_questions(model, processor, clip.frames_uint8, asked) for model in (adapted, merged, plain)]
    assert answers[0] == answers[1]
    words = torch.tensor([[8, 9, 10, 11]])
    with torch.no_grad():
        torch.testing.assert_close(adapted(words).logits, merged(words).logits, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(adapted(words).logits, plain(words).logits, atol=1e-3)

    with torch.no_grad():
        plain.lm_head.weight.add_(1.0)
    plain.save_pretrained(tmp_path / "other")
    assert (out / "final" / BASE_RECORD).is_file()
    with pytest.raises(ValueError, match="Load it with the model that it was trained on"):
        load_adapted(str(tmp_path / "other"), out / "final")


def test_a_base_is_needed(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    assert main(["--recipe", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]) == 1
    assert "names no initial_checkpoint" in capsys.readouterr().err
