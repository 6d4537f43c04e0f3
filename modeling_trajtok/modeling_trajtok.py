"""TrajTok: pixels in, trajectories and their tokens out.

In:   pixel_values_videos (B, T, 3, H_px, W_px), ImageNet-normalised; or patch_features (B, N, D) with their grid
Out:  `TrajTokOutput`
From: processors (video_processing_trajtok)     To: TrajViT2, TrajAdapter, TrajVLM
Paper: arXiv 2602.22779     Official: segmenter.py
"""

import math
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.models.dinov3_convnext.modeling_dinov3_convnext import DINOv3ConvNextLayer
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .auto_classes import FamilyAutoClasses
from .configuration_trajtok import TrajTokConfig
from .encoder_trajtok import TrajTokEncoder, TrajTokGainLinear
from .grid_ops import GridSize, expand_frame_mask, pool_frame_mask, pool_frames, resize_ids, resize_patches
from .input_checks import check_frame_valid, check_keywords, check_pixels
from .losses_trajtok import SegmentationLoss, patch_label_masks, segmentation_loss
from .outputs_trajtok import TrajTokOutput
from .perceiver_trajtok import BlockLayout, PatchBlocks, TrajTokAttention, TrajTokPerceiverLayer, read_last_patches
from .segmenter_trajtok import ChannelNorm, TrajTokAssignment, TrajTokLatents, TrajTokSegmenter


class Segmentation(NamedTuple):
    """What the segmenter finds in a batch of clips; fields as in `TrajTokOutput`, and the earlier layers' queries."""

    patch_features: Tensor
    trajectory_queries: Tensor
    assignment_logits: Tensor
    auxiliary_queries: tuple[Tensor, ...]


