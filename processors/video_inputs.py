"""Video inputs: sort out what a user handed over, and bring frames that are already in memory into one form.

In:   one video or many: sources (paths, URLs, bytes, files), decoders, arrays, tensors, pictures, lists of pictures,
      rows and columns of `datasets`
Out:  one entry per video; frames in memory as a tensor (T, 3, H_px, W_px), uint8 or float32 in [0, 1]
From: the user     To: video_processing_trajtok
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .picture_frames import is_pil_image, num_frames, picture_to_rgb
from .video_sources import is_video_source, source_name

SMALLEST_SIDE_PX = 8
AXES = ("channels_first", "channels_last", "none")
KINDS = "a path, URL, bytes, file, video decoder, array, tensor, picture or list of pictures"


# --- which videos are there? -----------------------------------------------------------------------------------------


def list_videos(videos: Any) -> Sequence:
    """One entry per video.

    A list, tuple or generator is a batch, unless it holds nothing but pictures (still PIL images, or arrays and
    tensors of 2 or 3 axes): then it is one video. An animated PIL image is a video. An array of 4 axes is a video, one
    of 5 axes a batch. Every row of a column of `datasets` is a video; such a column is returned as it is, so that its
    rows are decoded one after the other.

    Raises:
        ValueError: nothing came in, or something that is no video.
    """
    if callable(getattr(videos, "to_pylist", None)):  # an Arrow column
        videos = videos.to_pylist()
    if _is_array(videos) and not isinstance(videos, torch.Tensor):
        videos = np.asarray(videos)
        if videos.ndim == 1 and videos.dtype.kind in "OUS":  # names or objects, as columns may come
            videos = videos.tolist()
    if isinstance(videos, Iterator) and not is_video_source(videos):
        videos = list(videos)
    if _is_one_video(videos):
        return [videos]
    if _is_array(videos):
        if videos.ndim != 5:
            raise ValueError(
                f"Expected a video (T, H, W, 3) or (T, 3, H, W), or a batch of them with 5 axes; got {_shape(videos)}."
            )
        videos = list(videos)
    if isinstance(videos, Mapping):
        raise ValueError(
            f"Expected {KINDS}; got a dict with {', '.join(map(repr, videos)) or 'nothing'}. Of a row of a data set, "
            'pass the video alone (row["video"]); a dict that names a video has "path" or "bytes".'
        )
    if not isinstance(videos, Sequence):
        if not isinstance(videos, Iterable):
            raise ValueError(f"Expected {KINDS}, or a list of those; got {type(videos).__name__}.")
        videos = list(videos)
    if len(videos) == 0:
        raise ValueError("Got an empty list; expected at least one video (and a video needs at least one frame).")
    return videos


def flatten_videos(videos: Any, *, keep_empty: bool = False) -> Sequence:
    """One entry per video; as `list_videos`, but each entry may be a list of videos, such as those of one prompt.

    Args:
        videos: what `list_videos` takes, nested or not.
        keep_empty: leave empty lists in their place instead of dropping them (a prompt may have no video).
    """
    listed = list_videos(videos)
    if not isinstance(listed, (list, tuple)):
        return listed
    flat = []
    for entry in listed:
        if isinstance(entry, (list, tuple)) and not _is_one_video(entry):
            flat += flatten_videos(entry, keep_empty=keep_empty) if entry else [entry] * keep_empty
        else:
            flat.append(entry)
    return flat


def as_source(video: Any) -> Any:
    """The dict (or Arrow value) of a video or picture in `datasets`, as its bytes or its path; else what came.

    Raises:
        ValueError: a dict that holds neither, or a path that only `datasets` can open.
    """
    if callable(getattr(video, "as_py", None)):
        video = video.as_py()
    if not isinstance(video, Mapping):
        return video
    unknown = set(video) - {"path", "bytes"}
    path, data = video.get("path"), video.get("bytes")
    if unknown or (path is None and data is None):
        found = ", ".join(map(repr, video)) or "nothing"
        raise ValueError(f'is a dict with {found}; expected {KINDS}, or a dict with "path" or "bytes"')
    if data is not None:
        return data
    if isinstance(path, str) and ("::" in path or path.startswith("hf://")):
        raise ValueError(f"lies at {path!r}, which `datasets` can open, not we; let it decode the column (Video())")
    return path


def video_name(video: Any) -> str:
    """How messages call a video: its path or address, or what kind of object it is."""
    if isinstance(video, Mapping):
        return str(video.get("path") or f"<{type(video).__name__} in memory>")
    if is_video_source(video):
        return source_name(video)
    place = getattr(getattr(video, "metadata", None), "path", None) if is_decoder(video) else None
    return str(place or getattr(video, "filename", "") or f"<{type(video).__name__} in memory>")


def is_decoder(value: Any) -> bool:
    """Whether `value` is an open video of torchcodec, as `datasets` hands them out."""
    return callable(getattr(value, "get_frames_at", None)) and hasattr(value, "metadata")


def is_animation(value: Any) -> bool:
    """Whether `value` is a PIL image of several frames."""
    return is_pil_image(value) and num_frames(value) > 1


def _is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (
        hasattr(value, "__array__") and hasattr(value, "ndim") and not is_pil_image(value)
    )


def _is_torchcodec_output(value: Any) -> bool:
    """Whether `value` is a Frame or FrameBatch that a decoder of torchcodec returned."""
    return hasattr(value, "pts_seconds") and isinstance(getattr(value, "data", None), torch.Tensor)


def _is_picture(value: Any) -> bool:
    return (_is_array(value) and value.ndim in (2, 3)) or (is_pil_image(value) and num_frames(value) == 1)


def _is_one_video(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and all(_is_picture(entry) for entry in value)
    return (
        is_video_source(value)
        or is_decoder(value)
        or _is_torchcodec_output(value)
        or callable(getattr(value, "as_py", None))
        or is_pil_image(value)
        or _is_picture(value)
        or (_is_array(value) and value.ndim == 4)
        or (isinstance(value, Mapping) and bool(value) and set(value) <= {"path", "bytes"})
    )


# --- frames in memory ------------------------------------------------------------------------------------------------


def frames_to_tensor(video: Any, *, do_convert_rgb: bool, channels: str | None = None) -> torch.Tensor:
    """Bring frames in memory into one form, refusing what would silently become a wrong picture.

    Args:
        video: (T, H, W, 3) or (T, 3, H, W) array or tensor, one picture (a video of one frame), or a list of pictures;
            uint8 or other whole numbers in 0..255, or floats in [0, 1]. PIL images become RGB as `picture_frames`
            says.
        do_convert_rgb: turn grey and RGBA pictures into RGB; without it, 3 channels are expected.
        channels: where arrays and tensors have their colours: "channels_first", "channels_last", or "none": grey
            frames (T, H, W), or one grey picture (H, W). None finds the axis of 3 channels (last, then first); three
            axes are then one picture, and refused where they might as well be 3 or 4 grey frames.

    Returns:
        (T, 3, H_px, W_px), uint8, or float32 in [0, 1].

    Raises:
        ValueError: zero frames, pictures of different sizes, a wrong number of axes or channels, a wrong type or
            range, NaN or infinity, pictures too small to show anything.
    """
    frames, channels = _stacked(video, do_convert_rgb, channels)
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


def _stacked(video: Any, do_convert_rgb: bool, channels: str | None) -> tuple[torch.Tensor, str | None]:
    """Frames with 4 axes, and where their colours are."""
    if not isinstance(video, (list, tuple)):
        frames, channels = _with_colour_axis(video, do_convert_rgb, channels, alone=True)
        return (frames[None] if frames.ndim == 3 else frames), channels
    if not video:
        raise ValueError("has zero frames; expected at least one")
    if len({id(picture) for picture in video if is_animation(picture)}) < sum(map(is_animation, video)):
        raise ValueError(
            "holds the same animated picture several times; pass the animation itself, or a copy of every frame "
            "(`frame.copy()`: Pillow moves one object from frame to frame)"
        )
    pictures, layouts = zip(
        *(_with_colour_axis(picture, do_convert_rgb, channels, alone=False) for picture in video), strict=True
    )
    shapes = sorted({_shape(picture) for picture in pictures})
    if len(shapes) > 1 or len(set(layouts)) > 1:
        raise ValueError(f"has pictures of different shapes, {', '.join(shapes)}; expected one shape")
    types = sorted({str(picture.dtype) for picture in pictures})
    if len(types) > 1:
        raise ValueError(f"has pictures of different types, {', '.join(types)}; expected one type")
    return torch.stack(pictures), layouts[0]


def _with_colour_axis(video: Any, do_convert_rgb: bool, channels: str | None, *, alone: bool):
    """One picture with 3 axes, or a video with 4 axes, and where its colours are."""
    if is_pil_image(video):
        if not do_convert_rgb and video.mode != "RGB":
            raise ValueError(f"has a picture of mode {video.mode!r}; expected RGB, as do_convert_rgb is False")
        return _tensor(picture_to_rgb(video)), "channels_last"
    frames = _tensor(video)
    if frames.ndim == 2:
        return frames[..., None], "channels_last"
    if channels == "none":
        if frames.ndim != 3 or not alone:
            raise ValueError(
                f'got {_shape(frames)} with input_data_format="none"; expected grey frames (T, H, W) or a grey '
                "picture (H, W)"
            )
        return frames[..., None], "channels_last"
    if frames.ndim == 3 and alone and channels is None and frames.shape[-1] not in (1, 3, 4):
        if frames.shape[0] in (3, 4):
            raise ValueError(
                f"of shape {_shape(frames)} may be one picture with {frames.shape[0]} colour channels, or "
                f'{frames.shape[0]} grey frames. Pass input_data_format="channels_first" for a picture, "none" for '
                "grey frames"
            )
        if frames.shape[0] != 1:
            raise ValueError(
                f'of shape {_shape(frames)} has no axis of colours; pass input_data_format="none" if these are grey '
                "frames (T, H, W)"
            )
    return frames, channels


def _tensor(video: Any) -> torch.Tensor:
    if isinstance(video, torch.Tensor):
        if video.layout != torch.strided or video.is_quantized or video.is_meta:
            raise ValueError(f"is a tensor without plain values ({video.layout}, {video.dtype}); expected a dense one")
        video = video.detach()
        # torch computes little with these types.
        return video.to(torch.int64) if video.dtype in (torch.uint16, torch.uint32, torch.uint64) else video
    if _is_torchcodec_output(video):
        raise ValueError(
            "holds frames of torchcodec with their times; pass the frames (`frames.data`), and the times as "
            'video_metadata=[{"frame_times_s": frames.pts_seconds}]'
        )
    if not _is_array(video):
        raise ValueError(f"holds {type(video).__name__}; expected {KINDS}")
    array = np.asarray(video)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"has values of type {array.dtype}; expected uint8, or floats in [0, 1]")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    elif array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(array.copy() if any(s < 0 for s in array.strides) or not array.flags.writeable else array)


def _channels_second(frames: torch.Tensor, channels: str | None, do_convert_rgb: bool) -> torch.Tensor:
    allowed = (3, 1, 4) if do_convert_rgb else (3,)
    if channels is None:
        axis = next((a for count in allowed for a in (-1, 1) if frames.shape[a] == count), None)
    else:
        axis = -1 if channels == "channels_last" else 1
    if axis is None or frames.shape[axis] not in allowed:
        given = "" if channels is None else f" with {channels.replace('_', ' ')}"
        raise ValueError(
            f"expected {' or '.join(map(str, sorted(allowed)))} colour channels as (T, H, W, 3) or (T, 3, H, W), "
            f"got {_shape(frames)}{given}"
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
        frames = frames.float()
        if not torch.isfinite(frames).all():
            broken = int((~torch.isfinite(frames)).sum())
            raise ValueError(f"has {broken} pixel values that are NaN or infinite; expected floats in [0, 1]")
        low, high = float(frames.min()), float(frames.max())
        if low < 0 or high > 1:
            raise ValueError(
                f"has floats in [{low:.4g}, {high:.4g}]; expected [0, 1]. Divide by 255, pass uint8, "
                "or undo an earlier normalisation"
            )
        return frames
    low, high = int(frames.min()), int(frames.max())
    if low < 0 or high > 255:
        raise ValueError(
            f"has whole numbers in {low}..{high}; expected 0..255. Scale them (16 bits: `frames // 256`), or pass "
            "floats in [0, 1]"
        )
    return frames.to(torch.uint8)


def _shape(value: np.ndarray | torch.Tensor) -> str:
    return "(" + ", ".join(map(str, value.shape)) + ")"
