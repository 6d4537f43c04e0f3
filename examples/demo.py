"""From video files to trajectory tokens, with pictures: what does TrajTok see in your video?

What you will see: a progress bar, a table, and in the folder `out/`:

    overlay.mp4           the frames that were read, every trajectory in its colour and with its number
    contact_sheet.png     source, overlay and plain trajectories, one column per moment
    tracks_rle.json       masks[trajectory][frame] as COCO run lengths
    tracks_mot.txt        boxes as MOTChallenge text
    tokens.safetensors    trajectory_embeds (K*L, D), token_valid (K*L), trajectory_ids (T, H, W) per patch
    manifest.json         what all this was made from and with; written last, so it vouches for the other files

    python examples/demo.py                                     # a world that is generated first
    python examples/demo.py my.mp4 --out out
    python examples/demo.py a.mp4 b.gif c.webm --size 192       # each into out/<its name>/

Needs: the package; for the generated world scikit-image (`pip install trajtok[train]`). Takes seconds per clip.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers
from evaluation.provenance import checkpoint_record, sha256_of, versions
from safetensors.torch import save_file
from tqdm import tqdm
from worlds import WorldConfig, render_world

from modeling_trajtok import TrajTokModel, TrajTokVideoProcessor
from modeling_trajtok.processors import TrajectoryMap, VideoDecodeError, decode_video, sample_frame_indices
from modeling_trajtok.processors.trajectory_drawing import contact_sheet, draw_overlay, write_video

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS_PER_VIDEO = 3
DEFAULT_WORLD = {"seed": 2026, "index": 0, "config": WorldConfig(num_frames=32, height=256, width=256, fps=16.0)}


def load_checkpoint(name: str) -> tuple[TrajTokModel, TrajTokVideoProcessor, dict]:
    """Model, processor, and the manifest's record of both; `name` is a folder or a name on the Hub."""
    transformers.utils.logging.disable_progress_bar()
    try:
        model = TrajTokModel.from_pretrained(name).eval().to("cuda" if torch.cuda.is_available() else "cpu")
        processor = TrajTokVideoProcessor.from_pretrained(name)
        record = {**checkpoint_record(name), "device": str(model.device)}
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: weights of another model
        raise ValueError(f"{name}: no TrajTok checkpoint can be read; pass --model FOLDER. {error}") from error
    return model, processor, record


def write_default_video(folder: Path) -> str:
    """Render a world with photographs into a file, so that it goes the way of any user's video."""
    world = render_world(**DEFAULT_WORLD)
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / "world.mp4", world.frames_uint8, world.config.fps)
    return str(folder / "world.mp4")


