"""What models ask of keywords, pixels and masks; each error says what was expected and what came.

In:   tensors as callers give them
Out:  a boolean mask, or a ValueError
To:   modeling_trajtok, modeling_trajvit2, modeling_trajadapter
"""

import inspect

import torch
from torch import Tensor, nn

from .configuration_trajtok import reject_misspelt


def check_keywords(model: nn.Module, unknown: dict) -> None:
    """Keywords that a model's ``forward`` does not know must not look like those that it knows."""
    if unknown:
        reject_misspelt(f"{type(model).__name__}.forward", unknown, inspect.signature(model.forward).parameters)


def check_task_keywords(model: nn.Module, part: type[nn.Module], unknown: dict) -> None:
    """As `check_keywords`, for a model that passes what it does not know itself on to a part of this class."""
    known = {*inspect.signature(model.forward).parameters, *inspect.signature(part.forward).parameters}
    reject_misspelt(f"{type(model).__name__}.forward", set(unknown) - known, known)


def check_targets(owner: str, target_trajectory_ids: Tensor | None, inputs: dict) -> dict:
    """The keywords for a TrajTok, in which what it should find has the name that it has there.

    Raises:
        ValueError: if it was given under both names.
    """
    if target_trajectory_ids is None:
        return inputs
    if inputs.get("trajectory_labels") is not None:
        raise ValueError(
            f"{owner} got target_trajectory_ids and trajectory_labels, expected one of them: they are two names of "
            "the same."
        )
    return {**inputs, "trajectory_labels": target_trajectory_ids}


def check_pixel_names(owner: str, pixel_values_videos: Tensor | None, pixel_values: Tensor | None) -> Tensor | None:
    """Pixels under either of the names that classifiers of videos have for them.

    Raises:
        ValueError: if they were given under both names.
    """
    if pixel_values is not None and pixel_values_videos is not None:
        raise ValueError(f"{owner} got pixel_values_videos and pixel_values, expected one of them.")
    return pixel_values_videos if pixel_values is None else pixel_values


def check_pixels(owner: str, pixel_values_videos: Tensor) -> None:
    """Pixels must be floating-point and of shape (B, T, 3, H_px, W_px).

    Args:
        owner: name of the model, for the error.
        pixel_values_videos: what it got.
    """
    if not isinstance(pixel_values_videos, Tensor):
        raise ValueError(
            f"{owner} got pixel_values_videos of type {type(pixel_values_videos).__name__}, expected a tensor. Pass "
            "videos through TrajTokVideoProcessor first."
        )
    if pixel_values_videos.dim() != 5 or pixel_values_videos.shape[2] != 3:
        raise ValueError(
            f"{owner} got pixel_values_videos of shape {tuple(pixel_values_videos.shape)}, expected (clips, frames, "
            "3, height, width). An image is a clip of one frame: unsqueeze it to (1, 1, 3, H, W)."
        )
    if not pixel_values_videos.is_floating_point():
        raise ValueError(
            f"{owner} got pixel_values_videos of type {pixel_values_videos.dtype}, expected normalised floating-point "
            "pixels. Pass raw frames through TrajTokVideoProcessor first."
        )


def check_frame_valid(owner: str, frame_valid: Tensor | None, batch: int, frames: int) -> Tensor | None:
    """Return a boolean mask (B, T) whose False stand at the end, or None if no frame is padded.

    Args:
        owner: name of the model, for the error.
        frame_valid: what it got.
        batch: B.
        frames: T.
    """
    if frame_valid is None:
        return None
    frame_valid = frame_valid.bool()
    if tuple(frame_valid.shape) != (batch, frames):
        raise ValueError(
            f"{owner} got frame_valid of shape {tuple(frame_valid.shape)}, expected {(batch, frames)} for clips of "
            f"{frames} frames."
        )
    if torch.compiler.is_compiling():
        return frame_valid
    if not frame_valid[:, 0].all() or (frame_valid[:, 1:] & ~frame_valid[:, :-1]).any():
        raise ValueError(
            f"{owner} got a frame_valid whose padding is not at the end of the clip, expected valid frames first and "
            "at least one per clip. Move the padded frames behind the valid ones."
        )
    return None if frame_valid.all() else frame_valid
