"""TrajVLM: a language model that reads images and videos as trajectory tokens.

In:   input_ids (B, S) with one placeholder per trajectory token; pixel_values (N, 3, H_px, W_px) of images and
      pixel_values_videos (M, T, 3, H_px, W_px), both ImageNet-normalised; or tokens made before (mm_encoder_outputs)
Out:  `TrajVLMOutput`
From: processors (processing_trajvlm)     To: generation, fine-tuning
Paper: arXiv 2602.22779     Official: siglip2_trajgroup_vision_backbone.py
"""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import fields
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import ModelOutput, can_return_tuple

from .auto_classes import FamilyAutoClasses
from .configuration_trajvit2 import TrajViT2Config
from .configuration_trajvlm import SEGMENTER, TrajVLMConfig
from .gradient_paths import warn_of_missing_gradients
from .grid_ops import GridSize, expand_frame_mask, resize_patches
from .modeling_trajtok import TrajTokSegmenterModel, copy_segmenter
from .modeling_trajvit2 import TrajViT2Model, TrajViT2VideoModel
from .outputs_trajtok import (
    TrajViT2VideoOutput,
    TrajVLMFeatures,
    TrajVLMGroupingOutput,
    TrajVLMModelOutput,
    TrajVLMOutput,
)
from .patch_backbone import FRAMES_AT_A_TIME, flat_patches, load_vision_model, renormalise
from .perceiver_trajtok import Membership, PatchBlocks, TrajTokPerceiver, read_last_patches

# LoRA on the language model alone: a list such as ["q_proj", "v_proj"] would match the vision tower and the segmenter.
LORA_TARGET_MODULES = r".*language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
# What this release of Transformers calls the cache of a language model, in keywords and in outputs.
CACHE = "cache" if "cache" in {field.name for field in fields(BaseModelOutputWithPast)} else "past_key_values"
# Trained in full beside LoRA, and saved with the adapter.
LORA_MODULES_TO_SAVE = ("connector",)


class Chunks(NamedTuple):
    """Clips cut in time: pixels (C, c, 3, H_px, W_px), valid frames (C, c), and how many chunks each video has."""

    pixels: Tensor
    frame_valid: Tensor
    per_video: list[int]


def cut_into_chunks(pixel_values_videos: Tensor, frame_valid: Tensor | None, frames_per_chunk: int | None) -> Chunks:
    """Cut clips (B, T, 3, H_px, W_px) into chunks of frames; chunks without a valid frame (B, T) are left out."""
    batch, num_frames = pixel_values_videos.shape[:2]
    if frame_valid is None:
        frame_valid = torch.ones(batch, num_frames, dtype=torch.bool, device=pixel_values_videos.device)
    length = min(frames_per_chunk or num_frames, num_frames)
    missing = -num_frames % length
    if missing:
        last = pixel_values_videos[:, -1:].expand(-1, missing, -1, -1, -1)
        pixel_values_videos = torch.cat((pixel_values_videos, last), dim=1)
    frame_valid = F.pad(frame_valid.bool(), (0, missing))
    pixels = pixel_values_videos.unflatten(1, (-1, length)).flatten(0, 1)
    valid = frame_valid.unflatten(1, (-1, length))
    used = valid[..., 0]
    return Chunks(pixels[used.flatten()], valid.flatten(0, 1)[used.flatten()], used.sum(dim=1).tolist())


def count_patches(trajectory_ids: Tensor, num_trajectories: int) -> Tensor:
    """How many patches (C, K) each trajectory owns, given the trajectory of each patch (C, N), -1 = none."""
    return F.one_hot(trajectory_ids + 1, num_trajectories + 1).sum(dim=1)[:, 1:]


def join_layers(parts: Sequence[tuple[Tensor | None, ...] | None]) -> tuple[Tensor | None, ...] | None:
    """What each layer gave for all parts of a batch, given what the layers gave for one part after the other."""
    if parts[0] is None:
        return None
    return tuple(None if layer[0] is None else torch.cat(layer) for layer in zip(*parts, strict=True))


def layers_asked_for(keywords: dict) -> dict:
    """Which layers of the vision tower a caller wants to see."""
    return {name: keywords[name] for name in ("output_hidden_states", "output_attentions") if name in keywords}


class TrajVLMProjection(nn.Linear):
    """Linear layer without bias, at first as large outside as inside."""

    def __init__(self, in_size: int, out_size: int):
        super().__init__(in_size, out_size, bias=False)


