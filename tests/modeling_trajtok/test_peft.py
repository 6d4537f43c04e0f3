"""Adapters of PEFT on every Linear of every model: what is trained, merged and loaded again gives the same numbers."""

import copy
import re
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, Dinov2Model
from transformers.utils import logging

from modeling_trajtok import (
    TrajAdapterConfig,
    TrajAdapterForVideoClassification,
    TrajTokModel,
    TrajTokSegmenterModel,
    TrajViT2Config,
    TrajViT2ForVideoClassification,
    TrajViT2Model,
    TrajVLMForConditionalGeneration,
)

CLOSE = {"atol": 1e-4, "rtol": 2e-4}
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
BACKBONES = {
    "dinov2": {"image_size": 32, "patch_size": 8},
    "vit": {"image_size": 32, "patch_size": 8},  # has a pooler
    "siglip_vision_model": {"image_size": 32, "patch_size": 8},  # has a head of attention
    "vjepa2": {"crop_size": 32, "patch_size": 8, "frames_per_clip": 4, "mlp_ratio": 1, "pred_hidden_size": 24,
               "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2},
}  # fmt: skip


IN_BACKBONE = r".*backbone\..*\.(query|q_proj)"


class Case(NamedTuple):
    """A model, a call that has a loss for everything, what is compared, and parts that no gradient reaches."""

    model: nn.Module
    inputs: dict
    loss_of: Callable
    result_of: Callable
    without_gradient: tuple[str, ...] = ()


def clips(frames: int = 4, size: tuple[int, int] = (32, 32)) -> Tensor:
    return torch.randn(2, frames, 3, *size, generator=torch.Generator().manual_seed(1))


def labels_of(pixels: Tensor) -> Tensor:
    shape = (*pixels.shape[:2], *pixels.shape[3:])
    return torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(2))


def trajvit2_config(tiny_config, **changes) -> TrajViT2Config:
    return TrajViT2Config(
        trajtok_config=tiny_config.to_dict()
        | {"encoder_output_size": 24, "track_embedding": True, "outline_embedding": True},
        transformer_config={**SIZES, "initializer_range": 0.2},
        text_config={"model_type": "bert", "vocab_size": 40, "max_position_embeddings": 12, **SIZES},
        projection_dim=20,
        initializer_range=0.2,
        **changes,
    )


def adapter_config(tiny_config, kind: str = "dinov2") -> TrajAdapterConfig:
    return TrajAdapterConfig(
        backbone_config=AutoConfig.for_model(kind, **SIZES | BACKBONES[kind]),
        trajtok_config=tiny_config.to_dict() | {"encoder_output_size": None},
        num_pooler_heads=3,
        num_labels=3,
        initializer_range=0.2,
    )


def build(name: str, tiny_config, vlm_config, vlm_tokenizer) -> Case:
    torch.manual_seed(0)
    pixels = clips()
    learnt = {"trajectory_labels": labels_of(pixels), "output_high_res": True}
    if name in ("trajtok", "segmenter"):
        model = {"trajtok": TrajTokModel, "segmenter": TrajTokSegmenterModel}[name](tiny_config)

        def loss_of(output):
            return output.loss + (0 if output.trajectory_embeds is None else output.trajectory_embeds.square().sum())

        return Case(model, {"pixel_values_videos": pixels, **learnt}, loss_of, lambda output: output.assignment_logits)
    targets = {"target_trajectory_ids": labels_of(pixels)}
    if name == "trajvit2":
        texts = {"input_ids": torch.arange(1, 15).view(2, 7), "return_loss": True}
        inputs = {"pixel_values_videos": pixels, **texts, **targets, "output_high_res": True}
        model = TrajViT2Model(trajvit2_config(tiny_config))
        return Case(model, inputs, lambda output: output.loss, lambda output: output.logits_per_video)
    classes = {"pixel_values_videos": pixels, "labels": torch.tensor([0, 2]), **targets}
    if name == "trajvit2_classifier":
        model = TrajViT2ForVideoClassification(trajvit2_config(tiny_config, num_labels=3))
        classes["output_high_res"] = True
        return Case(model, classes, lambda output: output.loss, lambda output: output.logits)
    if name.startswith("trajadapter"):
        kind = name.removeprefix("trajadapter_")
        model = TrajAdapterForVideoClassification(adapter_config(tiny_config, kind))
        return Case(model, classes, lambda output: output.loss, lambda output: output.logits)
    model = TrajVLMForConditionalGeneration(vlm_config)
    video = vlm_tokenizer.convert_tokens_to_ids("<|video_pad|>")
    ids = torch.tensor([[8, *[video] * 12, 9, 10, 11], [9, *[video] * 12, 12, 13, 14]])
    inputs = {"input_ids": ids, "labels": ids, "pixel_values_videos": clips(size=(48, 48))}
    frozen = ("patch_head", "trajectory_head", "assignment")
    return Case(model, inputs, lambda output: output.loss, lambda output: output.logits, frozen)


@torch.no_grad()
def result(case: Case, model: nn.Module) -> Tensor:
    return case.result_of(model.eval()(**case.inputs))


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def train_one_step(case: Case, model: nn.Module) -> set[str]:
    """Change what is trained; returns the names of what got no gradient."""
    model.train()
    case.loss_of(model(**case.inputs)).backward()
    found = trainable(model)
    silent = {name for name, parameter in found.items() if parameter.grad is None}
    with torch.no_grad():
        # Further than a step would go, so that numbers that should differ do.
        generator = torch.Generator().manual_seed(3)
        for parameter in found.values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return silent


