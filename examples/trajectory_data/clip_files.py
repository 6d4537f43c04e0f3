"""Files on disk: videos, folders of pictures, mask PNGs, archives, JSON. Everything that can go wrong names its file.

In:   paths
Out:  numpy arrays in the conventions of ClipRecord
From: the disk     To: layout_*.py
"""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from storage import write_text, write_whole

from modeling_trajtok.processors.frame_decoding import decode_video
from modeling_trajtok.processors.frame_sampling import FrameTimeline
from modeling_trajtok.processors.trajectory_drawing import trajectory_colours, write_video
from modeling_trajtok.processors.video_sources import is_machine_error

from .clip_record import ClipRecord

UNKNOWN_IN_FILES = 255  # in mask pictures: nobody knows what this pixel is (-1 in a ClipRecord)
FPS_OF_PICTURES = 24.0  # folders of pictures do not say how fast they are
# fmt: off
VIDEO_SUFFIXES = {
    ".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov",
    ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv",
}
# fmt: on


def spaced_indices(num_available: int, num_frames: int | None) -> np.ndarray:
    """At most `num_frames` indices from 0 to `num_available - 1`, evenly spaced, both ends included; None = all."""
    if num_frames is None or num_frames >= num_available:
        return np.arange(num_available)
    return np.linspace(0, num_available - 1, num_frames).round().astype(int)


def require(path: Path, what: str) -> Path:
    """The path itself.

    Raises:
        ValueError: if it does not exist.
    """
    if not path.exists():
        raise ValueError(f"{path} is missing: expected {what}.")
    return path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Reading errors of any library become a ValueError that names the file; the machine's own stay what they are."""
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        if is_machine_error(error):
            raise
        raise ValueError(f"{path} cannot be read, it is damaged or of another kind: {error}") from error


