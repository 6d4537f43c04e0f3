"""The idea of TrajViT (arXiv 2505.23617): tokens of trajectories that somebody else has found, here the true ones.

In:   pixel_values_videos (B, T, 3, H_px, W_px) and trajectory_ids (B, T, h, w), -1 = none
Out:  TrajViT2VideoOutput
To:   towers
"""

from torch import Tensor, nn

from modeling_trajtok import TrajViT2Config, TrajViT2VideoOutput
from modeling_trajtok.modeling_trajvit2 import TrajViT2VideoTower


class GivenTrajectoriesTower(nn.Module):
    """TrajViT2's backbone, encoder and transformer; nothing is segmented.

    Args:
        config: of a TrajViT2.
    """

    def __init__(self, config: TrajViT2Config):
        super().__init__()
        self.tower = TrajViT2VideoTower(config)

    def forward(
        self,
        pixel_values_videos: Tensor,
        frame_valid: Tensor | None = None,
        trajectory_embeds: None = None,
        token_valid: None = None,
        trajectory_ids: Tensor | None = None,
        **_: object,
    ) -> TrajViT2VideoOutput:
        """As `TrajViT2VideoTower.forward`, with the trajectories.

        Raises:
            ValueError: without them.
        """
        if trajectory_ids is None:
            raise ValueError("GivenTrajectoriesTower got no trajectory_ids, expected those of the clips.")
        return self.tower(pixel_values_videos, frame_valid, trajectory_ids=trajectory_ids)
