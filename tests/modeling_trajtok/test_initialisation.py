"""Every parameter of every public model starts from the distribution that the code promises.

However the model comes to be: constructed, loaded from a checkpoint that lacks some of its weights, or built without
memory and filled later. Transformers initialises what a checkpoint lacks in memory that holds anything; to make that
visible, the memory of these tests is filled with a value that no rule gives.
"""

import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from modeling_trajtok import (
    TrajAdapterConfig,
    TrajAdapterForVideoClassification,
    TrajAdapterModel,
    TrajTokConfig,
    TrajTokModel,
    TrajTokSegmenterModel,
    TrajViT2Config,
    TrajViT2ForVideoClassification,
    TrajViT2Model,
    TrajViT2VideoModel,
    TrajVLMConfig,
    TrajVLMForConditionalGeneration,
    TrajVLMModel,
)

STD = 0.05
LAYER_SCALE, LOGIT_SCALE, TEMPERATURE = 0.3, 9.0, 0.11
WIDE = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 52}
TRAJTOK = {
    "backbone_config": {
        "model_type": "dinov3_convnext",
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [8, 12, 16, 20],
        "layer_scale_init_value": LAYER_SCALE,
        "initializer_range": STD,
    },
    "hidden_size": 48,
    "num_attention_heads": 3,
    "num_trajectories": 12,
    "num_query_layers": 1,
    "num_encoder_layers": 1,
    "high_res_factor": 4,
    "encoder_queries": "latents_and_mean",
    "track_embedding": True,
    "outline_embedding": True,
    "initializer_range": STD,
    "initial_logit_scale": LOGIT_SCALE,
}
TEXT = {"model_type": "bert", "vocab_size": 40, "initializer_range": STD, **WIDE}
VISION = {"model_type": "dinov2", "image_size": 32, "patch_size": 8, "initializer_range": STD, **WIDE}
WORDS = {"model_type": "qwen3", "vocab_size": 40, "head_dim": 8, "num_key_value_heads": 2, "initializer_range": STD,
         "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0, **WIDE}  # fmt: skip


def trajvit2_config() -> TrajViT2Config:
    return TrajViT2Config(
        trajtok_config=TRAJTOK,
        transformer_config={"initializer_range": STD, **WIDE},
        text_config=TEXT,
        initializer_range=STD,
        initial_temperature=TEMPERATURE,
        projection_dim=16,
    )


def trajadapter_config() -> TrajAdapterConfig:
    return TrajAdapterConfig(
        backbone_config=VISION, trajtok_config=TRAJTOK, num_pooler_heads=3, num_labels=5, initializer_range=STD
    )


def trajvlm_config() -> TrajVLMConfig:
    return TrajVLMConfig(
        vision_config={"model_type": "siglip_vision_model", "image_size": 48, "patch_size": 8,
                       "vision_use_head": False, **WIDE},
        trajtok_config=TRAJTOK | {"high_res_factor": None},
        text_config=WORDS,
        image_token_id=2,
        video_token_id=3,
        num_connector_heads=2,
        initializer_range=STD,
    )  # fmt: skip


def trajvlm_on_trajvit2_config() -> TrajVLMConfig:
    return TrajVLMConfig(
        **{**trajvlm_config().to_dict(), "vision_config": trajvit2_config().to_dict(), "trajtok_config": None}
    )


MODELS = {
    "trajtok": (TrajTokModel, lambda: TrajTokConfig(**TRAJTOK)),
    "segmenter": (TrajTokSegmenterModel, lambda: TrajTokConfig(**TRAJTOK)),
    "trajvit2": (TrajViT2Model, trajvit2_config),
    "trajvit2_video": (TrajViT2VideoModel, trajvit2_config),
    "trajvit2_classifier": (TrajViT2ForVideoClassification, trajvit2_config),
    "trajadapter": (TrajAdapterModel, trajadapter_config),
    "trajadapter_classifier": (TrajAdapterForVideoClassification, trajadapter_config),
    "trajvlm": (TrajVLMModel, trajvlm_config),
    "trajvlm_generation": (TrajVLMForConditionalGeneration, trajvlm_config),
    "trajvlm_on_trajvit2": (TrajVLMModel, trajvlm_on_trajvit2_config),
}

# The first pattern that is found in a parameter's name says its mean and standard deviation; a bound on a uniform
# distribution is given as its standard deviation. Native towers are initialised by Transformers' own rules, which
# their own tests check; of them only what every rule gives is asked: finite, and not wider than 1.
NATIVE = r"(^|\.)(text_model\.encoder|language_model|lm_head|vision_tower\.(?!video_model)|backbone\.model)\b"
RULES = [
    (r"\.gamma$", lambda p: (LAYER_SCALE, 0.0)),
    (r"log_scale$", lambda p: (math.log(math.expm1(LOGIT_SCALE - 1.0)), 0.0)),
    (r"temperature$", lambda p: (TEMPERATURE, 0.0)),
    (r"(track|outline)_embedding.*weight$", lambda p: (0.0, (2.0 / p.shape[1]) ** 0.5)),
    (r"(projector|grouping\.connector)\.(gate|up|down)_proj\.weight$", lambda p: (0.0, p.shape[1] ** -0.5)),
    (r"layers\.\d+\.self_attn\.\w+\.weight$|layers\.\d+\.mlp\.fc\d\.weight$", lambda p: (0.0, None)),
    (r"layers\.\d+\.mlp\.fc\d\.bias$", lambda p: (0.0, None)),
    # As of one matrix (3 D, D) under Xavier's rule.
    (r"pooler\.attention\.[qkv]_proj\.weight$", lambda p: (0.0, math.sqrt(2 / (4 * p.shape[0])))),
    (r"bias$|_bias$", lambda p: (0.0, 0.0)),
    (r"norm\d?\.weight$|_norm\.weight$|high_res_patch_head\.upsample\.1\.weight$", lambda p: (1.0, 0.0)),
    (r"downsample_layers\.\d\.weight$", lambda p: (1.0, 0.0) if p.dim() == 1 else (0.0, STD)),
    (r"", lambda p: (0.0, STD)),
]


def assert_as_promised(model: nn.Module, what: str) -> None:
    # Buffers that no checkpoint holds have no memory in a model that was built without.
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if not buffer.is_meta]
    for name, parameter in [*model.named_parameters(), *buffers]:
        values = parameter.detach().double()
        assert values.isfinite().all(), f"{what}: {name} is not finite"
        if re.search(NATIVE, name):
            if "position_ids" not in name and "token_type_ids" not in name:
                assert values.abs().max() < 10, f"{what}: {name} reaches {values.abs().max()}"
            continue
        mean, std = next(rule(parameter) for pattern, rule in RULES if re.search(pattern, name))
        if std is None:
            assert values.abs().max() < 2 and values.mean().abs() < 0.1, f"{what}: {name}"
            continue
        # Six standard errors of the estimates.
        slack = 6 / math.sqrt(values.numel())
        assert abs(values.mean() - mean) <= std * slack + 1e-6, f"{what}: {name} has mean {values.mean()}, not {mean}"
        if values.numel() > 1:
            found = values.std(correction=0)
            assert abs(found - std) <= std * slack + 1e-6, f"{what}: {name} has std {found}, not {std}"


