"""From video files to trajectory tokens, with pictures: what does TrajTok see in your video?

What you will see: a progress bar, a table, and in the folder `out/`:

    overlay.mp4           the frames that were read, every trajectory in its colour and with its number
    contact_sheet.png     source, overlay and plain trajectories, one column per moment
    tracks_rle.json       masks[trajectory][frame] as COCO run lengths
    tracks_mot.txt        boxes as MOTChallenge text
    tokens.safetensors    trajectory_embeds (K*L, D), token_valid (K*L), trajectory_ids (T, H, W) per patch
    labels.png            which of some texts describes the video, by TrajViT2: a bar for each, best first
    labels.json           the same as data, and by which checkpoint
    manifest.json         what all this was made from and with; written last, so it vouches for the other files

    python examples/demo.py                                     # a world that is generated first
    python examples/demo.py my.mp4 --out out
    python examples/demo.py a.mp4 b.gif c.webm --size 192       # each into out/<its name>/
    python examples/demo.py my.mp4 --labels "a red star moves left" "two objects"

Needs: the package; for the generated world scikit-image (`pip install -e ".[train]"`). Takes seconds per clip.
Without a TrajViT2 checkpoint in `checkpoints/trajvit2-tiny` (or `--clip-model`) the labels are left out.
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
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file
from tqdm import tqdm
from transformers.utils import ModelOutput
from worlds import OBJECT_MOTIONS, WorldConfig, render_world, summary_caption, summary_distractors

from modeling_trajtok import (
    TrajTokModel,
    TrajTokVideoProcessor,
    TrajViT2Model,
    TrajViT2Processor,
    ZeroShotVideoClassificationPipeline,
)
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
STEPS_PER_VIDEO = 4
NUM_FALSE_CAPTIONS = 5
DEFAULT_LABELS = tuple(f"an object {motion}" for motion in OBJECT_MOTIONS)  # the words of the worlds' captions
BAR_WIDTH_PX, BAR_HEIGHT_PX, BAR_COLOUR = 320, 18, (0, 114, 178)
LONGEST_LABEL = 100  # characters in the chart
DEFAULT_WORLD = {"seed": 2026, "index": 0, "config": WorldConfig(num_frames=32, height=256, width=256, fps=16.0)}


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


def load_classifier(name: str) -> tuple[ZeroShotVideoClassificationPipeline, dict] | None:
    """The zero-shot pipeline of a TrajViT2 checkpoint and its record; None if the default one is not there."""
    if name == str(CLIP_CHECKPOINT) and not CLIP_CHECKPOINT.is_dir():
        note = f"{name} does not exist, so zero-shot labels are left out; --clip-model FOLDER brings them back."
        print(note, file=sys.stderr)
        return None
    return read_classifier(name)


def read_classifier(name: str, option: str = "--clip-model") -> tuple[ZeroShotVideoClassificationPipeline, dict]:
    """The zero-shot pipeline of a TrajViT2 checkpoint and its record; `option` gave the name."""
    try:
        model, processor = TrajViT2Model.from_pretrained(name), TrajViT2Processor.from_pretrained(name)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        classifier = ZeroShotVideoClassificationPipeline(model=model.eval(), processor=processor, device=device)
        return classifier, checkpoint_record(name)
    except (ValueError, OSError, RuntimeError) as error:
        raise ValueError(f"{name}: no TrajViT2 checkpoint can be read; pass {option} FOLDER. {error}") from error


def write_world(folder: Path, seed: int, index: int, config: WorldConfig) -> tuple[str, list[str]]:
    """Render a world into a file, so that it goes the way of any user's video.

    Returns:
        The file, and captions of it: the first is true, the others are not.
    """
    world = render_world(seed, index, config)
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / "world.mp4", world.frames_uint8, world.config.fps)
    false = summary_distractors(np.random.default_rng(seed + index), world.objects, NUM_FALSE_CAPTIONS)
    return str(folder / "world.mp4"), [summary_caption(world.objects), *false]


def draw_label_chart(scores: Sequence[dict]) -> Image.Image:
    """A bar chart of {"label", "score"}, one row each in the given order; a full bar is a score of 1."""
    font, gap = ImageFont.load_default(13), 8
    texts = [" ".join(entry["label"].split()) for entry in scores]
    texts = [text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 3]}..." for text in texts]
    bar_left = 2 * gap + round(max(font.getlength(text) for text in texts))
    row_px = BAR_HEIGHT_PX + gap
    width = bar_left + BAR_WIDTH_PX + 2 * gap + round(font.getlength("0.00"))
    chart = Image.new("RGB", (width, gap + row_px * len(scores)), "white")
    pen = ImageDraw.Draw(chart)
    for row, (text, entry) in enumerate(zip(texts, scores, strict=True)):
        top = gap + row * row_px
        bottom, middle = top + BAR_HEIGHT_PX - 1, top + BAR_HEIGHT_PX // 2
        filled = round(BAR_WIDTH_PX * entry["score"])
        pen.text((bar_left - gap, middle), text, "black", font, anchor="rm")
        pen.rectangle((bar_left, top, bar_left + BAR_WIDTH_PX - 1, bottom), "gainsboro")
        if filled:
            pen.rectangle((bar_left, top, bar_left + filled - 1, bottom), BAR_COLOUR)
        pen.text((bar_left + BAR_WIDTH_PX + gap, middle), f"{entry['score']:.2f}", "black", font, anchor="lm")
    return chart


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
    """The video with every trajectory in its colour, as fast as the source, within what the eye can follow."""
    seconds = np.ptp(tracks.frame_times_s)
    fps = (tracks.num_frames - 1) / seconds if seconds else 1.0
    write_video(path, draw_overlay(frames_uint8, tracks), fps=min(max(fps, 4.0), 30.0))


def write_results(folder: Path, frames_uint8: np.ndarray, tracks: TrajectoryMap, tokens: dict) -> None:
    """All files of one video but the manifest."""
    write_overlay(folder / "overlay.mp4", frames_uint8, tracks)
    contact_sheet(frames_uint8, tracks).save(folder / "contact_sheet.png")
    record = {name: getattr(tracks, name).tolist() for name in ("ids", "frame_indices", "frame_times_s")}
    record["masks"] = tracks.to_coco_rle()
    (folder / "tracks_rle.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "tracks_mot.txt").write_text(tracks.to_mot_text(), encoding="utf-8")
    save_file(tokens, folder / "tokens.safetensors")


@torch.inference_mode()
def tokenize_video(
    name: str, folder: Path, checkpoint: tuple, clip_checkpoint: tuple | None, settings: dict, progress: tqdm
) -> dict:
    """Decode, tokenize, draw and label one video; returns its row of the table."""
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
    with step("drawing"):
        size_hw = video.frames_uint8.shape[1:3]
        source = {"frames_indices": video.frame_indices, "frame_times_s": video.frame_times_s}
        fraction = settings["min_area_fraction"]
        [tracks] = processor.post_process_trajectories(outputs, [source], [size_hw], min_area_fraction=fraction)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").unlink(missing_ok=True)
        for optional in ("labels.png", "labels.json"):  # of another run, which had labels
            (folder / optional).unlink(missing_ok=True)
        write_results(folder, video.frames_uint8, tracks, tokens)
    labels = {}
    if clip_checkpoint is None:
        progress.update()
    else:
        with step("labels"):
            classifier, clip_record = clip_checkpoint
            # The frames of the overlay, as many of them as the model reads; the labels are whole captions.
            options = {"candidate_labels": settings["labels"], "hypothesis_template": "{}"}
            scores = classifier(video.frames_uint8, **options)
            draw_label_chart(scores).save(folder / "labels.png")
            record = json.dumps({"checkpoint": clip_record, "labels": scores}, indent=2)
            (folder / "labels.json").write_text(record + "\n", encoding="utf-8")
        labels = {"label_score": round(scores[0]["score"], 3), "label": scores[0]["label"]}

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
        **labels,
    }
    manifest = {
        "input": {"name": name, "sha256": sha256_of(name) if Path(name).is_file() else None, "size_hw": size_hw},
        "frame_indices": tracks.frame_indices.tolist(),
        "frame_times_s": tracks.frame_times_s.tolist(),
        "checkpoint": checkpoint_record,
        "clip_checkpoint": None if clip_checkpoint is None else clip_checkpoint[1],
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


def explain(error: Exception, name: str = "") -> str:
    """One line about what went wrong, with which file, and what to do."""
    message = " ".join(str(error).split())
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
    parser.add_argument("--labels", nargs="+", metavar="TEXT", help="texts of which one may describe the video")
    parser.add_argument(
        "--clip-model", default=str(CLIP_CHECKPOINT), help="TrajViT2 for the labels: folder or Hub name"
    )
    arguments = parser.parse_args(argv)
    settings = {name: getattr(arguments, name) for name in ("num_frames", "size", "min_area_fraction", "labels")}
    videos, settings["labels"] = arguments.videos, arguments.labels or list(DEFAULT_LABELS)
    try:
        if not all(label.strip() for label in settings["labels"]):
            raise ValueError("one of --labels is empty, expected texts that may describe the video.")
        checkpoint = load_checkpoint(arguments.model)
        clip_checkpoint = load_classifier(arguments.clip_model)
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
                rows.append(tokenize_video(video, folder, checkpoint, clip_checkpoint, settings, progress))
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
