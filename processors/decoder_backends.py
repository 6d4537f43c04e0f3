"""Decoder backends: one file in, the chosen frames out; the same frames whichever backend ran.

In:   an open file and a DecodeRequest (a callback that chooses frame indices once the timeline is known, and limits)
Out:  DecodedVideo: only the chosen frames are ever kept, so memory follows what was asked for, not the duration
From: frame_decoding (which picks the backend and guards the time)     To: frame_decoding

All backends read the video stream that FFmpeg calls best (the default one, then the highest bit rate), turn the
picture as the file's rotation says, and convert colours by the file's own matrix and range (BT.601 or BT.709, limited
or full). All take the timeline, and the word on damage, from PyAV: torchcodec and decord do not pass on what FFmpeg
says about a picture.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np

from .decord_worker import WORKER_FILE
from .frame_sampling import FrameTimeline
from .media_container import (
    RAW_STREAM_FORMATS,
    PacketTable,
    check_deadline,
    open_media,
    packets_of,
    read_packets,
    refuse_missing_bytes,
    repaired_times_s,
    timeline_of,
    video_stream,
)
from .media_integrity import check_integrity
from .picture_frames import PictureValueError, read_pictures
from .video_sources import MachineError, VideoDecodeError

try:
    import av
    from av.sidedata.sidedata import SideDataContainer
    from av.video.reformatter import VideoReformatter
except ImportError:
    av = None

try:
    from PIL import Image
except ImportError:
    Image = None

ANIMATION_SIGNATURES = (b"GIF8",)
PICTURE_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*")
PILLOW_FORMATS = ("GIF", "PNG", "WEBP", "JPEG", "BMP", "TIFF")
TORCHCODEC_FRAMES_PER_CALL = 16
SEEK_PAYS_BEYOND_FRAMES = 8  # decoding a few frames on costs less than a jump, which empties the decoder
DEFAULT_MAX_BYTES = 4 << 30
CELLS_PER_SIDE, MOST_APART = 16, 2.5  # of 255: pictures that two decoders see
DECODER_BYTES_PER_PX = 64  # a decoder keeps up to 16 reference pictures and some for its threads

ChooseFrames = Callable[[FrameTimeline], Sequence[int] | np.ndarray]


@dataclass(frozen=True)
class DecodeRequest:
    """What is wanted of a file.

    Attributes:
        choose_frames: called with the timeline; returns frame indices, strictly ascending.
        deadline: value of `time.monotonic()` at which decoding is given up.
        max_bytes: memory for the chosen frames, and for the pictures that a decoder keeps.
        skip_damaged: leave damaged frames out, in place of an error.
    """

    choose_frames: ChooseFrames
    deadline: float
    max_bytes: int = DEFAULT_MAX_BYTES
    skip_damaged: bool = False

    def indices(self, timeline: FrameTimeline) -> np.ndarray:
        """Ask the callback and check its answer: (T,) int64, strictly ascending, inside the video."""
        total = timeline.total_num_frames
        if total < 1:
            raise VideoDecodeError("has zero frames")
        indices = np.asarray(self.choose_frames(timeline), dtype=np.int64)
        if indices.ndim != 1 or not len(indices) or indices[0] < 0 or indices[-1] >= total:
            raise ValueError(f"Frame indices must lie in 0..{total - 1}, at least one; got {indices.tolist()}.")
        if (np.diff(indices) <= 0).any():
            raise ValueError(f"Frame indices must be strictly ascending, got {indices.tolist()}.")
        return indices

    def check_picture_size(self, height_px: int, width_px: int) -> None:
        """Refuse pictures that a decoder cannot hold within `max_bytes`."""
        most_px = self.max_bytes // DECODER_BYTES_PER_PX
        if height_px * width_px > most_px:
            raise VideoDecodeError(
                f"has frames of {height_px}x{width_px} px (height x width), {height_px * width_px / 1e6:.0f} million; "
                f"expected at most {most_px / 1e6:.0f} million. Raise `max_bytes`, now {self.max_bytes / 1e9:.1f} GB, "
                "or write the video smaller with ffmpeg"
            )

    def check_memory(self, num_frames: int, height_px: int, width_px: int) -> None:
        """Refuse a choice of frames that does not fit into `max_bytes`."""
        wanted_bytes = num_frames * height_px * width_px * 3
        if wanted_bytes > self.max_bytes:
            raise VideoDecodeError(
                f"needs {wanted_bytes / 1e9:.1f} GB for {num_frames} frames of {height_px}x{width_px} px (height x "
                f"width); expected at most {self.max_bytes / 1e9:.1f} GB. Choose fewer frames, or raise `max_bytes`"
            )


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
        num_damaged_frames: chosen frames that are left out because they are damaged.
    """

    frames_uint8: np.ndarray
    frame_indices: np.ndarray
    frame_times_s: np.ndarray
    source_fps: float | None
    duration_s: float | None
    total_num_frames: int
    backend: str
    num_damaged_frames: int = 0

    @property
    def source_size_hw(self) -> tuple[int, int]:
        """Height and width of the upright picture in pixels."""
        return self.frames_uint8.shape[1], self.frames_uint8.shape[2]


