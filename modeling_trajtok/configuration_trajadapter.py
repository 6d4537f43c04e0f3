"""Configuration of TrajAdapter: a frozen backbone, the segmenter that groups its patches, and a probing head.

In:   keyword arguments, or a ``config.json``
Out:  `TrajAdapterConfig`
To:   modeling_trajadapter
"""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_trajtok import CheckedConfig, TrajTokConfig


@strict
class TrajAdapterConfig(CheckedConfig):
    """Configuration of `TrajAdapterModel` and `TrajAdapterForVideoClassification`.

    Args:
        backbone_config: a vision or video model of any type that Transformers has (default: DINOv2-base).
        backbone_checkpoint: Hub name or folder that the frozen weights come from; they are not saved again with the
            adapter. None = the backbone's weights are part of the adapter's checkpoint.
        backbone_revision: of a checkpoint on the Hub.
        backbone_size_px: (height, width) that frames are resized to for the backbone; None = as they come, but the
            size in the configuration of a video backbone made for a fixed number of frames.
        backbone_num_frames: frames of one call of a video backbone; longer clips are cut, the last piece is filled up
            with its last frame. None = the number in the backbone's configuration, or the whole clip at once.
        backbone_image_mean: mean that the backbone expects of RGB in [0, 1], one number for all channels or one for
            each (default: ImageNet's).
        backbone_image_std: the standard deviation that goes with it.
        trajtok_config: segmenter and trajectory encoder; the encoder reads features of the backbone's width.
        probe: what is classified: "trajectories" (attentive pooling of trajectory tokens), or what features are
            probed with otherwise: "attentive" (the same pooling of all patches), "mean" (of all patches) or "cls"
            (mean of the CLS tokens), the last two with a linear classifier.
        freeze_segmenter: keep the segmenter as it is; otherwise ``trajectory_labels`` train it, and so does the task
            if the tokens depend on its soft assignment (``encoder_queries`` of trajtok_config other than "latents").
        segmentation_loss_weight: weight of the segmentation loss beside the task's, where labels are given.
        num_pooler_heads: heads of the attentive pooling.
        pooler_mlp_ratio: hidden width of its MLP, as a multiple of the tokens' width.
        num_frames: frames per clip that the head was trained with; pipelines sample as many.
        initializer_range: standard deviation of the head's initial weights.
    """

    model_type = "trajadapter"
    keys_to_ignore_at_inference: ClassVar = [
        "last_hidden_state", "hidden_states", "attentions", "token_valid", "trajectory_ids"
    ]  # fmt: skip
    sub_configs_defaults: ClassVar = {
        "backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="dinov2"),
        "trajtok_config": SubConfigSpec(config_class=TrajTokConfig),
    }

    backbone_config: dict | PreTrainedConfig | None = None
    backbone_checkpoint: str | None = None
    backbone_revision: str | None = None
    backbone_size_px: list[int] | tuple[int, ...] | None = None
    backbone_num_frames: int | None = None
    backbone_image_mean: float | list[float] | tuple[float, ...] = (0.485, 0.456, 0.406)
    backbone_image_std: float | list[float] | tuple[float, ...] = (0.229, 0.224, 0.225)
    trajtok_config: dict | PreTrainedConfig | None = None
    probe: Literal["trajectories", "attentive", "mean", "cls"] = "trajectories"
    freeze_segmenter: bool = True
    segmentation_loss_weight: float = 1.0
    num_pooler_heads: int = 8
    pooler_mlp_ratio: int = 4
    num_frames: int = 8
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        if self.backbone_size_px is not None:
            self.backbone_size_px = list(self.backbone_size_px)
        for name in ("backbone_image_mean", "backbone_image_std"):
            value = getattr(self, name)
            setattr(self, name, [value] * 3 if isinstance(value, float) else list(value))
        trajtok = self.trajtok_config
        super().__post_init__(**kwargs)
        if getattr(self.backbone_config, "vision_config", None) is not None:
            raise ValueError(
                f"TrajAdapterConfig got a backbone_config of type {self.backbone_config.model_type} with a text part, "
                "expected that of its vision tower. Pass backbone_config.vision_config."
            )
        if not isinstance(trajtok, TrajTokConfig):
            # The encoder's widths follow the backbone's, not the segmenter's.
            wanted = {"encoder_input_size": self.feature_size, "high_res_factor": None}
            attention = self.trajtok_config._attn_implementation
            self.trajtok_config = TrajTokConfig(**{**(trajtok or {}), **wanted})
            self.trajtok_config._attn_implementation = attention

    @property
    def feature_size(self) -> int:
        """Width D of the backbone's patch features."""
        config = self.backbone_config
        sizes = getattr(config, "hidden_sizes", None)
        size = sizes[-1] if sizes else getattr(config, "hidden_size", None)
        if size is None:
            raise ValueError(
                f"TrajAdapterConfig got a backbone_config of class {type(config).__name__}, which names neither "
                "hidden_size nor hidden_sizes: the width of its features is not known. Use another backbone."
            )
        return size

    @property
    def frames_per_call(self) -> int | None:
        """Frames of one call of a video backbone; None = all."""
        return self.backbone_num_frames or getattr(self.backbone_config, "num_frames", None)

    @property
    def frame_multiple(self) -> int:
        """What the number of frames that the backbone gets is a multiple of."""
        return self.frames_per_call or self.tubelet_frames

    @property
    def tubelet_frames(self) -> int:
        """Frames of a patch."""
        tubelet = getattr(self.backbone_config, "tubelet_size", None) or 1
        return tubelet if isinstance(tubelet, int) else tubelet[0]

    @property
    def resized_hw(self) -> tuple[int, int] | None:
        """(height, width) in px that the backbone gets; None = that of the clip."""
        if self.backbone_size_px:
            return tuple(self.backbone_size_px)
        size = getattr(self.backbone_config, "image_size", None)
        if size is None or not getattr(self.backbone_config, "num_frames", None):
            return None
        return (size, size) if isinstance(size, int) else tuple(size)

    def validate_architecture(self):
        """Check the rules that involve more than one field."""
        if self.backbone_size_px is not None and (len(self.backbone_size_px) != 2 or min(self.backbone_size_px) < 1):
            raise ValueError(
                f"TrajAdapterConfig got backbone_size_px={self.backbone_size_px}, expected (height, width) or None."
            )
        if self.trajtok_config.encoder_input_size != self.feature_size:
            raise ValueError(
                f"TrajAdapterConfig got a trajtok_config with encoder_input_size="
                f"{self.trajtok_config.encoder_input_size} for a backbone of width {self.feature_size}, expected the "
                "same."
            )
        for name in ("num_pooler_heads", "pooler_mlp_ratio", "num_frames", "backbone_num_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"TrajAdapterConfig got {name}={value}, expected at least 1.")
        if self.frames_per_call and self.frames_per_call % self.tubelet_frames:
            raise ValueError(
                f"TrajAdapterConfig got {self.frames_per_call} frames for a call of the backbone, expected a multiple "
                f"of the {self.tubelet_frames} frames of a patch. Set backbone_num_frames."
            )
        width = self.trajtok_config.encoder_output_size if self.probe == "trajectories" else self.feature_size
        if width % self.num_pooler_heads and self.probe in ("trajectories", "attentive"):
            raise ValueError(
                f"TrajAdapterConfig got num_pooler_heads={self.num_pooler_heads} for tokens of width {width}, "
                "expected a divisor of it."
            )


__all__ = ["TrajAdapterConfig"]