class TrajVLMProjector(nn.Module):
    """Gated MLP into the language model's space, without biases: (..., D) -> (..., d)."""

    def __init__(self, in_size: int, hidden_size: int, out_size: int):
        super().__init__()
        self.gate_proj = TrajVLMProjection(in_size, hidden_size)
        self.up_proj = TrajVLMProjection(in_size, hidden_size)
        self.down_proj = TrajVLMProjection(hidden_size, out_size)

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., d)."""
        return self.down_proj(F.silu(self.gate_proj(states)) * self.up_proj(states))


class TrajVLMConnector(nn.Module):
    """Each trajectory reads its patches of the vision tower, starting from what the segmenter knows of it."""

    def __init__(self, config: TrajVLMConfig):
        super().__init__()
        trajtok, width, text_size = (
            config.trajtok_config,
            config.vision_config.hidden_size,
            config.text_config.hidden_size,
        )
        self.num_trajectories = trajtok.num_trajectories
        self.query_proj = nn.Linear(trajtok.hidden_size, width)
        self.perceiver = TrajTokPerceiver(
            config,
            width=width,
            num_layers=config.num_connector_layers,
            num_heads=config.num_connector_heads,
            mlp_ratio=config.connector_mlp_ratio,
            positions="grid",
            theta=trajtok.rotary_theta,
            eps=trajtok.layer_norm_eps,
        )
        self.projector = TrajVLMProjector(width, config.projector_ratio * text_size, text_size)

    def forward(
        self,
        trajectory_queries: Tensor,
        patch_features: Tensor,
        trajectory_ids: Tensor,
        grid: GridSize,
        frame_valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Pool patches by trajectory.

        Args:
            trajectory_queries: (C, K, D_seg).
            patch_features: (C, N, D) of the vision tower.
            trajectory_ids: (C, N) trajectory of each patch, -1 = none.
            grid: of the N patches.
            frame_valid: (C, T), or None if no frame is padded.

        Returns:
            Pooled states (C, K, D) and tokens (C, K, d).
        """
        valid = None if frame_valid is None else expand_frame_mask(frame_valid, grid)
        blocks = PatchBlocks.from_features(patch_features, grid, grid.t, valid)
        anchor_index, anchor_features = read_last_patches(blocks, frame_valid, trajectory_ids.device)
        membership = Membership(
            patch_trajectory=trajectory_ids.scatter(1, anchor_index, -1),
            anchor_index=anchor_index,
            anchor_features=anchor_features,
            num_trajectories=self.num_trajectories,
        )
        pooled = self.perceiver(self.query_proj(trajectory_queries), blocks, membership)[-1]
        return pooled, self.projector(pooled)


class TrajVLMPreTrainedModel(FamilyAutoClasses, PreTrainedModel):
    """What the TrajVLM models share."""

    config: TrajVLMConfig
    config_class = TrajVLMConfig
    auto_classes = {  # noqa: RUF012
        "AutoModel": ("TrajVLMModel",),
        "AutoModelForImageTextToText": ("TrajVLMForConditionalGeneration",),
        "AutoModelForMultimodalLM": ("TrajVLMForConditionalGeneration",),
    }
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ("DINOv3ConvNextLayer", "TrajTokPerceiverLayer")
    _skip_keys_device_placement = ("cache", "past_key_values")
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, TrajVLMProjection):
            # Smaller, a gated MLP keeps only products of its inputs, and the first steps of training replace what it
            # lets through by what is learnt most easily.
            init.normal_(module.weight, std=module.in_features**-0.5)

    def initialize_weights(self):
        """As in Transformers; each model inside starts as it does when it stands alone.

        In code that is not the library's, the library asks no rule of a module without weights of its own, and asks
        none inside the library's own models either, where the rules of SigLIP stand.
        """
        for part in self.children():
            if isinstance(part, PreTrainedModel):
                part.initialize_weights()
        super().initialize_weights()

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As in Transformers; loading makes every weight trainable, so what gets no gradient is frozen again."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze_assignment_heads()
        return loaded

    def freeze_assignment_heads(self) -> None:
        """Freeze what only decides which trajectory a patch belongs to: no gradient comes through an argmax."""
        for module in self.modules():
            if isinstance(module, TrajVLMGrouping):
                segmenter = module.segmenter.segmenter
                for head in (segmenter.patch_head, segmenter.trajectory_head, segmenter.assignment):
                    head.requires_grad_(False)


