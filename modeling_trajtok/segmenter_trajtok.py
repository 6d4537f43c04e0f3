"""Segmenter: which trajectory does each patch belong to?

In:   pixel_values_videos (B, T, 3, H_px, W_px), ImageNet-normalised; or patch_features (B, N, D) with their grid
Out:  patch_features (B, N, D), trajectory_queries (B, K, D), assignment_logits (B, N, K)
To:   encoder_trajtok, losses_trajtok
Official: segmenter.py (``SimpleSegmenter``), backbones/dinov3_convnext.py (``DINOResNetHierFeat``),
          sam_mask_decoder.py (``SamPatchDecoder``)
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel
from transformers.models.dinov3_convnext.modeling_dinov3_convnext import DINOv3ConvNextStage

from .grid_ops import GridSize, flatten_grid, unflatten_grid
from .perceiver_trajtok import PatchBlocks, TrajTokPerceiver, checkpoint_input


class TrajTokBackbone(nn.Module):
    """The stages of Transformers' DINOv3 ConvNeXt and the final norm that `DINOv3ConvNextBackbone` leaves out.

    Built from the stages, not as a `DINOv3ConvNextModel`: nested in another model, that class refuses every attention
    implementation but eager, although it has no attention.
    """

    gradient_checkpointing = False

    def __init__(self, config: DINOv3ConvNextConfig):
        super().__init__()
        self.stages = nn.ModuleList(DINOv3ConvNextStage(config, stage) for stage in range(config.num_stages))
        self.layer_norm = nn.LayerNorm(config.hidden_sizes[-1], eps=config.layer_norm_eps)

    def load_dinov3(self, name_or_path: str, **kwargs) -> None:
        """Take over the weights of a pretrained `DINOv3ConvNextModel` of the same sizes (its own licence applies)."""
        pretrained = DINOv3ConvNextModel.from_pretrained(name_or_path, **kwargs)
        self.stages.load_state_dict(pretrained.model.stages.state_dict())
        self.layer_norm.load_state_dict(pretrained.layer_norm.state_dict())

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Frames (F, 3, H_px, W_px) -> feature maps (F, C_s, H_px / s, W_px / s) at strides s = 4, 8, 16, 32."""
        maps = frames.contiguous(memory_format=torch.channels_last)
        stages = []
        for stage in self.stages:
            if self.gradient_checkpointing and self.training:
                maps = self._gradient_checkpointing_func(stage, checkpoint_input(stage, maps))
            else:
                maps = stage(maps)
            stages.append(maps)
        stages[-1] = self.layer_norm(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return stages


class TrajTokPatchEncoder(nn.Module):
    """Frames to patch features: the backbone's stages projected, normed, resized to the first one's grid and fused."""

    def __init__(self, backbone_config: DINOv3ConvNextConfig, *, width: int, fusion: Literal["sum", "concat", "last"]):
        super().__init__()
        self.fusion = fusion
        self.backbone = TrajTokBackbone(backbone_config)
        num_stages = backbone_config.num_stages
        stage_width = width // num_stages if fusion == "concat" else width
        self.projections = nn.ModuleList(
            nn.Conv2d(channels, stage_width, kernel_size=1) for channels in backbone_config.hidden_sizes
        )
        self.norm = nn.LayerNorm(stage_width)
        self.stride = 4
        self.min_size_px = self.stride * 2 ** (num_stages - 1)

    def grid_of(self, pixel_values_videos: Tensor) -> GridSize:
        """The patch grid of clips (B, T, 3, H_px, W_px): one patch for every 4 x 4 pixels."""
        _, frames, _, height, width = pixel_values_videos.shape
        return GridSize(frames, height // self.stride, width // self.stride)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (F, 3, H_px, W_px) -> patch features (F, H*W, D)."""
        stages = self.backbone(frames)
        size_hw = stages[0].shape[-2:]
        if self.fusion == "last":
            return flatten_grid(self._project(stages[-1], self.projections[-1], size_hw), frames.shape[0])
        projected = [self._project(*stage, size_hw) for stage in zip(stages, self.projections, strict=True)]
        fused = torch.cat(projected, dim=1) if self.fusion == "concat" else sum(projected)
        return flatten_grid(fused, frames.shape[0])

    def _project(self, maps: Tensor, projection: nn.Conv2d, size_hw: tuple[int, int]) -> Tensor:
        maps = self.norm(projection(maps).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if tuple(maps.shape[-2:]) == tuple(size_hw):
            return maps
        return F.interpolate(maps, size=size_hw, mode="bilinear", align_corners=False)


class TrajTokHead(nn.Sequential):
    """MLP D -> D/4 -> ReLU -> D/8: puts patches and trajectories into the space where they are compared."""

    def __init__(self, width: int):
        super().__init__(nn.Linear(width, width // 4), nn.ReLU(), nn.Linear(width // 4, width // 8))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of feature maps (F, C, H, W)."""

    def forward(self, maps: Tensor) -> Tensor:
        """(F, C, H, W) -> (F, C, H, W)."""
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TrajTokHighResHead(nn.Module):
    """Patch features (B, N, D) -> (B, N*f*f, D/8) on the (T, f*H, f*W) grid; channels halve at each doubling."""

    def __init__(self, *, width: int, factor: int, eps: float):
        super().__init__()
        layers, channels = [], width
        for step in range(int(math.log2(factor))):
            layers.append(nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2))
            if step == 0:
                layers.append(ChannelNorm(channels // 2, eps=eps))
            layers.append(nn.GELU())
            channels //= 2
        layers += [nn.Conv2d(channels, width // 8, kernel_size=1), nn.GELU()]
        self.upsample = nn.Sequential(*layers)

    def forward(self, patch_features: Tensor, grid: GridSize) -> Tensor:
        """(B, N, D) -> (B, N*f*f, D/8)."""
        return flatten_grid(self.upsample(unflatten_grid(patch_features, grid)), patch_features.shape[0])


class TrajTokLatents(nn.Module):
    """Learnt latents (K, D). A module of their own, because offloaded weights are fetched when a module is called."""

    def __init__(self, num_latents: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_latents, width))

    def forward(self) -> Tensor:
        """The latents (K, D)."""
        return self.weight


class TrajTokAssignment(nn.Module):
    """Cosine of patches and trajectories times a learnt scale between 1 and 20, in fp32.

    bf16 cannot tell logits near 20 apart.
    """

    def __init__(self):
        super().__init__()
        # The type is named, so that it stays in models of another type, wherever in them this stands.
        self.log_scale = nn.Parameter(torch.empty(1, dtype=torch.float32))

    def forward(self, patches: Tensor, trajectories: Tensor) -> Tensor:
        """(B, n, E), (B, K, E) -> logits (B, n, K)."""
        scale = (F.softplus(self.log_scale.float()) + 1.0).clamp(max=20.0)
        with torch.autocast(patches.device.type, enabled=False):
            patches = F.normalize(patches.float(), dim=-1)
            trajectories = F.normalize(trajectories.float(), dim=-1) * scale
            return patches @ trajectories.transpose(1, 2)


class TrajTokSegmenter(nn.Module):
    """Backbone, query perceiver and the comparison of patches with queries."""

    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.detach_patch_features = config.detach_patch_features
        self.patch_encoder = TrajTokPatchEncoder(config.backbone_config, width=width, fusion=config.feature_fusion)
        self.latents = TrajTokLatents(config.num_trajectories, width)
        self.perceiver = TrajTokPerceiver(
            config,
            width=width,
            num_layers=config.num_query_layers,
            num_heads=config.num_attention_heads,
            mlp_ratio=config.mlp_ratio,
            positions=config.query_positions,
            theta=config.rotary_theta,
            eps=config.layer_norm_eps,
        )
        self.patch_head = TrajTokHead(width)
        self.trajectory_head = TrajTokHead(width)
        self.high_res_factor = config.high_res_factor
        if self.high_res_factor:
            self.high_res_patch_head = TrajTokHighResHead(
                width=width, factor=self.high_res_factor, eps=config.layer_norm_eps
            )
            self.high_res_trajectory_head = TrajTokHead(width)
        self.assignment = TrajTokAssignment()

    def encode_frames(self, pixel_values_videos: Tensor) -> Tensor:
        """Frames of clips (B, t, 3, H_px, W_px) -> their patch features (B, t*H*W, D)."""
        features = self.patch_encoder(pixel_values_videos.flatten(0, 1))
        return features.reshape(pixel_values_videos.shape[0], -1, features.shape[2])

    def trajectory_queries(self, blocks: PatchBlocks) -> tuple[Tensor, ...]:
        """What the learnt latents have read from a clip's patches after each layer: (B, K, D) each."""
        if self.detach_patch_features and torch.is_grad_enabled():
            blocks = blocks.map(Tensor.detach)
        return self.perceiver(self.latents().expand(blocks.batch_size, -1, -1), blocks)

    def assignment_logits(self, patch_features: Tensor, trajectory_queries: Tensor) -> Tensor:
        """(B, n, D), (B, K, D) -> (B, n, K) in fp32."""
        return self.assignment(self.patch_head(patch_features), self.trajectory_head(trajectory_queries))

    def high_res_logits(self, patch_features: Tensor, trajectory_queries: Tensor, grid: GridSize) -> Tensor:
        """(B, n, D), (B, K, D) -> (B, n*f*f, K) in fp32, for the n patches of ``grid``."""
        if self.high_res_factor is None:
            raise ValueError("Got output_high_res=True, expected a model built with a high_res_factor (here None).")
        pixels = self.high_res_patch_head(patch_features, grid)
        return self.assignment(pixels, self.high_res_trajectory_head(trajectory_queries))
