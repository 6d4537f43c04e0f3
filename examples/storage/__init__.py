"""Files that others may read or write at the same time, on a disk that may be full.

whole_files.py   a file is whole or not there; errors that mean that the disk is full say so
folder_locks.py  one process at a time works in a folder
"""

from .folder_locks import LOCK, FolderInUseError, folder_lock
from .whole_files import (
    PARTS,
    is_disk_full,
    one_line,
    remove_parts,
    space_for,
    telling_full_disk,
    write_text,
    write_whole,
)

__all__ = [
    "LOCK",
    "PARTS",
    "FolderInUseError",
    "folder_lock",
    "is_disk_full",
    "one_line",
    "remove_parts",
    "space_for",
    "telling_full_disk",
    "write_text",
    "write_whole",
]