def write_results(folder: Path, frames_uint8: np.ndarray, tracks: TrajectoryMap, tokens: dict) -> None:
    """All files of one video but the manifest."""
    seconds = np.ptp(tracks.frame_times_s)
    fps = (tracks.num_frames - 1) / seconds if seconds else 1.0
    write_video(folder / "overlay.mp4", draw_overlay(frames_uint8, tracks), fps=min(max(fps, 4.0), 30.0))
    contact_sheet(frames_uint8, tracks).save(folder / "contact_sheet.png")
    record = {name: getattr(tracks, name).tolist() for name in ("ids", "frame_indices", "frame_times_s")}
    record["masks"] = tracks.to_coco_rle()
    (folder / "tracks_rle.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "tracks_mot.txt").write_text(tracks.to_mot_text(), encoding="utf-8")
    save_file(tokens, folder / "tokens.safetensors")


@torch.inference_mode()
def tokenize_video(name: str, folder: Path, checkpoint: tuple, settings: dict, progress: tqdm) -> dict:
    """Decode, tokenize and draw one video; returns its row of the table."""
    model, processor, checkpoint_record = checkpoint
    seconds = {}

    @contextmanager
    def step(title: str) -> Iterator[None]:
        progress.set_description(f"{Path(name).name}: {title}")
        started = time.perf_counter()
        yield
        seconds[f"{title}_s"] = round(time.perf_counter() - started, 2)
        progress.update()

    with step("decode"):
        sample = partial(sample_frame_indices, num_frames=settings["num_frames"], strategy="middle")
        video = decode_video(name, lambda total, _fps: sample(total), timeout_s=processor.decode_timeout_s)
    with step("model"):
        inputs = processor(video.frames_uint8, do_sample_frames=False, size=settings["size"], return_tensors="pt")
        outputs = model(**inputs.to(model.device), output_high_res=model.config.high_res_factor is not None)
        tokens = {key: outputs[key][0].cpu() for key in ("trajectory_embeds", "token_valid", "trajectory_ids")}
    with step("drawing"):
        size_hw = video.frames_uint8.shape[1:3]
        source = {"frames_indices": video.frame_indices, "frame_times_s": video.frame_times_s}
        fraction = settings["min_area_fraction"]
        [tracks] = processor.post_process_trajectories(outputs, [source], [size_hw], min_area_fraction=fraction)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").unlink(missing_ok=True)
        write_results(folder, video.frames_uint8, tracks, tokens)

    num_patches, num_tokens = tokens["trajectory_ids"].numel(), int(tokens["token_valid"].sum())
    row = {
        "video": Path(name).name,
        "frames": tracks.num_frames,
        "patches": num_patches,
        "trajectories": int(tokens["token_valid"].view(model.config.num_trajectories, -1).any(dim=1).sum()),
        "drawn": len(tracks.ids),
        "tokens": num_tokens,
        "patches_per_token": round(num_patches / num_tokens, 1),
        **seconds,
    }
    manifest = {
        "input": {"name": name, "sha256": sha256_of(name) if Path(name).is_file() else None, "size_hw": size_hw},
        "frame_indices": tracks.frame_indices.tolist(),
        "frame_times_s": tracks.frame_times_s.tolist(),
        "checkpoint": checkpoint_record,
        "settings": settings,
        "versions": versions(),
        "results": row,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return row


def print_table(rows: list[dict]) -> None:
    """One line per video, numbers to the right."""
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *numbers in lines:
        print(name.ljust(widths[0]), *(n.rjust(width) for n, width in zip(numbers, widths[1:], strict=True)), sep="  ")


def complain(error: Exception, name: str = "") -> None:
    """Say on one line what went wrong, with which file, and what to do."""
    message = " ".join(str(error).split())
    if name not in message:
        message = f"{name}: {message}"
    if isinstance(error, VideoDecodeError) and Path(name).is_file():
        message += " Does it play elsewhere? Copy it again, or convert it: ffmpeg -i OLD NEW.mp4"
    tqdm.write(f"error: {message}", file=sys.stderr)


def size_px(text: str) -> dict[str, int]:
    """`128` = shorter side, the longer one follows; `128x192` = height x width."""
    height, *width = (int(side) for side in text.split("x", 1))
    return {"height": height, "width": width[0]} if width else {"shortest_edge": height}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help="files or URLs (default: a generated world)")
    parser.add_argument("--model", default=str(REPOSITORY / "checkpoints" / "trajtok-tiny"), help="folder or Hub name")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write into")
    parser.add_argument("--num-frames", type=int, default=16, help="frames to read, spread over the whole video")
    parser.add_argument("--size", type=size_px, default="128", help="N (shorter side) or HxW in pixels")
    parser.add_argument("--min-area-fraction", type=float, default=0.002, help="smaller trajectories are not drawn")
    arguments = parser.parse_args(argv)
    settings = {name: getattr(arguments, name) for name in ("num_frames", "size", "min_area_fraction")}
    try:
        checkpoint = load_checkpoint(arguments.model)
        videos = arguments.videos or [write_default_video(arguments.out)]
    except (ValueError, OSError) as error:
        complain(error)
        return 1

    names = [Path(video).stem for video in videos]
    if len(set(names)) < len(names):  # a.mp4 and a.webm must not share a folder
        names = [f"{position}-{name}" for position, name in enumerate(names, start=1)]
    rows = []
    with tqdm(total=STEPS_PER_VIDEO * len(videos), unit="step") as progress:
        for position, video in enumerate(videos, start=1):
            folder = arguments.out / names[position - 1] if len(videos) > 1 else arguments.out
            try:
                rows.append(tokenize_video(video, folder, checkpoint, settings, progress))
            except (ValueError, OSError, RuntimeError, MemoryError) as error:  # also too large for memory
                complain(error, video)
                progress.update(STEPS_PER_VIDEO * position - progress.n)
    if rows:
        print_table(rows)
        print(f"The pictures and tokens are in {arguments.out}.")
    num_failed = len(videos) - len(rows)
    if num_failed:
        print(f"{num_failed} of {len(videos)} videos failed, see above.", file=sys.stderr)
    return min(num_failed, 1)


if __name__ == "__main__":
    sys.exit(main())
