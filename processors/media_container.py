"""Media containers: a file is opened so that FFmpeg reaches the bytes of that file and nothing else.

In:   an open binary file that can seek, and a deadline
Out:  an open PyAV container, its video stream, a table of its packets, the timeline of its frames
From: video_sources     To: decoder_backends

Some formats are lists of other files (playlists, picture patterns, manifests), and FFmpeg would open those files too.
Here it gets bytes without a name, may use only the demuxers below, and has no protocol to open anything with.
"""

import contextlib
import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import BinaryIO

import numpy as np

from .frame_sampling import FrameTimeline
from .media_checksums import ffv1_slices_are_intact
from .video_sources import VideoDecodeError, VideoTimeoutError

try:
    import av
except ImportError:
    av = None

# FFmpeg's names of the formats that hold their media themselves. Formats of sound are here because "has no video
# stream" says more than "is no video".
CONTAINER_FORMATS = (
    "mov", "matroska", "avi", "mpegts", "mpeg", "flv", "ogg", "asf", "nut", "mxf", "gxf", "ivf", "rm", "dv", "wtv",
    "gif", "apng", "nuv", "roq", "smk", "bink",
)  # fmt: skip
# Streams without a container tell neither times nor, reliably, keyframes.
RAW_STREAM_FORMATS = (
    "mpegvideo", "yuv4mpegpipe", "mjpeg", "mpjpeg", "smjpeg", "h261", "h263", "h264", "hevc", "vvc", "evc", "m4v",
    "obu", "av1", "vc1", "vc1test", "cavsvideo", "avs2", "avs3", "dirac", "dnxhd",
)  # fmt: skip
PICTURE_FORMATS = (
    "jpeg_pipe", "jpegls_pipe", "jpegxl_pipe", "jpegxl_anim", "j2k_pipe", "png_pipe", "bmp_pipe", "tiff_pipe",
    "webp_pipe", "gif_pipe", "ppm_pipe", "pgm_pipe", "pgmyuv_pipe", "pbm_pipe", "pam_pipe", "pfm_pipe", "qoi_pipe",
    "dpx_pipe", "exr_pipe", "sgi_pipe", "sunrast_pipe",
)  # fmt: skip
SOUND_FORMATS = (
    "mp3", "wav", "w64", "flac", "aac", "ac3", "eac3", "aiff", "amr", "caf", "au", "tta", "wv", "ape", "dts",
)  # fmt: skip
READABLE_FORMATS = CONTAINER_FORMATS + RAW_STREAM_FORMATS + PICTURE_FORMATS + SOUND_FORMATS

# Titles in old encodings are no reason to refuse a video; from PyAV 19 on they never are.
LENIENT_TITLES = {"metadata_errors": "replace"} if av is not None and int(av.__version__.split(".")[0]) < 19 else {}
READ_BLOCK_BYTES = 1 << 18
DEFAULT_FPS = 25.0  # of streams that have neither time stamps nor a rate
LARGEST_THREADED_PX = 4096 * 2304  # every thread of a decoder keeps pictures of its own
MOST_THREADS = 4
DEEPEST_REORDERING = 16  # pictures that may be decoded between a picture and its turn on the screen
STRICT = "crccheck+bitstream+buffer+explode"


def check_deadline(deadline: float) -> None:
    """Raise when `time.monotonic()` has passed `deadline`."""
    if time.monotonic() > deadline:
        raise VideoTimeoutError("decoding did not end within the time limit")


class _NamelessFile:
    """What FFmpeg gets in place of a path: from a name it would guess a format, or find neighbours of the file."""

    def __init__(self, file: BinaryIO, deadline: float):
        self._file, self._deadline = file, deadline
        file.seek(0)

    def read(self, size: int) -> bytes:
        check_deadline(self._deadline)
        return self._file.read(size)

    def seek(self, offset: int, whence: int) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -1  # a damaged file points outside itself

    def tell(self) -> int:
        return self._file.tell()


def _refuse_other_files(url: str, flags: int, options: dict) -> None:
    raise VideoDecodeError(f"refers to another file ({url}); expected a file that holds its media itself")


