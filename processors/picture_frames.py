"""Pictures: what Pillow opened becomes upright RGB of 8 bits, by one rule for files and for objects in memory.

In:   a PIL image of any mode, still or animated
Out:  frames (T, H_px, W_px, 3) uint8 and, of an animation, their times
From: decoder_backends (files), video_inputs (objects)     To: the same

The rule: pictures are turned as their EXIF data says. Black-and-white, grey, palette, CMYK, YCbCr and HSV pictures are
converted by Pillow. Transparency is dropped, as it is in videos with an alpha channel: what counts are the colours
beneath. 16 bits per channel lose the lower 8, whether grey or, as Pillow itself does it, in colour. Whole numbers of
32 bits and floats have no range of their own: they must lie in 0..255 and in [0, 1], as those of arrays must.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .frame_sampling import FrameTimeline

try:
    from PIL import ImageOps
except ImportError:
    ImageOps = None

SHORTEST_DELAY_MS, USUAL_DELAY_MS = 10, 100  # frames of animations without a delay, as browsers show them
ANIMATED_FORMATS = ("GIF", "PNG", "WEBP")
MODES_BEFORE_RGB = {"La": "LA", "RGBa": "RGBA"}  # premultiplied transparency is undone first


class PictureValueError(ValueError):
    """A picture whose values or mode have no meaning as colours."""


def is_pil_image(value: Any) -> bool:
    """Whether `value` is a picture of Pillow."""
    return hasattr(value, "__array_interface__") and callable(getattr(value, "convert", None))


def first_frame(picture: Any) -> int:
    """Number of the first frame that is shown: an APNG may begin with a picture for programs that do not know APNG."""
    return int(bool(getattr(picture, "default_image", False)) and picture.n_frames > 1)


def num_frames(picture: Any) -> int:
    """Frames of an animation (GIF, APNG, WebP); 1 for anything else, also for the pages of a TIFF."""
    if getattr(picture, "format", None) not in ANIMATED_FORMATS:
        return 1
    return getattr(picture, "n_frames", 1) - first_frame(picture)


def read_pictures(
    picture: Any, choose_frames: Callable[[FrameTimeline], np.ndarray], check_time: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray, FrameTimeline]:
    """The chosen frames of an open picture; an animation stands at the last of them afterwards.

    Args:
        picture: an open PIL image, still (one frame) or animated (GIF, APNG, WebP).
        choose_frames: called with the timeline; returns frame indices, ascending.
        check_time: called before every frame; raises when time is up.

    Returns:
        frames (T, H_px, W_px, 3) uint8, their indices (T,), and the timeline of the whole picture.

    Raises:
        PictureValueError: as `picture_to_rgb`.
        OSError, EOFError, SyntaxError: the file behind the picture is damaged or closed.
    """
    timeline = _timeline(picture, check_time)
    indices = choose_frames(timeline)
    frames = []
    for number in indices.tolist():
        check_time()
        if timeline.total_num_frames > 1:
            picture.seek(number + first_frame(picture))
        frames.append(picture_to_rgb(picture))
    return np.stack(frames), indices, timeline


def _timeline(picture: Any, check_time: Callable[[], None]) -> FrameTimeline:
    total, ends_s, clock_s = num_frames(picture), [], 0.0
    if total == 1:
        return FrameTimeline(1, np.zeros(1))
    for number in range(total):
        check_time()
        picture.seek(number + first_frame(picture))
        if picture.format == "WEBP":
            picture.load()  # Pillow learns the times of a WebP only by decoding
        delay_ms = picture.info.get("duration", 0)
        clock_s += (delay_ms if delay_ms >= SHORTEST_DELAY_MS else USUAL_DELAY_MS) / 1000
        ends_s.append(clock_s)
    return FrameTimeline(total, np.array([0.0, *ends_s[:-1]]), clock_s)


def picture_to_rgb(picture: Any) -> np.ndarray:
    """One picture as upright RGB.

    Args:
        picture: a PIL image; of an animation, the frame where it stands.

    Returns:
        (H_px, W_px, 3) uint8.

    Raises:
        PictureValueError: values outside the range of pictures, or a mode that has no meaning as colours.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        return _grey_to_rgb((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        return _grey_to_rgb(_numbers_to_bytes(np.asarray(picture), picture.mode))
    if picture.mode == "P" and isinstance(picture.info.get("transparency"), bytes):
        picture = picture.convert("RGBA")
    try:
        return np.asarray(picture.convert(MODES_BEFORE_RGB.get(picture.mode, picture.mode)).convert("RGB"))
    except ValueError as error:
        raise PictureValueError(
            f"is a picture of mode {picture.mode!r}, which Pillow cannot turn into RGB ({error}); convert it before"
        ) from error


def _numbers_to_bytes(values: np.ndarray, mode: str) -> np.ndarray:
    low, high = values.min(), values.max()
    largest, kind = (255, "whole numbers in 0..255") if mode == "I" else (1, "floats in [0, 1]")
    if not (low >= 0 and high <= largest):  # also when a value is NaN
        raise PictureValueError(
            f"is a picture of mode {mode!r} with values in [{low:.4g}, {high:.4g}]; expected {kind}. "
            "Such pictures have no range of their own: scale the values to that one"
        )
    return values.astype(np.uint8) if mode == "I" else (values * 255).round().astype(np.uint8)


def _grey_to_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)