@dataclass
class _FrameStack:
    """Collects frames in one array: no frame is in memory twice."""

    wanted: int
    frames_uint8: np.ndarray | None = None
    filled: int = 0

    def add(self, rgb: np.ndarray) -> None:
        if self.frames_uint8 is None:
            self.frames_uint8 = np.empty((self.wanted, *rgb.shape), dtype=np.uint8)
        if rgb.shape != self.frames_uint8.shape[1:]:
            sizes = sorted({rgb.shape[:2], self.frames_uint8.shape[1:3]})
            raise VideoDecodeError(f"changes its picture size on the way: (height, width) {sizes}")
        self.frames_uint8[self.filled] = rgb
        self.filled += 1

    def video(self, indices: np.ndarray, timeline: FrameTimeline, backend: str, num_damaged: int = 0) -> DecodedVideo:
        if self.filled < len(indices):
            raise VideoDecodeError(
                f"is truncated or corrupt: only {self.filled} of the {len(indices)} chosen frames could be decoded"
            )
        return DecodedVideo(
            self.frames_uint8,
            indices,
            timeline.frame_times_s[indices],
            timeline.fps,
            timeline.duration_s,
            timeline.total_num_frames,
            backend,
            num_damaged,
        )


# --- PyAV ------------------------------------------------------------------------------------------------------------


def decode_with_pyav(file: BinaryIO, request: DecodeRequest) -> DecodedVideo:
    """Decode with PyAV, jumping from keyframe to keyframe where frames in between are not wanted."""
    return _decode_with_pyav(file, request, _RgbConverter())


def _decode_with_pyav(file: BinaryIO, request: DecodeRequest, converter: Callable) -> DecodedVideo:
    with open_media(file, request.deadline) as container:
        stream = video_stream(container)
        request.check_picture_size(stream.height, stream.width)
        table = read_packets(container, stream, request.deadline)
        refuse_missing_bytes(stream, file)
        check_integrity(file, container.format.name, request.deadline)
        # Palettes come with the first packet only, which a jump leaves out. (PyAV 17 crashes over `pix_fmt` of a
        # damaged stream that has none.)
        pixel_format = stream.codec_context.format
        has_palette = pixel_format is not None and pixel_format.name == "pal8"
        can_jump = not has_palette and container.format.name not in RAW_STREAM_FORMATS
        if can_jump and table.before_start:
            _settle_start(file, table, request.deadline)
        order = table.display_order if can_jump else None
        if order:
            try:
                return _decode_by_jumping(container, stream, table, order, request, converter)
            except _OrderedReadNeededError:
                pass
    return _decode_in_order(file, table, request, converter)