def read_annotated_video(
    path: Path, num_masks: int, num_frames: int | None, masks: Path, strides: Sequence[int] = (1,)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames of a video that has one mask for every frame, or for every stride-th one.

    Returns:
        indices (T,) of the chosen masks, and for them frames_uint8 (T, H_px, W_px, 3), frame_times_s (T,).
    """
    indices = spaced_indices(num_masks, num_frames)

    def choose_frames(timeline: FrameTimeline) -> np.ndarray:
        available = timeline.total_num_frames
        for stride in strides:
            if len(range(0, available, stride)) == num_masks:
                return indices * stride
        expected = "one per frame" + "".join(f" or one per {stride} frames" for stride in strides[1:])
        raise ValueError(f"{path} has {available} frames, but {masks} has {num_masks} masks: expected {expected}.")

    video = decode_video(require(path, "the video"), choose_frames)
    return indices, video.frames_uint8, video.frame_times_s


def read_annotated_pictures(
    pictures: Path, num_frames: int | None, masks: Path, fps: float = FPS_OF_PICTURES
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames of a folder of pictures in which each has a mask of the same name.

    Returns:
        indices (T,) of the chosen frames, frames_uint8 (T, H_px, W_px, 3), frame_times_s (T,) for this `fps`.
    """
    paths = sorted(path for path in pictures.iterdir() if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    mask_paths = masks_in(masks)
    if not paths:
        raise ValueError(f"{pictures} has no frame: expected .jpg or .png pictures.")
    if [path.stem for path in paths] != [path.stem for path in mask_paths]:
        raise ValueError(
            f"{pictures} has {len(paths)} frames, but {masks} has {len(mask_paths)} masks: "
            "expected one mask per frame, of the same name."
        )
    indices = spaced_indices(len(paths), num_frames)
    return indices, read_pictures([paths[index] for index in indices]), indices / fps


def read_pictures(paths: Sequence[Path]) -> np.ndarray:
    """Pictures of one size as frames_uint8 (T, H_px, W_px, 3)."""
    frames = []
    for path in paths:
        with naming(path), Image.open(path) as picture:
            frames.append(np.asarray(picture.convert("RGB")))
        if frames[-1].shape != frames[0].shape:
            raise ValueError(
                f"{path} has the size {frames[-1].shape[:2]}, the frames before it {frames[0].shape[:2]}."
            )
    return np.stack(frames)


def masks_in(folder: Path) -> list[Path]:
    """The mask PNGs of a clip, one per frame, in order."""
    return sorted(require(folder, "a folder with one mask PNG per frame").glob("*.png"))


def read_masks(paths: Sequence[Path], size_hw: tuple[int, int]) -> np.ndarray:
    """Trajectory ids (T, H_px, W_px) int16 of palette or grey pictures; 255 becomes -1."""
    ids = np.empty((len(paths), *size_hw), dtype=np.int16)
    for target, path in zip(ids, paths, strict=True):
        with naming(path), Image.open(path) as picture:
            mode, mask = picture.mode, np.asarray(picture)
        if mode not in {"P", "L"}:
            raise ValueError(f"{path} is a {mode} picture: expected a palette or grey one with ids as values.")
        check_mask_size(path, mask.shape, size_hw)
        target[:] = np.where(mask == UNKNOWN_IN_FILES, -1, mask.astype(np.int16))
    return ids


def paint_masks(ids: np.ndarray, masks: Mapping[int, np.ndarray], path: Path) -> None:
    """Write masks by trajectory id, each (H_px, W_px) bool, into the ids of a frame; the smaller covers the larger.

    Raises:
        ValueError: names ``path`` if a mask has another size than the frame.
    """
    for mask in masks.values():
        check_mask_size(path, mask.shape, ids.shape)
    for trajectory in sorted(masks, key=lambda one: -masks[one].sum()):
        ids[masks[trajectory]] = trajectory


def check_mask_size(path: Path, mask_hw: tuple[int, int], frame_hw: tuple[int, int]) -> None:
    """Masks and frames must have one size.

    Raises:
        ValueError: if they have not.
    """
    if tuple(mask_hw) != tuple(frame_hw):
        raise ValueError(f"{path} has masks of {tuple(mask_hw)} (H, W) pixels, its frames have {tuple(frame_hw)}.")


def read_array(path: Path, name: str, what: str) -> np.ndarray:
    """The array `name` of an .npz archive, or its first one."""
    with naming(require(path, what)), np.load(path, allow_pickle=False) as archive:
        return archive[name if name in archive.files else archive.files[0]]


def read_json(path: Path, what: str) -> dict:
    """A JSON file."""
    with naming(require(path, what)):
        return json.loads(path.read_text(encoding="utf-8"))


def read_metadata_if_any(folder: Path, name: str) -> dict:
    """What `NAME.json` says about a clip; empty if there is no such file."""
    path = folder / f"{name}.json"
    return read_json(path, "the record of the clip") if path.is_file() else {}


def refuse_unknown_pixels(record: ClipRecord) -> None:
    """For layouts that cannot say that nobody knows a pixel.

    Raises:
        ValueError: if the clip has such pixels.
    """
    if record.trajectory_ids.min() < 0:
        raise ValueError(
            f"Clip {record.name} has pixels of unknown truth (-1); only the layout `worlds` can hold them."
        )


def write_json(path: Path, content: dict) -> None:
    """A JSON file on one line."""
    write_text(path, json.dumps(content))


def write_array(path: Path, name: str, array: np.ndarray) -> None:
    """An .npz archive of one array."""

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez_compressed(file, **{name: array})

    write_whole(path, write)


def write_mask(path: Path, trajectory_ids: np.ndarray) -> None:
    """One mask (H_px, W_px) as palette PNG, in the colours of the trajectories; -1 is written as 255."""
    if trajectory_ids.max() >= UNKNOWN_IN_FILES:
        raise ValueError(
            f"{path}: a palette PNG holds the ids 0 to 254, got {trajectory_ids.max()}. Use the layout `sidecars`."
        )
    picture = Image.fromarray(trajectory_ids.astype(np.uint8))  # -1 wraps around to 255
    palette = trajectory_colours(np.arange(256))
    palette[0], palette[UNKNOWN_IN_FILES] = 0, 255
    picture.putpalette(palette.tobytes())
    write_whole(path, lambda part: picture.save(part, format="PNG"))


def write_clip_video(record: ClipRecord, path: Path) -> None:
    """The frames as H.264 video that either is there completely or not at all."""
    height, width = record.frames_uint8.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"{path}: H.264 video needs even sides, got {height} x {width} pixels. Crop the clip by one.")
    times_s = record.frame_times_s
    write_whole(path, lambda part: write_video(part, record.frames_uint8, record.fps, frame_times_s=times_s))


def videos_of(folder: Path) -> list[str]:
    """Names of all .mp4 files below a folder: paths without ending, relative to it, sorted."""
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.mp4"))