@contextlib.contextmanager
def open_media(file: BinaryIO, deadline: float) -> Iterator:
    """Open a file with PyAV, from its first byte, for the time of the `with` block.

    Raises:
        VideoDecodeError: no media, a format that is not read, a reference to another file, damage that FFmpeg reports.
        VideoTimeoutError: the deadline passed while FFmpeg was reading.
    """
    if av is None:
        raise VideoDecodeError("cannot be decoded: PyAV is not installed (`pip install av`)")
    # Passing FFmpeg's messages on takes the interpreter lock, which whoever frees a decoder holds while waiting for
    # its threads: decoding would hang.
    av.logging.set_level(None)
    try:
        container = av.open(
            _NamelessFile(file, deadline),
            **LENIENT_TITLES,
            buffer_size=READ_BLOCK_BYTES,
            io_open=_refuse_other_files,
            container_options={
                "format_whitelist": ",".join(READABLE_FORMATS),
                "protocol_whitelist": "none",
                "enable_drefs": "0",
                "err_detect": STRICT,
            },
        )
        try:
            yield container
        finally:
            container.close()
    except av.FFmpegError as error:
        raise VideoDecodeError(
            f"is corrupt, truncated or not a video ({error.strerror or error}); "
            "expected a file that holds its media itself, no text, playlist or pattern"
        ) from error


def video_stream(container, *, threads: int | None = None):
    """The stream that FFmpeg calls best (the default one, then the highest bit rate), with a strict decoder.

    Args:
        container: of `open_media`.
        threads: of the decoder; None chooses by the size of the picture.
    """
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        kinds = sorted({"cover picture" if s.type == "video" else s.type for s in container.streams}) or ["nothing"]
        raise VideoDecodeError(f"has no video stream (found: {', '.join(kinds)}); expected a video")
    decoder = stream.codec_context
    if decoder is None:
        raise VideoDecodeError("has a video stream in a format that this PyAV build cannot decode")
    if threads is None:
        threads = MOST_THREADS if stream.width * stream.height <= LARGEST_THREADED_PX else 1
    if decoder.name == "vp8":  # which reports damage only when it decodes rows of a picture in threads
        decoder.thread_count, decoder.thread_type = 2, "SLICE"
    else:
        decoder.thread_count, decoder.thread_type = threads, "AUTO"
    decoder.options = {**decoder.options, "err_detect": STRICT}
    return stream


# --- packets ---------------------------------------------------------------------------------------------------------


@dataclass
class PacketTable:
    """What reading the packets of a stream, without decoding them, tells about it.

    A packet's number is its place in the file, which is the order of decoding.
    """

    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    num_bytes: list[int] = field(default_factory=list)
    is_key: list[bool] = field(default_factory=list)
    is_shown: list[bool] = field(default_factory=list)
    corrupt: set[int] = field(default_factory=set)
    last_frame_s: float | None = None  # how long the last frame is shown, if the file says

    @functools.cached_property
    def numbers(self) -> dict[tuple, int]:
        """Number of a packet by its (pts, dts, bytes), by which it is recognised after a jump."""
        known = zip(self.pts, self.dts, self.num_bytes, strict=True)
        return {facts: number for number, facts in enumerate(known)}

    @property
    def first_key(self) -> int:
        """The first packet that can be decoded without others; 0 if no packet says so."""
        return self.is_key.index(True) if True in self.is_key else 0

    @property
    def display_order(self) -> list[int] | None:
        """Numbers of the packets in the order in which their pictures are shown; None if time stamps do not tell."""
        shown = [number for number in range(len(self.pts)) if self.is_shown[number]]
        stamps = [self.pts[number] for number in shown]
        clock = [dts for dts in self.dts if dts is not None]
        if True not in self.is_key or None in stamps or len(set(stamps)) < len(stamps) or clock != sorted(clock):
            return None
        return sorted(shown, key=self.pts.__getitem__)

    @property
    def before_start(self) -> set[int]:
        """Packets that may need pictures from before the first keyframe: a recording that began anywhere has some.

        They precede the keyframe in the file, or follow it and are shown before it.
        """
        key, numbers = self.first_key, set(range(self.first_key))
        for number in range(key + 1, self.second_key):
            if None not in (self.pts[number], self.pts[key]) and self.pts[number] < self.pts[key]:
                numbers.add(number)
        return numbers

    @property
    def second_key(self) -> int:
        """The next packet that can be decoded without others; the number of packets if there is none."""
        later = self.is_key[self.first_key + 1 :]
        return self.first_key + 1 + later.index(True) if True in later else len(self.pts)

    def groups_of(self, damaged: set[int]) -> set[int]:
        """Packets from the keyframe before each damaged one to the next keyframe: a decoder may lose any of them."""
        numbers = set()
        keys = [0, *(number for number, is_key in enumerate(self.is_key) if is_key), len(self.is_key)]
        for start, stop in pairwise(keys):
            if not damaged.isdisjoint(range(start, stop)):
                numbers.update(range(start, stop))
        return numbers

    def spoiled_by(self, damaged: set[int]) -> set[int]:
        """Packets whose pictures may show damage: from each damaged one until a keyframe makes a new start.

        Pictures that follow a keyframe in the file and precede it on the screen still refer to those before it.
        """
        spoiled, spreading, key = set(), False, None
        for number in range(len(self.pts)):
            if self.is_key[number]:
                spreading, key = False, (number if spreading else None)
            leads = (
                key is not None
                and None not in (self.pts[number], self.pts[key])
                and (self.pts[number] < self.pts[key])
            )
            spreading = spreading or number in damaged
            if spreading or leads:
                spoiled.add(number)
        return spoiled


