"""Half precision is slower than single on processors that have no arithmetic for it; say so before hours are lost.

In:   a device and a precision
Out:  a warning, with what was measured
To:   loop, tokenize_dataset.py
"""

import time
import warnings

import torch


def warn_if_slow(device: torch.device, dtype: torch.dtype) -> None:
    """Warn if a processor computes far more slowly in ``dtype`` than in single precision.

    Takes a moment on a CPU, nothing elsewhere.
    """
    if device.type != "cpu" or dtype == torch.float32:
        return
    ratio = seconds_of_product(dtype) / seconds_of_product(torch.float32)
    if ratio > 2:
        warnings.warn(
            f"This CPU multiplies matrices {ratio:.0f} times more slowly in {dtype} than in torch.float32, expected "
            "it to be faster: the processor has no arithmetic for it. Compute in single precision here.",
            stacklevel=2,
        )


def seconds_of_product(dtype: torch.dtype) -> float:
    """The shorter of two products of matrices, after a first one."""
    one, other = torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        one @ other
        times.append(time.perf_counter() - started)
    return min(times[1:])
