"""The part of a model that makes trajectory tokens: what tokens on disk depend on, and nothing else.

In:   a checkpoint or a model of this package
Out:  its identity, the same for every model whose tokens are the same; the part itself, to be frozen
To:   tokenize_dataset.py, train_from_tokens.py, shards

Of TrajTok and TrajViT2 that is the tokenizer, of TrajAdapter the backbone and the tokenizer, of TrajVLM all in front
of the language model: a head, a transformer or a language model that was trained on the tokens still reads them.
"""

import hashlib
import json
from typing import Any, NamedTuple

import torch
from evaluation.provenance import short_name, weights_hash
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

import modeling_trajtok
from modeling_trajtok import (
    TrajAdapterForVideoClassification,
    TrajAdapterModel,
    TrajTokModel,
    TrajViT2ForVideoClassification,
    TrajViT2Model,
    TrajViT2VideoModel,
    TrajVLMForConditionalGeneration,
    TrajVLMModel,
)

# Fields of configurations on which no token depends.
INCIDENTAL = ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "architectures")
ADAPTER_FIELDS = (
    "backbone_config", "trajtok_config", "backbone_size_px", "backbone_num_frames", "backbone_image_mean",
    "backbone_image_std",
)  # fmt: skip
VLM_FIELDS = (
    "vision_config", "trajtok_config", "frames_per_chunk", "token_selection", "max_trajectory_tokens",
    "num_connector_layers", "num_connector_heads", "connector_mlp_ratio", "projector_ratio", "segmenter_size_px",
    "vision_image_mean", "vision_image_std",
)  # fmt: skip


class TokenMaker(NamedTuple):
    """What makes the tokens of a model.

    Attributes:
        modules: its parts.
        config: that tokens depend on.
        fields: of the configuration; None = all.
        keeps_empty: tokens of trajectories without patches are read as well, so they are kept.
    """

    modules: nn.ModuleDict
    config: PreTrainedConfig
    fields: tuple[str, ...] | None = None
    keeps_empty: bool = False


def load_model(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Any model of this package; of a TrajVLM with its connector, of a classifier its own class."""
    config = AutoConfig.from_pretrained(name)
    architecture = getattr(modeling_trajtok, (config.architectures or [""])[0], AutoModel)
    return architecture.from_pretrained(name, dtype=dtype).eval()


def token_maker(model: PreTrainedModel) -> TokenMaker:
    """The part of a model that makes its tokens.

    Raises:
        ValueError: for another kind of model.
    """
    config = model.config
    if isinstance(model, TrajTokModel):
        return TokenMaker(nn.ModuleDict({"trajtok": model}), config)
    if isinstance(model, (TrajViT2Model, TrajViT2VideoModel, TrajViT2ForVideoClassification)):
        trajtok = model.video_model.trajtok
        keeps_empty = not model.video_model.transformer.config.mask_empty_trajectories
        return TokenMaker(nn.ModuleDict({"trajtok": trajtok}), trajtok.config, keeps_empty=keeps_empty)
    if isinstance(model, (TrajAdapterModel, TrajAdapterForVideoClassification)):
        adapter = getattr(model, "adapter", model)
        if adapter.trajtok is None:
            raise ValueError(f"This TrajAdapter has probe={model.config.probe!r} and no trajectories.")
        modules = {"backbone": adapter.backbone.model, "trajtok": adapter.trajtok}
        return TokenMaker(nn.ModuleDict(modules), config, ADAPTER_FIELDS)
    if isinstance(model, (TrajVLMModel, TrajVLMForConditionalGeneration)):
        inner = getattr(model, "model", model)
        modules = {"vision_tower": inner.vision_tower, "grouping": inner.grouping}
        return TokenMaker(nn.ModuleDict(modules), config, VLM_FIELDS)
    raise ValueError(f"Got a {type(model).__name__}, expected a TrajTok, TrajViT2, TrajAdapter or TrajVLM.")


def maker_identity(model: PreTrainedModel, name: str) -> dict[str, str]:
    """Hashes of the weights and of the settings that tokens depend on.

    Args:
        model: that makes or reads tokens, in a precision that holds its checkpoint's weights (float32 holds all).
        name: of its checkpoint; not compared.
    """
    maker = token_maker(model)
    settings = maker.config.to_dict()
    settings = {field: settings[field] for field in maker.fields or settings}
    settings = {"keeps_empty": maker.keeps_empty, **_lasting(settings)}
    told = json.dumps(settings, sort_keys=True, default=str)
    return {
        "name": short_name(name),
        "weights": weights_hash(maker.modules),
        "settings": hashlib.sha256(told.encode()).hexdigest(),
    }


def _lasting(settings: Any) -> Any:
    """Without the fields on which no token depends, at any depth."""
    if not isinstance(settings, dict):
        return settings
    return {name: _lasting(value) for name, value in settings.items() if name not in INCIDENTAL}
