"""Decoder backends: one file on disk in, the chosen frames out; the same frames whichever backend ran.

In:   a path, a callback that chooses frame indices once the timeline is known, a deadline
Out:  DecodedVideo: only the chosen frames are ever kept, so memory follows what was asked for, not the duration
From: frame_decoding (which picks the backend and guards the time)     To: frame_decoding

All backends read the video stream that FFmpeg calls best (the default one, then the highest bit rate), turn the
picture as the file's rotation says, and convert colours by the file's own matrix and range (BT.601 or BT.709, limited
or full).
"""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .decord_worker import WORKER_FILE
from .frame_sampling import FrameTimeline
from .picture_frames import PictureValueError, read_pictures
from .video_sources import VideoDecodeError, VideoTimeoutError

try:
    import av
except ImportError:
    av = None

try:
    from PIL import Image
except ImportError:
    Image = None

TORCHCODEC_FRAMES_PER_CALL = 16
SEEK_PAYS_BEYOND_FRAMES = 8  # decoding a few frames on costs less than a jump, which empties the decoder

ChooseFrames = Callable[[FrameTimeline], Sequence[int] | np.ndarray]


@dataclass
class DecodedVideo:
    """Frames of one video, and where in the file they come from.

    Attributes:
        frames_uint8: (T, H_px, W_px, 3) RGB, 0 to 255.
        frame_indices: (T,) int64, position in the source, 0 is its first frame.
        frame_times_s: (T,) float64, seconds after the first frame of the source.
        source_fps: average frames per second of the source; None for a still picture.
        duration_s: seconds from the first frame of the source until its last one disappears; None for a still picture.
        total_num_frames: frames in the source.
        backend: the decoder that ran.
    """

    frames_uint8: np.ndarray
    frame_indices: np.ndarray
    frame_times_s: np.ndarray
    source_fps: float | None
    duration_s: float | None
    total_num_frames: int
    backend: str

    @classmethod
    def of_timeline(cls, frames: list[np.ndarray], indices: np.ndarray, timeline: FrameTimeline, backend: str):
        """The chosen frames of a source, with what its timeline says about them."""
        return cls(
            stack_frames(frames, len(indices), timeline.total_num_frames),
            indices,
            timeline.frame_times_s[indices],
            timeline.fps,
            timeline.duration_s,
            timeline.total_num_frames,
            backend,
        )

    @property
    def source_size_hw(self) -> tuple[int, int]:
        """Height and width of the upright picture in pixels."""
        return self.frames_uint8.shape[1], self.frames_uint8.shape[2]


def check_deadline(deadline: float) -> None:
    """Raise when `time.monotonic()` has passed `deadline`."""
    if time.monotonic() > deadline:
        raise VideoTimeoutError("decoding did not end within the time limit")


def chosen_indices(choose_frames: ChooseFrames, timeline: FrameTimeline) -> np.ndarray:
    """Ask the callback and check its answer: (T,) int64, strictly ascending, inside the video."""
    total_num_frames = timeline.total_num_frames
    if total_num_frames < 1:
        raise VideoDecodeError("has zero frames")
    indices = np.asarray(choose_frames(timeline), dtype=np.int64)
    if indices.ndim != 1 or not len(indices) or indices[0] < 0 or indices[-1] >= total_num_frames:
        raise ValueError(f"Frame indices must lie in 0..{total_num_frames - 1}, at least one; got {indices.tolist()}.")
    if (np.diff(indices) <= 0).any():
        raise ValueError(f"Frame indices must be strictly ascending, got {indices.tolist()}.")
    return indices


def stack_frames(frames: list[np.ndarray], wanted: int, total_num_frames: int) -> np.ndarray:
    """Stack to (T, H_px, W_px, 3); refuses a file that broke off or changed its picture size."""
    if len(frames) < wanted:
        raise VideoDecodeError(
            f"is truncated or corrupt: only {len(frames)} of the {wanted} chosen frames could be decoded "
            f"(the file announces {total_num_frames})"
        )
    sizes = {frame.shape[:2] for frame in frames}
    if len(sizes) > 1:
        raise VideoDecodeError(f"changes its picture size on the way: (height, width) {sorted(sizes)}")
    return np.stack(frames)


# --- PyAV ------------------------------------------------------------------------------------------------------------


