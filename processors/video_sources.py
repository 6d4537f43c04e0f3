"""Video sources: whatever a user hands over becomes one open file that can seek, with a name for messages.

In:   path (str or Path), http(s), file: or data: URL, bytes, or a readable binary file object
Out:  OpenVideo(file, name); what comes from the network or a file object lies in a temporary file without a name
From: the user     To: frame_decoding

A temporary file without a name is removed by the operating system, also when the process is killed.
"""

import base64
import contextlib
import errno
import functools
import http.client
import io
import os
import shutil
import socket
import stat
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

try:
    from av import FFmpegError
except ImportError:
    FFmpegError = ()

BLOCK_BYTES = 1 << 18
DISK_RESERVE_BYTES = 256 << 20  # what a copy leaves free
# Full disk, no memory or process left, too many open files: these say nothing about a video.
ERRNOS_OF_MACHINES = tuple(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "ENOMEM", "EMFILE", "ENFILE", "EAGAIN")
    if hasattr(errno, name)
)


class VideoDecodeError(ValueError):
    """A video could not be turned into frames; the message names the video and says what happened."""


class VideoTimeoutError(VideoDecodeError):
    """A video took longer than its time limit."""


class MachineError(OSError):
    """This machine cannot decode now, whatever the video; the message says why: full disk, no memory, no decoder."""