class DirtyMemory(TorchFunctionMode):
    """New memory holds 1e21, as memory that another program has used may."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        tensor = function(*args, **(kwargs or {}))
        if function in (torch.empty, torch.empty_like) and tensor.is_floating_point() and not tensor.is_meta:
            with torch.no_grad():
                tensor.fill_(1e21)
        return tensor


@pytest.fixture
def dirty_memory():
    with DirtyMemory():
        yield


def groups_of(names: list[str]) -> dict[str, list[str]]:
    """Names of a checkpoint's tensors by the module that holds them, layers of a stack apart."""
    groups = {}
    for name in names:
        groups.setdefault(name.rsplit(".", 1)[0] if "." in name else name, []).append(name)
    return groups


@pytest.mark.parametrize("kind", MODELS)
def test_each_parameter_has_its_distribution(kind, dirty_memory, tmp_path):
    model_class, config_of = MODELS[kind]
    torch.manual_seed(0)
    model = model_class(config_of())
    assert_as_promised(model, "constructed")
    model.save_pretrained(tmp_path)

    # A checkpoint that lacks every second module's weights, and one that lacks the others.
    path = tmp_path / "model.safetensors"
    saved = load_file(path)
    groups = list(groups_of(list(saved)).values())
    for first in (0, 1):
        lacking = {name for group in groups[first::2] for name in group}
        save_file({name: value for name, value in saved.items() if name not in lacking}, path, {"format": "pt"})
        loaded, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert lacking & set(report["missing_keys"])
        assert_as_promised(loaded, f"loaded without the modules {first}, {first + 2}, ...")
        for name, value in loaded.state_dict().items():
            if name in saved and name not in lacking and name not in report["missing_keys"]:
                assert torch.equal(value, saved[name]), name

    save_file({"nothing": torch.zeros(1)}, path, {"format": "pt"})
    assert_as_promised(model_class.from_pretrained(tmp_path), "loaded without any weights")

    with torch.device("meta"):
        empty = model_class(config_of())
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.load_state_dict(model.state_dict(), assign=True)
    assert_as_promised(empty, "built without memory")


@pytest.mark.parametrize("kind", ["trajtok", "segmenter"])
def test_a_checkpoint_without_the_high_resolution_head(kind, dirty_memory, tmp_path):
    model_class, config_of = MODELS[kind]
    config = config_of()
    without = TrajTokConfig(**config.to_dict() | {"high_res_factor": None})
    model_class(without).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"high_res_factor": 4}))
    loaded = model_class.from_pretrained(tmp_path)
    assert_as_promised(loaded, "loaded without the high-resolution head")


@pytest.mark.parametrize("kind", MODELS)
def test_the_scale_of_the_logits_stays_in_single_precision(kind, tmp_path):
    """bfloat16 tells no scales near 20 apart: 20 and 19.9 are one number."""
    model_class, config_of = MODELS[kind]
    model = model_class._from_config(config_of(), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    for found in (model, model_class.from_pretrained(tmp_path, dtype=torch.bfloat16)):
        scales = {n: p.dtype for n, p in found.named_parameters() if n.endswith("log_scale")}
        assert scales and set(scales.values()) == {torch.float32}
        others = {p.dtype for n, p in found.named_parameters() if "trajectory_head" in n}
        assert others == {torch.bfloat16}
