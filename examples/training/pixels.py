"""Frames as models see them.

In:   frames (..., H, W, 3) uint8
Out:  pixels (..., 3, H, W) float, 0 ... 1 or with ImageNet's mean and standard deviation
To:   segmentation_views, caption_views, frozen_features
"""

import numpy as np
import torch
from torch import Tensor

IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def pixels_of(frames_uint8: np.ndarray) -> Tensor:
    """Frames (..., H, W, 3) uint8 -> (..., 3, H, W), 0 ... 1."""
    return torch.from_numpy(frames_uint8).movedim(-1, -3).float() / 255


def normalise(pixels: Tensor) -> Tensor:
    """Pixels (..., 3, H, W), 0 ... 1 -> the same, mean 0 and deviation 1 per colour over ImageNet."""
    return (pixels - IMAGENET_MEAN) / IMAGENET_STD
