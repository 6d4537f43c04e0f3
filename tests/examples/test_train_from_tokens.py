"""Training on tokens: the gradients are those of training on videos, and every kind of model learns from a folder."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from token_data import collate_tokens, open_tokens, video_features
from tokenize_dataset import main as tokenize
from torch import Tensor, nn
from train_from_tokens import CaptionCollator, main
from trajectory_data import ClipRecord, write_clip
from transformers import (
    AutoConfig,
    AutoModelForVideoClassification,
    AutoProcessor,
    AutoTokenizer,
    AutoVideoProcessor,
    PreTrainedModel,
)

from modeling_trajtok import (
    TrajAdapterConfig,
    TrajAdapterForVideoClassification,
    TrajTokVideoProcessor,
    TrajViT2ForVideoClassification,
    TrajViT2Model,
    TrajVLMForConditionalGeneration,
    TrajVLMProcessor,
)

NAMES = [f"{side}/{number}.mp4" for side in ("left", "right") for number in range(2)]


@pytest.fixture
def videos(tmp_path) -> Path:
    """Two clips of squares at the left, two of squares at the right; captions and conversations about them."""
    folder = tmp_path / "videos"
    for name in NAMES:
        side, number = name.removesuffix(".mp4").split("/")
        frames = np.zeros((4, 48, 48, 3), np.uint8)
        x = 24 * (side == "right")
        frames[:, 8:32, x : x + 24] = 200 - 60 * int(number)
        clip = ClipRecord(number, frames, np.zeros(frames.shape[:3], np.int16), np.arange(4) / 4)
        write_clip(clip, folder / side)
    captions = [{"video": name, "caption": [f"red {name.split('/')[0]}", "red"]} for name in NAMES]
    (folder / "captions.json").write_text(json.dumps(captions))
    answer = {"role": "assistant", "content": "two"}
    messages = [{"role": "user", "content": "how many objects ?"}, answer]
    lines = [json.dumps({"video": name, "messages": messages}) for name in NAMES]
    (folder / "chat.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def trajvit2(save_trajvit2, tmp_path) -> Path:
    return save_trajvit2(tmp_path / "trajvit2", ["red", "left", "right"], 48)


@pytest.fixture
def trajadapter(tiny_config, tmp_path) -> Path:
    vision = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 48, "patch_size": 8}
    trajtok = tiny_config.to_dict() | {"encoder_input_size": None, "encoder_output_size": None}
    trajtok |= {"track_embedding": True}
    config = TrajAdapterConfig(
        backbone_config=AutoConfig.for_model("dinov2", **vision), trajtok_config=trajtok, num_pooler_heads=2
    )
    torch.manual_seed(0)
    TrajAdapterForVideoClassification(config).save_pretrained(tmp_path / "trajadapter")
    size = {"height": 48, "width": 48}
    TrajTokVideoProcessor(size=size, num_frames=3).save_pretrained(tmp_path / "trajadapter")
    return tmp_path / "trajadapter"


@pytest.fixture
def trajvlm(vlm_config, vlm_tokenizer, tmp_path) -> Path:
    TrajVLMForConditionalGeneration(vlm_config).save_pretrained(tmp_path / "trajvlm")
    TrajVLMProcessor.from_model_config(vlm_config, vlm_tokenizer, num_frames=3).save_pretrained(tmp_path / "trajvlm")
    return tmp_path / "trajvlm"


def tokens_of(source: Path, model: Path, out: Path) -> Path:
    assert (
        tokenize([str(source), "--model", str(model), "--out", str(out), "--dtype", "float32", "--workers", "0"]) == 0
    )
    return out


def gradients(model: PreTrainedModel, part: nn.Module, **inputs) -> list[Tensor]:
    model.eval().zero_grad()
    model(**inputs).loss.backward()
    found = [parameter.grad for parameter in part.parameters()]
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in found)
    return [torch.zeros(()) if gradient is None else gradient.clone() for gradient in found]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_heads_and_transformers_get_the_gradients_of_videos(videos, trajvit2, trajadapter, tmp_path):
    labels = torch.tensor([0, 0, 1, 1])
    adapter = TrajAdapterForVideoClassification.from_pretrained(trajadapter)
    vit = TrajViT2ForVideoClassification.from_pretrained(trajvit2)
    for model, folder, part in (
        (adapter, trajadapter, nn.ModuleList([adapter.adapter.pooler, adapter.classifier])),
        (vit, trajvit2, nn.ModuleList([vit.video_model.transformer, vit.classifier])),
    ):
        tokens = collate_tokens(open_tokens(tokens_of(videos, folder, tmp_path / f"{folder.name}-tokens"), model))
        pixels = AutoVideoProcessor.from_pretrained(folder)(
            [str(videos / name) for name in NAMES], return_tensors="pt"
        )
        assert_same(gradients(model, part, **tokens, labels=labels), gradients(model, part, **pixels, labels=labels))


def test_a_language_model_gets_the_gradients_of_videos(videos, trajvlm, tmp_path):
    model, processor = TrajVLMForConditionalGeneration.from_pretrained(trajvlm), AutoProcessor.from_pretrained(trajvlm)
    rows = open_tokens(tokens_of(videos / "chat.jsonl", trajvlm, tmp_path / "tokens"), model).select([1])
    content = [{"type": "video", "video": str(videos / NAMES[1])}, {"type": "text", "text": "how many objects ?"}]
    pixels = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt"
    )
    told = {"input_ids": pixels["input_ids"], "labels": pixels["input_ids"]}
    part = model.model.language_model.layers
    found = gradients(model, part, **told, mm_encoder_outputs=video_features(rows))
    assert_same(found, gradients(model, part, **pixels, labels=told["labels"]))


def test_a_head_learns_and_goes_on(videos, trajadapter, tmp_path, capsys):
    tokens = tokens_of(videos, trajadapter, tmp_path / "tokens")
    command = [str(tokens), "--model", str(trajadapter), "--out", str(tmp_path / "run"), "--held-out", str(tokens)]
    command += ["--batch-size", "4", "--learning-rate", "0.01"]
    assert main([*command, "--steps", "20"]) == 0
    assert "'eval_accuracy': 1.0" in capsys.readouterr().out
    before = TrajAdapterForVideoClassification.from_pretrained(trajadapter)
    after = AutoModelForVideoClassification.from_pretrained(tmp_path / "run" / "final").eval()
    assert after.config.id2label == {0: "left", 1: "right"}
    kept = before.adapter.trajtok.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in after.adapter.trajtok.state_dict().items())
    processor = AutoVideoProcessor.from_pretrained(tmp_path / "run" / "final")
    with torch.no_grad():
        logits = after(**processor([str(videos / name) for name in NAMES], return_tensors="pt")).logits
    assert logits.argmax(-1).tolist() == [0, 0, 1, 1]  # of the videos themselves
    assert main([*command, "--steps", "24"]) == 0
    state = json.loads((tmp_path / "run" / "checkpoint-24" / "trainer_state.json").read_text())
    assert state["global_step"] == 24 and any(line["step"] == 20 for line in state["log_history"])


def test_all_of_a_small_held_out_set_is_judged(videos, trajadapter, tmp_path, capsys):
    """Classes are numbers here, as data sets have them."""
    labelled = [{"video": name, "label": number // 2} for number, name in enumerate(NAMES)]
    (videos / "labels.jsonl").write_text("\n\n".join(json.dumps(entry) for entry in labelled))
    tokens = tokens_of(videos / "labels.jsonl", trajadapter, tmp_path / "tokens")
    (videos / "few.json").write_text(json.dumps(labelled[1:]))
    few = tokens_of(videos / "few.json", trajadapter, tmp_path / "few")
    command = [str(tokens), "--model", str(trajadapter), "--out", str(tmp_path / "run"), "--held-out", str(few)]
    assert main([*command, "--batch-size", "32", "--steps", "2"]) == 0
    found = re.search(r"'eval_accuracy': ([\d.]+)", capsys.readouterr().out)
    assert float(found[1]) * 3 == pytest.approx(round(float(found[1]) * 3), abs=1e-3)  # of three clips
    state = json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["global_step"] == 2


def test_windows_of_a_video_are_not_each_other_s_negatives(videos, trajvit2):
    tokens = {"tokens": np.zeros((2, 4), np.float32), "token_valid": [True, True]}
    caption = json.dumps([{"caption": "red"}])
    rows = [{"name": name, "annotations": caption, **tokens} for name in ("a.mp4", "a.mp4", "b.mp4")]
    batch = CaptionCollator(AutoTokenizer.from_pretrained(trajvit2))(rows)
    first, second, other = batch["idx"].tolist()
    assert first == second != other


def test_captions_and_conversations(videos, trajvit2, trajvlm, tmp_path, capsys):
    for folder, source, auto in (
        (trajvit2, videos / "captions.json", TrajViT2Model),
        (trajvlm, videos / "chat.jsonl", TrajVLMForConditionalGeneration),
    ):
        tokens, out = tokens_of(source, folder, tmp_path / f"{folder.name}-tokens"), tmp_path / f"{folder.name}-run"
        command = [str(tokens), "--model", str(folder), "--out", str(out), "--held-out", str(tokens)]
        assert main([*command, "--batch-size", "2", "--steps", "12", "--learning-rate", "0.01"]) == 0
        state = json.loads((out / "checkpoint-12" / "trainer_state.json").read_text())
        held_out = [line["eval_loss"] for line in state["log_history"] if "eval_loss" in line]
        assert held_out[-1] < held_out[0]
        assert len(open_tokens(tokens, auto.from_pretrained(out / "final"))) == 4
        AutoProcessor.from_pretrained(out / "final")


def test_what_does_not_fit_is_one_line(videos, trajvit2, trajadapter, save_trajvit2, tmp_path, capsys):
    tokens = tokens_of(videos / "captions.json", trajvit2, tmp_path / "tokens")

    def error_of(*command) -> str:
        assert main([str(tokens), "--out", str(tmp_path / "run"), *map(str, command)]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        return error

    other = save_trajvit2(tmp_path / "other", ["red"], 48, seed=1)
    assert "were made with trajvit2, the model is other" in error_of("--model", other)
    assert "have no 'label' among their annotations" in error_of("--model", trajvit2, "--classify")
    assert "nowhere" in error_of("--model", tmp_path / "nowhere")
    folders = tokens_of(videos, trajvit2, tmp_path / "labelled")
    (videos / "left").rename(videos / "up")
    renamed = tokens_of(videos, trajvit2, tmp_path / "renamed")
    assert main([str(folders), "--out", str(tmp_path / "run"), "--model", str(trajvit2), "--classify",
                 "--held-out", str(renamed)]) == 1  # fmt: skip
    assert "classes that are not trained: up. Expected some of the 2" in capsys.readouterr().err
