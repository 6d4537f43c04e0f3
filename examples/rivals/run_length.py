"""RLT: patches that do not change are left out, and those before them tell for how long (arXiv 2411.05222).

In:   pixel_values_videos (B, T, 3, H_px, W_px)     Out: TrajViT2VideoOutput     To: towers
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling_trajtok.segmenter_trajtok import TrajTokPatchEncoder

from .blocks import TowerConfig, VideoTower


def changed_patches(pixel_values_videos: Tensor, patch_px: int, tubelet: int, threshold: float) -> Tensor:
    """Which tubelets differ from the one before by more than a threshold: (B, T', H, W), the first always.

    The difference is the mean over the patch's pixels of the absolute difference between the last frame of the tubelet
    and the first one of the tubelet before.
    """
    sizes_hw = [side // patch_px for side in pixel_values_videos.shape[-2:]]
    first, last = pixel_values_videos[:, :-tubelet:tubelet], pixel_values_videos[:, 2 * tubelet - 1 :: tubelet]
    difference = (first - last).abs().mean(dim=2)
    difference = F.avg_pool2d(difference.flatten(0, 1).unsqueeze(1), patch_px).view(*first.shape[:2], *sizes_hw)
    always = torch.ones(len(first), 1, *sizes_hw, dtype=torch.bool, device=first.device)
    return torch.cat((always, difference > threshold), dim=1)


def run_lengths(changed: Tensor) -> Tensor:
    """How many tubelets each kept one stands for: (B, T', H, W), 0 where nothing is kept."""
    lengths, length = [], torch.zeros_like(changed[:, 0], dtype=torch.long)
    for frame in changed.unbind(dim=1)[::-1]:
        length = length + 1
        lengths.append(length.masked_fill(~frame, 0))
        length = length.masked_fill(frame, 0)
    return torch.stack(lengths[::-1], dim=1)


class RunLengthTower(VideoTower):
    """As many tokens as patches that change; clips of a batch are padded to the most.

    Args:
        config: sizes.
        patch_encoder: of `PatchEmbedding`; what changes is read from the pixels all the same.
        threshold: least change, in standard deviations of normalised pixels (the paper's: 0.1).
    """

    def __init__(
        self, config: TowerConfig, patch_encoder: TrajTokPatchEncoder | None = None, *, threshold: float = 0.1
    ):
        super().__init__(config, patch_encoder)
        self.threshold = threshold
        self.length_projection = nn.Linear(config.width, config.width)

    def tokens(self, pixel_values_videos: Tensor) -> tuple[Tensor, Tensor]:
        """The patches that change, with the length of their run."""
        config = self.config
        patches = self.embedding(pixel_values_videos)
        missing = -pixel_values_videos.shape[1] % config.tubelet
        if missing:
            last = pixel_values_videos[:, -1:].expand(-1, missing, -1, -1, -1)
            pixel_values_videos = torch.cat((pixel_values_videos, last), dim=1)
        changed = changed_patches(pixel_values_videos, config.patch_px, config.tubelet, self.threshold)
        lengths = run_lengths(changed)
        patches = patches + self.length_projection(_sinusoids(lengths, config.width).to(patches.dtype))
        patches, kept = patches.flatten(1, 3), changed.flatten(1)
        tokens = nn.utils.rnn.pad_sequence([clip[own] for clip, own in zip(patches, kept, strict=True)], True)
        counts = kept.sum(dim=1, keepdim=True)
        return tokens, torch.arange(tokens.shape[1], device=tokens.device) < counts


def _sinusoids(numbers: Tensor, width: int) -> Tensor:
    """(...) -> (..., width)."""
    rates = 1000.0 ** (-torch.arange(width // 2, device=numbers.device) / (width // 2))
    angles = numbers.unsqueeze(-1) * rates
    return torch.cat((angles.sin(), angles.cos()), dim=-1)
