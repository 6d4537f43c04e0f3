"""Which videos there are, and what is told of them.

In:   a folder, a manifest, or a `datasets` data set
Out:  names, and for each its video (a path, or the bytes of a file) and its annotations: a list of entries as JSON
      knows them, of a folder {"label": the video's own folder}, otherwise the other fields of manifest or data set
To:   tokenize_dataset.py
"""

import json
from pathlib import Path

from trajectory_data.clip_files import VIDEO_SUFFIXES


class VideoFiles:
    """Videos that are files; each once.

    Args:
        annotations: for each name, a path relative to the folder, its entries.
        folder: where they are.
        source: what tells this list from others: the last two parts of its place.
    """

    def __init__(self, annotations: dict[str, list[dict]], folder: Path, source: Path):
        self.names, self.folder, self.annotations = list(annotations), folder, annotations
        self.source = "/".join(source.resolve().parts[-2:])

    def video(self, index: int) -> str:
        """The file of a video."""
        return str(self.folder / self.names[index])

    def annotations_of(self, index: int) -> list[dict]:
        """What is told of a video."""
        return self.annotations[self.names[index]]


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
        names = {
            file.relative_to(path).as_posix(): [] if file.parent == path else [{"label": file.parent.name}]
            for file in files
        }
        return VideoFiles(names, path, path)
    return DataSetVideos(source, split, column)


def _from_manifest(path: Path) -> VideoFiles:
    try:
        text = path.read_text(encoding="utf-8")
        # Texts may hold what `splitlines` takes for the end of a line.
        lines = [line for line in text.split("\n") if line.strip()]
        entries = [json.loads(line) for line in lines] if path.suffix == ".jsonl" else json.loads(text)
        told = {}
        for entry in entries:
            name = entry["video"]
            told.setdefault(name, []).append({key: value for key, value in entry.items() if key != "video"})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {error}), expected entries with a path under 'video'."
        ) from error
    if not told:
        raise ValueError(f"{path} names no video.")
    return VideoFiles(told, path.parent, path)


class DataSetVideos:
    """The videos of a `datasets` data set, which does not decode them; their names are the numbers of their rows."""

    def __init__(self, source: str, split: str, column: str):
        from datasets import Audio, DatasetDict, Image, Video, load_dataset, load_from_disk

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
        self.source = f"{Path(source).name} split={split} column={column} fingerprint={found._fingerprint}"
        left_out = [
            name
            for name, feature in found.features.items()
            if name == column
            or isinstance(feature, (Video, Image, Audio))
            or getattr(feature, "dtype", "") == "binary"
        ]
        self.told = self.rows.remove_columns(left_out)

    def video(self, index: int) -> str | bytes:
        """The file or its bytes.

        Raises:
            ValueError: the row has neither.
        """
        value = self.rows[index][self.column]
        video = (value.get("bytes") or value.get("path")) if isinstance(value, dict) else value
        if not isinstance(video, (str, bytes)) or not video:
            raise ValueError(f"{self.names[index]}: {type(video).__name__} is no video, expected a path or bytes.")
        return video

    def annotations_of(self, index: int) -> list[dict]:
        """The row's other columns but for media; of a class its name."""
        row = self.told[index] if self.told.column_names else {}
        for name, value in row.items():
            if hasattr(self.told.features[name], "int2str"):  # -1 stands for no class
                row[name] = self.told.features[name].int2str(value) if value is not None and value >= 0 else None
        return [row]
