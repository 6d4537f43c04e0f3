"""Media integrity: are all the bytes there that a file says it has, where FFmpeg skips over a gap without a word?

In:   an open file, FFmpeg's name of its format
Out:  nothing, or a VideoDecodeError that says what is missing and where
From: decoder_backends

Matroska, WebM, AVI, Ogg, FLV and IVF are chains: each element says how long it is, so the next one is where it ends. A
file that broke off, or has a hole, breaks the chain. Others are read from one recognisable place to the next; there a
download that broke off is known by its end, which was reserved and never written.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from .media_checksums import crc32_msb_first
from .media_container import check_deadline
from .video_sources import VideoDecodeError

CACHE_BYTES = 1 << 17  # more than the largest page of an Ogg file
EBML_HEADER, SEGMENT, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
# Elements that stand beside clusters; one of them ends a cluster whose length is unknown.
SEGMENT_CHILDREN = {CLUSTER, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367}
FORMATS_WITHOUT_ZEROS = (
    "mpegts",
    "mpeg",
    "flv",
    "asf",
    "ivf",
    "h264",
    "hevc",
    "mjpeg",
    "jpeg_pipe",
    "mpegvideo",
    "m4v",
)
FLV_TAGS = (8, 9, 18)  # sound, pictures, facts
EMPTY_END_BYTES = 1024  # longer than any padding
UNFINISHED = (0, 0xFFFFFFFF)  # lengths in an AVI file whose writer was not closed


def check_integrity(file: BinaryIO, format_name: str, deadline: float) -> None:
    """Follow the chain of a file from its start to its end.

    Raises:
        VideoDecodeError: an element is longer than the file, or is none.
    """
    view = _View(file, deadline)
    if format_name == "matroska,webm":
        _follow_matroska(view)
    elif format_name == "avi":
        _follow_avi(view)
    elif format_name == "ogg":
        _follow_ogg(view)
    elif format_name == "flv":
        _follow_flv(view)
    elif format_name == "ivf":
        _follow_ivf(view)
    if format_name in FORMATS_WITHOUT_ZEROS:
        _refuse_empty_end(view)


class _View:
    """Reads a file at any place, a block at a time."""

    def __init__(self, file: BinaryIO, deadline: float):
        self._file, self._deadline = file, deadline
        self._start, self._block = 0, b""
        self.size = file.seek(0, 2)

    def at(self, place: int, length: int) -> bytes:
        if not self._start <= place <= place + length <= self._start + len(self._block):
            check_deadline(self._deadline)
            self._file.seek(place)
            self._start, self._block = place, self._file.read(CACHE_BYTES)
        return self._block[place - self._start : place - self._start + length]


def _follow_matroska(view: _View) -> None:
    place = 0
    while place < view.size:
        name, start, end = _element(view, place)
        if name != SEGMENT:
            if name != EBML_HEADER and place:
                return  # what follows the segment is not ours
            place = view.size if end is None else end
            continue
        announced = end
        if announced is not None and announced > view.size:
            raise VideoDecodeError(f"is truncated: it holds {view.size} of the {announced} bytes it announces")
        place = _follow_segment(view, start, announced)


def _follow_segment(view: _View, place: int, announced: int | None) -> int:
    stop, cluster_end = view.size if announced is None else announced, 0
    while place < stop:
        name, start, end = _element(view, place)
        if end is not None and end > view.size:
            raise VideoDecodeError(f"is truncated: it holds {view.size} of at least {end} bytes")
        if name == CLUSTER:
            cluster_end = stop if end is None else end
            place = start
            continue
        if end is None or end > (stop if name in SEGMENT_CHILDREN or place >= cluster_end else cluster_end):
            raise VideoDecodeError(f"is damaged: the element at byte {place} does not end where it must")
        place = end
    return stop


def _element(view: _View, place: int) -> tuple[int, int, int | None]:
    """Name of an EBML element, and the bytes where its content starts and ends (None: unknown)."""
    head = view.at(place, 12)
    name_length = _vint_length(head[:1], 4)
    size_length = _vint_length(head[name_length : name_length + 1], 8) if name_length else 0
    if not size_length or len(head) < name_length + size_length:
        raise VideoDecodeError(f"is damaged: there is no element at byte {place}, where one must be")
    name = int.from_bytes(head[:name_length], "big")
    mask = (1 << 7 * size_length) - 1
    size = int.from_bytes(head[name_length : name_length + size_length], "big") & mask
    start = place + name_length + size_length
    return name, start, None if size == mask else start + size


def _vint_length(first: bytes, longest: int) -> int:
    """Bytes of an EBML number, told by the leading zeros of its first byte; 0 if it is none."""
    length = 9 - first[0].bit_length() if first else 9
    return length if length <= longest else 0


def _follow_avi(view: _View) -> None:
    place = 0
    while view.at(place, 4) == b"RIFF":  # files above 1 GB have several
        _, start, end = _chunk(view, place)
        for name, chunk_start, chunk_end in _chunks(view, start + 4, end):
            if name == b"LIST" and view.at(chunk_start, 4) == b"movi":
                for _ in _chunks(view, chunk_start + 4, chunk_end):
                    pass
        place = end


def _chunks(view: _View, place: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    while place + 8 <= stop:
        name, start, end = _chunk(view, place)
        yield name, start, end
        place = end + (end - start) % 2


def _chunk(view: _View, place: int) -> tuple[bytes, int, int]:
    """Name of a RIFF chunk, and the bytes where its content starts and ends."""
    name, size = struct.unpack("<4sI", view.at(place, 8))
    if not all(32 <= letter < 127 for letter in name):
        raise VideoDecodeError(f"is damaged: there is no chunk at byte {place}, where one must be")
    is_list, end = name in (b"RIFF", b"LIST"), place + 8 + size
    if is_list and size in UNFINISHED:
        return name, place + 8, view.size
    if end > view.size:
        raise VideoDecodeError(f"is truncated: it holds {view.size} of at least {end} bytes")
    return name, place + 8, end


def _follow_ogg(view: _View) -> None:
    place = 0
    while place < view.size:
        head = view.at(place, 27)
        if head[:4] != b"OggS" or len(head) < 27:
            raise VideoDecodeError(f"is damaged: there is no page at byte {place}, where one must be")
        length = 27 + head[26] + sum(view.at(place + 27, head[26]))
        if place + length > view.size:
            raise VideoDecodeError(f"is truncated: it holds {view.size} of at least {place + length} bytes")
        page = view.at(place, length)
        if crc32_msb_first(page[:22] + bytes(4) + page[26:]) != int.from_bytes(page[22:26], "little"):
            raise VideoDecodeError(f"is damaged: the page at byte {place} differs from its checksum")
        place += length


def _follow_flv(view: _View) -> None:
    place = int.from_bytes(view.at(5, 4), "big") + 4  # after the header, and the length of the tag before the first
    lengths_hold = None  # some writers repeat the length of a tag wrongly, then all of them
    while place < view.size:
        length = 11 + int.from_bytes(view.at(place + 1, 3), "big")
        if view.at(place, 1)[0] & 0x1F not in FLV_TAGS:
            raise VideoDecodeError(f"is damaged: there is no tag at byte {place}, where one must be")
        if place + length > view.size:
            raise VideoDecodeError(f"is truncated: it holds {view.size} of at least {place + length} bytes")
        repeated = view.at(place + length, 4)
        if len(repeated) == 4:
            holds = int.from_bytes(repeated, "big") == length
            if lengths_hold and not holds:
                raise VideoDecodeError(f"is damaged: the tag at byte {place} does not end where it must")
            lengths_hold = holds if lengths_hold is None else lengths_hold
        place += length + 4


def _follow_ivf(view: _View) -> None:
    place = int.from_bytes(view.at(6, 2), "little")
    while place < view.size:
        end = place + 12 + int.from_bytes(view.at(place, 4), "little")
        if end > view.size:
            raise VideoDecodeError(f"is truncated: it holds {view.size} of at least {end} bytes")
        place = end


def _refuse_empty_end(view: _View) -> None:
    end = view.at(max(view.size - EMPTY_END_BYTES, 0), EMPTY_END_BYTES)
    if len(end) == EMPTY_END_BYTES and not any(end):
        raise VideoDecodeError(f"is truncated: at least its last {EMPTY_END_BYTES} bytes were never written (zeros)")
