"""Time, memory and arithmetic of a call.

In:   a function; the process
Out:  seconds, bytes, FLOPs
To:   benchmark_tokenizer.py, experiment.costs
"""

import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

# PyTorch before 2.15 leaves attention on CPUs out of its count. Formulas are called with shapes in place of tensors.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, query, key, value, *_, **__: sdpa_backward_flop_count(gradient, query, key, value)
    ),
}


def flops_of(call: Callable[[], object]) -> int:
    """FLOPs of matrix products, convolutions and attention in a call."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        call()
    return counter.get_total_flops()


def seconds_of(run: Callable[[], object], repeats: int, device: str) -> float:
    """Median wall-clock time of a call."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


class PeakMemory:
    """Peak memory of this process, in bytes above where it stood when this was made."""

    def __init__(self, device: str):
        self.device = device
        self.start = self._now()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def _now(self) -> int:
        if self.device == "cuda":
            return torch.cuda.memory_allocated()
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    def bytes(self) -> int:
        """The peak so far."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() - self.start
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - self.start
