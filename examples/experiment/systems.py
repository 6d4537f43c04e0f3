"""What is compared: towers with the same number of trained weights, and TrajViT2 with single decisions changed.

In:   a name, a tokenizer, the frozen segmenter that all share
Out:  `TrajViT2Model` with the tower of that name, its segmenter or patch encoder frozen
To:   controlled_experiment.py, costs
"""

from dataclasses import dataclass, field

import torch
from rivals import RIVALS, build_rival
from rivals.blocks import TowerConfig
from torch import nn
from transformers import PreTrainedTokenizerBase

from modeling_trajtok import TrajTokModel, TrajViT2Config, TrajViT2Model

SYSTEMS = tuple(sorted(RIVALS, key=lambda name: name != "trajvit2"))


@dataclass(frozen=True)
class Sizes:
    """Sizes that all systems share.

    Attributes:
        width: D of the video towers.
        num_layers: transformer blocks of the towers of trajectories; towers of patches get as many as it takes to
            have as many trained weights.
        num_heads: of each block.
        patch_px: side of a patch of the towers of patches.
        size_px: height and width of the clips.
        num_frames: T in training.
    """

    width: int = 128
    num_layers: int = 4
    num_heads: int = 4
    patch_px: int = 8
    size_px: int = 64
    num_frames: int = 4


@dataclass(frozen=True)
class Variation:
    """TrajViT2 with one decision changed.

    Attributes:
        trajtok: fields of its TrajTokConfig.
        frozen: the segmenter stays as it is.
        segmentation: the segmentation loss trains the segmenter.
    """

    trajtok: dict = field(default_factory=dict)
    frozen: bool = True
    segmentation: bool = False


VARIATIONS = {
    "frozen segmenter": Variation(),
    "task's gradient": Variation(frozen=False),
    "segmentation loss": Variation({"detach_segmentation": True}, frozen=False, segmentation=True),
    "both": Variation(frozen=False, segmentation=True),
    "L = 2": Variation({"max_tokens_per_trajectory": 2}),
    "L = 4": Variation({"max_tokens_per_trajectory": 4}),
    "hard assignment alone": Variation({"encoder_queries": "latents"}),
    "soft assignment alone": Variation({"encoder_queries": "mean"}),
}


def build_config(
    tokenizer: PreTrainedTokenizerBase, sizes: Sizes, segmenter: TrajTokModel, **trajtok: object
) -> TrajViT2Config:
    """The configuration of every system: its text tower, and the tower of trajectories as trajvit2-tiny has it."""
    encoder = {
        "track_embedding": True,
        "outline_embedding": True,
        "encoder_queries": "latents_and_mean",
        "num_encoder_layers": 1,
        "max_tokens_per_trajectory": 1,
        "encoder_output_size": sizes.width,
    }
    transformer = {
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads,
        "intermediate_size": 4 * sizes.width,
    }
    text = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "max_position_embeddings": 96,
        "initializer_range": 0.05,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return TrajViT2Config(
        trajtok_config=segmenter.config.to_diff_dict() | encoder | trajtok,
        transformer_config=transformer,
        text_config=text,
        text_pooling="mean",
        projection_dim=128,
        num_frames=sizes.num_frames,
    )


def build_system(
    name: str, tokenizer: PreTrainedTokenizerBase, sizes: Sizes, segmenter: TrajTokModel, seed: int = 0
) -> TrajViT2Model:
    """A new model with the tower of a name.

    Towers of patches read the features of the segmenter's frozen patch encoder in cells of ``patch_px``: all systems
    see the same, and differ in what they make tokens of.
    """
    config = build_config(tokenizer, sizes, segmenter)
    if name in ("trajvit2", "given-trajectories"):
        torch.manual_seed(seed)
        return with_segmenter(build_rival(name, config), segmenter)
    goal = num_trained(build_system("trajvit2", tokenizer, sizes, segmenter).video_model)
    candidates = [patch_system(name, config, sizes, segmenter, layers, seed) for layers in range(2, 13)]
    return min(candidates, key=lambda model: abs(num_trained(model.video_model) - goal))


def patch_system(
    name: str, config: TrajViT2Config, sizes: Sizes, segmenter: TrajTokModel, num_layers: int, seed: int
) -> TrajViT2Model:
    """A tower of patches with so many blocks."""
    tower = TowerConfig(
        width=sizes.width,
        num_layers=num_layers,
        num_heads=sizes.num_heads,
        patch_px=sizes.patch_px,
        size_px=sizes.size_px,
        num_frames=sizes.num_frames,
    )
    torch.manual_seed(seed)
    encoder = segmenter.segmenter.patch_encoder.requires_grad_(False)
    return build_rival(name, config, tower, encoder)


def build_variation(
    variation: Variation, tokenizer: PreTrainedTokenizerBase, sizes: Sizes, segmenter: TrajTokModel, seed: int
) -> TrajViT2Model:
    """A new TrajViT2 with a decision changed."""
    torch.manual_seed(seed)
    model = build_rival("trajvit2", build_config(tokenizer, sizes, segmenter, **variation.trajtok))
    return with_segmenter(model, segmenter, frozen=variation.frozen)


def with_segmenter(model: TrajViT2Model, segmenter: TrajTokModel, *, frozen: bool = True) -> TrajViT2Model:
    """A copy of the segmenter's weights in the model's own."""
    own = trajectory_tower(model).trajtok.segmenter
    own.load_state_dict(segmenter.segmenter.state_dict())
    own.requires_grad_(not frozen)
    return model


def trajectory_tower(model: TrajViT2Model) -> nn.Module:
    """The part that holds TrajTok and transformer."""
    return getattr(model.video_model, "tower", model.video_model)


def num_trained(module: nn.Module) -> int:
    """Weights that are trained."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
