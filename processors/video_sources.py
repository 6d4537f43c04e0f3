"""Video sources: whatever a user hands over becomes one regular file on disk, with a name for messages.

In:   path (str or Path), http(s), file: or data: URL, bytes, or a readable binary file object
Out:  LocalVideo(path, name); downloads, bytes and file objects live in a temporary file that is removed afterwards
From: the user     To: frame_decoding
"""

import base64
import contextlib
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

DOWNLOAD_BLOCK_BYTES = 1 << 18


class VideoDecodeError(ValueError):
    """A video could not be turned into frames; the message names the video and says what happened."""


class VideoTimeoutError(VideoDecodeError):
    """A video took longer than its time limit."""


@dataclass(frozen=True)
class LocalVideo:
    """A regular, non-empty file on disk, and the name by which messages call it."""

    path: str
    name: str


VideoSource = str | os.PathLike | bytes | bytearray | memoryview | BinaryIO


def is_video_source(value: object) -> bool:
    """Whether `value` names or holds an encoded video (not an array, tensor or picture)."""
    return isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview)) or (
        callable(getattr(value, "read", None)) and not hasattr(value, "__array_interface__")
    )


def resolve_address(source: VideoSource) -> VideoSource:
    """What a ``file:`` or ``data:`` address stands for, a path or bytes; every other source as it is.

    Raises:
        VideoDecodeError: an address of another machine's file, or data that is not encoded as it says.
    """
    if not isinstance(source, str) or not source[:5].lower().startswith(("file:", "data:")):
        return source
    name = source_name(source)
    if source[:5].lower() == "file:":
        address = urllib.parse.urlparse(source)
        if address.netloc not in ("", "localhost"):
            raise VideoDecodeError(f"{name}: a file of another machine ({address.netloc}); expected file:///path.")
        return Path(urllib.request.url2pathname(address.path))
    head, comma, body = source[5:].partition(",")
    try:
        if not comma:
            raise ValueError("no comma before the data")
        data = urllib.parse.unquote_to_bytes(body)
        return base64.b64decode(data, validate=True) if head.lower().endswith(";base64") else data
    except ValueError as error:
        raise VideoDecodeError(
            f"{name}: {error}; expected data:video/mp4;base64,... with the encoded file."
        ) from error


def source_name(source: object) -> str:
    """How messages call a source: its path, its URL without the query (which may hold a key), or its kind."""
    if isinstance(source, str) and source[:5].lower() == "data:":
        return f"<data: address of {len(source)} characters>"
    if isinstance(source, str) and _is_url(source):
        return source.split("?")[0].split("#")[0]
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes in memory>"
    return str(getattr(source, "name", f"<{type(source).__name__}>"))


@contextlib.contextmanager
def open_source(source: VideoSource, deadline: float) -> Iterator[LocalVideo]:
    """Give `source` a place on disk for the time of the `with` block.

    Args:
        source: path, http(s), file: or data: URL, encoded bytes or binary file object (read from where it stands).
        deadline: value of `time.monotonic()` at which a download is given up.

    Yields:
        The file to decode.

    Raises:
        VideoDecodeError: missing, unreadable, empty or not a regular file, a failed download.
        VideoTimeoutError: the download did not end in time.
    """
    name = source_name(source)
    source = resolve_address(source)
    if isinstance(source, (str, os.PathLike)) and not _is_url(source):
        yield LocalVideo(_checked_path(Path(source).expanduser(), name), name)
        return
    with tempfile.TemporaryDirectory(prefix="trajtok-video-") as folder:
        path = Path(folder) / "video"
        with path.open("wb") as file:
            if isinstance(source, str):
                _download(source, file, name, deadline)
            elif isinstance(source, (bytes, bytearray, memoryview)):
                file.write(source)
            else:
                shutil.copyfileobj(source, file)
        yield LocalVideo(_checked_path(path, name), name)


def _is_url(source: object) -> bool:
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def _checked_path(path: Path, name: str) -> str:
    try:
        if not path.exists():
            raise VideoDecodeError(f"{name}: no such file. Check the path; the working directory is {Path.cwd()}.")
        # Devices and pipes may block for ever on open, before any time limit can be checked.
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise VideoDecodeError(f"{name}: {kind}; expected a video file.")
        with path.open("rb") as file:
            if not file.read(1):
                raise VideoDecodeError(f"{name}: the file is empty (0 bytes); expected a video.")
    except OSError as error:
        raise VideoDecodeError(f"{name}: cannot be read ({error.strerror or error}).") from error
    return str(path.resolve())


def _download(url: str, file: BinaryIO, name: str, deadline: float) -> None:
    late = VideoTimeoutError(f"{name}: the download did not end within the time limit; raise `decode_timeout_s`.")
    request = urllib.request.Request(url, headers={"User-Agent": "trajtok"})
    try:
        with urllib.request.urlopen(request, timeout=max(deadline - time.monotonic(), 0.001)) as response:
            announced = response.headers.get("Content-Length")
            while block := response.read1(DOWNLOAD_BLOCK_BYTES):
                file.write(block)
                if time.monotonic() > deadline:
                    raise late
    except TimeoutError as error:
        raise late from error
    except (urllib.error.URLError, OSError, ValueError) as error:
        if isinstance(error, VideoDecodeError):
            raise
        if isinstance(getattr(error, "reason", None), TimeoutError):
            raise late from error
        raise VideoDecodeError(f"{name}: the download failed ({error}).") from error
    if announced is not None and file.tell() < int(announced):
        raise VideoDecodeError(f"{name}: the download broke off after {file.tell()} of {announced} bytes.")
