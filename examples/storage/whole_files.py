"""Files that are whole or not there, whenever the work ends and whoever else writes them.

In:   a path, and what writes a file
Out:  the file; of a full disk an OSError that says so
To:   everything that writes
"""

import errno
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What libraries make of these errors when they do not hand the number on.
FULL_AS_TEXT = re.compile(
    r"no space left|quota exceeded|file too large|os error (28|27|122)\b|file write failed|unexpected pos",
    re.IGNORECASE,
)
PARTS = ".*.part"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a name of its own beside its place, then move it there.

    A reader finds the old file or the new one; of several writers one wins; what could not be finished is removed.

    Args:
        path: where the file belongs; its folder is made.
        write: writes the file that it is given, whose name does not tell its format.

    Raises:
        OSError: if the disk is full; whatever ``write`` raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with telling_full_disk(path):
            part.touch()
            mode = part.stat().st_mode
            write(part)
            part.chmod(mode)  # some libraries keep what they write from other users
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Delete what writers left in a folder that were killed; for who alone writes there."""
    for part in folder.glob(PARTS):
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file in UTF-8, as `write_whole` writes it."""
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def space_for(path: Path) -> None:
    """Take all the space of a file that has holes; a hole that cannot be filled later would kill the process.

    Raises:
        OSError: if the disk is too full.
    """
    if hasattr(os, "posix_fallocate"):
        with telling_full_disk(path), path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or what it came from, means that there is no room for a file."""
    seen = []
    while error is not None and error not in seen:
        if getattr(error, "errno", None) in FULL or FULL_AS_TEXT.search(str(error)):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def telling_full_disk(place: Path) -> Iterator[None]:
    """Errors of any library that mean that there is no room become an OSError that names the place.

    Raises:
        OSError: in their stead; other errors as they are.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        number = getattr(error, "errno", None)
        raise OSError(
            number if number in FULL else errno.ENOSPC,
            f"{place} cannot be written: there is no room for it. What is finished stays. Free some space and start "
            "the same command again",
        ) from error


def one_line(error: BaseException) -> str:
    """An error as a line for the user."""
    text = error.strerror if isinstance(error, OSError) and is_disk_full(error) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
