"""Configuration: every decision about a TrajTok model, one field each.

In:   keyword arguments, or a ``config.json``
Out:  `TrajTokConfig`; the modules below it receive plain numbers
To:   modeling_trajtok
"""

import difflib
import math
from collections.abc import Collection, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import fields
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, DINOv3ConvNextConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

POSITIVE_FIELDS = (
    "hidden_size",
    "num_trajectories",
    "num_attention_heads",
    "num_query_layers",
    "mlp_ratio",
    "max_tokens_per_trajectory",
    "encoder_input_size",
    "encoder_output_size",
    "frames_per_block",
)


# Whether the values come from a file or from another configuration.
_SAVED_VALUES: ContextVar[bool] = ContextVar("saved values", default=False)


def resembling_names(unknown: Iterable[str], known: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Those of the unknown names that look like a known one, each with the one that it looks like."""
    known = list(known)
    for name in unknown:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if close and close[0] != name and not name.startswith("_"):
            yield name, close[0]


def reject_misspelt(owner: str, unknown: Iterable[str], known: Iterable[str]) -> None:
    """Raise when an unknown keyword looks like a known one.

    Transformers stores or passes on unknown keywords silently, so ``num_trajectorys=64`` would leave the default of
    128 in force, and ``trajectory_label=...`` would give no loss.

    Args:
        owner: what the keywords were given to, for the message.
        unknown: the keywords that were not understood.
        known: those that would have been.

    Raises:
        ValueError: naming the unknown keyword and the one it resembles.
    """
    for name, meant in resembling_names(unknown, known):
        raise ValueError(
            f"{owner} has no `{name}`, did you mean `{meant}`? Rename it, or remove it if it was not meant for this "
            "model."
        )


def field_names(config_class: type[PreTrainedConfig]) -> list[str]:
    """The fields of a configuration."""
    return [field.name for field in fields(config_class)]


def reject_other_model(config_class: type[PreTrainedConfig], config_dict: dict[str, Any]) -> None:
    """Raise a ValueError for the values of another type of model, whose weights would be replaced by random ones."""
    found = config_dict.get("model_type", config_class.model_type)
    if found != config_class.model_type:
        raise ValueError(
            f"{config_class.__name__} got the configuration of a `{found}` model, expected "
            f"`{config_class.model_type}`. Load that checkpoint with AutoModel; convert the original's files with "
            "modeling_trajtok.convert_official_checkpoint."
        )


def reject_misspelt_fields(owner: str, given: Collection[str], config_class: type[PreTrainedConfig]) -> None:
    """As `reject_misspelt`, for the names that a configuration is built from.

    Among saved values, a name beside the field that it looks like is an attribute that a program has set, and leaves
    no default in force. Of the library's own fields not all are saved.
    """
    known = field_names(config_class)
    unknown = [name for name in given if name not in known and not hasattr(config_class, name)]
    beside = {*given, *field_names(PreTrainedConfig)} if _SAVED_VALUES.get() else ()
    reject_misspelt(owner, [name for name, meant in resembling_names(unknown, known) if meant not in beside], known)


@strict
class CheckedConfig(PreTrainedConfig):
    """A configuration that refuses misspelt fields and the values of another type of model.

    A program may set attributes of any name; they are saved, and read from the file again.

    Raises:
        ValueError: for a field that looks like a known one but is none.
    """

    def __new__(cls, *args, **kwargs):
        """Check the names of all values, of which `__post_init__` sees those without a field alone."""
        reject_misspelt_fields(cls.__name__, kwargs, cls)
        return super().__new__(cls)

    def __post_init__(self, **kwargs):
        # Where an Auto class may load several models, Transformers looks the right one up in this list.
        self.architectures = self.architectures or []
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Build from the values of a ``config.json`` or of another configuration, and keywords that replace some.

        Raises:
            ValueError: if they belong to another type of model, whose weights would be replaced by random ones; for a
                keyword that looks like a field but is none.
        """
        reject_other_model(cls, config_dict)
        reject_misspelt_fields(cls.__name__, kwargs, cls)
        for name, config_class in cls.sub_configs.items():
            if isinstance(kwargs.get(name), dict) and issubclass(config_class, CheckedConfig):
                reject_misspelt_fields(config_class.__name__, kwargs[name], config_class)
        token = _SAVED_VALUES.set(True)
        try:
            return super().from_dict(config_dict, **kwargs)
        finally:
            _SAVED_VALUES.reset(token)


@strict
class TrajTokConfig(CheckedConfig):
    """Configuration of `TrajTokModel` and `TrajTokSegmenterModel`. The defaults are the sizes of the released models.

    Args:
        backbone_config: configuration of the DINOv3 ConvNeXt backbone (default: ConvNeXt-small).
        hidden_size: width D of patch features and trajectory queries; a multiple of 8 and of `num_attention_heads`.
        num_trajectories: K, the most trajectories that one clip can be cut into.
        num_attention_heads: heads of the perceivers of the segmenter and of the encoder.
        num_query_layers: perceiver layers that turn learnt latents into the trajectory queries of a clip.
        num_encoder_layers: perceiver layers of the trajectory encoder.
        mlp_ratio: hidden width of the gated MLPs, as a multiple of their width.
        query_positions: rotary positions of the segmenter's perceiver: "sequence" (one-dimensional, over
            ``[latents ; patches]``) or "grid" (over time, row and column of each patch).
        encoder_positions: the same choice for the trajectory encoder.
        rotary_theta: base of the rotary frequencies.
        feature_fusion: how the four backbone stages become one feature map.
        detach_patch_features: stop the gradient from the trajectory queries into the backbone (as the original does).
        high_res_factor: upsampling factor of the high-resolution masks (1, 2, 4 or 8); None leaves the head out.
        max_tokens_per_trajectory: L, tokens that the encoder can emit per trajectory; calls may ask for fewer.
        encoder_queries: what the encoder's queries start from: learnt "latents", the soft "mean" of each trajectory's
            patch features, or the sum of both. With "mean" the gradient of a task reaches the segmenter.
        track_embedding: add to each token an embedding of its trajectory's path: place, area and spread over time.
            Without it (as in the original) a token cannot tell where its trajectory is or how it moves unless the
            features do.
        outline_embedding: add to each token an embedding of its trajectory's silhouette in its bounding box.
        detach_segmentation: stop the gradient of a task, through trajectory tokens, into the segmenter; the
            segmentation loss still trains it.
        encoder_input_size: width of the features that the encoder reads (default: `hidden_size`); set it when the
            encoder works on the features of another backbone.
        encoder_output_size: width of the trajectory tokens (default: the encoder's input width).
        matching: cost of the Hungarian matching: "soft" (Dice and cross-entropy of the soft masks) or "iou" (IoU of
            the hard assignment, as in the original).
        pixel_loss: "cross_entropy" or "focal" (gamma 2, as in the original).
        label_resampling: how labels come to the patch grid: "area" (each patch has its share of every label) or
            "nearest" (the label at the patch's upper left corner, as in the original, which costs sharp borders).
        loss_pooling: losses are means within each clip, then over clips ("clip"; the same for any way of splitting a
            batch), or over the whole batch, with label m of all clips as one mask ("batch", as in the original).
        pixel_loss_weight: weight of the pixel loss in the segmentation loss.
        dice_loss_weight: weight of the Dice loss in the segmentation loss.
        auxiliary_loss_weight: weight of the loss of the queries after each perceiver layer but the last, so that every
            layer learns to separate trajectories; 0 leaves it out, as the original does.
        initial_logit_scale: factor on the cosine of patch and trajectory at initialisation, 1 to 20 (the original
            starts at 3.8, too flat for many trajectories to separate when training from scratch).
        frames_per_block: frames that inference keeps in flight at a time; bounds memory, does not change the result.
        initializer_range: standard deviation of initial weights.
        layer_norm_eps: epsilon of the perceivers' norms.
    """

    model_type = "trajtok"
    sub_configs_defaults: ClassVar = {
        "backbone_config": SubConfigSpec(
            config_class=AutoConfig, model_type="dinov3_convnext", init_kwargs={"depths": [3, 3, 27, 3]}
        )
    }

    backbone_config: dict | PreTrainedConfig | None = None
    hidden_size: int = 512
    num_trajectories: int = 128
    num_attention_heads: int = 8
    num_query_layers: int = 2
    num_encoder_layers: int = 2
    mlp_ratio: int = 4
    query_positions: Literal["sequence", "grid"] = "sequence"
    encoder_positions: Literal["sequence", "grid"] = "sequence"
    rotary_theta: float = 10000.0
    feature_fusion: Literal["sum", "concat", "last"] = "sum"
    detach_patch_features: bool = True
    high_res_factor: int | None = 4
    max_tokens_per_trajectory: int = 1
    encoder_queries: Literal["latents", "mean", "latents_and_mean"] = "latents"
    track_embedding: bool = False
    outline_embedding: bool = False
    detach_segmentation: bool = False
    encoder_input_size: int | None = None
    encoder_output_size: int | None = None
    matching: Literal["soft", "iou"] = "soft"
    pixel_loss: Literal["cross_entropy", "focal"] = "focal"
    label_resampling: Literal["area", "nearest"] = "area"
    loss_pooling: Literal["clip", "batch"] = "clip"
    pixel_loss_weight: float = 1.0
    dice_loss_weight: float = 2.0
    auxiliary_loss_weight: float = 1.0
    initial_logit_scale: float = 1.0 + math.log(17.0)
    frames_per_block: int = 4
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6

    def __post_init__(self, **kwargs):
        if isinstance(self.backbone_config, dict):
            reject_misspelt_fields("backbone_config", self.backbone_config, DINOv3ConvNextConfig)
            self.backbone_config = {"model_type": "dinov3_convnext", **self.backbone_config}
        self.encoder_input_size = self.encoder_input_size or self.hidden_size
        self.encoder_output_size = self.encoder_output_size or self.encoder_input_size
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Check the rules that involve more than one field."""
        for name in POSITIVE_FIELDS:
            if getattr(self, name) < 1:
                raise ValueError(f"TrajTokConfig got {name}={getattr(self, name)}, expected at least 1.")
        if self.backbone_config.model_type != "dinov3_convnext":
            raise ValueError(
                f"TrajTokConfig got a backbone_config of type {self.backbone_config.model_type}, expected "
                "dinov3_convnext. Give the features of another backbone to the model as patch_features."
            )
        if self.feature_fusion == "concat" and self.hidden_size % self.backbone_config.num_stages:
            raise ValueError(
                f"TrajTokConfig got hidden_size={self.hidden_size} with feature_fusion='concat', expected a multiple "
                f"of the backbone's {self.backbone_config.num_stages} stages."
            )
        for name in ("hidden_size", "encoder_input_size"):
            width = getattr(self, name)
            if width % self.num_attention_heads or (width // self.num_attention_heads) % 4:
                raise ValueError(
                    f"TrajTokConfig got {name}={width} with num_attention_heads={self.num_attention_heads}, expected "
                    f"{name} to be a multiple of 4 * num_attention_heads. Try {name}="
                    f"{max(1, round(width / (4 * self.num_attention_heads))) * 4 * self.num_attention_heads}."
                )
        if self.hidden_size % 8:
            raise ValueError(f"TrajTokConfig got hidden_size={self.hidden_size}, expected a multiple of 8.")
        if self.high_res_factor not in (None, 1, 2, 4, 8):
            raise ValueError(f"TrajTokConfig got high_res_factor={self.high_res_factor}, expected None, 1, 2, 4 or 8.")
        if not 1 < self.initial_logit_scale <= 20:
            raise ValueError(
                f"TrajTokConfig got initial_logit_scale={self.initial_logit_scale}, expected more than 1, at most 20."
            )


__all__ = ["TrajTokConfig"]
