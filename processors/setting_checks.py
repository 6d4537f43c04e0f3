"""Setting checks: one setting of the video processor at a time, wherever it was given.

In:   settings as users, files and other libraries write them: numpy scalars, enums, tuples, 0-dimensional tensors
Out:  the same settings as plain Python values that JSON can hold; an error that names setting, expectation and value
From: video_processing_trajtok (construction, loading, calls)     To: video_processing_trajtok
"""

import math
import numbers
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch
from transformers.image_utils import PILImageResampling, SizeDict

from .frame_decoding import BACKEND_ORDER
from .frame_sampling import SAMPLING_STRATEGIES
from .video_inputs import AXES

RESAMPLING = ("NEAREST", "BILINEAR", "BICUBIC", "LANCZOS")  # what torchvision can do with tensors
SIZE_KEYS = ({"height", "width"}, {"shortest_edge"})
TENSOR_TYPES = ("pt", "np", "mlx")


def plain(value: Any) -> Any:
    """The value without numpy's, torch's and Enum's clothes; lists and dicts are undressed inside, too."""
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)):
        return value.tolist()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [plain(entry) for entry in value]
    return value


def whole_number(name: str, value: Any) -> int:
    """A whole number of at least 1."""
    found = plain(value)
    if not isinstance(found, int) or isinstance(found, bool):
        raise ValueError(f"{name} must be a whole number, got {_shown(value)}.")
    if found < 1:
        raise ValueError(f"{name} must be above 0, got {found}.")
    return found


def number(name: str, value: Any) -> int | float:
    """A finite number above 0."""
    found = _finite(name, value)
    if found <= 0:
        raise ValueError(f"{name} must be above 0, got {found}.")
    return found


def _finite(name: str, value: Any) -> int | float:
    found = plain(value)
    if not isinstance(found, numbers.Real) or isinstance(found, bool) or not math.isfinite(found):
        raise ValueError(f"{name} must be a finite number, got {_shown(value)}.")
    return found if isinstance(found, int) else float(found)


def _factor(name: str, value: Any) -> int | float:
    found = _finite(name, value)
    if found == 0:
        raise ValueError(f"{name} is 0, which makes all pixels alike; pass another number.")
    return found


def _flag(name: str, value: Any) -> bool:
    found = plain(value)
    if not isinstance(found, bool) and found not in (0, 1):
        raise ValueError(f"{name} must be True or False, got {_shown(value)}.")
    return bool(found)


def _one_of(*allowed: str) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        found = plain(value)
        if not isinstance(found, str) or found not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {_shown(value)}.")
        return found

    return check


def _size(name: str, value: Any) -> int | list[int] | dict[str, int]:
    """One side (of a square), height and width, or a dict of one of `SIZE_KEYS`."""
    if isinstance(value, (Mapping, SizeDict)):
        found = {key: entry for key, entry in dict(value).items() if entry is not None}
        if set(found) not in SIZE_KEYS:
            raise ValueError(
                f'{name} must be {{"height": ..., "width": ...}} or {{"shortest_edge": ...}} in pixels, got {found}.'
            )
        return {key: whole_number(f"{name}[{key!r}]", entry) for key, entry in found.items()}
    found = plain(value)
    if isinstance(found, list):
        if len(found) != 2:
            raise ValueError(f"{name} must be (height, width) in pixels, got {_shown(value)}.")
        return [whole_number(name, entry) for entry in found]
    return whole_number(name, found)


def _crop_size(name: str, value: Any) -> int | list[int] | dict[str, int]:
    found = _size(name, value)
    if isinstance(found, dict) and set(found) != {"height", "width"}:
        raise ValueError(f'{name} must be {{"height": ..., "width": ...}} in pixels, got {found}.')
    return found


def _resample(name: str, value: Any) -> PILImageResampling:
    found = plain(value)
    allowed = {entry: PILImageResampling[entry] for entry in RESAMPLING}
    if isinstance(found, str) and found.upper() in allowed:
        return allowed[found.upper()]
    if isinstance(found, int) and not isinstance(found, bool) and found in allowed.values():
        return PILImageResampling(found)
    listed = ", ".join(f"{key.lower()} ({entry.value})" for key, entry in allowed.items())
    raise ValueError(f"{name} must be one of {listed}; got {_shown(value)}.")


def _per_channel(name: str, value: Any) -> float | list[float]:
    found = plain(value)
    values = found if isinstance(found, list) else [found]
    if (isinstance(found, list) and len(values) != 3) or not all(
        isinstance(entry, numbers.Real) and not isinstance(entry, bool) and math.isfinite(entry) for entry in values
    ):
        raise ValueError(f"{name} must be a number, or one for each of red, green and blue; got {_shown(value)}.")
    if name == "image_std" and min(values) <= 0:
        raise ValueError(f"{name} must be above 0, got {_shown(value)}.")
    return [float(entry) for entry in values] if isinstance(found, list) else float(found)


def _device(name: str, value: Any) -> str:
    try:
        device = torch.device(plain(value))
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{name} must be one that torch knows, such as 'cpu' or 'cuda:0'; got {value!r}.") from error
    if device.type == "meta":
        raise ValueError(f"{name} must hold values; got 'meta', which holds none.")
    return str(device)


def _only_channels_first(name: str, value: Any) -> str:
    if plain(value) != "channels_first":
        raise ValueError(
            f"{name} must be channels_first, got {_shown(value)}: models read (B, T, 3, H, W). Move the axis after it."
        )
    return "channels_first"


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "num_frames": whole_number,
    "max_bytes": whole_number,
    "fps": number,
    "decode_timeout_s": number,
    "rescale_factor": _factor,
    "sampling_strategy": _one_of(*SAMPLING_STRATEGIES),
    "short_clips": _one_of("pad", "raise"),
    "decoder_backend": _one_of("auto", *BACKEND_ORDER),
    "input_data_format": _one_of(*AXES),
    "return_tensors": _one_of(*TENSOR_TYPES),
    "data_format": _only_channels_first,
    "size": _size,
    "crop_size": _crop_size,
    "resample": _resample,
    "image_mean": _per_channel,
    "image_std": _per_channel,
    "device": _device,
    **dict.fromkeys(
        (
            "do_convert_rgb",
            "do_resize",
            "do_rescale",
            "do_normalize",
            "do_center_crop",
            "do_pad",
            "do_sample_frames",
            "default_to_square",
            "return_metadata",
            "skip_bad_videos",
        ),
        _flag,
    ),
}


def check_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Each setting as a plain value of the right type and range; None and names without a rule stay as they are.

    Raises:
        ValueError: naming the setting, what it must be, and what came.
    """
    return {
        name: CHECKS[name](name, value) if name in CHECKS and value is not None else value
        for name, value in settings.items()
    }


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"