def _settle_start(file: BinaryIO, table: PacketTable, deadline: float) -> None:
    """Find out by decoding which pictures from before the first keyframe are shown."""
    shown, damaged = set(), set()
    with open_media(file, deadline) as container:
        for number, frame in _pictures_in_order(container, _patient_stream(container), table, deadline):
            (damaged if frame is None or frame.is_corrupt else shown).add(number)
            if frame is not None and number >= table.second_key:
                break
    for number in table.before_start - (shown - damaged):
        table.is_shown[number] = False


class _OrderedReadNeededError(Exception):
    """Jumping does not tell for certain: damage, a picture that is not there, or a jump that missed its aim."""


class _RgbConverter:
    """Turns frames into upright RGB, with one conversion context for a video, which uses no threads."""

    def __init__(self):
        self._reformatter = VideoReformatter()

    def __call__(self, frame) -> np.ndarray:
        """(H_px, W_px, 3) uint8, turned and mirrored as the display matrix says (PyAV leaves that to its caller)."""
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        # `frame.side_data` would make the frame refer to itself, and leave it to the garbage collector.
        matrix = SideDataContainer(frame).get("DISPLAYMATRIX")
        if matrix is None:
            return rgb
        # The point (x, y) of the stored picture is shown at (a x + c y, b x + d y).
        a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
        if abs(b) > abs(a):
            rgb, a, d = rgb.transpose(1, 0, 2), c, b
        return rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _decode_by_jumping(
    container, stream, table: PacketTable, order: list[int], request: DecodeRequest, converter
) -> DecodedVideo:
    pts = np.array([table.pts[number] for number in order], dtype=np.int64)
    timeline = timeline_of(stream, pts * float(stream.time_base), table.last_frame_s)
    indices = request.indices(timeline)
    request.check_memory(len(indices), stream.height, stream.width)
    stack = _FrameStack(len(indices))
    keys = [number for number in range(len(table.pts)) if table.is_key[number] and table.pts[number] is not None]
    keys.sort(key=table.pts.__getitem__)
    key_positions = np.searchsorted(pts, [table.pts[number] for number in keys])
    pictures, previous = None, 0
    for position in indices.tolist():
        chosen = max(int(np.searchsorted(key_positions, position, side="right")) - 1, 0)
        if pictures is None or key_positions[chosen] > previous + SEEK_PAYS_BEYOND_FRAMES:
            pictures = _pictures_from(container, stream, table, keys[chosen], request.deadline)
        for number, frame in pictures:
            if number == order[position]:
                stack.add(converter(frame))
                break
            if table.pts[number] > pts[position]:
                raise _OrderedReadNeededError
        else:
            raise _OrderedReadNeededError
        previous = position
    return stack.video(indices, timeline, "pyav")


def _pictures_from(container, stream, table: PacketTable, key: int, deadline: float) -> Iterator:
    """Decode from a keyframe on: (number of the packet, frame) in the order of showing."""
    # Containers index by decoding or by presentation time; the earlier of both never jumps too far.
    stamps = [stamp for stamp in (table.pts[key], table.dts[key]) if stamp is not None]
    try:
        container.seek(min(stamps), stream=stream)
    except av.FFmpegError as error:
        raise _OrderedReadNeededError from error
    arrived = False
    for packet in packets_of(container, stream):
        check_deadline(deadline)
        if packet.size:
            number = table.numbers.get((packet.pts, packet.dts, packet.size))
            if number is None or number in table.corrupt or (not arrived and number > key):
                raise _OrderedReadNeededError
            arrived = arrived or number == key
            if not arrived:
                continue
            packet.pts = packet.dts = number
        try:
            frames = stream.codec_context.decode(packet if packet.size else None)
        except EOFError:
            return
        except av.FFmpegError as error:
            raise _OrderedReadNeededError from error
        for frame in frames:
            known = frame.pts is not None and 0 <= frame.pts < len(table.pts)
            is_false_start = frame.pts == key != table.first_key and not frame.key_frame
            if frame.is_corrupt or not known or is_false_start:
                raise _OrderedReadNeededError
            yield frame.pts, frame


