"""ToMe: in each block the most similar tokens are merged (arXiv 2210.09461).

Between attention and MLP the tokens are dealt in turn into two sets; each of the first set has one favourite in the
second, by the cosine of their keys, and the r pairs that agree most become one token, the mean weighted by how many
patches each stands for. Attention counts a token as often as that (proportional attention).

In:   pixel_values_videos (B, T, 3, H_px, W_px)     Out: TrajViT2VideoOutput     To: towers
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_trajtok.segmenter_trajtok import TrajTokPatchEncoder

from .blocks import TowerConfig
from .dense_vit import DenseTower


def merge_similar(tokens: Tensor, sizes: Tensor, metric: Tensor, num_merged: int) -> tuple[Tensor, Tensor]:
    """Merge ``num_merged`` pairs; the first token (CLS) stays as it is.

    Args:
        tokens: (B, S, D).
        sizes: (B, S) patches that each stands for.
        metric: (B, S, C) compared by their cosines.
        num_merged: r, at most half of the tokens.

    Returns:
        Tokens and sizes of length S - r: what is left of the first set, then the second.
    """
    num_merged = min(num_merged, (tokens.shape[1] - 1) // 2)
    if num_merged <= 0:
        return tokens, sizes
    metric = F.normalize(metric.float(), dim=-1)
    scores = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)
    scores[:, 0] = -torch.inf
    best, partner = scores.max(dim=2)
    order = best.argsort(dim=1, descending=True)
    given, kept = order[:, :num_merged], order[:, num_merged:].sort(dim=1).values
    receivers = partner.gather(1, given)

    def move(values: Tensor) -> Tensor:
        first, second = values[:, ::2], values[:, 1::2]
        wide = (-1, -1, values.shape[2])
        moved = first.gather(1, given.unsqueeze(2).expand(wide))
        second = second.scatter_add(1, receivers.unsqueeze(2).expand(wide), moved)
        return torch.cat((first.gather(1, kept.unsqueeze(2).expand(wide)), second), dim=1)

    weights = sizes.unsqueeze(2).to(tokens.dtype)
    totals = move(weights)
    return move(tokens * weights) / totals, totals[..., 0]


class TokenMergingTower(DenseTower):
    """A `DenseTower` that merges tokens.

    Args:
        config: sizes.
        patch_encoder: of `PatchEmbedding`.
        merged_share: of the patches, how many are merged away over all blocks, the same number in each; since a block
            can merge half of its tokens, at most L / (L + 1) of L blocks.

    Raises:
        ValueError: for a larger share.
    """

    def __init__(
        self, config: TowerConfig, patch_encoder: TrajTokPatchEncoder | None = None, *, merged_share: float = 0.6
    ):
        super().__init__(config, patch_encoder)
        most = config.num_layers / (config.num_layers + 1)
        if not 0 <= merged_share <= most:
            raise ValueError(
                f"merged_share is {merged_share}, expected 0 to {most:.3f} in {config.num_layers} blocks."
            )
        self.merged_share = merged_share

    def transform(self, tokens: Tensor, bias: None) -> Tensor:
        """All blocks."""
        sizes = torch.ones(tokens.shape[:2], dtype=tokens.dtype, device=tokens.device)
        num_merged = round(self.merged_share * (tokens.shape[1] - 1) / len(self.blocks))
        for block in self.blocks:
            tokens, keys = block.attend(tokens, sizes.log())
            tokens, sizes = merge_similar(tokens, sizes, keys, num_merged)
            tokens = tokens + block.mlp(block.mlp_norm(tokens))
        return tokens