def packets_of(container, stream) -> Iterator:
    """The packets of a stream to the end of the file, and an empty one, after which a decoder has nothing more."""
    try:
        yield from container.demux(stream)
    except IndexError:
        return  # PyAV's end, where another stream began after the file was opened


def read_packets(container, stream, deadline: float) -> PacketTable:
    """Read a stream from its start to its end.

    Raises:
        VideoDecodeError: FFmpeg cannot read on, or the bytes of a packet are missing.
    """
    table, last_pts = PacketTable(), None
    is_vp8, is_ffv1 = (stream.codec_context.name == name for name in ("vp8", "ffv1"))
    unproven = set()  # without a right checksum, if FFV1 was written with checksums
    for packet in packets_of(container, stream):
        check_deadline(deadline)
        if packet.size == 0:
            continue
        # VP8 keeps reference pictures that are never shown in packets of their own.
        shown = not packet.is_discard and not (is_vp8 and not memoryview(packet)[0] & 0x10)
        if packet.is_corrupt:
            table.corrupt.add(len(table.pts))
        if is_ffv1 and not ffv1_slices_are_intact(bytes(packet)):
            unproven.add(len(table.pts))
        table.pts.append(packet.pts)
        table.dts.append(packet.dts)
        table.num_bytes.append(packet.size)
        table.is_key.append(packet.is_keyframe)
        table.is_shown.append(shown)
        if shown and packet.pts is not None and (last_pts is None or packet.pts > last_pts):
            last_pts = packet.pts
            table.last_frame_s = float(packet.duration * stream.time_base) if packet.duration else None
    if len(unproven) < len(table.pts):
        table.corrupt |= unproven
    return table


def refuse_missing_bytes(stream, file: BinaryIO) -> None:
    """Refuse a file whose index names frames that lie beyond its end (MP4, AVI; others have no such index)."""
    size, ends = file.seek(0, 2), [entry.pos + entry.size for entry in stream.index_entries]
    missing = sum(end > size for end in ends)
    if missing:
        raise VideoDecodeError(
            f"is truncated: it holds {len(ends) - missing} of the {len(ends)} frames it announces "
            f"({size} of at least {max(ends)} bytes)"
        )


def timeline_of(stream, times_s: np.ndarray, last_frame_s: float | None) -> FrameTimeline:
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
        last_frame_s = float(np.median(np.diff(times_s))) if total > 1 else 1 / (rate or DEFAULT_FPS)
    return FrameTimeline(total, times_s, times_s[-1] + last_frame_s)


def repaired_times_s(stream, stamps: list[int | None]) -> np.ndarray:
    """Times of pictures in the order of showing, (T,) seconds from 0, strictly ascending.

    Where time stamps are missing, repeat or jump back (streams joined together), a picture is shown for the usual
    time. Stamps that belong to a neighbour (an AVI file has none for reordered pictures) are put in order.
    """
    rate = float(stream.average_rate or DEFAULT_FPS)
    if not stamps or None in stamps:
        return np.arange(len(stamps)) / rate
    places = np.argsort(stamps, kind="stable")
    if np.abs(places - np.arange(len(stamps))).max() <= DEEPEST_REORDERING:
        stamps = sorted(stamps)
    times_s = (np.array(stamps, dtype=np.float64) - stamps[0]) * float(stream.time_base)
    steps_s = np.diff(times_s)
    forward = steps_s > 0
    if forward.all():
        return times_s
    steps_s[~forward] = np.median(steps_s[forward]) if forward.any() else 1 / rate
    return np.concatenate([[0.0], np.cumsum(steps_s)])
