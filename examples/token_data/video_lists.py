"""Which videos there are.

In:   a folder, a manifest, or a `datasets` data set
Out:  names, and for each its video: a path, or the bytes of a file
To:   tokenize_dataset.py
"""

import json
from collections.abc import Sequence
from pathlib import Path

from trajectory_data.clip_files import VIDEO_SUFFIXES


class VideoFiles:
    """Videos that are files; each once.

    Args:
        names: of the videos, paths relative to the folder.
        folder: where they are.
    """

    def __init__(self, names: Sequence[str], folder: Path):
        self.names, self.folder = list(dict.fromkeys(names)), folder

    def video(self, index: int) -> str:
        """The file of a video."""
        return str(self.folder / self.names[index])


def list_videos(source: str, split: str = "train", column: str = "video") -> "VideoFiles | DataSetVideos":
    """The videos of a source, in an order that does not change.

    Args:
        source: a folder with videos at any depth; a .json or .jsonl manifest with ``video`` paths beside it (the
            layout of the original's training files); a folder that `datasets` saved; or a data set's name on the Hub.
        split: of a data set.
        column: of a data set, with videos.

    Raises:
        ValueError: if there is no video, or a manifest cannot be read.
    """
    path = Path(source)
    if path.suffix in (".json", ".jsonl"):
        return _from_manifest(path)
    if path.is_dir() and not (path / "dataset_info.json").exists() and not (path / "dataset_dict.json").exists():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES)
        if not files:
            raise ValueError(
                f"{path} holds no video, expected files such as *{', *'.join(sorted(VIDEO_SUFFIXES)[:4])}."
            )
        return VideoFiles([file.relative_to(path).as_posix() for file in files], path)
    return DataSetVideos(source, split, column)


def _from_manifest(path: Path) -> VideoFiles:
    try:
        text = path.read_text(encoding="utf-8")
        entries = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
        names = [entry["video"] for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {error}), expected entries with a path under 'video'."
        ) from error
    if not names:
        raise ValueError(f"{path} names no video.")
    return VideoFiles(names, path.parent)


class DataSetVideos:
    """The videos of a `datasets` data set, which does not decode them; their names are the numbers of their rows."""

    def __init__(self, source: str, split: str, column: str):
        from datasets import DatasetDict, Video, load_dataset, load_from_disk

        if Path(source).is_dir():
            found = load_from_disk(source)
            found = found[split] if isinstance(found, DatasetDict) else found
        else:
            found = load_dataset(source, split=split)
        if column not in found.column_names:
            raise ValueError(
                f"{source} has no column {column!r}, expected one of {', '.join(found.column_names)}. Name it with "
                "--column."
            )
        feature = found.features[column]
        self.rows = found.cast_column(column, Video(decode=False)) if isinstance(feature, Video) else found
        self.column = column
        self.names = [f"{index:09d}" for index in range(len(self.rows))]

    def video(self, index: int) -> str | bytes:
        """The file or its bytes."""
        value = self.rows[index][self.column]
        return (value.get("bytes") or value.get("path")) if isinstance(value, dict) else value
