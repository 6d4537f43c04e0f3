"""Turn videos into a data set of trajectory tokens: Parquet files from which models train and answer without videos.

What you will see: a progress bar with the time that is left, then how many videos and tokens there are, how many
bytes, and how fast it went. In `--out`: shards, `made_with.json` (checkpoint and settings), `bad_videos-*.jsonl`. The
same command goes on where a run was stopped or killed, with any number of processes, and tries bad videos again.

    python examples/tokenize_dataset.py my_videos --out tokens
    accelerate launch --num_processes 8 examples/tokenize_dataset.py train.json --model org/trajvit2 --out tokens
    python examples/tokenize_dataset.py org/dataset --split train --column video --masks --out tokens

With examples/ among Python's paths, a TrajViT2 then reads tokens in place of videos:

    from token_data import collate_tokens, open_tokens
    rows = open_tokens("tokens", "org/trajvit2").select(range(8))
    video_embeds = model.get_video_features(**collate_tokens(rows)).pooler_output

Needs: ``pip install -e ".[train]"``. Several machines: the same command under `accelerate launch` on each, with a
folder that all of them see.
"""

import argparse
import errno
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from token_data import TokenShards, list_videos, load_model, maker_identity, tokenize
from token_data.tokenizing import TokenRow
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from training.precision import warn_if_slow
from transformers import AutoVideoProcessor

from modeling_trajtok import TrajTokVideoProcessor

ROOT = Path(__file__).resolve().parents[1]


class DecodedVideo(NamedTuple):
    """A video ready for the model, or why it is not."""

    name: str
    inputs: dict | None
    error: str = ""


class DecodedVideos(Dataset):
    """Videos as the model reads them; decoding is the work of the loader's processes."""

    def __init__(self, videos, chosen: Sequence[int], processor: TrajTokVideoProcessor):
        self.videos, self.chosen, self.processor = videos, chosen, processor

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> DecodedVideo:
        name = self.videos.names[self.chosen[index]]
        try:
            video = self.videos.video(self.chosen[index])
            inputs = dict(self.processor(video, return_tensors="pt", return_metadata=True))
            times_s = inputs["video_metadata"][0].get("frame_times_s")
            if times_s is not None and not (np.diff(times_s) >= 0).all():
                raise ValueError(f"{name}: its time stamps go back. Write the file anew with ffmpeg.")
            return DecodedVideo(name, inputs)
        except (ValueError, OSError) as error:
            return DecodedVideo(name, None, " ".join(str(error).split()))


def only(videos: Sequence[DecodedVideo]) -> DecodedVideo:
    """The one video of a list."""
    [video] = videos
    return video


def tokenized(
    loader: DataLoader, model, shards: TokenShards, batch_size: int, with_masks: bool
) -> Iterator[TokenRow | None]:
    """A row for each video, None for one that cannot be read; neighbours of the same shape share a batch."""
    pending: list[DecodedVideo] = []

    def flush() -> list[TokenRow]:
        if not pending:
            return []
        pixels, frame_valid = (
            torch.cat([video.inputs[name] for video in pending]) for name in ("pixel_values_videos", "frame_valid")
        )
        facts = [video.inputs["video_metadata"][0] for video in pending]
        names = [video.name for video in pending]
        pending.clear()
        return tokenize(model, pixels, frame_valid, names, facts, with_masks=with_masks)

    for video in loader:
        if video.inputs is None:
            shards.add_bad(video.name, video.error)
            yield None
            continue
        shape = video.inputs["pixel_values_videos"].shape
        if pending and (shape != pending[0].inputs["pixel_values_videos"].shape or len(pending) == batch_size):
            yield from flush()
        pending.append(video)
    yield from flush()


def run(settings: argparse.Namespace) -> None:
    """Tokenize what has not been tokenized."""
    accelerator = Accelerator()
    videos = list_videos(settings.source, settings.split, settings.column)
    changes = {"num_frames": settings.num_frames} if settings.num_frames else {}
    processor = AutoVideoProcessor.from_pretrained(settings.model, **changes)
    model = load_model(settings.model)
    made_with = {
        "source": videos.source,
        "checkpoint": maker_identity(model, settings.model),
        "processor": processor.to_dict(),
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
    loader = DataLoader(
        DecodedVideos(videos, chosen, processor),
        batch_size=1,
        collate_fn=only,
        num_workers=settings.workers,
    )

    def write(rows: Sequence[TokenRow]) -> int:
        shards.write(rows, [videos.annotations_of(numbers[row.name]) for row in rows])
        return len(rows)

    rows, written, tokens, started = [], 0, 0, time.perf_counter()
    with tqdm(total=len(chosen), desc="videos", disable=not accelerator.is_main_process) as progress:
        for row in tokenized(loader, model, shards, settings.batch_size, settings.masks):
            progress.update()
            if row is None:
                continue
            rows.append(row)
            tokens += len(row.tokens)
            if len(rows) == settings.videos_per_shard:
                written, rows = written + write(rows), []
        if rows:
            written += write(rows)
    seconds = time.perf_counter() - started
    totals = accelerator.reduce(
        torch.tensor([written, tokens], dtype=torch.float64, device=accelerator.device), reduction="sum"
    ).tolist()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        bad = shards.bad_videos()
        size = sum(path.stat().st_size for path in settings.out.glob("shard-*.parquet"))
        print(
            f"{totals[0]:.0f} videos, {totals[1]:.0f} tokens in {seconds:.0f} s "
            f"({totals[0] / max(seconds, 1e-9):.1f} videos/s); {len(finished)} were there before; "
            f"{size / 1e6:.1f} MB in {settings.out}; {len(bad)} cannot be read"
        )
        for one in bad[:10]:
            sys.stderr.write(f"bad: {one['name']}: {one['error']}\n")
        if bad and not totals[0] and not finished:
            raise ValueError(f"None of the {len(bad)} videos can be read; see above.")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder of videos, .json or .jsonl manifest, or data set")
    parser.add_argument("--model", default=str(ROOT / "checkpoints" / "trajvit2-tiny"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", default="train", help="of a data set")
    parser.add_argument("--column", default="video", help="of a data set")
    parser.add_argument("--num-frames", type=int, help="of a video (default: the checkpoint's)")
    parser.add_argument(
        "--model-dtype", choices=["float32", "bfloat16"], default="float32", help="that the model computes in"
    )
    parser.add_argument("--masks", action="store_true", help="also keep the masks, as run-length codes")
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16", help="of the tokens on disk")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--videos-per-shard", type=int, default=512)
    parser.add_argument("--workers", type=int, default=1, help="decoding processes of each process")
    settings = parser.parse_args(argv)
    try:
        run(settings)
    except OSError as error:
        hint = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = (
                ". There is no room for another shard; finished shards are whole. Free some space and start the same "
                "command again"
            )
        sys.stderr.write(f"error: {' '.join(str(error).split())}{hint}\n")
        return 1
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
