"""ViT3D: every patch of space and time is a token, and all attend to all (ViViT model 1, arXiv 2103.15691).

In:   pixel_values_videos (B, T, 3, H_px, W_px)     Out: TrajViT2VideoOutput     To: towers
"""

from torch import Tensor

from .blocks import VideoTower


class DenseTower(VideoTower):
    """T' * H * W tokens."""

    def tokens(self, pixel_values_videos: Tensor) -> tuple[Tensor, None]:
        """All patches."""
        return self.embedding(pixel_values_videos).flatten(1, 3), None
