"""One process at a time works in a folder.

In:   a folder that several processes may choose
Out:  FOLDER/.lock, which the system gives free when the process that holds it ends, however it ends
To:   everything whose files belong together
"""

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

try:
    import fcntl
except ImportError:  # there are no such locks on Windows, and nobody is kept out
    fcntl = None

LOCK = ".lock"
UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
PATIENCE_S = 10.0  # the helpers of a process that was killed may hold its lock for some seconds
POLL_S = 0.05


class FolderInUseError(OSError):
    """Another process works in the folder; the message says what to do."""


@contextmanager
def folder_lock(folder: Path, *, wait: bool = False, held: bool = True) -> Iterator[None]:
    """Be the only one in a folder, which is made if it is missing.

    Args:
        folder: whose lock is taken; a second lock of it in the same process is refused as well.
        wait: for as long as it takes; otherwise after some seconds there is an error.
        held: False: do nothing, for a process whose leader holds the lock.

    Raises:
        FolderInUseError: if another process is at work and ``wait`` is not set.
    """
    descriptor = _open(folder) if held and fcntl is not None else None
    if descriptor is None:
        yield
        return
    try:
        _take(descriptor, folder, wait)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # though a helper that was forked meanwhile may still live
    finally:
        os.close(descriptor)


def _open(folder: Path) -> int | None:
    """The lock's descriptor; None where this process cannot write and so disturbs nobody."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        return None


def _take(descriptor: int, folder: Path, wait: bool) -> None:
    deadline, told = time.monotonic() + PATIENCE_S, False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno in UNSUPPORTED:  # by this file system: nobody is kept out
                return
            if not isinstance(error, BlockingIOError):
                raise
            late = time.monotonic() > deadline
            if late and not wait:
                raise FolderInUseError(
                    f"{folder} is in use by another process. Wait until it has ended, or choose another folder."
                ) from None
            if wait and not told:
                tqdm.write(f"waiting: another process is at work in {folder}", file=sys.stderr)
                told = True
        time.sleep(POLL_S)