@dataclass
class _PacketIndex:
    """What reading the packets, without decoding them, tells about a stream."""

    pts: list[int]  # of every frame, ascending: entry i is the time stamp of frame i
    keyframes: list[tuple[int, int]]  # (pts, where to seek for it), ascending
    trustworthy: bool  # every packet has a time stamp of its own
    last_frame_s: float | None  # how long the last frame is shown, if the file says


def decode_with_pyav(path: str, choose_frames: ChooseFrames, deadline: float) -> DecodedVideo:
    """Decode with PyAV, jumping from keyframe to keyframe where frames in between are not wanted."""
    try:
        with _open_with_pyav(path) as container:
            stream = _best_video_stream(container)
            index = _read_packets(container, stream, deadline)
            try:
                if index.trustworthy:
                    return _read_at_time_stamps(container, stream, index, choose_frames, deadline)
            except _FrameNotFoundError:
                pass  # packets that show nothing (VP8 alternate references): count pictures instead
        return _read_in_order(path, choose_frames, deadline)
    except av.FFmpegError as error:
        raise VideoDecodeError(f"is corrupt, truncated or not a video ({error.strerror or error})") from error


class _FrameNotFoundError(Exception):
    """A time stamp of the packet index belongs to no picture."""


def _inspect_with_pyav(path: str, deadline: float) -> tuple[int, FrameTimeline | None]:
    """Refuse, for decoders that do not notice, files without video and files that broke off.

    Returns:
        The number of video streams, and the timeline; 1 and None where PyAV is missing and nothing can be told.
    """
    if av is None:
        return 1, None
    try:
        with _open_with_pyav(path) as container:
            stream = _best_video_stream(container)
            index = _read_packets(container, stream, deadline)
            pts = np.array(index.pts if index.trustworthy else [], dtype=np.int64)
            return len(container.streams.video), _timeline(stream, pts * float(stream.time_base), index.last_frame_s)
    except av.FFmpegError as error:
        raise VideoDecodeError(f"is corrupt, truncated or not a video ({error.strerror or error})") from error


def _open_with_pyav(path: str):
    # Old versions of torchvision ask PyAV for messages when imported. Passing them on takes the interpreter lock,
    # which whoever closes a decoder holds while waiting for its threads: without this, decoding can hang.
    av.logging.set_level(None)
    # Titles in old encodings are no reason to refuse a video.
    return av.open(path, metadata_errors="replace")


def _best_video_stream(container):
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        kinds = sorted({"cover picture" if s.type == "video" else s.type for s in container.streams}) or ["nothing"]
        raise VideoDecodeError(f"has no video stream (found: {', '.join(kinds)}); expected a video")
    if stream.codec_context is None:
        raise VideoDecodeError("has a video stream in a format that this PyAV build cannot decode")
    stream.thread_type = "AUTO"
    return stream


def _read_packets(container, stream, deadline: float) -> _PacketIndex:
    shown, keyframes, num_packets, last = [], [], 0, (None, None)
    for packet in container.demux(stream):
        check_deadline(deadline)
        if packet.size == 0:
            continue
        num_packets += 1
        if packet.is_keyframe and packet.pts is not None:
            # Containers index by decoding or by presentation time; the earlier of both never jumps too far.
            keyframes.append((packet.pts, packet.pts if packet.dts is None else min(packet.pts, packet.dts)))
        if not packet.is_discard:
            shown.append(packet.pts)
            if packet.pts is not None and (last[0] is None or packet.pts > last[0]):
                last = (packet.pts, packet.duration)
    if num_packets < stream.frames:
        raise VideoDecodeError(f"is truncated: it holds {num_packets} of the {stream.frames} frames it announces")
    trustworthy = bool(keyframes) and None not in shown and len(set(shown)) == len(shown)
    last_frame_s = float(last[1] * stream.time_base) if last[1] else None
    index = _PacketIndex(sorted(shown) if trustworthy else shown, sorted(keyframes), trustworthy, last_frame_s)
    if trustworthy:
        _refuse_early_end(container, stream, index.pts)
    return index


