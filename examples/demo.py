"""From video files to trajectory tokens, with pictures: what does TrajTok see in your video?

What you will see: a progress bar, a table, and in the folder `out/`:

    overlay.mp4           the frames that were read, every trajectory in its colour and with its number
    contact_sheet.png     source, overlay and plain trajectories, one column per moment
    tracks_rle.json       masks[trajectory][frame] as COCO run lengths
    tracks_mot.txt        boxes as MOTChallenge text
    tokens.safetensors    trajectory_embeds (K*L, D), token_valid (K*L), trajectory_ids (T, H, W) per patch
    labels.png            how well some texts describe the video, by TrajViT2: a bar for each, best first
    labels.json           the same as data, which of them fits or none, and by which checkpoint
    manifest.json         what all this was made from and with; written last, so it vouches for the other files

    python examples/demo.py                                     # a world that is generated first
    python examples/demo.py my.mp4 --out out
    python examples/demo.py a.mp4 b.gif c.webm --size 192       # each into out/<its name>/
    python examples/demo.py world.mp4 --labels "Two objects: the largest, a red star, grows." "Two objects: ..."

The shipped checkpoints have seen generated worlds only, and the demo says so. The generated world is labelled with a
true caption among false ones; your videos with `--labels`, if there are any. A label is scored by its cosine with the
video. Below 0.55 the shipped checkpoint's answer is "none of these"; texts with words that it never read are named and
not scored.

Needs: the package. Takes seconds per clip. Without a TrajViT2 checkpoint in `checkpoints/trajvit2-tiny` (or
`--clip-model`) the labels are left out.
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
from evaluation.checkpoint_limits import WORLDS_ONLY_NOTE, knows_worlds_only
from evaluation.provenance import checkpoint_record, sha256_of, versions
from evaluation.video_labels import VideoLabeller, VideoLabels
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file
from storage import folder_lock, one_line, write_text, write_whole
from tqdm import tqdm
from transformers.utils import ModelOutput
from worlds import WorldConfig, render_world, summary_caption, summary_distractors

from modeling_trajtok import TrajTokModel, TrajTokVideoProcessor
from modeling_trajtok.processors import (
    DecodedVideo,
    TrajectoryMap,
    VideoDecodeError,
    decode_video,
    sample_frame_indices,
)
from modeling_trajtok.processors.trajectory_drawing import contact_sheet, draw_overlay, write_video

REPOSITORY = Path(__file__).resolve().parents[1]
CLIP_CHECKPOINT = REPOSITORY / "checkpoints" / "trajvit2-tiny"
COLUMNS_NOTE = (
    "frames: as many as were read; patches: what they are cut into; trajectories: regions that the model follows "
    "through them; drawn: those that are no smaller than --min-area-fraction; tokens: what the trajectories become, "
    "in place of patches; then the seconds of each step. `python examples/demo.py --help` describes every file."
)
STEPS_PER_VIDEO = 4
NUM_FALSE_CAPTIONS = 5
BAR_WIDTH_PX, BAR_HEIGHT_PX, BAR_COLOUR, WEAK_COLOUR = 320, 18, (0, 114, 178), (160, 160, 160)
LONGEST_LABEL = 100  # characters in the chart
# Of the difficulty that the shipped TrajViT2 was trained for.
DEFAULT_WORLD = {
    "seed": 2026,
    "index": 2,
    "config": WorldConfig.named("easy", num_frames=32, height=256, width=256, fps=16.0),
}


def load_checkpoint(name: str, option: str = "--model") -> tuple[TrajTokModel, TrajTokVideoProcessor, dict]:
    """Model, processor, and the manifest's record of both; `name`, given by `option`, is a folder or a Hub name."""
    transformers.utils.logging.disable_progress_bar()
    try:
        model = TrajTokModel.from_pretrained(name).eval().to("cuda" if torch.cuda.is_available() else "cpu")
        processor = TrajTokVideoProcessor.from_pretrained(name)
        record = {**checkpoint_record(name), "device": str(model.device)}
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: weights of another model
        raise ValueError(f"{name}: no TrajTok checkpoint can be read; pass {option} FOLDER. {error}") from error
    return model, processor, record


