"""What the towers share: patches of a clip with their positions, and pre-norm transformer blocks.

In:   pixel_values_videos (B, T, 3, H_px, W_px)
Out:  tokens (B, S, D), CLS first
To:   the towers
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling_trajtok import TrajViT2VideoOutput
from modeling_trajtok.grid_ops import unflatten_grid
from modeling_trajtok.segmenter_trajtok import TrajTokPatchEncoder


@dataclass
class TowerConfig:
    """Sizes of a tower.

    Attributes:
        width: D.
        num_layers: transformer blocks.
        num_heads: of each.
        mlp_ratio: hidden width of their MLPs, as a multiple of D.
        patch_px: side of a patch.
        tubelet: frames of a patch.
        size_px: height and width of the frames it is built for; positions are resized for others.
        num_frames: frames it is built for.
    """

    width: int = 192
    num_layers: int = 4
    num_heads: int = 6
    mlp_ratio: int = 4
    patch_px: int = 8
    tubelet: int = 1
    size_px: int = 96
    num_frames: int = 4


class PatchEmbedding(nn.Module):
    """Tubelets as tokens, with learnt positions in time, row and column: (B, T, 3, H_px, W_px) -> (B, T', H, W, D).

    Args:
        config: sizes.
        patch_encoder: whose features are cut into patches instead of the pixels, frame by frame; the one of a TrajTok,
            frozen, makes a tower that sees what TrajTok's segmenter sees.

    Raises:
        ValueError: if patches are no multiple of the encoder's.
    """

    def __init__(self, config: TowerConfig, patch_encoder: TrajTokPatchEncoder | None = None):
        super().__init__()
        self.patch_encoder, channels, side_px = patch_encoder, 3, config.patch_px
        if patch_encoder is not None:
            if config.patch_px % patch_encoder.stride:
                raise ValueError(
                    f"patch_px is {config.patch_px}, expected a multiple of the encoder's {patch_encoder.stride}."
                )
            channels, side_px = patch_encoder.norm.normalized_shape[0], config.patch_px // patch_encoder.stride
        size = (config.tubelet, side_px, side_px)
        self.tubelet = config.tubelet
        self.projection = nn.Conv3d(channels, config.width, size, stride=size)
        side = config.size_px // config.patch_px
        self.time = nn.Parameter(torch.randn(1, config.num_frames // config.tubelet, config.width) * 0.02)
        self.space = nn.Parameter(torch.randn(1, config.width, side, side) * 0.02)

    def forward(self, pixel_values_videos: Tensor) -> Tensor:
        """The last frame is repeated until the tubelets are full."""
        missing = -pixel_values_videos.shape[1] % self.tubelet
        if missing:
            last = pixel_values_videos[:, -1:].expand(-1, missing, -1, -1, -1)
            pixel_values_videos = torch.cat((pixel_values_videos, last), dim=1)
        maps = pixel_values_videos
        if self.patch_encoder is not None:
            grid = self.patch_encoder.grid_of(maps)
            features = self.patch_encoder(maps.flatten(0, 1))
            maps = unflatten_grid(features, grid._replace(t=1)).unflatten(0, maps.shape[:2])
        patches = self.projection(maps.transpose(1, 2)).permute(0, 2, 3, 4, 1)
        frames, rows, columns = patches.shape[1:4]
        time = self.time
        if time.shape[1] != frames:
            time = F.interpolate(time.transpose(1, 2), size=frames, mode="linear").transpose(1, 2)
        space = self.space
        if space.shape[2:] != (rows, columns):
            space = F.interpolate(space, size=(rows, columns), mode="bilinear")
        return patches + time[:, :, None, None] + space.permute(0, 2, 3, 1).unsqueeze(1)


class Attention(nn.Module):
    """Self-attention that also gives its keys, which ToMe compares."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens (B, S, D) and what is added to the scores of keys (B, S) -> states and mean keys (B, S, D/heads)."""
        queries, keys, values = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if bias is None else bias[:, None, None].to(queries.dtype)
        states = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.out(states.transpose(1, 2).flatten(2)), keys.mean(dim=1)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        width, hidden = config.width, config.mlp_ratio * config.width
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, config.num_heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def attend(self, tokens: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """The first half; also the mean keys."""
        states, keys = self.attention(self.attention_norm(tokens), bias)
        return tokens + states, keys

    def forward(self, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        tokens, _ = self.attend(tokens, bias)
        return tokens + self.mlp(self.mlp_norm(tokens))


class VideoTower(nn.Module):
    """CLS and tokens through transformer blocks; what the tokens are is up to the tower.

    Args:
        config: sizes.
        patch_encoder: of `PatchEmbedding`.
    """

    def __init__(self, config: TowerConfig, patch_encoder: TrajTokPatchEncoder | None = None):
        super().__init__()
        self.config = config
        self.embedding = PatchEmbedding(config, patch_encoder)
        self.cls_token = nn.Parameter(torch.randn(1, 1, config.width) * 0.02)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width)

    def tokens(self, pixel_values_videos: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, S, D) of clips, and which are valid (B, S), or None if all are."""
        raise NotImplementedError

    def transform(self, tokens: Tensor, bias: Tensor | None) -> Tensor:
        """All blocks, with what is added to the scores of keys."""
        for block in self.blocks:
            tokens = block(tokens, bias)
        return tokens

    def forward(
        self,
        pixel_values_videos: Tensor,
        frame_valid: Tensor | None = None,
        trajectory_embeds: None = None,
        token_valid: None = None,
        **_: object,
    ) -> TrajViT2VideoOutput:
        """As `TrajViT2VideoTower.forward`, of pixels alone and whole clips."""
        if pixel_values_videos is None or trajectory_embeds is not None:
            raise ValueError(f"{type(self).__name__} reads pixel_values_videos and nothing else.")
        if frame_valid is not None and not frame_valid.all():
            raise ValueError(f"{type(self).__name__} got padded clips, expected clips of one length.")
        tokens, valid = self.tokens(pixel_values_videos)
        bias = None
        if valid is not None:
            valid = F.pad(valid, (1, 0), value=True)
            bias = torch.zeros_like(valid, dtype=tokens.dtype).masked_fill(~valid, torch.finfo(tokens.dtype).min)
        states = self.norm(
            self.transform(torch.cat((self.cls_token.expand(len(tokens), -1, -1), tokens), dim=1), bias)
        )
        seen = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)[:, 1:]
        return TrajViT2VideoOutput(
            last_hidden_state=states,
            pooler_output=states[:, 0],
            token_valid=seen if valid is None else valid[:, 1:],
        )