def _refuse_early_end(container, stream, pts: list[int]) -> None:
    """Containers that announce no frame count (Matroska, WebM) announce a duration."""
    if stream.frames or len(pts) < 2:
        return
    clock = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
    if clock:
        hours, minutes, seconds = map(float, clock.groups())
        announced_s = 3600 * hours + 60 * minutes + seconds
    elif container.duration and len(container.streams) == 1:
        announced_s = container.duration / 1e6
    else:
        return
    frame_s = float((pts[-1] - pts[0]) * stream.time_base) / (len(pts) - 1)
    found_s = float(pts[-1] * stream.time_base) + frame_s
    # Three frames of grace: durations are rounded, and the last frame may be shown longer.
    if found_s + 3 * frame_s < announced_s:
        raise VideoDecodeError(
            f"is truncated: it ends after {found_s:.2f} s ({len(pts)} frames) of the {announced_s:.2f} s it announces"
        )


def _timeline(stream, times_s: np.ndarray, last_frame_s: float | None) -> FrameTimeline:
    """The timeline of pictures shown at `times_s` (seconds, ascending), the last one for `last_frame_s` seconds."""
    total = len(times_s)
    if not total:
        return FrameTimeline(0)
    times_s = times_s - times_s[0]
    rate = float(stream.average_rate or 0)
    if rate and np.abs(times_s - np.arange(total) / rate).max() <= float(stream.time_base or 0):
        # A constant rate: time stamps are rounded, the rate is not.
        steady_s = total / rate
        held = last_frame_s is not None and abs(times_s[-1] + last_frame_s - steady_s) > 0.5 / rate
        return FrameTimeline(total, times_s, times_s[-1] + last_frame_s if held else steady_s)
    if last_frame_s is None:
        last_frame_s = float(np.median(np.diff(times_s))) if total > 1 else 1 / (rate or 25)
    return FrameTimeline(total, times_s, times_s[-1] + last_frame_s)


def _read_at_time_stamps(container, stream, index: _PacketIndex, choose_frames, deadline: float) -> DecodedVideo:
    pts = np.array(index.pts, dtype=np.int64)
    timeline = _timeline(stream, pts * float(stream.time_base), index.last_frame_s)
    indices = chosen_indices(choose_frames, timeline)
    keyframe_numbers = np.searchsorted(pts, [key_pts for key_pts, _ in index.keyframes])
    frames, decoder, previous = [], None, 0
    for number in indices.tolist():
        keyframe = max(np.searchsorted(keyframe_numbers, number, side="right") - 1, 0)
        if decoder is None or keyframe_numbers[keyframe] > previous + SEEK_PAYS_BEYOND_FRAMES:
            container.seek(index.keyframes[keyframe][1], stream=stream)
            decoder = container.decode(stream)
        for frame in decoder:
            check_deadline(deadline)
            if frame.pts is None or frame.pts >= pts[number]:
                break
        else:
            raise _FrameNotFoundError
        if frame.pts != pts[number]:
            raise _FrameNotFoundError
        frames.append(_upright_rgb(frame))
        previous = number
    return DecodedVideo.of_timeline(frames, indices, timeline, "pyav")


def _read_in_order(path: str, choose_frames, deadline: float) -> DecodedVideo:
    """For files whose packets do not tell the frames: one pass counts pictures, a second one keeps the chosen."""
    with _open_with_pyav(path) as container:
        stream = _best_video_stream(container)
        times = []
        for frame in container.decode(stream):
            check_deadline(deadline)
            times.append(frame.time)
        if None in times:
            rate = float(stream.average_rate or 25)
            times = [number / rate for number in range(len(times))]
        timeline = _timeline(stream, np.array(times, dtype=np.float64), None)
    indices = chosen_indices(choose_frames, timeline)
    wanted, frames = set(indices.tolist()), []
    with _open_with_pyav(path) as container:
        for number, frame in enumerate(container.decode(_best_video_stream(container))):
            check_deadline(deadline)
            if number in wanted:
                frames.append(_upright_rgb(frame))
            if number == indices[-1]:
                break
    return DecodedVideo.of_timeline(frames, indices, timeline, "pyav")


def _upright_rgb(frame) -> np.ndarray:
    """RGB (H_px, W_px, 3) uint8, turned and mirrored as the display matrix says (PyAV leaves that to its caller)."""
    if frame.is_corrupt:
        raise VideoDecodeError(f"is corrupt: the frame at {frame.time} s is damaged")
    rgb = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return rgb
    # The point (x, y) of the stored picture is shown at (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    if abs(b) > abs(a):
        rgb, a, d = rgb.transpose(1, 0, 2), c, b
    return rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


