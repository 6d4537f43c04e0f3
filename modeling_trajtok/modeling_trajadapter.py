"""TrajAdapter: a probing head that reads a frozen backbone through trajectories.

In:   pixel_values_videos (B, T, 3, H_px, W_px), ImageNet-normalised; or trajectory tokens made before
Out:  `TrajAdapterOutput`, `TrajAdapterClassifierOutput`
From: processors (video_processing_trajtok)     To: video classification
Paper: arXiv 2602.22779 (its authors released no code for it)
"""

from collections.abc import Mapping
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ImageProcessingMixin, PreTrainedModel
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, WeightConverter
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple, logging
from transformers.video_processing_utils import BaseVideoProcessor

from .auto_classes import FamilyAutoClasses
from .configuration_trajadapter import TrajAdapterConfig
from .gradient_paths import check_gradients_of_segmenter, warn_of_missing_gradients
from .grid_ops import GridSize, expand_frame_mask, pool_frame_mask
from .input_checks import (
    check_frame_valid,
    check_keywords,
    check_pixel_names,
    check_pixels,
    check_targets,
    check_task_keywords,
)
from .modeling_trajtok import TrajTokModel, copy_segmenter
from .outputs_trajtok import TrajAdapterClassifierOutput, TrajAdapterOutput
from .patch_backbone import UNUSED_PARTS, PatchBackbone, load_vision_model, vision_config_of
from .perceiver_trajtok import checkpoint_input, eager_attention_forward

logger = logging.get_logger(__name__)


class TrajAdapterProjection(nn.Linear):
    """What turns queries and tokens into what attention compares; a class of its own for its initial weights."""


