"""TokenLearner: a few weighted means of the patches of each frame, the weights learnt (arXiv 2106.11297, version 1.1).

In:   pixel_values_videos (B, T, 3, H_px, W_px)     Out: TrajViT2VideoOutput     To: towers
"""

from torch import Tensor, nn

from modeling_trajtok.segmenter_trajtok import TrajTokPatchEncoder

from .blocks import Block, TowerConfig, VideoTower


class TokenLearner(nn.Module):
    """Patches (B, N, D) to ``num_tokens`` means (B, n, D); each map of weights is a softmax over the patches."""

    def __init__(self, width: int, num_tokens: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.maps = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, num_tokens))

    def forward(self, patches: Tensor) -> Tensor:
        """(B, N, D) -> (B, n, D)."""
        weights = self.maps(self.norm(patches)).softmax(dim=1)
        return weights.transpose(1, 2) @ patches


class TokenLearnerTower(VideoTower):
    """The first block works on the patches of single frames, the others on the learnt tokens of all frames.

    Args:
        config: sizes.
        patch_encoder: of `PatchEmbedding`.
        tokens_per_frame: learnt tokens of each tubelet's frame (the paper's: 8).
    """

    def __init__(
        self, config: TowerConfig, patch_encoder: TrajTokPatchEncoder | None = None, *, tokens_per_frame: int = 8
    ):
        super().__init__(config, patch_encoder)
        self.frame_block = Block(config)
        self.learner = TokenLearner(config.width, tokens_per_frame)
        self.blocks = self.blocks[1:]

    def tokens(self, pixel_values_videos: Tensor) -> tuple[Tensor, None]:
        """A few tokens per frame."""
        patches = self.embedding(pixel_values_videos)
        batch = len(patches)
        learnt = self.learner(self.frame_block(patches.flatten(2, 3).flatten(0, 1)))
        return learnt.unflatten(0, (batch, -1)).flatten(1, 2), None