class TrajVLMGrouping(TrajVLMPreTrainedModel):
    """Segmenter and connector: patch features of the vision tower become trajectory tokens.

    The three parts of the segmenter that only decide which trajectory a patch belongs to (``patch_head``,
    ``trajectory_head``, ``assignment``) are frozen: the decision is an argmax, through which no gradient comes. The
    task trains the rest of it through the trajectory queries.
    """

    base_model_prefix = ""
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)

    def __init__(self, config: TrajVLMConfig):
        super().__init__(config)
        self.segmenter = TrajTokSegmenterModel(config.trajtok_config)
        self.connector = TrajVLMConnector(config)
        self.freeze_assignment_heads()
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The layer that turns the segmenter's pixels into features."""
        return self.segmenter.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the layer that turns the segmenter's pixels into features."""
        self.segmenter.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: Tensor,
        patch_features: Tensor,
        patch_grid: tuple[int, int, int],
        frame_valid: Tensor | None = None,
    ) -> TrajVLMGroupingOutput:
        """Group the vision tower's patches by trajectory.

        Args:
            pixel_values_videos: (C, T, 3, h_px, w_px) frames at the segmenter's resolution, ImageNet-normalised.
            patch_features: (C, N, D) of the same frames.
            patch_grid: (T, H, W) of ``patch_features``.
            frame_valid: (C, T), False for padded frames; None if there are none.

        Returns:
            `TrajVLMGroupingOutput`.
        """
        grid = GridSize(*patch_grid)
        if self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            segmenter = self.segmenter.segmenter
            warn_of_missing_gradients(
                "TrajVLM",
                {name: getattr(segmenter, name) for name in ("patch_head", "trajectory_head", "assignment")},
                "which trajectory a patch belongs to is decided by an argmax, through which no gradient comes. Leave "
                "them out of the adapters with exclude_modules.",
            )
        segmented = self.segmenter(pixel_values_videos, frame_valid)
        segmenter_grid = GridSize(*segmented.trajectory_ids.shape[1:])
        ids = resize_patches(segmented.assignment_logits, segmenter_grid, (grid.h, grid.w)).argmax(dim=-1)
        if frame_valid is not None:
            ids = ids.masked_fill(~expand_frame_mask(frame_valid, grid), -1)
        queries = segmented.trajectory_queries.to(patch_features.dtype)
        pooled, tokens = self.connector(queries, patch_features, ids, grid, frame_valid)
        return TrajVLMGroupingOutput(
            last_hidden_state=pooled,
            trajectory_embeds=tokens,
            num_patches=count_patches(ids, self.connector.num_trajectories),
            trajectory_ids=segmented.trajectory_ids,
            trajtok_output=segmented,
        )


class TrajVLMTokenProjection(nn.Module):
    """In place of `TrajVLMGrouping` after a TrajViT2 tower, which has grouped the patches already."""

    def __init__(self, config: TrajVLMConfig):
        super().__init__()
        width, text_size = config.vision_config.transformer_config.hidden_size, config.text_config.hidden_size
        self.num_trajectories = config.vision_config.trajtok_config.num_trajectories
        self.connector = TrajVLMProjector(width, config.projector_ratio * text_size, text_size)

    def forward(self, videos: TrajViT2VideoOutput) -> TrajVLMGroupingOutput:
        """States (C, 1 + K, D) of the tower as tokens (C, K, d), without CLS; empty trajectories give zeros."""
        states = videos.last_hidden_state[:, 1:]
        return TrajVLMGroupingOutput(
            last_hidden_state=states,
            trajectory_embeds=self.connector(states) * videos.token_valid.unsqueeze(-1),
            num_patches=count_patches(videos.trajectory_ids.flatten(1), self.num_trajectories),
            trajectory_ids=videos.trajectory_ids,
            trajtok_output=videos.trajtok_output,
        )