class TrajTokPreTrainedModel(FamilyAutoClasses, PreTrainedModel):
    """Weights, initialisation and input handling that the TrajTok models share."""

    config: TrajTokConfig
    config_class = TrajTokConfig
    auto_classes = {"AutoModel": ("TrajTokModel", "TrajTokSegmenterModel")}  # noqa: RUF012 - read by Auto classes
    base_model_prefix = ""
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules = ("DINOv3ConvNextLayer", "TrajTokPerceiverLayer")
    _keep_in_fp32_modules_strict = ("log_scale",)
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module):
        # Transformers calls this for modules with parameters of their own only: a rule for those of their children
        # would never run.
        super()._init_weights(module)
        if isinstance(module, TrajTokLatents):
            init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, TrajTokAssignment):
            # The inverse of the softplus through which the scale is read.
            init.constant_(module.log_scale, math.log(math.expm1(self.config.initial_logit_scale - 1.0)))
        elif isinstance(module, DINOv3ConvNextLayer):
            init.constant_(module.gamma, self.config.backbone_config.layer_scale_init_value)
        elif isinstance(module, TrajTokGainLinear):
            init.normal_(module.weight, std=(2.0 / module.in_features) ** 0.5)
        elif isinstance(module, ChannelNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, TrajTokEncoder) and module.latents is not None:
            init.normal_(module.latents, std=self.config.initializer_range)

    def get_input_embeddings(self) -> nn.Conv2d:
        """The convolution that embeds patches of 4 x 4 pixels."""
        return self.segmenter.patch_encoder.backbone.stages[0].downsample_layers[0]

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the convolution that embeds patches of 4 x 4 pixels."""
        self.segmenter.patch_encoder.backbone.stages[0].downsample_layers[0] = value

    def _frames_per_block(self, batch: int, grid: GridSize) -> int:
        """Inference bounds its memory by working on blocks of frames; training and tracing see the clip at once.

        A loop over blocks would be unrolled in a traced graph, which would then serve clips of one length only.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return grid.t
        return max(1, self.config.frames_per_block // batch)

    def _blocks(
        self, features: Tensor, grid: GridSize, valid: Tensor | None = None, whole: bool = False
    ) -> PatchBlocks:
        frames = grid.t if whole else self._frames_per_block(features.shape[0], grid)
        return PatchBlocks.from_features(features, grid, frames, valid)

    def _returns_attentions(self, keywords: dict) -> bool:
        """Whether a call asks for attention weights, which exist for clips of one block only."""
        return bool(keywords.get("output_attentions", self.config.output_attentions))

    def _encode_patches(self, pixel_values_videos: Tensor, grid: GridSize) -> Tensor:
        """Clips (B, T, 3, H_px, W_px) -> patch_features (B, N, D), a block of frames at a time."""
        batch, step = pixel_values_videos.shape[0], self._frames_per_block(pixel_values_videos.shape[0], grid)
        pixels = pixel_values_videos.to(self.segmenter.patch_encoder.norm.weight.dtype)
        if step >= grid.t:
            return self.segmenter.encode_frames(pixels)
        per_frame = grid.patches_per_frame
        features = pixels.new_empty(batch, grid.num_patches, self.config.hidden_size)
        for first in range(0, grid.t, step):
            block = self.segmenter.encode_frames(pixels[:, first : first + step])
            features[:, first * per_frame : first * per_frame + block.shape[1]] = block
        return features

    def _segment(
        self, patch_features: Tensor, grid: GridSize, valid: Tensor | None, whole: bool = False
    ) -> Segmentation:
        """Group the patches of clips: features (B, N, D) -> queries (B, K, D) and logits (B, N, K)."""
        blocks = self._blocks(patch_features, grid, valid, whole)
        *auxiliary_queries, queries = self.segmenter.trajectory_queries(blocks)
        if blocks.is_whole:
            logits = self.segmenter.assignment_logits(patch_features, queries)
        else:
            logits = torch.empty(
                *patch_features.shape[:2],
                self.config.num_trajectories,
                dtype=torch.float32,
                device=patch_features.device,
            )
            block_logits = blocks.map(lambda features: self.segmenter.assignment_logits(features, queries))
            first = 0
            for _, part, _ in block_logits:
                logits[:, first : first + part.shape[1]] = part
                first += part.shape[1]
        return Segmentation(patch_features, queries, logits, tuple(auxiliary_queries))

    def _segmentation_losses(
        self,
        segmentation: Segmentation,
        high_res_logits: Tensor | None,
        labels: Tensor,
        frame_valid: Tensor | None,
        grid: GridSize,
    ) -> dict[str, Tensor]:
        """The parts of the segmentation loss at low and (if given) high resolution, and the weighted sum of all."""
        config = self.config
        if frame_valid is not None:
            labels = labels.masked_fill(~frame_valid[:, :, None, None], -1)

        def compare(logits: Tensor, masks: Tensor) -> SegmentationLoss:
            return segmentation_loss(
                logits, masks, matching=config.matching, pixel=config.pixel_loss, pooling=config.loss_pooling
            )

        def masks_of(size_hw: tuple[int, int]) -> Tensor:
            return patch_label_masks(labels, size_hw, config.num_trajectories, config.label_resampling)

        def weighted(pixel: Tensor, dice: Tensor) -> Tensor:
            return config.pixel_loss_weight * pixel + config.dice_loss_weight * dice

        masks = masks_of((grid.h, grid.w))
        pixel, dice = compare(segmentation.assignment_logits, masks)
        if high_res_logits is not None:
            factor = config.high_res_factor
            high_res = compare(high_res_logits, masks_of((grid.h * factor, grid.w * factor)))
            pixel, dice = pixel + high_res.pixel, dice + high_res.dice
        loss = weighted(pixel, dice)
        if config.auxiliary_loss_weight:
            for queries in segmentation.auxiliary_queries:
                logits = self.segmenter.assignment_logits(segmentation.patch_features, queries)
                loss = loss + config.auxiliary_loss_weight * weighted(*compare(logits, masks))
        return {"loss": loss, "pixel_loss": pixel, "dice_loss": dice}

    def _check_videos(self, pixel_values_videos: Tensor) -> GridSize:
        encoder = self.segmenter.patch_encoder
        check_pixels(type(self).__name__, pixel_values_videos)
        batch, frames, _, height, width = pixel_values_videos.shape
        if min(batch, frames) < 1 or min(height, width) < encoder.min_size_px:
            raise ValueError(
                f"{type(self).__name__} got {batch} clips of {frames} frames at {height}x{width} pixels, expected "
                f"at least 1 clip of 1 frame of {encoder.min_size_px}x{encoder.min_size_px}. Resize or resample it."
            )
        return encoder.grid_of(pixel_values_videos)

    def _as_ids(self, ids: Tensor, name: str) -> Tensor:
        if ids.is_floating_point():
            raise ValueError(f"{type(self).__name__} got {name} of type {ids.dtype}, expected integers. Round them.")
        return ids.long()

    def _check_labels(self, labels: Tensor, batch: int, frames: int) -> Tensor:
        if labels.dim() != 4 or tuple(labels.shape[:2]) != (batch, frames):
            raise ValueError(
                f"{type(self).__name__} got trajectory_labels of shape {tuple(labels.shape)}, expected "
                f"({batch}, {frames}, height, width): one label map for each frame."
            )
        labels = self._as_ids(labels, "trajectory_labels")
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < -1 or highest >= self.config.num_trajectories:
            raise ValueError(
                f"{type(self).__name__} got trajectory_labels from {lowest} to {highest}, expected -1 (ignore) to "
                f"{self.config.num_trajectories - 1} for num_trajectories={self.config.num_trajectories}. Make them "
                "consecutive with losses_trajtok.relabel, or build the model with more trajectories."
            )
        return labels


class TrajTokSegmenterModel(TrajTokPreTrainedModel):
    """The segmenter alone: which trajectory does each patch belong to? (the model of segmentation pretraining)."""

    _can_record_outputs: ClassVar = {"hidden_states": TrajTokPerceiverLayer, "attentions": TrajTokAttention}

    def __init__(self, config: TrajTokConfig):
        super().__init__(config)
        self.segmenter = TrajTokSegmenter(config)
        self.post_init()

    @capture_outputs
    def forward(
        self,
        pixel_values_videos: Tensor,
        frame_valid: Tensor | None = None,
        trajectory_labels: Tensor | None = None,
        output_high_res: bool = False,
        **kwargs,
    ) -> TrajTokOutput:
        """Group the patches of clips into trajectories.

        Args:
            pixel_values_videos: (B, T, 3, H_px, W_px), ImageNet-normalised RGB.
            frame_valid: (B, T), False for padded frames, which stand at the end; None if there are none.
            trajectory_labels: (B, T, h, w) at any resolution, 0 ... K-1, -1 = ignore: adds the segmentation loss.
            output_high_res: also compute masks at ``high_res_factor`` times the patch grid (and their loss).
            **kwargs: ``output_hidden_states``, ``output_attentions`` (given with "eager" attention, which then sees
                the clip at once) and ``return_dict`` as in Transformers. Keywords of other models are accepted,
                misspelt ones are errors.

        Returns:
            `TrajTokOutput` without trajectory tokens.

        Raises:
            ValueError: for inputs of the wrong shape, type or range.
        """
        check_keywords(self, kwargs)
        grid = self._check_videos(pixel_values_videos)
        batch = pixel_values_videos.shape[0]
        frame_valid = check_frame_valid(type(self).__name__, frame_valid, batch, grid.t)
        valid = None if frame_valid is None else expand_frame_mask(frame_valid, grid)

        patch_features = self._encode_patches(pixel_values_videos, grid)
        segmentation = self._segment(patch_features, grid, valid, self._returns_attentions(kwargs))
        features, queries, logits, _ = segmentation
        trajectory_ids = logits.argmax(dim=-1)
        if valid is not None:
            trajectory_ids = trajectory_ids.masked_fill(~valid, -1)
        high_res = self.segmenter.high_res_logits(features, queries, grid) if output_high_res else None
        losses = {}
        if trajectory_labels is not None:
            labels = self._check_labels(trajectory_labels, batch, grid.t)
            losses = self._segmentation_losses(segmentation, high_res, labels, frame_valid, grid)
        return TrajTokOutput(
            trajectory_ids=trajectory_ids.view(batch, *grid),
            assignment_logits=logits,
            assignment_logits_high_res=high_res,
            patch_features=features,
            trajectory_queries=queries,
            **losses,
        )


class TrajTokModel(TrajTokPreTrainedModel):
    """Segmenter and trajectory encoder: clips become trajectories, trajectories become tokens."""

    # Those of the encoder, whose last state becomes the tokens; those of the segmenter are `TrajTokSegmenterModel`'s.
    _can_record_outputs: ClassVar = {
        "hidden_states": OutputRecorder(TrajTokPerceiverLayer, layer_name="encoder"),
        "attentions": OutputRecorder(TrajTokAttention, index=1, layer_name="encoder"),
    }

    def __init__(self, config: TrajTokConfig):
        super().__init__(config)
        self.segmenter = TrajTokSegmenter(config)
        self.encoder = TrajTokEncoder(config)
        self.post_init()

    @capture_outputs
    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        frame_valid: Tensor | None = None,
        patch_features: Tensor | None = None,
        patch_grid: tuple[int, int, int] | None = None,
        trajectory_ids: Tensor | None = None,
        trajectory_labels: Tensor | None = None,
        tokens_per_trajectory: int | None = None,
        output_high_res: bool = False,
        **kwargs,
    ) -> TrajTokOutput:
        """Turn clips into trajectory tokens.

        Pixels alone: segment and encode the model's own patch features. Pixels with ``patch_features``: segment the
        pixels, encode the given features (of another backbone, on any grid; each may span several frames, a tubelet).
        ``patch_features`` alone: segment and encode them. With ``trajectory_ids`` nothing is segmented.

        Args:
            pixel_values_videos: (B, T, 3, H_px, W_px), ImageNet-normalised RGB.
            frame_valid: (B, T), False for padded frames, which stand at the end; None if there are none.
            patch_features: (B, N, D) features to encode.
            patch_grid: (T', H, W) of ``patch_features``; beside pixels T is a multiple of T'.
            trajectory_ids: (B, T', h, w) at any resolution, 0 ... K-1, -1 = no trajectory: somebody else's grouping.
            trajectory_labels: (B, T, h, w) at any resolution, 0 ... K-1, -1 = ignore: adds the segmentation loss.
            tokens_per_trajectory: L of this call (default: all that were built).
            output_high_res: also compute masks at ``high_res_factor`` times the patch grid (and their loss).
            **kwargs: ``output_hidden_states``, ``output_attentions`` (given with "eager" attention, which then sees
                the clip at once) and ``return_dict`` as in Transformers. Keywords of other models are accepted,
                misspelt ones are errors.

        Returns:
            `TrajTokOutput`.

        Raises:
            ValueError: for missing or contradicting inputs, or inputs of the wrong shape, type or range.
        """
        check_keywords(self, kwargs)
        tokens = self._check_tokens(tokens_per_trajectory)
        grid, encoder_grid = self._check_inputs(pixel_values_videos, patch_features, patch_grid)
        if patch_features is not None:
            patch_features = patch_features.to(self.encoder.output_proj.weight.dtype)
        batch = (pixel_values_videos if pixel_values_videos is not None else patch_features).shape[0]
        frame_valid = check_frame_valid(type(self).__name__, frame_valid, batch, grid.t)
        valid = encoder_frame_valid = encoder_valid = None
        if frame_valid is not None:
            valid = expand_frame_mask(frame_valid, grid)
            encoder_frame_valid = pool_frame_mask(frame_valid, encoder_grid.t)
            encoder_valid = expand_frame_mask(encoder_frame_valid, encoder_grid)

        features = queries = logits = high_res = encoder_logits = None
        if pixel_values_videos is not None and (patch_features is None or trajectory_ids is None):
            features = self._encode_patches(pixel_values_videos, grid)
        else:
            features = patch_features
        encoder_features = features if patch_features is None else patch_features
        if trajectory_ids is None:
            if features.shape[2] != self.config.hidden_size:
                raise ValueError(
                    f"TrajTokModel got patch_features of width {features.shape[2]} alone, expected trajectory_ids or "
                    f"pixel_values_videos beside them: the segmenter reads width {self.config.hidden_size}."
                )
            segmentation = self._segment(features, grid, valid)
            features, queries, logits, _ = segmentation
            encoder_logits = pool_frames(logits, grid, encoder_grid.t)
            encoder_logits = resize_patches(
                encoder_logits, grid._replace(t=encoder_grid.t), (encoder_grid.h, encoder_grid.w)
            )
            ids = encoder_logits.argmax(dim=-1)
            map_ids = (ids if encoder_grid == grid else logits.argmax(dim=-1)).view(batch, *grid)
        else:
            map_ids = self._check_ids(trajectory_ids, batch, encoder_grid)
            ids = map_ids.flatten(1)
        if self.config.detach_segmentation:
            encoder_logits = None if encoder_logits is None else encoder_logits.detach()
            encoder_features = encoder_features.detach() if patch_features is None else encoder_features
        if encoder_valid is not None:
            ids = ids.masked_fill(~encoder_valid, -1)
            map_valid = frame_valid if trajectory_ids is None else encoder_frame_valid
            map_ids = map_ids.masked_fill(~map_valid[:, :, None, None], -1)

        whole = self._returns_attentions(kwargs)
        blocks = self._blocks(encoder_features, encoder_grid, encoder_valid, whole)
        logit_blocks = None if encoder_logits is None else self._blocks(encoder_logits, encoder_grid, whole=whole)
        embeds, token_valid = self._encode_trajectories(blocks, ids, logit_blocks, encoder_frame_valid, tokens)

        if output_high_res and queries is not None:
            high_res = self.segmenter.high_res_logits(features, queries, grid)
        losses = {}
        if trajectory_labels is not None:
            if logits is None:
                raise ValueError(
                    "TrajTokModel got trajectory_labels together with trajectory_ids, expected one of them: nothing "
                    "is segmented when the trajectories are given, so there is nothing to compare with the labels."
                )
            labels = self._check_labels(trajectory_labels, batch, grid.t)
            losses = self._segmentation_losses(segmentation, high_res, labels, frame_valid, grid)
        return TrajTokOutput(
            trajectory_embeds=embeds,
            token_valid=token_valid,
            trajectory_ids=map_ids,
            assignment_logits=logits,
            assignment_logits_high_res=high_res,
            patch_features=features,
            trajectory_queries=queries,
            **losses,
        )

    @torch.no_grad()
    def tokenize_long_video(
        self,
        read_frames: Callable[[int, int], Tensor],
        num_frames: int,
        feature_cache: Literal["recompute", "half"] = "recompute",
        tokens_per_trajectory: int | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> TrajTokOutput:
        """Tokenize one video of any length, `config.frames_per_block` frames in memory at a time.

        The result is that of `forward`: every softmax over patches is taken block by block. The video is read once
        for each perceiver layer, and its features are computed anew each time ("recompute": memory does not grow with
        the video) or kept in bfloat16 ("half": one backbone pass, 2*D bytes per patch, features rounded).

        Args:
            read_frames: ``read_frames(first, last)`` -> normalised pixels (1, last - first, 3, H_px, W_px).
            num_frames: T.
            feature_cache: "recompute" or "half".
            tokens_per_trajectory: L of this call (default: all that were built).
            progress: called with the number of frames after each block is read, e.g. the ``update`` of a tqdm bar
                over ``num_frames * model.passes_over_long_video(feature_cache)``.

        Returns:
            `TrajTokOutput` with tokens, ids and queries; without patch features and logits, which would grow with T.
        """
        tokens = self._check_tokens(tokens_per_trajectory)
        if num_frames < 1:
            raise ValueError(f"TrajTokModel got num_frames={num_frames}, expected at least 1.")
        if feature_cache not in ("recompute", "half"):
            raise ValueError(f"TrajTokModel got feature_cache={feature_cache!r}, expected 'recompute' or 'half'.")
        if self.config.encoder_input_size != self.config.hidden_size:
            raise ValueError(
                "TrajTokModel encodes the features of another backbone, expected encoder_input_size = hidden_size for "
                "long videos. Cut the video into clips and pass their patch_features to the model."
            )
        first_frame = read_frames(0, 1)
        grid = self._check_videos(first_frame)._replace(t=num_frames)
        encoder = self.segmenter.patch_encoder
        dtype = encoder.projections[0].weight.dtype
        per_frame = grid.patches_per_frame

        def read(first: int, last: int) -> Tensor:
            pixels = read_frames(first, last)
            if tuple(pixels.shape[:2]) != (1, last - first):
                raise ValueError(
                    f"read_frames({first}, {last}) gave {pixels.shape[0]} clips, {pixels.shape[1]} frames, expected "
                    f"1 clip, {last - first} frames. Check num_frames={num_frames}, or use forward for several clips."
                )
            features = self.segmenter.encode_frames(pixels.to(dtype))
            if progress is not None:
                progress(last - first)
            return features

        blocks = PatchBlocks(read, BlockLayout(1, grid, self.config.frames_per_block))
        if feature_cache == "half":
            stored = torch.empty(
                1, grid.num_patches, self.config.hidden_size, dtype=torch.bfloat16, device=first_frame.device
            )
            for first, features, _ in blocks:
                stored[:, first * per_frame : first * per_frame + features.shape[1]] = features
            blocks = PatchBlocks.from_features(stored, grid, self.config.frames_per_block).map(lambda x: x.to(dtype))
        queries = self.segmenter.trajectory_queries(blocks)[-1]
        logits = blocks.map(lambda features: self.segmenter.assignment_logits(features, queries))
        ids = torch.cat([part.argmax(dim=-1) for _, part, _ in logits], dim=1)
        embeds, token_valid = self._encode_trajectories(blocks, ids, logits, None, tokens)
        return TrajTokOutput(
            trajectory_embeds=embeds,
            token_valid=token_valid,
            trajectory_ids=ids.view(1, *grid),
            trajectory_queries=queries,
        )

    def passes_over_long_video(self, feature_cache: Literal["recompute", "half"] = "recompute") -> int:
        """How often `tokenize_long_video` reads the video (the last frame is read once more)."""
        if feature_cache == "half":
            return 1
        mean_passes = 2 if self.encoder.starts_from_mean else 0
        return self.config.num_query_layers + 1 + mean_passes + self.config.num_encoder_layers

    def _encode_trajectories(
        self, blocks: PatchBlocks, ids: Tensor, logits: PatchBlocks | None, frame_valid: Tensor | None, tokens: int
    ) -> tuple[Tensor, Tensor]:
        """Run the encoder."""
        anchor_index, anchor_features = read_last_patches(blocks, frame_valid, ids.device)
        if frame_valid is None:
            valid_frames = torch.full((1, 1), blocks.grid.t, device=ids.device)
        else:
            valid_frames = frame_valid.sum(dim=1, keepdim=True)
        return self.encoder(blocks, ids, logits, anchor_index, anchor_features, valid_frames, tokens)

    def _check_tokens(self, tokens_per_trajectory: int | None) -> int:
        most = self.config.max_tokens_per_trajectory
        tokens = most if tokens_per_trajectory is None else tokens_per_trajectory
        if not 1 <= tokens <= most:
            raise ValueError(
                f"TrajTokModel got tokens_per_trajectory={tokens}, expected 1 to {most}. Build the model with a "
                "larger max_tokens_per_trajectory to emit more."
            )
        return tokens

    def _check_inputs(
        self,
        pixel_values_videos: Tensor | None,
        patch_features: Tensor | None,
        patch_grid: tuple[int, int, int] | None,
    ) -> tuple[GridSize, GridSize]:
        """Return the grid on which patches are grouped and the grid on which they are encoded."""
        if pixel_values_videos is None and patch_features is None:
            raise ValueError("TrajTokModel got no input, expected pixel_values_videos or patch_features.")
        grid = None if pixel_values_videos is None else self._check_videos(pixel_values_videos)
        width = self.config.encoder_input_size
        if patch_features is None:
            if width != self.config.hidden_size:
                raise ValueError(
                    f"TrajTokModel got no patch_features, expected features of width {width}: its encoder was built "
                    f"for another backbone (encoder_input_size={width}, hidden_size={self.config.hidden_size})."
                )
            return grid, grid
        if patch_grid is None:
            raise ValueError("TrajTokModel got patch_features without patch_grid, expected their (T, H, W).")
        if len(patch_grid) != 3 or min(patch_grid) < 1:
            raise ValueError(f"TrajTokModel got patch_grid={tuple(patch_grid)}, expected (T, H, W), each above 0.")
        if not patch_features.is_floating_point():
            raise ValueError(f"TrajTokModel got patch_features of {patch_features.dtype}, expected floating-point.")
        encoder_grid = GridSize(*patch_grid)
        expected = (patch_features.shape[0], encoder_grid.num_patches, width)
        if tuple(patch_features.shape) != expected:
            raise ValueError(
                f"TrajTokModel got patch_features of shape {tuple(patch_features.shape)}, expected {expected} for "
                f"patch_grid={tuple(encoder_grid)} and encoder_input_size={width}."
            )
        if grid is None:
            return encoder_grid, encoder_grid
        if grid.t % encoder_grid.t or pixel_values_videos.shape[0] != patch_features.shape[0]:
            raise ValueError(
                f"TrajTokModel got {pixel_values_videos.shape[0]} clips of {grid.t} frames with patch_features of "
                f"{patch_features.shape[0]} clips of {encoder_grid.t} frames, expected as many clips, and for each "
                "frame of the features one or more of the clip. Repeat the last frame until they divide."
            )
        return grid, encoder_grid

    def _check_ids(self, trajectory_ids: Tensor, batch: int, grid: GridSize) -> Tensor:
        """Return the given ids on the encoder's grid: (B, T, H, W)."""
        if trajectory_ids.dim() != 4 or tuple(trajectory_ids.shape[:2]) != (batch, grid.t):
            raise ValueError(
                f"TrajTokModel got trajectory_ids of shape {tuple(trajectory_ids.shape)}, expected "
                f"({batch}, {grid.t}, height, width): one id map for each frame."
            )
        ids = resize_ids(self._as_ids(trajectory_ids, "trajectory_ids"), (grid.h, grid.w))
        if not torch.compiler.is_compiling() and (
            int(ids.min()) < -1 or int(ids.max()) >= self.config.num_trajectories
        ):
            raise ValueError(
                f"TrajTokModel got trajectory_ids from {int(ids.min())} to {int(ids.max())}, expected -1 (none) to "
                f"{self.config.num_trajectories - 1} for num_trajectories={self.config.num_trajectories}. Make them "
                "consecutive with losses_trajtok.relabel, or build the model with more trajectories."
            )
        return ids


def copy_segmenter(source: TrajTokPreTrainedModel, target: TrajTokPreTrainedModel) -> None:
    """Give a model the segmenter's weights of another, but for parts that it was built without."""
    wanted = target.segmenter.state_dict()
    target.segmenter.load_state_dict(
        {name: value for name, value in source.segmenter.state_dict().items() if name in wanted}
    )


__all__ = ["TrajTokModel", "TrajTokPreTrainedModel", "TrajTokSegmenterModel"]
