"""Two ways from the patches of a whole video to the tokens that a language model reads.

In:   patch features of a frozen backbone (B, N, D), and what its segmenter says of them
Out:  tokens (B, n, d) in the language model's space
To:   connector_experiment.py
"""

import torch.nn.functional as F
from torch import Tensor, nn

from modeling_trajtok import TrajVLMConfig, TrajVLMGrouping
from modeling_trajtok.grid_ops import GridSize


class TrajectoryConnector(nn.Module):
    """TrajVLM's own: each trajectory reads its patches.

    Args:
        config: of the language model and the segmenter; the vision tower's width is that of the patch features.
    """

    def __init__(self, config: TrajVLMConfig):
        super().__init__()
        self.connector = TrajVLMGrouping(config).connector
        self.num_tokens = config.trajtok_config.num_trajectories

    def forward(self, patch_features: Tensor, trajectory_ids: Tensor, queries: Tensor, grid: GridSize) -> Tensor:
        """Features (B, N, D), ids (B, N) and queries (B, K, D_seg) to tokens (B, K, d)."""
        return self.connector(queries, patch_features, trajectory_ids, grid)[1]


class MeanPoolingConnector(nn.Module):
    """Patches averaged over the cells of a grid over space and time, then projected as TrajVLM projects.

    Args:
        config: as for `TrajectoryConnector`.
        cells: of the grid, (frames, rows, columns); it has the same number of cells however long the video is.
    """

    def __init__(self, config: TrajVLMConfig, cells: tuple[int, int, int]):
        super().__init__()
        self.projector = TrajVLMGrouping(config).connector.projector
        self.cells = cells
        self.num_tokens = cells[0] * cells[1] * cells[2]

    def forward(self, patch_features: Tensor, trajectory_ids: Tensor, queries: Tensor, grid: GridSize) -> Tensor:
        """Features (B, N, D) to tokens (B, n, d); the segmenter is not asked."""
        maps = patch_features.unflatten(1, grid).movedim(-1, 1)
        return self.projector(F.adaptive_avg_pool3d(maps, self.cells).flatten(2).transpose(1, 2))