class TrajVLMModel(TrajVLMPreTrainedModel):
    """Vision tower, grouping and language model, without the head that gives words."""

    def __init__(self, config: TrajVLMConfig):
        super().__init__(config)
        if config.has_trajectory_tower:
            self.vision_tower = TrajViT2VideoModel(config.vision_config)
            self.grouping = TrajVLMTokenProjection(config)
        else:
            self.vision_tower = AutoModel.from_config(config.vision_config)
            self.grouping = TrajVLMGrouping(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's embeddings of words."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's embeddings of words."""
        self.language_model.set_input_embeddings(value)

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs) -> TrajVLMFeatures:
        """Trajectory tokens of images, which are clips of one frame.

        Args:
            pixel_values: (N, 3, H_px, W_px), ImageNet-normalised RGB.
            **kwargs: ``output_hidden_states`` and ``output_attentions`` of the vision tower; others are ignored.

        Returns:
            `TrajVLMFeatures`.
        """
        if pixel_values.dim() != 4:
            raise ValueError(
                f"TrajVLM got pixel_values of shape {tuple(pixel_values.shape)}, expected (images, 3, height, width). "
                "Pass images through TrajVLMProcessor first."
            )
        return self._features(pixel_values.unsqueeze(1), None, layers_asked_for(kwargs))

    @can_return_tuple
    def get_video_features(
        self, pixel_values_videos: Tensor, frame_valid: Tensor | None = None, **kwargs
    ) -> TrajVLMFeatures:
        """Trajectory tokens of videos; pass the result as ``mm_encoder_outputs={"video": ...}`` to ask again.

        Args:
            pixel_values_videos: (B, T, 3, H_px, W_px), ImageNet-normalised RGB.
            frame_valid: (B, T), False for padded frames, which stand at the end.
            **kwargs: ``output_hidden_states`` and ``output_attentions`` of the vision tower; others are ignored.

        Returns:
            `TrajVLMFeatures`.
        """
        if pixel_values_videos.dim() != 5:
            raise ValueError(
                f"TrajVLM got pixel_values_videos of shape {tuple(pixel_values_videos.shape)}, expected (videos, "
                "frames, 3, height, width). Pass videos through TrajVLMProcessor first."
            )
        return self._features(pixel_values_videos, frame_valid, layers_asked_for(kwargs))

    def _features(self, pixels: Tensor, frame_valid: Tensor | None, layers: dict) -> TrajVLMFeatures:
        if frame_valid is not None and tuple(frame_valid.shape) != tuple(pixels.shape[:2]):
            raise ValueError(
                f"TrajVLM got frame_valid of shape {tuple(frame_valid.shape)}, expected {tuple(pixels.shape[:2])} for "
                f"{pixels.shape[0]} videos of {pixels.shape[1]} frames."
            )
        chunks = cut_into_chunks(pixels, frame_valid, self.config.frames_per_chunk)
        step = chunks.pixels.shape[0]
        if not torch.is_grad_enabled():
            step = max(1, FRAMES_AT_A_TIME // chunks.pixels.shape[1])
        steps = zip(chunks.pixels.split(step), chunks.frame_valid.split(step), strict=True)
        parts, towers = zip(*(self._encode_chunks(pixels, valid, layers) for pixels, valid in steps), strict=True)
        tokens, patches, ids = (
            torch.cat([part[name] for part in parts]).split(chunks.per_video)
            for name in ("trajectory_embeds", "num_patches", "trajectory_ids")
        )
        valid, num_trajectories = chunks.frame_valid.split(chunks.per_video), patches[0].shape[1]
        kept = [self._select(count.flatten()) for count in patches]
        return TrajVLMFeatures(
            last_hidden_state=torch.cat([part.last_hidden_state for part in parts]),
            pooler_output=[token.flatten(0, 1)[place] for token, place in zip(tokens, kept, strict=True)],
            hidden_states=join_layers([tower.get("hidden_states") for tower in towers]),
            attentions=join_layers([tower.get("attentions") for tower in towers]),
            token_chunks=[place // num_trajectories for place in kept],
            token_trajectories=[place % num_trajectories for place in kept],
            trajectory_ids=[one[real] for one, real in zip(ids, valid, strict=True)],
        )

    def _select(self, num_patches: Tensor) -> Tensor:
        """Which trajectories of a video become tokens, given how many patches each has (chunks * K,): their places."""
        places = torch.arange(num_patches.shape[0], device=num_patches.device)
        if self.config.token_selection == "valid":
            places = places[num_patches > 0]
        budget = self.config.max_trajectory_tokens
        if budget is not None and places.shape[0] > budget:
            largest = num_patches[places].argsort(descending=True, stable=True)[:budget]
            places = places[largest.sort().values]
        return places

    def _encode_chunks(
        self, pixels: Tensor, frame_valid: Tensor, layers: dict
    ) -> tuple[TrajVLMGroupingOutput, ModelOutput]:
        """Chunks (C, c, 3, H_px, W_px) with valid frames (C, c) to trajectory tokens; and what the tower gave."""
        frame_valid = None if frame_valid.all() else frame_valid
        if self.config.has_trajectory_tower:
            videos = self.vision_tower(pixels, frame_valid, tokens_per_trajectory=1, return_dict=True, **layers)
            return self.grouping(videos), videos
        patches, grid = self._vision_patches(pixels, layers)
        features = patches.last_hidden_state.reshape(pixels.shape[0], grid.num_patches, -1)
        return self.grouping(self._segmenter_pixels(pixels), features, grid, frame_valid, return_dict=True), patches

    def _vision_patches(self, pixels: Tensor, layers: dict) -> tuple[ModelOutput, GridSize]:
        """What the vision tower gives for each frame of chunks (C, c, ...), and the grid of a chunk's patches."""
        config, frames = self.config.vision_config, pixels.shape[1]
        mean, std = self.config.vision_image_mean, self.config.vision_image_std
        images = pixels.flatten(0, 1)
        if mean is not None:
            images = renormalise(images, mean, std)
        images = images.to(self.vision_tower.post_layernorm.weight.dtype)
        side = config.patch_size
        grid = GridSize(frames, images.shape[-2] // side, images.shape[-1] // side)
        if config.model_type == "siglip2_vision_model":
            inputs = flat_patches(images, side)
        else:
            inputs = {"pixel_values": images}
            if tuple(images.shape[-2:]) != (config.image_size, config.image_size):
                inputs["interpolate_pos_encoding"] = True
        # A frozen tower keeps no graph, whatever hooks make its inputs require gradients.
        trained = torch.is_grad_enabled() and any(part.requires_grad for part in self.vision_tower.parameters())
        with torch.set_grad_enabled(trained):
            return self.vision_tower(**inputs, return_dict=True, **layers), grid

    def _segmenter_pixels(self, pixels: Tensor) -> Tensor:
        """The same frames at the segmenter's resolution, in steps of a patch."""
        stride = self.grouping.segmenter.segmenter.patch_encoder.stride
        scale = self.config.segmenter_size_px / min(pixels.shape[-2:])
        size = tuple(round(side * scale / stride) * stride for side in pixels.shape[-2:])
        if size == tuple(pixels.shape[-2:]):
            return pixels
        images = F.interpolate(pixels.flatten(0, 1), size=size, mode="bilinear", align_corners=False)
        return images.unflatten(0, tuple(pixels.shape[:2]))

    def get_placeholder_mask(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor,
        image_features: Tensor | None = None,
        video_features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Where the tokens of images and of videos go: two masks (B, S, d).

        Raises:
            ValueError: if there are not as many places as tokens.
        """
        masks = []
        for name, token_id, features in (
            ("image", self.config.image_token_id, image_features),
            ("video", self.config.video_token_id, video_features),
        ):
            if input_ids is None:
                token = torch.tensor(token_id, device=inputs_embeds.device)
                places = (inputs_embeds == self.get_input_embeddings()(token)).all(dim=-1)
            else:
                places = input_ids == token_id
            if features is not None and int(places.sum()) != len(features):
                raise ValueError(
                    f"TrajVLM got a prompt with {int(places.sum())} {name} placeholders for {len(features)} "
                    f"trajectory tokens of {name}s, expected the same number. Make the prompt with TrajVLMProcessor "
                    "and the settings of this model (frames_per_chunk, token_selection, max_trajectory_tokens)."
                )
            masks.append(places.unsqueeze(-1).expand_as(inputs_embeds))
        return tuple(masks)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        frame_valid: Tensor | None = None,
        mm_encoder_outputs: dict[str, TrajVLMFeatures] | None = None,
        use_cache: bool | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> TrajVLMModelOutput:
        """Read prompts; arguments as in `TrajVLMForConditionalGeneration.forward`."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("TrajVLM got both or neither of input_ids and inputs_embeds, expected one of them.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        self._check_length(inputs_embeds.shape[1], input_ids)

        encoded = dict(mm_encoder_outputs or {})
        given = {"image": pixel_values, "video": pixel_values_videos}
        for name, pixels in given.items():
            if pixels is not None and encoded.get(name) is not None:
                raise ValueError(
                    f"TrajVLM got {name}s as pixels and in mm_encoder_outputs, expected one of the two. Remove "
                    f"{'pixel_values' if name == 'image' else 'pixel_values_videos'}."
                )
        layers = layers_asked_for(kwargs)
        if pixel_values is not None:
            encoded["image"] = self.get_image_features(pixel_values, return_dict=True, **layers)
        if pixel_values_videos is not None:
            encoded["video"] = self.get_video_features(pixel_values_videos, frame_valid, return_dict=True, **layers)
        inputs_embeds = self._fill_placeholders(input_ids, inputs_embeds, encoded)
        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **{CACHE: _the_one_cache(cache, past_key_values)},
            **kwargs,
        )
        return TrajVLMModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            **_told(outputs),
            image_outputs=encoded.get("image"),
            video_outputs=encoded.get("video"),
        )

    def _fill_placeholders(
        self, input_ids: Tensor | None, inputs_embeds: Tensor, encoded: dict[str, TrajVLMFeatures]
    ) -> Tensor:
        tokens = {name: torch.cat(list(features.pooler_output)) for name, features in encoded.items()}
        if not tokens:
            return inputs_embeds
        masks = self.get_placeholder_mask(input_ids, inputs_embeds, tokens.get("image"), tokens.get("video"))
        for name, mask in zip(("image", "video"), masks, strict=True):
            if name in tokens:
                found = tokens[name].to(inputs_embeds.device, inputs_embeds.dtype)
                inputs_embeds = inputs_embeds.masked_scatter(mask.to(inputs_embeds.device), found)
        return inputs_embeds

    def _check_length(self, length: int, input_ids: Tensor | None) -> None:
        limit = self.config.max_prompt_length
        if limit is None or length <= limit:
            return
        told = ""
        if input_ids is not None:
            visual = (input_ids == self.config.image_token_id) | (input_ids == self.config.video_token_id)
            told = f" ({int(visual.sum(dim=1).max())} of them of images and videos)"
        raise ValueError(
            f"TrajVLM got a prompt of {length} tokens{told}, expected at most {limit} (max_position_embeddings and "
            "rope_parameters of the language model). Pass fewer frames, or set max_trajectory_tokens, "
            "token_selection='valid' or a larger frames_per_chunk in the configuration and the processor."
        )


class TrajVLMForConditionalGeneration(TrajVLMPreTrainedModel, GenerationMixin):
    """`TrajVLMModel` with the language model's head: answers in words."""

    _tp_plan: ClassVar = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: TrajVLMConfig):
        super().__init__(config)
        self.model = TrajVLMModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        embeddings = self.model.get_input_embeddings()
        name = next(name for name, module in self.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        self.post_init()
        if not self.model.tp_plan:
            # A head alone is not sharded: it may be the embeddings' own weight.
            self.tp_plan = {}

    @classmethod
    def from_components(cls, *, vision, text, trajtok=None, **settings) -> "TrajVLMForConditionalGeneration":
        """Build a model from pretrained parts; the connector is new.

        Args:
            vision: name, path or model of a SigLIP or SigLIP2 (whole or the vision tower), or of a TrajViT2.
            text: name, path or model of a causal language model.
            trajtok: name, path or model of a TrajTok (whole or segmenter); None with a TrajViT2.
            **settings: fields of `TrajVLMConfig`; above all ``image_token_id`` and ``video_token_id`` where the
                tokenizer is not Qwen3's. A token beyond the vocabulary makes the embeddings grow.
        """
        vision, text = _load_vision(vision), _load(text, AutoModelForCausalLM)
        groups = isinstance(vision, TrajViT2VideoModel)
        if groups != (trajtok is None):
            raise ValueError(
                f"from_components got a vision tower of type {vision.config.model_type} "
                f"{'without' if trajtok is None else 'and'} a trajtok, expected "
                f"{'none: a TrajViT2 has its own' if groups else 'one: the segmenter that groups its patches'}."
            )
        if not groups:
            trajtok = _load(trajtok, TrajTokSegmenterModel)
            settings["trajtok_config"] = trajtok.config.to_dict() | SEGMENTER
        parts = {"vision_config": vision.config.to_dict(), "text_config": text.config.to_dict()}
        config = TrajVLMConfig.from_dict(parts | settings)
        model = cls(config)
        model.model.vision_tower.load_state_dict(vision.state_dict())
        if not groups:
            copy_segmenter(trajtok, model.model.grouping.segmenter)
        model.model.language_model.load_state_dict(text.base_model.state_dict())
        model.lm_head.load_state_dict({"weight": text.get_output_embeddings().weight.data})
        model.tie_weights()
        needed = max(config.image_token_id, config.video_token_id) + 1
        if needed > config.text_config.vocab_size:
            model.resize_token_embeddings(needed)
        return model

    def generate(self, *args, mm_encoder_outputs: dict[str, TrajVLMFeatures] | None = None, **kwargs):
        """As in Transformers, which repeats features in place for several answers: those of the caller are copied."""
        if mm_encoder_outputs is not None:
            kwargs["mm_encoder_outputs"] = {name: copy.copy(features) for name, features in mm_encoder_outputs.items()}
        return super().generate(*args, **kwargs)

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs) -> TrajVLMFeatures:
        """As `TrajVLMModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, return_dict=True, **kwargs)

    @can_return_tuple
    def get_video_features(
        self, pixel_values_videos: Tensor, frame_valid: Tensor | None = None, **kwargs
    ) -> TrajVLMFeatures:
        """As `TrajVLMModel.get_video_features`."""
        return self.model.get_video_features(pixel_values_videos, frame_valid, return_dict=True, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        frame_valid: Tensor | None = None,
        mm_encoder_outputs: dict[str, TrajVLMFeatures] | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> TrajVLMOutput:
        """Predict the words of prompts.

        Args:
            input_ids: (B, S), with one placeholder for each trajectory token.
            attention_mask: (B, S), 0 for padding on either side.
            position_ids: (B, S), default: counted by the language model.
            cache: of earlier calls.
            inputs_embeds: (B, S, d) instead of ``input_ids``.
            pixel_values: (N, 3, H_px, W_px) the images of all prompts, in their order.
            pixel_values_videos: (M, T, 3, H_px, W_px) the videos of all prompts, in their order.
            frame_valid: (M, T), False for padded frames.
            mm_encoder_outputs: what `get_image_features` and `get_video_features` gave, under "image" and "video".
            labels: (B, S) the prompt's tokens where they are to be learnt, elsewhere -100.
            use_cache: return a cache.
            logits_to_keep: only the last so many logits (0 = all), or those at these places.
            past_key_values: other name of ``cache``.
            **kwargs: what else the language model and the loss take.

        Returns:
            `TrajVLMOutput`.

        Raises:
            ValueError: for prompts that do not fit the images, the videos or the language model's context.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=_the_one_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            frame_valid=frame_valid,
            mm_encoder_outputs=mm_encoder_outputs,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return TrajVLMOutput(
            loss=loss,
            logits=logits,
            **_told(outputs),
            image_outputs=outputs.image_outputs,
            video_outputs=outputs.video_outputs,
        )