def _decode_in_order(file: BinaryIO, table: PacketTable, request: DecodeRequest, converter: Callable) -> DecodedVideo:
    """Decode from the start: a first pass finds what is shown and what is damaged, a second one keeps the chosen."""
    numbers, damaged = [], set()
    with open_media(file, request.deadline) as container:
        stream = _patient_stream(container)
        for number, frame in _pictures_in_order(container, stream, table, request.deadline):
            if frame is not None:
                numbers.append(number)
            if frame is None or frame.is_corrupt:
                damaged.add(number)
        height_px, width_px = stream.height, stream.width
        slots = _slots(table, numbers, damaged)
        stamps = [table.pts[number] for number, _ in slots]
        times_s = repaired_times_s(stream, stamps)
        steady = None not in stamps and stamps == sorted(set(stamps))
        timeline = timeline_of(stream, times_s, table.last_frame_s if steady else None)
    indices = request.indices(timeline)
    request.check_memory(len(indices), height_px, width_px)
    spoiled = table.spoiled_by(damaged)
    bad = np.array([slots[index][1] is None or slots[index][0] in spoiled for index in indices.tolist()])
    if bad.any() and not (request.skip_damaged and not bad.all()):
        raise VideoDecodeError(
            f"is corrupt: the decoder reports damage in {bad.sum()} of the {len(bad)} chosen frames, first at "
            f"{times_s[indices[bad][0]]:.2f} s; choose others, or leave damaged ones out with `skip_damaged=True`"
        )
    indices = indices[~bad]
    wanted = {slots[index][1] for index in indices.tolist()}
    stack = _FrameStack(len(indices))
    with open_media(file, request.deadline) as container:
        stream, ordinal = _patient_stream(container), 0
        for _, frame in _pictures_in_order(container, stream, table, request.deadline):
            if frame is not None:
                if ordinal in wanted:
                    stack.add(converter(frame))
                ordinal += 1
            if stack.filled == len(indices):
                break
    return stack.video(indices, timeline, "pyav", int(bad.sum()))


def _patient_stream(container):
    return video_stream(container, threads=1)  # with threads, errors are reported with a later packet


def _pictures_in_order(container, stream, table: PacketTable, deadline: float) -> Iterator:
    """Decode everything: (number of the packet, frame), and (number, None) for packets that are damaged."""
    number = -1
    for packet in packets_of(container, stream):
        check_deadline(deadline)
        if packet.size:
            number += 1
            if number in table.corrupt:
                yield number, None
            packet.pts = packet.dts = number
        if not 0 <= number < len(table.pts):
            return
        try:
            frames = stream.codec_context.decode(packet if packet.size else None)
        except EOFError:
            return
        except av.FFmpegError:
            yield number, None
            continue
        except ValueError as error:  # how PyAV 19 says that there is no decoder
            raise VideoDecodeError("has a video stream in a format that this PyAV build cannot decode") from error
        for frame in frames:
            known = frame.pts is not None and 0 <= frame.pts <= number
            yield (frame.pts if known else number), frame


def _slots(table: PacketTable, numbers: list[int], damaged: set[int]) -> list[tuple[int, int | None]]:
    """One entry per frame of the video: (number of its packet, place among the decoder's pictures; None: lost).

    Pictures from before the first keyframe that cannot be decoded are no frames, and are taken out of `damaged`.
    """
    unborn = damaged & table.before_start
    damaged -= unborn
    slots = [(number, ordinal) for ordinal, number in enumerate(numbers) if number not in unborn]
    for number in sorted(table.groups_of(damaged) - set(numbers) - unborn):
        if not table.is_shown[number]:
            continue
        stamp = table.pts[number]
        later = (
            place
            for place, (other, _) in enumerate(slots)
            if (other > number if None in (stamp, table.pts[other]) else table.pts[other] > stamp)
        )
        slots.insert(next(later, len(slots)), (number, None))
    return slots


