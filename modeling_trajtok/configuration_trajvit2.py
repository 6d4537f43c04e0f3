"""Configuration of TrajViT2: the tokenizer, the transformer over its tokens, and the text tower.

In:   keyword arguments, or a ``config.json``
Out:  `TrajViT2Config`
To:   modeling_trajvit2
"""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_trajtok import CheckedConfig, TrajTokConfig

# How `pipeline(..., trust_remote_code=True)` finds the zero-shot pipeline in a saved folder.
CUSTOM_PIPELINES = {
    "zero-shot-video-classification": {
        "impl": "zero_shot_video_classification.ZeroShotVideoClassificationPipeline",
        "pt": ["AutoModel"],
        "type": "multimodal",
    }
}


@strict
class TrajViT2TransformerConfig(CheckedConfig):
    """Configuration of the pre-norm transformer over a CLS token and the trajectory tokens.

    Args:
        hidden_size: width; that of the trajectory tokens.
        num_hidden_layers: layers.
        num_attention_heads: heads; a divisor of `hidden_size`.
        intermediate_size: hidden width of the MLPs.
        hidden_act: activation of the MLPs.
        attention_dropout: dropout on attention weights, in training.
        layer_norm_eps: epsilon of the layers' norms.
        mask_empty_trajectories: keep trajectories without patches from being read by the others. The released
            checkpoint was trained without that (its attention backend ignored the mask).
        initializer_range: standard deviation of initial weights.
    """

    model_type = "trajvit2_transformer"
    base_config_key = "transformer_config"

    hidden_size: int = 512
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 2048
    hidden_act: str = "gelu"
    attention_dropout: float = 0.0
    layer_norm_eps: float = 1e-12
    mask_empty_trajectories: bool = True
    initializer_range: float = 0.02

    def validate_architecture(self):
        """Check the rules that involve more than one field."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"TrajViT2TransformerConfig got hidden_size={self.hidden_size} with num_attention_heads="
                f"{self.num_attention_heads}, expected a multiple. Change one of them."
            )


@strict
class TrajViT2Config(CheckedConfig):
    """Configuration of `TrajViT2Model` and its parts. The defaults are the sizes of the released model.

    Args:
        trajtok_config: the tokenizer; its `encoder_output_size` is the width of the transformer.
        transformer_config: the transformer over the tokens.
        text_config: the text tower, of any type that Transformers has (default: BERT, its first 9 layers).
        text_pooling: how a text becomes one vector: the first ("cls") or last valid token's state, their "mean", or
            the tower's own "pooler".
        projection_dim: width E of the space in which videos and texts are compared.
        segmentation_loss_weight: weight of the segmentation loss beside the contrastive one.
        initial_temperature: what the cosines of videos and texts are divided by, at initialisation.
        min_temperature: lower bound of the learnt temperature.
        max_temperature: upper bound of the learnt temperature.
        num_frames: frames per clip that the model was trained with; pipelines sample as many.
        hypothesis_template: what zero-shot labels are put into, in place of ``{}``, unless the call says otherwise.
        initializer_range: standard deviation of the projections' initial weights.
    """

    model_type = "trajvit2"
    keys_to_ignore_at_inference: ClassVar = [
        "last_hidden_state", "hidden_states", "attentions", "token_valid", "trajectory_ids", "video_model_output",
        "text_model_output", "contrastive_loss", "segmentation_loss",
    ]  # fmt: skip
    sub_configs_defaults: ClassVar = {
        "trajtok_config": SubConfigSpec(config_class=TrajTokConfig),
        "transformer_config": SubConfigSpec(config_class=TrajViT2TransformerConfig),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert", init_kwargs={"num_hidden_layers": 9}),
    }

    trajtok_config: dict | PreTrainedConfig | None = None
    transformer_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    text_pooling: Literal["cls", "last", "mean", "pooler"] = "cls"
    projection_dim: int = 256
    segmentation_loss_weight: float = 1.0
    initial_temperature: float = 0.07
    min_temperature: float = 0.001
    max_temperature: float = 0.5
    num_frames: int = 8
    hypothesis_template: str = "a video of {}."
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        # With this package the task is registered, and Transformers would demand trust for what it finds here.
        pipelines = kwargs.pop("custom_pipelines", None)
        if pipelines and type(self).__module__.startswith("transformers_modules"):
            kwargs["custom_pipelines"] = pipelines
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, with the pipeline that runs such a model."""
        return {**super().to_dict(), "custom_pipelines": CUSTOM_PIPELINES}

    @property
    def hidden_size(self) -> int:
        """Width of the video tower's states."""
        return self.transformer_config.hidden_size

    def validate_architecture(self):
        """Check the rules that involve more than one field."""
        if self.trajtok_config.encoder_output_size != self.transformer_config.hidden_size:
            raise ValueError(
                f"TrajViT2Config got tokens of width {self.trajtok_config.encoder_output_size} (encoder_output_size "
                f"of trajtok_config) for a transformer of hidden_size={self.transformer_config.hidden_size}, expected "
                "the same. Change one of them."
            )
        if not 0 < self.min_temperature <= self.initial_temperature <= self.max_temperature:
            raise ValueError(
                f"TrajViT2Config got temperatures min {self.min_temperature}, initial {self.initial_temperature}, max "
                f"{self.max_temperature}, expected 0 < min <= initial <= max."
            )
        for name in ("projection_dim", "num_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"TrajViT2Config got {name}={getattr(self, name)}, expected at least 1.")


__all__ = ["TrajViT2Config", "TrajViT2TransformerConfig"]
