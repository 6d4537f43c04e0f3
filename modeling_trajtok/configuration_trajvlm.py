"""Configuration of TrajVLM: vision tower, segmenter, connector and language model.

In:   keyword arguments, or a ``config.json``
Out:  `TrajVLMConfig`
To:   modeling_trajvlm
"""

import copy
import math
from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_trajtok import CheckedConfig, TrajTokConfig
from .configuration_trajvit2 import TrajViT2Config

SIGLIP2_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 378,
    "patch_size": 14,
    "vision_use_head": False,
}
QWEN3_4B = {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}
# The task trains the segmenter through its queries, and needs no high-resolution masks.
SEGMENTER = {"detach_patch_features": False, "high_res_factor": None}
VISION_TYPES = ("siglip_vision_model", "siglip2_vision_model", TrajViT2Config.model_type)


@strict
class TrajVLMConfig(CheckedConfig):
    """Configuration of `TrajVLMModel` and `TrajVLMForConditionalGeneration`. The defaults are the paper's sizes.

    Args:
        vision_config: SigLIP or SigLIP2 vision tower, whose patch features are pooled (default: SigLIP2-so400m/14 at
            378 px); or a `TrajViT2Config`, whose video tower makes trajectory tokens by itself: they are projected
            into the language model's space, and of the connector's settings only `projector_ratio` matters.
        trajtok_config: the segmenter that says which patches belong together (default: the released sizes); that of
            a TrajViT2 tower is taken from there.
        text_config: a causal language model of any type that Transformers has (default: Qwen3-4B).
        image_token_id: placeholder of an image's trajectory tokens in the prompt.
        video_token_id: placeholder of a video's trajectory tokens in the prompt.
        frames_per_chunk: frames that are grouped together; None = the whole video is one group, so that the number of
            tokens does not grow with its length.
        token_selection: "all" emits `num_trajectories` tokens for each chunk, "valid" only those whose trajectory
            owns at least one patch.
        max_trajectory_tokens: most tokens per image or video; the trajectories with the most patches are kept.
        num_connector_layers: perceiver layers that pool the patches of each trajectory.
        num_connector_heads: their heads.
        connector_mlp_ratio: hidden width of their MLPs, as a multiple of the vision tower's width.
        projector_ratio: hidden width of the projection into the language model, as a multiple of its width.
        segmenter_size_px: shorter side of the frames that the segmenter sees; resized from the vision tower's. A
            TrajViT2 tower sees what it is given, and its processor makes frames of this size.
        vision_image_mean: mean that the vision tower expects of RGB in [0, 1], one number for all channels or one for
            each; None = it gets the ImageNet-normalised pixels as they are, as in the original.
        vision_image_std: standard deviation that goes with `vision_image_mean`.
        initializer_range: standard deviation of the connector's initial weights.
        tie_word_embeddings: taken from `text_config`.
    """

    model_type = "trajvlm"
    keys_to_ignore_at_inference: ClassVar = ["cache", "past_key_values", "image_outputs", "video_outputs"]
    sub_configs_defaults: ClassVar = {
        "vision_config": SubConfigSpec(
            config_class=AutoConfig, model_type="siglip_vision_model", init_kwargs=SIGLIP2_SO400M
        ),
        "trajtok_config": SubConfigSpec(config_class=TrajTokConfig, init_kwargs=SEGMENTER),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen3", init_kwargs=QWEN3_4B),
    }

    vision_config: dict | PreTrainedConfig | None = None
    trajtok_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_token_id: int = 151655
    video_token_id: int = 151656
    frames_per_chunk: int | None = 8
    token_selection: Literal["all", "valid"] = "all"
    max_trajectory_tokens: int | None = None
    num_connector_layers: int = 2
    num_connector_heads: int = 8
    connector_mlp_ratio: int = 4
    projector_ratio: int = 2
    segmenter_size_px: int = 224
    vision_image_mean: float | list[float] | tuple[float, ...] | None = (0.5, 0.5, 0.5)
    vision_image_std: float | list[float] | tuple[float, ...] | None = (0.5, 0.5, 0.5)
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        # Where this file runs as remote code, AutoConfig does not know TrajViT2.
        if isinstance(self.vision_config, dict) and self.vision_config.get("model_type") == TrajViT2Config.model_type:
            self.vision_config = TrajViT2Config(**self.vision_config)
        if isinstance(self.vision_config, TrajViT2Config):
            self.trajtok_config = copy.deepcopy(self.vision_config.trajtok_config)
        if isinstance(self.trajtok_config, dict):
            self.trajtok_config = SEGMENTER | self.trajtok_config
        for name in ("vision_image_mean", "vision_image_std"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, [value] * 3 if isinstance(value, float) else list(value))
        super().__post_init__(**kwargs)
        self.tie_word_embeddings = self.text_config.tie_word_embeddings

    @property
    def has_trajectory_tower(self) -> bool:
        """Is the vision tower a TrajViT2, which makes trajectory tokens by itself?"""
        return self.vision_config.model_type == TrajViT2Config.model_type

    @property
    def max_prompt_length(self) -> int | None:
        """Most tokens of a prompt that the language model's positions are made for; None = any number."""
        built_for = getattr(self.text_config, "max_position_embeddings", None)
        if built_for is None:
            return None
        rotary = getattr(self.text_config, "rope_parameters", None) or {}
        lengths = [built_for]
        # The parameters of all layers, or a dictionary for each kind of layer.
        for parameters in (rotary, *(value for value in rotary.values() if isinstance(value, dict))):
            if (parameters.get("rope_type") or parameters.get("type")) == "dynamic":
                return None
            trained_for = parameters.get("original_max_position_embeddings") or built_for
            lengths.append(math.floor(trained_for * (parameters.get("factor") or 1.0)))
        return max(lengths)

    def validate_architecture(self):
        """Check the rules that involve more than one field."""
        if self.vision_config.model_type not in VISION_TYPES:
            raise ValueError(
                f"TrajVLMConfig got a vision_config of type {self.vision_config.model_type}, expected one of "
                f"{', '.join(VISION_TYPES)}."
            )
        if not self.has_trajectory_tower:
            self._check_heads()
        if self.image_token_id == self.video_token_id:
            raise ValueError(
                f"TrajVLMConfig got {self.image_token_id} as image_token_id and as video_token_id, expected two."
            )
        for name in ("frames_per_chunk", "max_trajectory_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"TrajVLMConfig got {name}={value}, expected None or at least 1.")
        for name in ("num_connector_layers", "connector_mlp_ratio", "projector_ratio"):
            if getattr(self, name) < 1:
                raise ValueError(f"TrajVLMConfig got {name}={getattr(self, name)}, expected at least 1.")
        if self.segmenter_size_px < 32:
            raise ValueError(f"TrajVLMConfig got segmenter_size_px={self.segmenter_size_px}, expected at least 32.")
        if (self.vision_image_mean is None) != (self.vision_image_std is None):
            raise ValueError("TrajVLMConfig got one of vision_image_mean and vision_image_std, expected both or none.")

    def _check_heads(self):
        width, heads = self.vision_config.hidden_size, self.num_connector_heads
        if width % heads or (width // heads) % 4:
            raise ValueError(
                f"TrajVLMConfig got a vision tower of width {width} with num_connector_heads={heads}, expected the "
                f"width to be a multiple of 4 * num_connector_heads. Try num_connector_heads={max(1, width // 64)}."
            )


__all__ = ["TrajVLMConfig"]
