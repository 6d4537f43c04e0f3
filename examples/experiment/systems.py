"""What is compared: towers with about as many trained weights, and TrajViT2 with single decisions changed.

In:   a name; what all share: sizes, the frozen segmenter, the trained text encoder
Out:  `TrajViT2Model` with the tower of that name, its segmenter or patch encoder frozen
To:   controlled_experiment.py, costs
"""

import copy
from dataclasses import dataclass, field
from typing import Literal

import torch
from rivals import RIVALS, build_rival
from rivals.blocks import TowerConfig
from torch import nn

from modeling_trajtok import TrajTokModel, TrajViT2Config, TrajViT2Model

from .assignment import assign_hard, assign_softly

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
        assignment: of patches to trajectories: "mixed" is TrajTok's, soft for the queries' start and hard for what
            they read.
    """

    trajtok: dict = field(default_factory=dict)
    frozen: bool = True
    segmentation: bool = False
    assignment: Literal["hard", "mixed", "soft"] = "mixed"


VARIATIONS = {
    "frozen segmenter": Variation(),
    "task's gradient": Variation(frozen=False),
    "segmentation loss": Variation({"detach_segmentation": True}, frozen=False, segmentation=True),
    "both": Variation(frozen=False, segmentation=True),
    "L = 2": Variation({"max_tokens_per_trajectory": 2}),
    "L = 4": Variation({"max_tokens_per_trajectory": 4}),
    "hard assignment": Variation(assignment="hard"),
    "soft assignment": Variation(assignment="soft"),
    "queries from latents": Variation({"encoder_queries": "latents"}),
    "queries from soft means": Variation({"encoder_queries": "mean"}),
    "no path in tokens": Variation({"track_embedding": False}),
    "no silhouette in tokens": Variation({"outline_embedding": False}),
}


@dataclass(frozen=True)
class Shared:
    """What all systems have in common.

    Attributes:
        sizes: of clips and towers.
        segmenter: whose patch encoder all see through, frozen; with its other half it groups for TrajViT2.
        texts: whose trained text encoder all start from, and go on training.
    """

    sizes: Sizes
    segmenter: TrajTokModel
    texts: TrajViT2Model

    def config(self, **trajtok: object) -> TrajViT2Config:
        """Of every system: its text tower, and the tower of trajectories as trajvit2-tiny has it."""
        sizes, texts = self.sizes, self.texts.config
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
        return TrajViT2Config(
            trajtok_config=self.segmenter.config.to_diff_dict() | encoder | trajtok,
            transformer_config=transformer,
            text_config=texts.text_config.to_dict(),
            text_pooling=texts.text_pooling,
            projection_dim=texts.projection_dim,
            num_frames=sizes.num_frames,
        )

    def start(self, model: TrajViT2Model, *, frozen: bool = True) -> TrajViT2Model:
        """The shared weights in a new model.

        Args:
            model: of any system.
            frozen: its segmenter stays as it is, if it has one.
        """
        model.text_model.load_state_dict(self.texts.text_model.state_dict())
        tower = trajectory_tower(model)
        if hasattr(tower, "trajtok"):
            tower.trajtok.segmenter.load_state_dict(self.segmenter.segmenter.state_dict())
            tower.trajtok.segmenter.requires_grad_(not frozen)
        return model


def build_system(name: str, shared: Shared, seed: int = 0) -> TrajViT2Model:
    """A new model with the tower of a name.

    Towers of patches read the features of the segmenter's frozen patch encoder in cells of ``patch_px``: all systems
    see the same, and differ in what they make tokens of.
    """
    if name in ("trajvit2", "given-trajectories"):
        torch.manual_seed(seed)
        return shared.start(build_rival(name, shared.config()))
    goal = num_trained(build_system("trajvit2", shared).video_model)
    two, three = (num_trained(_patch_system(name, shared, layers, seed).video_model) for layers in (2, 3))
    return _patch_system(name, shared, max(2, round(2 + (goal - two) / (three - two))), seed)


def _patch_system(name: str, shared: Shared, num_layers: int, seed: int) -> TrajViT2Model:
    """A tower of patches with so many blocks."""
    sizes = shared.sizes
    tower = TowerConfig(
        width=sizes.width,
        num_layers=num_layers,
        num_heads=sizes.num_heads,
        patch_px=sizes.patch_px,
        size_px=sizes.size_px,
        num_frames=sizes.num_frames,
    )
    torch.manual_seed(seed)
    encoder = copy.deepcopy(shared.segmenter.segmenter.patch_encoder).requires_grad_(False)
    return shared.start(build_rival(name, shared.config(), tower, encoder))


def build_variation(variation: Variation, shared: Shared, seed: int) -> TrajViT2Model:
    """A new TrajViT2 with a decision changed."""
    torch.manual_seed(seed)
    model = build_rival("trajvit2", shared.config(**variation.trajtok))
    if variation.assignment != "mixed":
        assign = {"hard": assign_hard, "soft": assign_softly}[variation.assignment]
        assign(trajectory_tower(model).trajtok)
    return shared.start(model, frozen=variation.frozen)


def trajectory_tower(model: TrajViT2Model) -> nn.Module:
    """The part that holds TrajTok and transformer."""
    return getattr(model.video_model, "tower", model.video_model)


def num_trained(module: nn.Module) -> int:
    """Weights that are trained."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