class TrajAdapterAttention(nn.Module):
    """Queries (B, M, D) read tokens (B, S, D).

    Every projection is a module that is called, so that adapters and quantisation act on it. ``config`` is read for
    the attention implementation only.
    """

    def __init__(self, config, *, width: int, num_heads: int):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.scaling = (width // num_heads) ** -0.5
        self.q_proj = TrajAdapterProjection(width, width)
        self.k_proj = TrajAdapterProjection(width, width)
        self.v_proj = TrajAdapterProjection(width, width)
        self.out_proj = nn.Linear(width, width)

    def _heads(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, queries: Tensor, tokens: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What each query reads (B, M, D), and how much of each token (B, heads, M, S) where the backend tells it.

        Args:
            queries: (B, M, D).
            tokens: (B, S, D).
            valid: (B, S), False for tokens that are not read; None if all are.
        """
        mask = None
        if valid is not None:
            mask = create_bidirectional_mask(
                config=self.config, inputs_embeds=queries, attention_mask=valid, encoder_hidden_states=tokens
            )
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        read, weights = attention(
            self,
            self._heads(self.q_proj(queries)),
            self._heads(self.k_proj(tokens)),
            self._heads(self.v_proj(tokens)),
            attention_mask=mask,
            scaling=self.scaling,
            is_causal=False,
        )
        return self.out_proj(read.flatten(2)), weights


class TrajAdapterPooler(GradientCheckpointingLayer):
    """Attentive pooling: one learnt query reads all tokens, then an MLP: (B, S, D) -> (B, D)."""

    def __init__(self, config, *, width: int, num_heads: int, mlp_ratio: int):
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.norm = nn.LayerNorm(width)
        self.attention = TrajAdapterAttention(config, width=width, num_heads=num_heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width))

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """Tokens (B, S, D), of which those that are not valid (B, S) are not read."""
        query = self.query.expand(tokens.shape[0], -1, -1)
        pooled = query + self.attention(query, self.norm(tokens), valid)[0]
        return (pooled + self.mlp(self.mlp_norm(pooled)))[:, 0]


class TrajAdapterPreTrainedModel(FamilyAutoClasses, PreTrainedModel):
    """What the TrajAdapter models share."""

    config: TrajAdapterConfig
    config_class = TrajAdapterConfig
    auto_classes = {  # noqa: RUF012
        "AutoModel": ("TrajAdapterModel",),
        "AutoModelForVideoClassification": ("TrajAdapterForVideoClassification",),
    }
    base_model_prefix = "adapter"
    _keys_to_ignore_on_load_unexpected = tuple(rf"backbone\.model\.{name}\." for name in UNUSED_PARTS)
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules = ("DINOv3ConvNextLayer", "TrajTokPerceiverLayer", "TrajAdapterPooler")
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, TrajAdapterPooler):
            init.normal_(module.query, std=self.config.initializer_range)
        elif isinstance(module, TrajAdapterProjection):
            # Xavier's range for one matrix that gives queries, keys and values together.
            init.xavier_uniform_(module.weight, gain=0.5**0.5)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As in Transformers; then the frozen weights come from ``config.backbone_checkpoint``, if there is one."""
        loaded = super().from_pretrained(*args, **kwargs)
        adapter = (loaded[0] if isinstance(loaded, tuple) else loaded)._adapter()
        adapter.load_backbone()
        adapter.freeze()
        return loaded

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in Transformers.

        A backbone that ``config.backbone_checkpoint`` names is left out, unless its weights are no longer those of
        that checkpoint, because it was trained or adapters were merged into it: then it is saved with the adapter,
        which from then on refers to no checkpoint.
        """
        adapter = self._adapter()
        if not getattr(self, "_hf_peft_config_loaded", False) and adapter.backbone_differs_from_checkpoint():
            logger.warning(
                f"The backbone's weights are no longer those of {self.config.backbone_checkpoint}. They are saved "
                "with the adapter, which does not refer to that checkpoint any more."
            )
            self.config.backbone_checkpoint = self.config.backbone_revision = None
            for model in (self, adapter):
                model._keys_to_ignore_on_save = set()
                model._keys_to_ignore_on_load_missing = set()
        super().save_pretrained(save_directory, *args, **kwargs)

    def load_state_dict(self, state_dict, *args, **kwargs):
        """As in PyTorch, also of what `save_pretrained` wrote: so `Trainer` loads its best checkpoint."""
        if not state_dict.keys() <= self.state_dict().keys():
            state_dict = self._converted(state_dict)
        return super().load_state_dict(state_dict, *args, **kwargs)

    def _converted(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights under the names of folders, of this or an earlier release, under those of the modules."""
        load = super().from_pretrained.__func__  # without the backbone's checkpoint
        loaded, info = load(type(self), None, config=self.config, state_dict=state_dict, output_loading_info=True)
        absent = {*info["missing_keys"], *(self._keys_to_ignore_on_save or ())}
        found = {key: value for key, value in loaded.state_dict().items() if key not in absent}
        return found | {key: state_dict[key] for key in info["unexpected_keys"] if key in state_dict}

    def _adapter(self) -> "TrajAdapterModel":
        return next(module for module in self.modules() if isinstance(module, TrajAdapterModel))

    @classmethod
    def from_components(cls, *, backbone, trajtok=None, **settings):
        """A new head on pretrained parts.

        Args:
            backbone: name or folder of a vision or video model of Transformers (of a model of images and text its
                vision tower is taken), which the adapter then refers to; or such a model, which is saved with it.
            trajtok: name, path or model of a TrajTok whose segmenter is taken; None = new weights.
            **settings: fields of `TrajAdapterConfig`, such as ``num_labels`` and ``probe``; what the backbone expects
                of pixels is read from the checkpoint's preprocessor, if it has one.
        """
        model = backbone
        if not isinstance(backbone, PreTrainedModel):
            revision = settings.get("backbone_revision")
            settings = {"backbone_checkpoint": str(backbone), **_pixel_settings(backbone, revision), **settings}
            model = load_vision_model(backbone, revision)
        model = getattr(model, "vision_model", model) if vision_config_of(model.config) is not model.config else model
        if trajtok is not None and not isinstance(trajtok, PreTrainedModel):
            trajtok = TrajTokModel.from_pretrained(trajtok, dtype=torch.float32)
        if trajtok is not None:
            own = trajtok.config.to_dict() | {"encoder_input_size": None, "encoder_output_size": None}
            settings["trajtok_config"] = own | settings.get("trajtok_config", {})
        config = TrajAdapterConfig(backbone_config=vision_config_of(model.config).to_dict(), **settings)
        built = cls(config)
        adapter = getattr(built, "adapter", built)
        adapter.backbone.load(model.state_dict())
        if trajtok is not None and adapter.trajtok is not None:
            copy_segmenter(trajtok, adapter.trajtok)
        return built


class TrajAdapterModel(TrajAdapterPreTrainedModel):
    """Frozen backbone, trajectories and pooling: clips become one vector."""

    def __init__(self, config: TrajAdapterConfig):
        super().__init__(config)
        self.backbone = PatchBackbone(config)
        self.trajtok = TrajTokModel(config.trajtok_config) if config.probe == "trajectories" else None
        if self.trajtok is not None and not config.freeze_segmenter:
            self._warn_of_no_gradient()
        width = self.feature_size
        self.pooler = (
            TrajAdapterPooler(
                config, width=width, num_heads=config.num_pooler_heads, mlp_ratio=config.pooler_mlp_ratio
            )
            if config.probe in ("trajectories", "attentive")
            else None
        )
        self.norm = nn.LayerNorm(width)
        if config.backbone_checkpoint is not None:
            self._keys_to_ignore_on_save = {f"backbone.{name}" for name in self.backbone.state_dict()}
            self._keys_to_ignore_on_load_missing = {r"^backbone\."}
        self.post_init()
        self.freeze()

    def get_input_embeddings(self) -> nn.Module:
        """The backbone's embeddings of patches."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the backbone's embeddings of patches."""
        self.backbone.set_input_embeddings(value)

    def _warn_of_no_gradient(self) -> None:
        trajtok = self.config.trajtok_config
        if trajtok.encoder_queries == "latents" or trajtok.detach_segmentation:
            logger.warning(
                "freeze_segmenter=False, but the classes give the segmenter no gradient with encoder_queries="
                f"{trajtok.encoder_queries!r} and detach_segmentation={trajtok.detach_segmentation}: only "
                "trajectory_labels train it. Set encoder_queries='latents_and_mean' in trajtok_config if they should."
            )

    @property
    def feature_size(self) -> int:
        """Width of what is classified."""
        config = self.config
        return config.trajtok_config.encoder_output_size if config.probe == "trajectories" else config.feature_size

    def load_backbone(self) -> None:
        """Load the frozen weights from the checkpoint that the configuration names."""
        config = self.config
        if config.backbone_checkpoint is None:
            return
        try:
            model = load_vision_model(config.backbone_checkpoint, config.backbone_revision, self.dtype)
        except OSError as error:
            raise OSError(
                f"TrajAdapter cannot load its frozen backbone {config.backbone_checkpoint!r}: {error} Set "
                "config.backbone_checkpoint to where it is."
            ) from error
        self.backbone.load(model.state_dict())

    def backbone_differs_from_checkpoint(self) -> bool:
        """Are the backbone's weights others than those of the checkpoint that the configuration names?"""
        config = self.config
        if config.backbone_checkpoint is None or self.backbone.is_as_loaded():
            return False
        model = load_vision_model(config.backbone_checkpoint, config.backbone_revision, self.dtype)
        return not self.backbone.has_weights(model.state_dict())

    def freeze(self) -> None:
        """Freeze the backbone and, unless the task trains it, the segmenter."""
        self.backbone.freeze()
        if self.trajtok is not None and self.config.freeze_segmenter:
            self.trajtok.segmenter.requires_grad_(False)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        frame_valid: Tensor | None = None,
        trajectory_ids: Tensor | None = None,
        trajectory_labels: Tensor | None = None,
        trajectory_embeds: Tensor | None = None,
        token_valid: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> TrajAdapterOutput:
        """Pool clips, or trajectory tokens of this adapter that were made before.

        Args:
            pixel_values_videos: (B, T, 3, H_px, W_px), ImageNet-normalised RGB.
            frame_valid: (B, T), False for padded frames, which stand at the end; None if there are none.
            trajectory_ids: (B, T', h, w) somebody else's grouping, of the T' frames of the backbone's patch grid.
            trajectory_labels: (B, T, h, w) at any resolution, -1 = ignore: adds the segmentation loss.
            trajectory_embeds: (B, K*L, D) tokens, instead of pixels.
            token_valid: (B, K*L) of ``trajectory_embeds``.
            output_hidden_states: also return the states of the backbone's layers.
            output_attentions: also return its attention weights ("eager" attention tells them).
            **kwargs: accepted for callers that pass the keywords of other models; misspelt ones are errors.

        Returns:
            `TrajAdapterOutput`.

        Raises:
            ValueError: for missing or contradicting inputs, and as `PatchBackbone` and `TrajTokModel`.
        """
        check_keywords(self, kwargs)
        if trajectory_embeds is not None:
            self._check_tokens(trajectory_embeds, pixel_values_videos)
            if self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
                warn_of_missing_gradients(
                    "TrajAdapter",
                    {"backbone": self.backbone, "trajtok": self.trajtok},
                    "trajectory_embeds were made before. Freeze them, or pass pixels.",
                )
            return self._pool(trajectory_embeds.to(self.norm.weight.dtype), token_valid)
        if pixel_values_videos is None:
            raise ValueError("TrajAdapterModel got no input, expected pixel_values_videos or trajectory_embeds.")
        check_pixels("TrajAdapterModel", pixel_values_videos)
        frame_valid = check_frame_valid("TrajAdapterModel", frame_valid, *pixel_values_videos.shape[:2])
        pixels, frame_valid = self._pad(pixel_values_videos, frame_valid)
        asked = {"hidden_states": output_hidden_states, "attentions": output_attentions}
        asked = {
            name: getattr(self.config, f"output_{name}", False) if wanted is None else wanted
            for name, wanted in asked.items()
        }
        features = self.backbone(
            pixels, frame_valid, {name: wanted for name, wanted in asked.items() if wanted is not False}
        )
        if self.trajtok is None:
            output = self._pool_patches(features.patches, features.cls, features.grid, frame_valid)
            output.hidden_states, output.attentions = map(features.records.get, asked)
            return output
        if trajectory_labels is not None:
            if trajectory_labels.shape[1] != pixel_values_videos.shape[1]:
                raise ValueError(
                    f"TrajAdapterModel got trajectory_labels of {trajectory_labels.shape[1]} frames, expected "
                    f"{pixel_values_videos.shape[1]}: one label map for each frame."
                )
            missing = pixels.shape[1] - trajectory_labels.shape[1]
            trajectory_labels = F.pad(trajectory_labels, (0, 0, 0, 0, 0, missing), value=-1)
        tokenized = self.trajtok(
            pixels,
            frame_valid,
            patch_features=features.patches,
            patch_grid=features.grid,
            trajectory_ids=trajectory_ids,
            trajectory_labels=trajectory_labels,
            return_dict=True,
        )
        check_gradients_of_segmenter(
            "TrajAdapter",
            self.trajtok,
            masks=tokenized.loss is not None,
            high_res=tokenized.assignment_logits_high_res is not None,
            ids=trajectory_ids is not None,
            own_features=False,
        )
        output = self._pool(tokenized.trajectory_embeds, tokenized.token_valid)
        output.trajectory_ids = tokenized.trajectory_ids
        output.segmentation_loss = tokenized.loss
        output.hidden_states, output.attentions = map(features.records.get, asked)
        return output

    def _pad(self, pixels: Tensor, frame_valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Clips as long as the backbone wants them; frames that are not valid repeat the last one that is."""
        missing = -pixels.shape[1] % self.config.frame_multiple
        if frame_valid is None and not missing:
            return pixels, None
        if frame_valid is None:
            frame_valid = torch.ones(pixels.shape[:2], dtype=torch.bool, device=pixels.device)
        frame_valid = F.pad(frame_valid, (0, missing))
        last = frame_valid.sum(dim=1, keepdim=True) - 1
        frames = torch.arange(frame_valid.shape[1], device=pixels.device).minimum(last)
        return pixels[torch.arange(pixels.shape[0], device=pixels.device).unsqueeze(1), frames], frame_valid

    def _pool(self, tokens: Tensor, valid: Tensor | None) -> TrajAdapterOutput:
        if self.pooler.gradient_checkpointing and self.training:
            tokens = checkpoint_input(self.pooler, tokens)
        pooled = self.norm(self.pooler(tokens, valid))
        return TrajAdapterOutput(last_hidden_state=tokens, pooler_output=pooled, token_valid=valid)

    def _pool_patches(
        self, patches: Tensor, cls: Tensor | None, grid: GridSize, frame_valid: Tensor | None
    ) -> TrajAdapterOutput:
        """What probes without trajectories do with the same features."""
        dtype = self.norm.weight.dtype
        patches, valid = patches.to(dtype), None
        if frame_valid is not None:
            valid = expand_frame_mask(pool_frame_mask(frame_valid, grid.t), grid)
        if self.config.probe == "attentive":
            return self._pool(patches, valid)
        if self.config.probe == "mean":
            weights = torch.ones_like(patches[..., :1]) if valid is None else valid.unsqueeze(-1).to(dtype)
            pooled = (patches * weights).sum(dim=1) / weights.sum(dim=1)
        elif cls is None:
            raise ValueError(
                f"{type(self.backbone.model).__name__} has no CLS token, which probe='cls' reads. Use probe='mean' or "
                "'attentive'."
            )
        else:
            pooled = cls.to(dtype)
        return TrajAdapterOutput(last_hidden_state=patches, pooler_output=self.norm(pooled), token_valid=valid)

    def _check_tokens(self, trajectory_embeds: Tensor, pixels: Tensor | None) -> None:
        width = self.feature_size
        if pixels is not None:
            raise ValueError("TrajAdapterModel got pixel_values_videos and trajectory_embeds, expected one of them.")
        if self.trajtok is None or trajectory_embeds.dim() != 3 or trajectory_embeds.shape[2] != width:
            raise ValueError(
                f"TrajAdapterModel with probe={self.config.probe!r} got trajectory_embeds of shape "
                f"{tuple(trajectory_embeds.shape)}, expected (B, K*L, {width}) and probe='trajectories'. Make them "
                "with this adapter (`last_hidden_state`)."
            )


# Folders hold the queries', keys' and values' weights of the pooling in one matrix (``attention.in_proj_weight``).
# Registered for the class, not for its type: PEFT would apply what is registered for a type to adapters.
register_checkpoint_conversion_mapping(
    "TrajAdapterModel",
    [
        WeightConverter(
            source_patterns=f"pooler.attention.in_proj_{kind}",
            target_patterns=[f"pooler.attention.{name}_proj.{kind}" for name in "qkv"],
            operations=[Chunk(dim=0)],
        )
        for kind in ("weight", "bias")
    ],
    overwrite=True,
)


class TrajAdapterForVideoClassification(TrajAdapterPreTrainedModel):
    """`TrajAdapterModel` with a linear classifier."""

    def __init__(self, config: TrajAdapterConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.adapter = TrajAdapterModel(config)
        self.classifier = nn.Linear(self.adapter.feature_size, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The backbone's embeddings of patches."""
        return self.adapter.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the backbone's embeddings of patches."""
        self.adapter.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        frame_valid: Tensor | None = None,
        trajectory_ids: Tensor | None = None,
        target_trajectory_ids: Tensor | None = None,
        trajectory_embeds: Tensor | None = None,
        token_valid: Tensor | None = None,
        labels: Tensor | None = None,
        pixel_values: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> TrajAdapterClassifierOutput:
        """Classify clips.

        Args:
            pixel_values_videos: as the others, see `TrajAdapterModel.forward`.
            frame_valid: see there.
            trajectory_ids: see there.
            target_trajectory_ids: what the segmenter should find, there called ``trajectory_labels``, as callers may
                here; but `Trainer` takes arguments of such names for what evaluation cannot do without.
            trajectory_embeds: see there.
            token_valid: see there.
            labels: (B,) classes, (B, num_labels) for several at once, or (B,) numbers for regression, as
                ``config.problem_type`` says.
            pixel_values: what VideoMAE and code written for it call ``pixel_values_videos``.
            output_hidden_states: also return the states of the backbone's layers.
            output_attentions: also return its attention weights ("eager" attention tells them).
            **kwargs: accepted for callers that pass the keywords of other models; misspelt ones are errors.

        Returns:
            `TrajAdapterClassifierOutput`.
        """
        pixel_values_videos = check_pixel_names(type(self).__name__, pixel_values_videos, pixel_values)
        check_task_keywords(self, TrajAdapterModel, kwargs)
        output = self.adapter(
            pixel_values_videos,
            frame_valid,
            trajectory_ids,
            trajectory_embeds=trajectory_embeds,
            token_valid=token_valid,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            **check_targets(type(self).__name__, target_trajectory_ids, kwargs),
        )
        logits = self.classifier(output.pooler_output)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
            if output.segmentation_loss is not None:
                loss = loss + self.config.segmentation_loss_weight * output.segmentation_loss
        return TrajAdapterClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            last_hidden_state=output.last_hidden_state,
            token_valid=output.token_valid,
            trajectory_ids=output.trajectory_ids,
        )


def _pixel_settings(checkpoint, revision: str | None) -> dict:
    """The mean and standard deviation of RGB in [0, 1] that a checkpoint's preprocessor amounts to."""
    found = _preprocessor(checkpoint, revision)
    mean, std = found.get("image_mean"), found.get("image_std")
    if found and not found.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    if not mean or not std:
        logger.warning(
            f"{checkpoint} has no preprocessor that tells how pixels are normalised: ImageNet's mean and standard "
            "deviation are assumed. Set backbone_image_mean and backbone_image_std if it wants others."
        )
        return {}
    mean, std = ([values] * 3 if isinstance(values, float) else values for values in (mean, std))
    scale = 255 * found.get("rescale_factor", 1 / 255) if found.get("do_rescale", True) else 255
    # ViViT scales to -1 ... 1 before it normalises.
    offset = float(bool(found.get("offset", found.get("video_processor_type") == "VivitVideoProcessor")))
    return {
        "backbone_image_mean": [(value + offset) / scale for value in mean],
        "backbone_image_std": [value / scale for value in std],
    }


def _preprocessor(checkpoint, revision: str | None) -> dict:
    """The settings of a checkpoint's video processor or, without one, of its image processor."""
    for read in (BaseVideoProcessor.get_video_processor_dict, ImageProcessingMixin.get_image_processor_dict):
        with suppress(OSError):
            return read(checkpoint, revision=revision)[0]
    return {}


__all__ = ["TrajAdapterForVideoClassification", "TrajAdapterModel", "TrajAdapterPreTrainedModel"]