def load_labeller(name: str, option: str = "--clip-model") -> VideoLabeller | None:
    """A TrajViT2 checkpoint for labels, given by `option`; None if it is the default one and not there."""
    if name == str(CLIP_CHECKPOINT) and not CLIP_CHECKPOINT.is_dir():
        note = f"{name} does not exist, so labels are left out; {option} FOLDER brings them back."
        print(note, file=sys.stderr)
        return None
    try:
        return VideoLabeller(name)
    except (ValueError, OSError, RuntimeError) as error:
        raise ValueError(f"{name}: no TrajViT2 checkpoint can be read; pass {option} FOLDER. {error}") from error


def write_world(folder: Path, seed: int, index: int, config: WorldConfig) -> tuple[str, list[str]]:
    """Render a world into a file, so that it goes the way of any user's video.

    Returns:
        The file, and captions of it: the first is true, the others are not.
    """
    world = render_world(seed, index, config)
    write_whole(folder / "world.mp4", lambda part: write_video(part, world.frames_uint8, world.config.fps))
    false = summary_distractors(np.random.default_rng(seed + index), world.objects, NUM_FALSE_CAPTIONS)
    return str(folder / "world.mp4"), [summary_caption(world.objects), *false]


def draw_label_chart(labels: VideoLabels) -> Image.Image:
    """A bar for the cosine of each label, best first, grey if it is too low to fit; a full bar is a cosine of 1."""
    font, gap = ImageFont.load_default(13), 8
    row_px = BAR_HEIGHT_PX + gap
    texts = [_shortened(entry["label"]) for entry in labels.cosines]
    notes = ["Cosine with the video. It is no probability."]
    if labels.fits_from is not None:
        notes.append(f"From the line ({labels.fits_from:g}) on a label fits. Here: {_shortened(labels.answer)}")
    bar_left = 2 * gap + round(max(font.getlength(text) for text in texts))
    width = bar_left + BAR_WIDTH_PX + 2 * gap + round(font.getlength("-0.00"))
    width = max(width, 2 * gap + round(max(font.getlength(note) for note in notes)))
    chart = Image.new("RGB", (width, gap + row_px * (len(texts) + len(notes))), "white")
    pen = ImageDraw.Draw(chart)
    for row, (text, entry) in enumerate(zip(texts, labels.cosines, strict=True)):
        top = gap + row * row_px
        bottom, middle = top + BAR_HEIGHT_PX - 1, top + BAR_HEIGHT_PX // 2
        filled = round(BAR_WIDTH_PX * max(entry["cosine"], 0.0))
        weak = labels.fits_from is not None and entry["cosine"] < labels.fits_from
        pen.text((bar_left - gap, middle), text, "black", font, anchor="rm")
        pen.rectangle((bar_left, top, bar_left + BAR_WIDTH_PX - 1, bottom), "gainsboro")
        if filled:
            pen.rectangle((bar_left, top, bar_left + filled - 1, bottom), WEAK_COLOUR if weak else BAR_COLOUR)
        pen.text((bar_left + BAR_WIDTH_PX + gap, middle), f"{entry['cosine']:.2f}", "black", font, anchor="lm")
    if labels.fits_from is not None:
        line = bar_left + round(BAR_WIDTH_PX * labels.fits_from)
        pen.line((line, gap // 2, line, row_px * len(texts)), "black")
    for row, note in enumerate(notes, start=len(texts)):
        pen.text((gap, gap + row * row_px + BAR_HEIGHT_PX // 2), note, "black", font, anchor="lm")
    return chart


def _shortened(text: str) -> str:
    """On one line, at most `LONGEST_LABEL` characters."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 3]}..."


def read_frames(name: str, num_frames: int, timeout_s: float) -> DecodedVideo:
    """Frames spread over the whole video, the middle one of each of `num_frames` equal parts."""
    sample = partial(sample_frame_indices, num_frames=num_frames, strategy="middle")
    return decode_video(name, sample, timeout_s=timeout_s)


def group_patches(
    frames_uint8: np.ndarray, model: TrajTokModel, processor: TrajTokVideoProcessor, size: dict
) -> tuple[ModelOutput, dict[str, torch.Tensor]]:
    """What the model makes of all frames (T, H_px, W_px, 3), read at `size`, and its tokens without the batch axis."""
    inputs = processor(frames_uint8, do_sample_frames=False, size=size, return_tensors="pt")
    outputs = model(**inputs.to(model.device), output_high_res=model.config.high_res_factor is not None)
    return outputs, {key: outputs[key][0].cpu() for key in ("trajectory_embeds", "token_valid", "trajectory_ids")}


def count_tokens(tokens: dict[str, torch.Tensor], num_trajectories: int) -> dict[str, int]:
    """How many patches, trajectories that own at least one of them, and valid tokens."""
    return {
        "patches": tokens["trajectory_ids"].numel(),
        "trajectories": int(tokens["token_valid"].view(num_trajectories, -1).any(dim=1).sum()),
        "tokens": int(tokens["token_valid"].sum()),
    }


def write_overlay(path: Path, frames_uint8: np.ndarray, tracks: TrajectoryMap) -> None:
    """The video with every trajectory in its colour, as fast as the source, within what the eye can follow.

    Where frames are held in the source, they are held here; what is made faster or slower keeps its rhythm.
    """
    seconds = np.ptp(tracks.frame_times_s)
    own_fps = (tracks.num_frames - 1) / seconds if seconds else 1.0
    fps = min(max(own_fps, 4.0), 30.0)
    drawn, times_s = draw_overlay(frames_uint8, tracks), tracks.frame_times_s * own_fps / fps
    write_whole(path, lambda part: write_video(part, drawn, fps, frame_times_s=times_s))


def write_results(folder: Path, frames_uint8: np.ndarray, tracks: TrajectoryMap, tokens: dict) -> None:
    """All files of one video but the manifest."""
    write_overlay(folder / "overlay.mp4", frames_uint8, tracks)
    sheet = contact_sheet(frames_uint8, tracks)
    write_whole(folder / "contact_sheet.png", lambda part: sheet.save(part, format="PNG"))
    record = {name: getattr(tracks, name).tolist() for name in ("ids", "frame_indices", "frame_times_s")}
    record["masks"] = tracks.to_coco_rle()
    write_text(folder / "tracks_rle.json", json.dumps(record))
    write_text(folder / "tracks_mot.txt", tracks.to_mot_text())
    write_whole(folder / "tokens.safetensors", lambda part: save_file(tokens, part))


def write_labels(folder: Path, labels: VideoLabels, record: dict) -> None:
    """The chart, unless no label was scored, and the same as data."""
    if labels.cosines:
        chart = draw_label_chart(labels)
        write_whole(folder / "labels.png", lambda part: chart.save(part, format="PNG"))
    content = {"checkpoint": record, "answer": labels.answer, "labels": labels.cosines}
    content |= {"fits_from_cosine": labels.fits_from, "not_scored": labels.not_scored}
    write_text(folder / "labels.json", json.dumps(content, indent=2) + "\n")


@torch.inference_mode()
def tokenize_video(
    name: str, folder: Path, checkpoint: tuple, labeller: VideoLabeller | None, settings: dict, progress: tqdm
) -> dict:
    """Decode, tokenize, draw and, if there are labels, label one video; returns its row of the table."""
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
        video = read_frames(name, settings["num_frames"], processor.decode_timeout_s)
    with step("model"):
        outputs, tokens = group_patches(video.frames_uint8, model, processor, settings["size"])
    size_hw = video.frames_uint8.shape[1:3]
    source = {"frames_indices": video.frame_indices, "frame_times_s": video.frame_times_s}
    fraction = settings["min_area_fraction"]
    with folder_lock(folder, wait=True):
        with step("drawing"):
            [tracks] = processor.post_process_trajectories(outputs, [source], [size_hw], min_area_fraction=fraction)
            (folder / "manifest.json").unlink(missing_ok=True)
            for optional in ("labels.png", "labels.json"):  # of another run, which had labels
                (folder / optional).unlink(missing_ok=True)
            write_results(folder, video.frames_uint8, tracks, tokens)
        answer = {}
        if labeller is None:
            progress.update()
        else:
            with step("labels"):
                labels = labeller.label(video.frames_uint8, settings["labels"])
                write_labels(folder, labels, labeller.record)
            for one in labels.not_scored:
                words = ", ".join(one["unknown_words"])
                tqdm.write(f'not scored: "{one["label"]}": the checkpoint never read: {words}.', file=sys.stderr)
            best = labels.cosines[0]["cosine"] if labels.cosines else float("nan")
            answer = {"label_cosine": round(best, 2), "label": labels.answer}

        counts = count_tokens(tokens, model.config.num_trajectories)
        row = {
            "video": Path(name).name,
            "frames": tracks.num_frames,
            "patches": counts["patches"],
            "trajectories": counts["trajectories"],
            "drawn": len(tracks.ids),
            "tokens": counts["tokens"],
            "patches_per_token": round(counts["patches"] / counts["tokens"], 1),
            **seconds,
            **answer,
        }
        manifest = {
            "input": {"name": name, "sha256": sha256_of(name) if Path(name).is_file() else None, "size_hw": size_hw},
            "frame_indices": tracks.frame_indices.tolist(),
            "frame_times_s": tracks.frame_times_s.tolist(),
            "checkpoint": checkpoint_record,
            "clip_checkpoint": None if labeller is None else labeller.record,
            "settings": settings,
            "versions": versions(),
            "results": row,
        }
        write_text(folder / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    return row


def print_table(rows: list[dict]) -> None:
    """One line per video, numbers to the right."""
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *numbers in lines:
        print(name.ljust(widths[0]), *(n.rjust(width) for n, width in zip(numbers, widths[1:], strict=True)), sep="  ")


def explain(error: Exception, name: str = "") -> str:
    """One line about what went wrong, with which file, and what to do."""
    message = one_line(error)
    if name not in message:
        message = f"{name}: {message}"
    if isinstance(error, VideoDecodeError) and Path(name).is_file():
        message += " Does it play elsewhere? Copy it again, or convert it: ffmpeg -i OLD NEW.mp4"
    return message


def complain(error: Exception, name: str = "") -> None:
    """Print the explanation of an error."""
    tqdm.write(f"error: {explain(error, name)}", file=sys.stderr)


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
    parser.add_argument("--labels", nargs="+", metavar="TEXT", help="texts that may describe the video")
    parser.add_argument(
        "--clip-model", help="TrajViT2 for the labels: folder or Hub name (default: checkpoints/trajvit2-tiny)"
    )
    arguments = parser.parse_args(argv)
    settings = {name: getattr(arguments, name) for name in ("num_frames", "size", "min_area_fraction", "labels")}
    videos = arguments.videos
    try:
        if not all(label.strip() for label in settings["labels"] or ()):
            raise ValueError("one of --labels is empty, expected texts that may describe the video.")
        if arguments.clip_model and videos and not settings["labels"]:
            raise ValueError("--clip-model has nothing to compare the videos with, expected texts after --labels.")
        checkpoint = load_checkpoint(arguments.model)
        wanted = settings["labels"] or not videos
        labeller = load_labeller(arguments.clip_model or str(CLIP_CHECKPOINT)) if wanted else None
        if not videos:
            world, captions = write_world(arguments.out, **DEFAULT_WORLD)
            videos, settings["labels"] = [world], arguments.labels or captions
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
                rows.append(tokenize_video(video, folder, checkpoint, labeller, settings, progress))
            except (ValueError, OSError, RuntimeError, MemoryError) as error:  # also too large for memory
                complain(error, video)
                progress.update(STEPS_PER_VIDEO * position - progress.n)
    if rows:
        print_table(rows)
        print(COLUMNS_NOTE)
        place = arguments.out if len(videos) == 1 else f"the folders of the videos in {arguments.out}"
        print(f"The pictures and tokens are in {place}: look at contact_sheet.png and overlay.mp4 first.")
        if knows_worlds_only(checkpoint[2], *([labeller.record] if labeller else [])):
            print(WORLDS_ONLY_NOTE)
    num_failed = len(videos) - len(rows)
    if num_failed:
        print(f"{num_failed} of {len(videos)} videos failed, see above.", file=sys.stderr)
    return min(num_failed, 1)


if __name__ == "__main__":
    sys.exit(main())