MODELS = (
    "trajtok",
    "segmenter",
    "trajvit2",
    "trajvit2_classifier",
    "trajvlm",
    *(f"trajadapter_{k}" for k in BACKBONES),
)
KINDS = {
    # PEFT 0.18 takes a name for the end of any other: "norm" would also save every "layernorm" of a backbone.
    "lora": {"modules_to_save": ["classifier", "pooler.norm", "transformer.norm", "projector", "output_proj"]},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "lora") for name in MODELS]
    + [(name, kind) for name in ("trajtok", "trajvlm", "trajadapter_dinov2") for kind in ("dora", "pissa")],
)
def test_trained_merged_and_loaded_again_are_the_same(
    name, kind, tiny_config, vlm_config, vlm_tokenizer, tmp_path, caplog
):
    case = build(name, tiny_config, vlm_config, vlm_tokenizer)
    base, before = copy.deepcopy(case.model), result(case, case.model)
    tuned = get_peft_model(case.model, LoraConfig(r=3, target_modules="all-linear", **KINDS[kind]))
    torch.testing.assert_close(result(case, tuned), before, **CLOSE)

    logging.get_logger("modeling_trajtok.gradient_paths").warning_once.cache_clear()
    silent = train_one_step(case, tuned)
    assert all(any(f".{part}." in name for part in case.without_gradient) for name in silent), silent
    assert any("gives no gradient to parameters of" in message for message in caplog.messages) == bool(silent)
    trained = result(case, tuned)
    assert (trained - before).abs().max() > 1e-2

    tuned.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path)
    torch.testing.assert_close(result(case, loaded), trained, **CLOSE)
    torch.testing.assert_close(result(case, tuned.merge_and_unload()), trained, **CLOSE)


@pytest.mark.parametrize("name", ["trajvit2_classifier", "trajadapter_dinov2"])
def test_adapters_that_no_gradient_reaches_are_told(name, tiny_config, vlm_config, vlm_tokenizer, caplog):
    """Without masks nothing trains what only decides which trajectory a patch belongs to."""
    case = build(name, tiny_config, vlm_config, vlm_tokenizer)
    tuned = get_peft_model(case.model, LoraConfig(r=2, target_modules="all-linear"))
    inputs = {key: case.inputs[key] for key in ("pixel_values_videos", "labels")}
    logging.get_logger("modeling_trajtok.gradient_paths").warning_once.cache_clear()
    with caplog.at_level("WARNING"):
        tuned.eval()(**inputs)
        assert not caplog.messages
        silent = train_one_step(case._replace(inputs=inputs), tuned)
    [message] = [message for message in caplog.messages if "gives no gradient" in message]
    named = message.split(": ")[0].split("parameters of ")[1].split(", ")
    assert silent and all(any(f".{part}." in name for part in named) for name in silent), silent
    assert "target_trajectory_ids" in message and "exclude_modules" in message


def test_what_is_trained_in_a_backbone_is_in_training_mode(tiny_config):
    model = TrajAdapterForVideoClassification(adapter_config(tiny_config))
    tuned = get_peft_model(
        model, LoraConfig(r=2, target_modules=IN_BACKBONE, lora_dropout=0.5, init_lora_weights=False)
    ).train()
    training = {name for name, part in model.adapter.backbone.model.named_modules() if part.training}
    assert training and all(re.fullmatch(rf"{IN_BACKBONE}(\..+)?", f"backbone.{name}") for name in training)
    assert any(name.endswith("lora_dropout.default") for name in training)
    assert not any("base_layer" in name for name in training)
    inputs = {"pixel_values_videos": clips()}
    torch.manual_seed(0)
    first, second = tuned(**inputs).logits, tuned(**inputs).logits
    assert not torch.equal(first, second) and first.requires_grad
    # What is unfrozen as it is, trains as it is.
    model = TrajAdapterForVideoClassification(adapter_config(tiny_config))
    first, *_, block = (part for part in model.adapter.backbone.modules() if type(part).__name__ == "Dinov2Layer")
    block.requires_grad_(True)
    model.train()(**inputs).logits.sum().backward()
    assert block.training and all(parameter.grad is not None for parameter in block.parameters())
    assert not first.training and all(parameter.grad is None for parameter in first.parameters())


def test_adapters_merged_into_a_named_backbone_are_saved(tiny_config, tmp_path, caplog):
    torch.manual_seed(0)
    Dinov2Model(AutoConfig.for_model("dinov2", **SIZES | BACKBONES["dinov2"])).save_pretrained(tmp_path / "dinov2")
    model = TrajAdapterForVideoClassification.from_components(
        backbone=str(tmp_path / "dinov2"),
        trajtok_config=tiny_config.to_dict() | {"encoder_output_size": None},
        num_pooler_heads=3,
        num_labels=3,
    )
    case = Case(model, {"pixel_values_videos": clips()}, lambda output: output.logits.sum(), lambda o: o.logits)
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=IN_BACKBONE))
    assert not train_one_step(case, tuned)
    merged = tuned.merge_and_unload()
    expected = result(case, merged)
    merged.half().float().save_pretrained(tmp_path / "merged")
    assert "no longer those of" in caplog.text
    (tmp_path / "dinov2").rename(tmp_path / "elsewhere")
    again = TrajAdapterForVideoClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(result(case, again), expected, atol=5e-3, rtol=5e-3)