def _the_one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """The cache that was given under either of its names."""
    if past_key_values is None:
        return cache
    if cache is not None:
        raise ValueError("TrajVLM got both cache and past_key_values, expected one: they are names of the same thing.")
    if CACHE == "cache" and not torch.compiler.is_compiling():
        warnings.warn("`past_key_values` is deprecated. Use `cache` instead.", FutureWarning, stacklevel=3)
    return past_key_values


def _told(outputs: ModelOutput) -> dict:
    """What a language model tells beside its states: cache, states and attention weights of its layers."""
    return {name: outputs.get(name) for name in (CACHE, "hidden_states", "attentions")}


def _load(source, auto_class) -> PreTrainedModel:
    return source if isinstance(source, PreTrainedModel) else auto_class.from_pretrained(source, dtype=torch.float32)


def _load_vision(source) -> PreTrainedModel:
    """The vision tower of a SigLIP or TrajViT2, given as itself, or inside a model or folder of image and text."""
    if isinstance(source, TrajViT2Model):
        tower = TrajViT2VideoModel(source.config)
        tower.video_model.load_state_dict(source.video_model.state_dict())
        return tower
    if isinstance(source, PreTrainedModel):
        return getattr(source, "vision_model", source)
    if isinstance(AutoConfig.from_pretrained(source), TrajViT2Config):
        return TrajViT2VideoModel.from_pretrained(source, dtype=torch.float32)
    return load_vision_model(source)


__all__ = [
    "LORA_MODULES_TO_SAVE",
    "LORA_TARGET_MODULES",
    "TrajVLMForConditionalGeneration",
    "TrajVLMGrouping",
    "TrajVLMModel",
    "TrajVLMPreTrainedModel",
]