# --- torchcodec ------------------------------------------------------------------------------------------------------


def decode_with_torchcodec(path: str, choose_frames: ChooseFrames, deadline: float) -> DecodedVideo:
    """Decode with torchcodec, which finds frames exactly and turns them upright by itself."""
    from torchcodec.decoders import VideoDecoder

    _, timeline = _inspect_with_pyav(path, deadline)
    try:
        decoder = VideoDecoder(path, dimension_order="NHWC", seek_mode="exact")
        facts = decoder.metadata
        total, announced = len(decoder), facts.num_frames_from_header
        if announced is not None and total < announced:
            raise VideoDecodeError(f"is truncated: it holds {total} of the {announced} frames it announces")
        if timeline is None or timeline.total_num_frames != total:
            timeline = FrameTimeline.at_rate(total, facts.average_fps)
        indices = chosen_indices(choose_frames, timeline)
        frames = []
        for start in range(0, len(indices), TORCHCODEC_FRAMES_PER_CALL):
            check_deadline(deadline)
            batch = decoder.get_frames_at(indices[start : start + TORCHCODEC_FRAMES_PER_CALL].tolist())
            frames.extend(batch.data.numpy())
    except (RuntimeError, IndexError) as error:
        raise VideoDecodeError(f"cannot be decoded by torchcodec ({str(error).splitlines()[0]})") from error
    return DecodedVideo.of_timeline(frames, indices, timeline, "torchcodec")


# --- decord ----------------------------------------------------------------------------------------------------------


def decode_with_decord(path: str, choose_frames: ChooseFrames, deadline: float) -> DecodedVideo:
    """Decode with decord in a child process that is killed at the deadline."""
    num_streams, timeline = _inspect_with_pyav(path, deadline)
    if num_streams > 1:  # decord's FFmpeg is older and may call another one best
        raise VideoDecodeError(f"has {num_streams} video streams, of which decord may read the wrong one; use 'auto'")
    command = [sys.executable, WORKER_FILE, path]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    answer, complaint = b"", b""
    with subprocess.Popen(command, **pipes) as worker:
        killer = threading.Timer(max(deadline - time.monotonic(), 0), worker.kill)
        killer.start()
        try:
            facts = json.loads(worker.stdout.readline() or "null")
            if facts is None:
                complaint = worker.stderr.read()
            else:
                total, fps = facts["total_num_frames"], facts["source_fps"]
                if timeline is None or timeline.total_num_frames != total:
                    timeline = FrameTimeline.at_rate(total, fps)
                indices = chosen_indices(choose_frames, timeline)
                answer, complaint = worker.communicate(json.dumps(indices.tolist()).encode() + b"\n")
        finally:
            killer.cancel()
            worker.kill()
    check_deadline(deadline)
    if b"\n" not in answer:
        said = [line.strip() for line in complaint.decode(errors="replace").splitlines() if "Error" in line]
        raise VideoDecodeError(f"cannot be decoded by decord ({said[-1] if said else 'it gave up without a word'})")
    header, raw = answer.split(b"\n", 1)
    header = json.loads(header)
    if header["shape"][-1] != 3:  # decord 0.6 takes row padding for channels at some small widths
        raise VideoDecodeError(f"has a width that decord misreads: frames came as {header['shape'][1:]}")
    frames = list(np.frombuffer(raw, dtype=np.uint8).reshape(header["shape"]))
    return DecodedVideo.of_timeline(frames, indices, timeline, "decord")


# --- Pillow ----------------------------------------------------------------------------------------------------------


def decode_with_pillow(path: str, choose_frames: ChooseFrames, deadline: float) -> DecodedVideo:
    """Decode a still picture (one frame) or an animation (GIF, APNG, WebP)."""
    if Image is None:
        raise VideoDecodeError(
            "is a picture, and Pillow, which reads pictures, is not installed (`pip install pillow`)"
        )
    try:
        with Image.open(path) as picture:
            frames, indices, timeline = read_pictures(
                picture, lambda found: chosen_indices(choose_frames, found), lambda: check_deadline(deadline)
            )
    except PictureValueError as error:
        raise VideoDecodeError(str(error)) from error
    except (OSError, EOFError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoDecodeError(f"is a corrupt or truncated picture ({error})") from error
    return DecodedVideo.of_timeline(list(frames), indices, timeline, "pillow")
