"""Turn videos into a data set of trajectory tokens: Parquet files from which models train and answer without videos.

What you will see: a progress bar with the time that is left, then how many videos and tokens there are, how many
bytes, and how fast it went. In `--out`: shards, `made_with.json` (checkpoint and settings), `bad_videos-*.jsonl`. The
same command goes on where a run was stopped or killed, with any number of processes, and tries bad videos again.

    python examples/tokenize_dataset.py my_videos --out tokens
    accelerate launch --num_processes 8 examples/tokenize_dataset.py train.json --model org/trajvit2 --out tokens
    python examples/tokenize_dataset.py org/dataset --split train --column video --masks --out tokens
    python examples/tokenize_dataset.py long_videos --window-seconds 4 --out tokens           # a row for every 4 s

With examples/ among Python's paths, a TrajViT2 then reads tokens in place of videos:

    from token_data import collate_tokens, open_tokens
    rows = open_tokens("tokens", "org/trajvit2").select(range(8))
    video_embeds = model.get_video_features(**collate_tokens(rows)).pooler_output

Needs: ``pip install -e ".[train]"``. Several machines: the same command under `accelerate launch` on each, with a
folder that all of them see.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from storage import folder_lock, one_line, remove_parts
from token_data import Clip, ClipReader, TokenRow, TokenShards, list_videos, load_model, maker_identity, tokenize
from torch.utils.data import DataLoader
from tqdm import tqdm
from training.precision import warn_if_slow
from transformers import AutoVideoProcessor

ROOT = Path(__file__).resolve().parents[1]
NOT_OF_THE_PIXELS = ("decode_timeout_s", "skip_bad_videos", "return_metadata")


def tokenized(
    loader: DataLoader, model, shards: TokenShards, batch_size: int, with_masks: bool
) -> Iterator[list[TokenRow] | None]:
    """The rows of each video, None for one that cannot be read; neighbours of the same shape share a batch.

    Raises:
        OSError: the machine, not a video, is to blame that one was not read.
    """
    pending: list[Clip] = []
    rows: dict[str, list[TokenRow]] = {}

    def flush() -> Iterator[list[TokenRow]]:
        if not pending:
            return
        pixels, frame_valid = (
            torch.from_numpy(np.concatenate([clip.inputs[name] for clip in pending]))
            for name in ("pixel_values_videos", "frame_valid")
        )
        made = tokenize(model, pixels, frame_valid, pending, with_masks=with_masks)
        for clip, row in zip(pending, made, strict=True):
            row.tokens = row.tokens.astype(shards.dtype)
            rows.setdefault(clip.name, []).append(row)
            if clip.is_last:
                yield rows.pop(clip.name)
        pending.clear()

    for clip in loader:
        if clip.inputs is None:
            yield from flush()
            rows.pop(clip.name, None)  # what was read before it broke off
            if not clip.is_bad:
                raise OSError(f"{clip.error} What is finished stays; the same command goes on.")
            shards.add_bad(clip.name, clip.error)
            yield None
            continue
        shape = clip.inputs["pixel_values_videos"].shape
        if pending and (shape != pending[0].inputs["pixel_values_videos"].shape or len(pending) == batch_size):
            yield from flush()
        pending.append(clip)
    yield from flush()


def run(settings: argparse.Namespace) -> None:
    """Tokenize what has not been tokenized.

    Raises:
        FolderInUseError: another run has the folder.
    """
    # A process that is done waits for the one with the longest videos.
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=30))])
    with folder_lock(settings.out, held=accelerator.is_main_process):
        if accelerator.is_main_process:
            remove_parts(settings.out)
        accelerator.wait_for_everyone()
        _run(settings, accelerator)


def _run(settings: argparse.Namespace, accelerator: Accelerator) -> None:
    videos = list_videos(settings.source, settings.split, settings.column)
    changes = {"num_frames": settings.num_frames, "decode_timeout_s": settings.decode_timeout_s}
    changes = {name: value for name, value in changes.items() if value is not None}
    processor = AutoVideoProcessor.from_pretrained(settings.model, **changes)
    model = load_model(settings.model)
    made_with = {
        "source": videos.source,
        "checkpoint": maker_identity(model, settings.model),
        "processor": {name: value for name, value in processor.to_dict().items() if name not in NOT_OF_THE_PIXELS},
        "window_seconds": settings.window_seconds,
        "windows_by": settings.window_seconds and "time stamps",
        "model_dtype": settings.model_dtype,
        "masks": settings.masks,
    }
    with accelerator.main_process_first():
        shards = TokenShards(settings.out, made_with, settings.dtype, accelerator.process_index)
    finished = shards.finished()
    todo = [index for index, name in enumerate(videos.names) if name not in finished]
    accelerator.wait_for_everyone()
    chosen = todo[accelerator.process_index :: accelerator.num_processes]
    model_dtype = getattr(torch, settings.model_dtype)
    if accelerator.is_main_process:
        warn_if_slow(accelerator.device, model_dtype)
    model.to(accelerator.device, model_dtype)
    numbers = {name: index for index, name in enumerate(videos.names)}
    clips = ClipReader(videos, chosen, processor, settings.window_seconds)
    loader = DataLoader(clips, batch_size=None, num_workers=settings.workers, collate_fn=as_it_is)

    def write(rows: Sequence[TokenRow]) -> None:
        shards.write(rows, [videos.annotations_of(numbers[row.name]) for row in rows])

    rows, done, clips, tokens, started = [], 0, 0, 0, time.perf_counter()
    with tqdm(total=len(chosen), desc="videos", disable=not accelerator.is_main_process) as progress:
        for own in tokenized(loader, model, shards, settings.batch_size, settings.masks):
            progress.update()
            if own is None:
                continue
            # All rows of a video stand in one shard: what a shard names is done.
            rows += own
            done, clips, tokens = done + 1, clips + len(own), tokens + sum(len(row.tokens) for row in own)
            if len(rows) >= settings.clips_per_shard:
                write(rows)
                rows = []
        if rows:
            write(rows)
    seconds = time.perf_counter() - started
    totals = accelerator.reduce(
        torch.tensor([done, clips, tokens], dtype=torch.float64, device=accelerator.device), reduction="sum"
    ).tolist()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        bad = shards.bad_videos()
        size = sum(path.stat().st_size for path in settings.out.glob("shard-*.parquet"))
        print(
            f"{totals[0]:.0f} videos, {totals[1]:.0f} clips, {totals[2]:.0f} tokens in {seconds:.0f} s "
            f"({totals[1] / max(seconds, 1e-9):.1f} clips/s); {len(finished)} videos were there before; "
            f"{size / 1e6:.1f} MB in {settings.out}; {len(bad)} cannot be read"
        )
        for one in bad[:10]:
            sys.stderr.write(f"bad: {one['name']}: {one['error']}\n")
        if bad and not totals[0] and not finished:
            raise ValueError(f"None of the {len(bad)} videos can be read; see above.")


def as_it_is(clip: Clip) -> Clip:
    """A clip as the reader made it; the loader would make tensors of its arrays."""
    return clip


def positive(text: str) -> float:
    """A number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder of videos, .json or .jsonl manifest, or data set")
    parser.add_argument("--model", default=str(ROOT / "checkpoints" / "trajvit2-tiny"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", default="train", help="of a data set")
    parser.add_argument("--column", default="video", help="of a data set")
    parser.add_argument("--num-frames", type=int, help="of a clip (default: the checkpoint's)")
    parser.add_argument("--window-seconds", type=positive, help="a clip for every so many (default: one in all)")
    parser.add_argument(
        "--decode-timeout-s", type=positive, help="until a video is given up (default: the checkpoint's)"
    )
    parser.add_argument(
        "--model-dtype", choices=["float32", "bfloat16"], default="float32", help="that the model computes in"
    )
    parser.add_argument("--masks", action="store_true", help="also keep the masks, as run-length codes")
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16", help="of the tokens on disk")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--clips-per-shard", type=int, default=512, help="or more: no video is divided")
    parser.add_argument("--workers", type=int, default=1, help="decoding processes of each process")
    settings = parser.parse_args(argv)
    try:
        run(settings)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {one_line(error)}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
