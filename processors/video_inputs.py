"""Video inputs: sort out what a user handed over, and bring frames that are already in memory into one form.

In:   one video or a list of videos: sources (paths, URLs, bytes, files), arrays, tensors, lists of pictures
Out:  a list with one entry per video; frames in memory as a tensor (T, 3, H_px, W_px), uint8 or float32 in [0, 1]
From: the user     To: video_processing_trajtok
"""

from typing import Any

import numpy as np
import torch

from .video_sources import is_video_source

SMALLEST_SIDE_PX = 8


def list_videos(videos: Any) -> list:
    """One entry per video, whatever nesting came in.

    A list is a batch, with two exceptions: a list of pictures (PIL images, or arrays and tensors of 3 axes) is one
    video, and so is an array of 4 axes. An array of 5 axes is a batch.

    Raises:
        ValueError: nothing came in, or something that is no video.
    """
    if _is_one_video(videos):
        return [videos]
    if isinstance(videos, (np.ndarray, torch.Tensor)) and videos.ndim != 5:
        raise ValueError(
            f"Expected a video (T, H, W, 3) or (T, 3, H, W), or a batch of them with 5 axes; got {_shape(videos)}."
        )
    if not isinstance(videos, (list, tuple, np.ndarray, torch.Tensor)):
        raise ValueError(
            "Expected a path, URL, bytes, file, array, tensor or list of pictures, or a list of those; "
            f"got {type(videos).__name__}."
        )
    if len(videos) == 0:
        raise ValueError("Got an empty list; expected at least one video (and a video needs at least one frame).")
    return list(videos)


def flatten_videos(videos: Any) -> list:
    """One entry per video; as `list_videos`, but each entry may be a list of videos, such as those of one prompt."""
    flat = []
    for entry in list_videos(videos):
        if isinstance(entry, (list, tuple)) and not _is_one_video(entry):
            flat += flatten_videos(entry) if entry else []
        else:
            flat.append(entry)
    return flat


def _is_picture(value: Any) -> bool:
    is_array = isinstance(value, (np.ndarray, torch.Tensor))
    return (is_array and value.ndim in (2, 3)) or (hasattr(value, "__array_interface__") and not is_array)


def _is_one_video(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and all(_is_picture(entry) for entry in value)
    return (
        is_video_source(value)
        or _is_picture(value)
        or (isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim == 4)
    )


def frames_to_tensor(video: Any, *, do_convert_rgb: bool, channels: str | None = None) -> torch.Tensor:
    """Bring frames in memory into one form, refusing what would silently become a wrong picture.

    Args:
        video: (T, H, W, 3) or (T, 3, H, W) array or tensor, one picture (a video of one frame), or a list of pictures;
            uint8 or other whole numbers in 0..255, or floats in [0, 1].
        do_convert_rgb: turn grey and RGBA pictures into RGB; without it, 3 channels are expected.
        channels: "channels_first" or "channels_last"; None finds the axis of 3 channels (last, then first).

    Returns:
        (T, 3, H_px, W_px), uint8, or float32 in [0, 1].

    Raises:
        ValueError: zero frames, pictures of different sizes, a wrong number of axes or channels, a wrong type or
            range, NaN or infinity, pictures too small to show anything.
    """
    frames = _stacked(video, do_convert_rgb)
    if frames.ndim == 3:
        frames = frames[None]
    if frames.ndim != 4:
        raise ValueError(f"expected frames (T, H, W, 3) or (T, 3, H, W), got {_shape(frames)}")
    if frames.shape[0] == 0:
        raise ValueError(f"has zero frames, shape {_shape(frames)}; expected at least one")
    frames = _channels_second(frames, channels, do_convert_rgb)
    if min(frames.shape[-2:]) < SMALLEST_SIDE_PX:
        raise ValueError(
            f"frames are {frames.shape[-2]}x{frames.shape[-1]} px (height x width); "
            f"expected at least {SMALLEST_SIDE_PX} on each side. Check the order of the axes"
        )
    return _checked_values(frames)


def _stacked(video: Any, do_convert_rgb: bool) -> torch.Tensor:
    if isinstance(video, torch.Tensor):
        return video[..., None] if video.ndim == 2 else video
    if isinstance(video, (list, tuple)):
        if not video:
            raise ValueError("has zero frames; expected at least one")
        pictures = [_stacked(picture, do_convert_rgb) for picture in video]
        shapes = sorted({_shape(picture) for picture in pictures})
        if len(shapes) > 1:
            raise ValueError(f"has pictures of different shapes, {', '.join(shapes)}; expected one shape")
        return torch.stack(pictures)
    if not isinstance(video, np.ndarray) and do_convert_rgb and hasattr(video, "convert"):
        video = video.convert("RGB")
    array = np.asarray(video)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"has values of type {array.dtype}; expected uint8, or floats in [0, 1]")
    if array.dtype in (np.uint16, np.uint32, np.uint64):
        array = array.astype(np.int64)
    if array.ndim == 2:
        array = array[..., None]
    return torch.from_numpy(array.copy() if any(s < 0 for s in array.strides) or not array.flags.writeable else array)


def _channels_second(frames: torch.Tensor, channels: str | None, do_convert_rgb: bool) -> torch.Tensor:
    allowed = (3, 1, 4) if do_convert_rgb else (3,)
    if channels is None:
        axis = next((a for count in allowed for a in (-1, 1) if frames.shape[a] == count), None)
    else:
        axis = -1 if channels == "channels_last" else 1
    if axis is None or frames.shape[axis] not in allowed:
        raise ValueError(
            f"expected {' or '.join(map(str, sorted(allowed)))} colour channels as (T, H, W, 3) or (T, 3, H, W), "
            f"got {_shape(frames)}"
        )
    frames = frames.movedim(axis, 1)
    if frames.shape[1] == 1:
        return frames.expand(-1, 3, -1, -1)
    return frames[:, :3]


def _checked_values(frames: torch.Tensor) -> torch.Tensor:
    if frames.dtype == torch.uint8:
        return frames
    if frames.dtype == torch.bool or frames.is_complex():
        raise ValueError(f"has values of type {frames.dtype}; expected uint8, or floats in [0, 1]")
    if frames.is_floating_point():
        if not torch.isfinite(frames).all():
            broken = int((~torch.isfinite(frames)).sum())
            raise ValueError(f"has {broken} pixel values that are NaN or infinite; expected floats in [0, 1]")
        low, high = float(frames.min()), float(frames.max())
        if low < 0 or high > 1:
            raise ValueError(
                f"has floats in [{low:.4g}, {high:.4g}]; expected [0, 1]. Divide by 255, pass uint8, "
                "or undo an earlier normalisation"
            )
        return frames.float()
    low, high = int(frames.min()), int(frames.max())
    if low < 0 or high > 255:
        raise ValueError(f"has whole numbers in {low}..{high}; expected 0..255")
    return frames.to(torch.uint8)


def _shape(value: np.ndarray | torch.Tensor) -> str:
    return "(" + ", ".join(map(str, value.shape)) + ")"