# --- torchcodec ------------------------------------------------------------------------------------------------------


def _checked_choice(file: BinaryIO, request: DecodeRequest) -> DecodedVideo:
    """The choice of frames, and PyAV's word that they are there and undamaged, with `_luma_cells` for pictures."""
    converter = _RgbConverter()
    return _decode_with_pyav(file, request, lambda frame: _luma_cells(converter(frame)))


def _luma_cells(rgb: np.ndarray) -> np.ndarray:
    """Mean brightness in up to 16 x 16 cells of a picture: colours may be rounded otherwise, brightness is not."""
    starts = [np.unique(np.linspace(0, side, CELLS_PER_SIDE, endpoint=False).astype(int)) for side in rgb.shape[:2]]
    green = np.add.reduceat(np.add.reduceat(rgb[..., 1].astype(np.float32), starts[0], axis=0), starts[1], axis=1)
    areas = np.outer(*(np.diff([*start, side]) for start, side in zip(starts, rgb.shape[:2], strict=True)))
    return (green / areas).round().astype(np.uint8)


def _agreed(chosen: DecodedVideo, frames: Sequence[np.ndarray], backend: str) -> DecodedVideo:
    """The pictures of another decoder, if they are those that PyAV sees (libraries differ in where a jump lands)."""
    cells = np.stack([_luma_cells(frame) for frame in frames])
    if cells.shape != chosen.frames_uint8.shape:
        raise VideoDecodeError(f"has frames of another shape in {backend} than in PyAV; use the decoder 'auto'")
    apart = np.abs(cells.astype(np.int16) - chosen.frames_uint8).mean(axis=(1, 2))
    if apart.max() > MOST_APART:
        raise VideoDecodeError(
            f"shows other pictures in {backend} than in PyAV, first at {chosen.frame_times_s[apart.argmax()]:.2f} s; "
            "use the decoder 'auto'"
        )
    return replace(chosen, frames_uint8=np.stack(frames), backend=backend)


def decode_with_torchcodec(file: BinaryIO, request: DecodeRequest) -> DecodedVideo:
    """Decode with torchcodec, which finds frames exactly and turns them upright by itself."""
    from torchcodec.decoders import VideoDecoder

    chosen = _checked_choice(file, request)
    file.seek(0)
    frames = []
    try:
        decoder = VideoDecoder(file, dimension_order="NHWC", seek_mode="exact")
        _refuse_other_count("torchcodec", len(decoder), chosen.total_num_frames)
        for start in range(0, len(chosen.frame_indices), TORCHCODEC_FRAMES_PER_CALL):
            check_deadline(request.deadline)
            some = chosen.frame_indices[start : start + TORCHCODEC_FRAMES_PER_CALL].tolist()
            frames += list(decoder.get_frames_at(some).data.numpy())
    except (RuntimeError, IndexError) as error:
        raise VideoDecodeError(f"cannot be decoded by torchcodec ({str(error).splitlines()[0]})") from error
    return _agreed(chosen, frames, "torchcodec")


def _refuse_other_count(backend: str, counted: int, shown: int) -> None:
    if counted != shown:
        raise VideoDecodeError(f"has {shown} frames, of which {backend} counts {counted}; use the decoder 'auto'")


# --- decord ----------------------------------------------------------------------------------------------------------