def is_machine_error(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, speaks of this machine and not of a video.

    FFmpeg's own errors never do: it also reports "out of memory" for files that claim to be enormous.
    """
    seen = []
    while error is not None and error not in seen:
        if isinstance(error, MachineError):
            return True
        is_of_files = isinstance(error, FFmpegError)
        if not is_of_files and (isinstance(error, MemoryError) or getattr(error, "errno", None) in ERRNOS_OF_MACHINES):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False


def machine_error(name: str, error: BaseException) -> MachineError:
    """The error that says that the video called `name` was not read, though nothing is known to be wrong with it."""
    while error.__cause__ is not None and not isinstance(error, MachineError):
        error = error.__cause__
    said = getattr(error, "strerror", None) or str(error) or "it does not fit into memory"
    said = said.removeprefix(f"{name}: ").rstrip(".")
    return MachineError(f"{name}: this machine could not read it ({said}). The video may be good: try it again.")


@dataclass(frozen=True)
class OpenVideo:
    """A non-empty file that can seek, open for reading, and the name by which messages call it."""

    file: BinaryIO
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
        return os.fsdecode(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes in memory>"
    name = getattr(source, "name", None)
    return name if isinstance(name, str) and name else f"<{type(source).__name__}>"


@contextlib.contextmanager
def open_source(source: VideoSource, deadline: float, max_bytes: int) -> Iterator[OpenVideo]:
    """Open `source` for the time of the `with` block.

    Args:
        source: path, http(s), file: or data: URL, encoded bytes or binary file object (read from where it stands).
        deadline: value of `time.monotonic()` at which copying is given up. A file object that blocks can keep this
            function for longer, so callers with a time limit run it in a thread of its own.
        max_bytes: size above which downloads and file objects are given up.

    Yields:
        The open file.

    Raises:
        VideoDecodeError: missing, unreadable, empty or not a regular file, a text file object, a failed download.
        MachineError: there is no room for a temporary copy.
        VideoTimeoutError: the download or the file object did not end in time.
    """
    name = source_name(source)
    source = resolve_address(source)
    with contextlib.ExitStack() as opened:
        try:
            if isinstance(source, str) and _is_url(source):
                file = opened.enter_context(_temporary_file())
                _download(source, file, name, deadline, max_bytes)
            elif isinstance(source, (str, os.PathLike)):
                file = opened.enter_context(_open_regular(source, name))
            elif isinstance(source, (bytes, bytearray, memoryview)):
                file = opened.enter_context(io.BytesIO(source))
            else:
                file = opened.enter_context(_temporary_file())
                _copy(_reading(source, name), file, name, deadline, max_bytes)
        except MachineError:
            raise
        except OSError as error:
            raise VideoDecodeError(f"{name}: cannot be read ({error.strerror or error}).") from error
        file.seek(0)
        if not file.read(1):
            raise VideoDecodeError(f"{name}: the file is empty (0 bytes); expected a video.")
        yield OpenVideo(file, name)


def _is_url(source: object) -> bool:
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def _temporary_file() -> BinaryIO:
    try:
        return tempfile.TemporaryFile(prefix="trajtok-video-")
    except OSError as error:  # on a full disk Python finds no folder for temporary files
        raise MachineError(f"no temporary file can be made: {error.strerror or error}") from error


def _open_regular(source: str | os.PathLike, name: str) -> BinaryIO:
    if not name or "\0" in name:
        raise VideoDecodeError(f"{name!r}: no such file; a path is not empty and has no null characters.")
    path = Path(os.fsdecode(source)).expanduser()
    if not path.exists():
        raise VideoDecodeError(f"{name}: no such file. Check the path; the working directory is {Path.cwd()}.")
    # Opening a pipe waits for its writer, unless told not to.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    with contextlib.ExitStack() as on_error:
        on_error.callback(os.close, descriptor)
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise VideoDecodeError(f"{name}: {kind}; expected a video file.")
        on_error.pop_all()
    return open(descriptor, "rb", buffering=0)


def _reading(source: BinaryIO, name: str):
    """`source.read`, whose failures name the source."""

    def read(size: int) -> bytes:
        try:
            block = source.read(size)
        except Exception as error:  # the object is the caller's, and can fail in any way
            said = str(error) or type(error).__name__
            raise VideoDecodeError(f"{name}: reading the file object failed ({said}).") from error
        if not isinstance(block, (bytes, bytearray, memoryview)):
            kind = "text: open it in binary mode ('rb')" if isinstance(block, str) else f"{type(block).__name__}"
            raise VideoDecodeError(f"{name}: expected a file object whose read() returns bytes, got {kind}.")
        return block

    return read


def _copy(read, file: BinaryIO, name: str, deadline: float, max_bytes: int) -> None:
    """Copy what `read(size)` returns until it returns nothing."""
    copied = 0
    while block := read(BLOCK_BYTES):
        if time.monotonic() > deadline:
            raise VideoTimeoutError(f"{name}: reading did not end within the time limit; raise `decode_timeout_s`.")
        copied += len(block)
        if copied > max_bytes:
            raise VideoDecodeError(
                f"{name}: has more than {max_bytes / 1e9:.1f} GB, the limit for downloads and file objects. "
                "Save it as a file, or raise `max_bytes`."
            )
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if free < DISK_RESERVE_BYTES:
            raise MachineError(
                f"{name}: no room for a temporary copy after {copied / 1e6:.0f} MB ({free / 1e6:.0f} MB are free in "
                f"{tempfile.gettempdir()}). Set TMPDIR to a larger disk, or save it as a file."
            )
        file.write(block)


# --- downloads -------------------------------------------------------------------------------------------------------


class _DeadlineSocketReader(io.RawIOBase):
    """Reads a socket so that no answer, however slowly it drips, passes the deadline."""

    def __init__(self, connection: socket.socket, deadline: float):
        self._connection, self._deadline = connection, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        remaining_s = self._deadline - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError("the time limit has passed")
        self._connection.settimeout(remaining_s)
        return self._connection.recv_into(buffer)


class _DeadlineResponse(http.client.HTTPResponse):
    def __init__(self, connection: socket.socket, *args, deadline: float, **kwargs):
        super().__init__(connection, *args, **kwargs)
        self._socket_file, self.fp = self.fp, io.BufferedReader(_DeadlineSocketReader(connection, deadline))

    def close(self) -> None:
        super().close()
        self._socket_file.close()


def _opener(deadline: float) -> urllib.request.OpenerDirector:
    """Opens http and https addresses and nothing else, also after a redirection."""

    def connect(kind: type, host: str, **options):
        connection = kind(host, **options)
        connection.response_class = functools.partial(_DeadlineResponse, deadline=deadline)
        return connection

    class Http(urllib.request.HTTPHandler):
        def http_open(self, request):
            return self.do_open(functools.partial(connect, http.client.HTTPConnection), request)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, request):
            return self.do_open(
                functools.partial(connect, http.client.HTTPSConnection), request, context=self._context
            )

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        Http(),
        Https(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _download(url: str, file: BinaryIO, name: str, deadline: float, max_bytes: int) -> None:
    late = VideoTimeoutError(f"{name}: the download did not end within the time limit; raise `decode_timeout_s`.")
    request = urllib.request.Request(url, headers={"User-Agent": "trajtok"})
    try:
        with _opener(deadline).open(request, timeout=max(deadline - time.monotonic(), 0.001)) as response:
            announced = response.headers.get("Content-Length")
            _copy(response.read1, file, name, deadline, max_bytes)
    except TimeoutError as error:
        raise late from error
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        if isinstance(error, (VideoDecodeError, MachineError)):
            raise
        if isinstance(getattr(error, "reason", None), TimeoutError):
            raise late from error
        raise VideoDecodeError(f"{name}: the download failed ({error}).") from error
    if announced is not None and announced.isdigit() and file.tell() < int(announced):
        raise VideoDecodeError(f"{name}: the download broke off after {file.tell()} of {announced} bytes.")
