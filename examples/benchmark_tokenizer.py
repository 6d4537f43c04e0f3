"""How fast is the tokenizer, and how much memory does it need?

What you will see: a table with one row per clip length: seconds, *units* (seconds divided by the time of one
(25088 x 512) x (512 x 1024) fp32 matrix product in the same process, which travels between machines), units per
frame, peak memory above the weights, valid tokens, FLOPs. Each row runs in a process of its own, so that its peak is
its own. Weights are random, sizes are the released ones.

    python examples/benchmark_tokenizer.py                                    # fp32, 8 to 64 frames
    python examples/benchmark_tokenizer.py --dtype bfloat16 --frames 8 64
    python examples/benchmark_tokenizer.py --long recompute --frames 128 1024 # memory that does not grow with T
    python examples/benchmark_tokenizer.py --device cuda --compile

Needs: the package; about a minute for the first command on two CPU cores.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence

import torch
from evaluation.measuring import PeakMemory, flops_of, seconds_of
from tqdm import tqdm

from modeling_trajtok import TrajTokConfig, TrajTokModel


def unit_seconds(device: str) -> float:
    """Seconds of the reference matrix product."""
    left, right = torch.randn(25088, 512, device=device), torch.randn(512, 1024, device=device)
    left @ right
    return seconds_of(lambda: left @ right, 9, device)


@torch.no_grad()
def measure(frames: int, settings: argparse.Namespace) -> dict:
    """One row of the table."""
    device, dtype = settings.device, getattr(torch, settings.dtype)
    torch.manual_seed(0)
    model = TrajTokModel(TrajTokConfig()).eval().requires_grad_(False).to(device, dtype)
    size = (settings.size, settings.size)
    if settings.long:
        # Frames are made when they are read, as a decoder would: the video itself is never in memory.
        def read_frames(first: int, last: int) -> torch.Tensor:
            generator = torch.Generator().manual_seed(first)
            return torch.randn(1, last - first, 3, *size, generator=generator).to(device, dtype)

        def run():
            return model.tokenize_long_video(read_frames, frames, feature_cache=settings.long)
    else:
        forward = torch.compile(model) if settings.compile else model
        pixels = torch.randn(1, frames, 3, *size, device=device, dtype=dtype)

        def run():
            return forward(pixels)

    memory = PeakMemory(device)
    started = time.perf_counter()
    output = run()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = memory.bytes()
    unit = unit_seconds(device)
    if frames <= 32 and not settings.long:  # long runs are their own warm-up
        seconds = seconds_of(run, 3, device)
    flops = None
    if not settings.long and frames <= 16:
        flops = flops_of(lambda: model(pixels))
    return {
        "frames": frames,
        "seconds": seconds,
        "unit": unit,
        "units": seconds / unit,
        "peak_mb": peak / 1e6,
        "tokens": int(output.token_valid.sum()),
        "flops": flops,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument(
        "--long", choices=["recompute", "half"], help="use tokenize_long_video with this feature cache"
    )
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    settings = parser.parse_args(argv)
    torch.set_num_threads(settings.threads)
    if settings.row:
        json.dump(measure(settings.row, settings), sys.stdout)
        return 0

    arguments = list(argv) if argv is not None else sys.argv[1:]
    rows = []
    for frames in tqdm(settings.frames, desc="clip lengths"):
        command = [sys.executable, __file__, *arguments, "--row", str(frames)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print("| frames | seconds | units | units/frame | peak MB above weights | valid tokens | GFLOP |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        flops = f"{row['flops'] / 1e9:.0f}" if row["flops"] else ""
        print(
            f"| {row['frames']} | {row['seconds']:.2f} | {row['units']:.1f} | {row['units'] / row['frames']:.2f} | "
            f"{row['peak_mb']:.0f} | {row['tokens']} | {flops} |"
        )
    if len(rows) > 1:
        growth = (rows[-1]["peak_mb"] - rows[0]["peak_mb"]) / (rows[-1]["frames"] - rows[0]["frames"])
        print(f"\nMemory grows by {growth:.1f} MB per frame; one unit was {rows[0]['unit']:.3f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