def decode_with_decord(file: BinaryIO, request: DecodeRequest) -> DecodedVideo:
    """Decode with decord in a child process that is killed at the deadline."""
    with open_media(file, request.deadline) as container:
        num_streams = len(container.streams.video)
    if num_streams > 1:  # decord's FFmpeg is older and may call another one best
        raise VideoDecodeError(f"has {num_streams} video streams, of which decord may read the wrong one; use 'auto'")
    chosen = _checked_choice(file, request)
    order = {"indices": chosen.frame_indices.tolist()}
    descriptor, media = _descriptor(file), b""
    if descriptor is None:
        file.seek(0)
        media = file.read()
    else:
        order["path"] = f"/dev/fd/{descriptor}"  # a name that says nothing
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    kept = {} if descriptor is None else {"pass_fds": (descriptor,)}
    with subprocess.Popen([sys.executable, WORKER_FILE], **pipes, **kept) as worker:
        killer = threading.Timer(max(request.deadline - time.monotonic(), 0), worker.kill)
        killer.start()
        try:
            answer, complaint = worker.communicate(json.dumps(order).encode() + b"\n" + media)
        finally:
            killer.cancel()
            worker.kill()
    check_deadline(request.deadline)
    if b"\n" not in answer:
        said = [line.strip() for line in complaint.decode(errors="replace").splitlines() if "Error" in line]
        raise VideoDecodeError(f"cannot be decoded by decord ({said[-1] if said else 'it gave up without a word'})")
    header, raw = answer.split(b"\n", 1)
    header = json.loads(header)
    _refuse_other_count("decord", header["total_num_frames"], chosen.total_num_frames)
    if header["shape"][-1] != 3:  # decord 0.6 takes row padding for channels at some small widths
        raise VideoDecodeError(f"has a width that decord misreads: frames came as {header['shape'][1:]}")
    return _agreed(chosen, list(np.frombuffer(raw, dtype=np.uint8).reshape(header["shape"])), "decord")


def _descriptor(file: BinaryIO) -> int | None:
    """Of a file that another process can open as /dev/fd/N; None for memory, and for systems without such names."""
    try:
        return file.fileno() if os.path.isdir("/dev/fd") else None
    except OSError:
        return None


# --- Pillow ----------------------------------------------------------------------------------------------------------


def is_still_or_animation(file: BinaryIO, deadline: float) -> bool:
    """Whether Pillow reads the file: a picture or an animation, but no stream of pictures that follow each other.

    Cameras append a preview to a photograph, and say so (MPO), or it has another size.
    """
    file.seek(0)
    start = file.read(16)
    if start.startswith(ANIMATION_SIGNATURES) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP"):
        return True
    if not start.startswith(PICTURE_SIGNATURES):
        return False
    if av is None:
        return True
    try:
        with open_media(file, deadline) as container:
            stream = container.streams.best("video")
            if stream is None or not (container.format.name.endswith("_pipe") or container.format.name == "mjpeg"):
                return True
            sizes = []
            for packet in packets_of(container, stream):
                check_deadline(deadline)
                if packet.size > 2 and bytes(packet)[:2] == start[:2]:
                    sizes += [(frame.width, frame.height) for frame in stream.codec_context.decode(packet)]
                if len(sizes) == 2:
                    break
    except (VideoDecodeError, av.FFmpegError):
        return True
    if len(sizes) < 2 or sizes[0] != sizes[1]:
        return True
    file.seek(0)
    return b"MPF\x00" in file.read(1 << 16)


def decode_with_pillow(file: BinaryIO, request: DecodeRequest) -> DecodedVideo:
    """Decode a still picture (one frame) or an animation (GIF, APNG, WebP)."""
    if Image is None:
        raise MachineError("it is a picture, and Pillow, which reads pictures, is not installed: `pip install pillow`")
    file.seek(0)
    try:
        with Image.open(file, formats=PILLOW_FORMATS) as picture:

            def choose_frames(timeline: FrameTimeline) -> np.ndarray:
                indices = request.indices(timeline)
                request.check_memory(len(indices), picture.height, picture.width)
                return indices

            frames, indices, timeline = read_pictures(picture, choose_frames, lambda: check_deadline(request.deadline))
    except PictureValueError as error:
        raise VideoDecodeError(str(error)) from error
    except (OSError, EOFError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoDecodeError(f"is a corrupt or truncated picture ({error})") from error
    return DecodedVideo(
        frames,
        indices,
        timeline.frame_times_s[indices],
        timeline.fps,
        timeline.duration_s,
        timeline.total_num_frames,
        "pillow",
    )
