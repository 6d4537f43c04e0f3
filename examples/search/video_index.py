"""The index: embeddings of all windows of a folder of videos, kept on disk between searches.

In:   a folder of videos, a ClipEmbedder
Out:  WindowRow for every window, readable from Parquet by any tool; FileState for every video
From: clip_embedding     To: search_videos.py

    INDEX/index.json            checkpoint and settings: what all embeddings have in common
    INDEX/videos/<hash>.parquet one file per video, one row per window; a video that cannot be read has no rows.
                                Schema metadata "video": path, size, time of change, and why it cannot be read

Every file is written beside its place and then moved there: a file is whole or not there, whenever the work ends.
Whoever opens an index holds the lock of its folder for as long as it is used (see storage).
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from storage import PARTS, write_text, write_whole
from trajectory_data.clip_files import VIDEO_SUFFIXES

FORMAT = 2  # of the files and of what a window is
SCHEMA = pa.schema(
    {
        "start_s": pa.float64(),
        "end_s": pa.float64(),
        "frame_indices": pa.list_(pa.int64()),
        "embedding": pa.list_(pa.float32()),
        "trajectory_ids": pa.list_(pa.int64()),
        "trajectory_embeddings": pa.list_(pa.list_(pa.float32())),
    }
)


class IndexMismatchError(ValueError):
    """The index on disk belongs to something else; the message says to what, and what to do."""


@dataclass(frozen=True)
class FileState:
    """A video as it was when it was read; with another size or time of change it is another one.

    Attributes:
        path: relative to the folder, with "/".
        size_bytes: its size.
        mtime_ns: when it was last changed.
        error: why it cannot be read; empty if it can.
    """

    path: str
    size_bytes: int
    mtime_ns: int
    error: str = ""

    def same_file_as(self, other: "FileState") -> bool:
        """Whether the video is still what it was."""
        return replace(self, error="") == replace(other, error="")


@dataclass
class WindowRow:
    """One window in the index; see `SCHEMA`."""

    start_s: float
    end_s: float
    frame_indices: np.ndarray
    embedding: np.ndarray
    trajectory_ids: np.ndarray
    trajectory_embeddings: np.ndarray
    path: str = ""


@dataclass
class IndexUpdate:
    """What `VideoIndex.plan` found in the folder.

    Attributes:
        to_embed: new and changed videos.
        known: paths that need nothing.
        dropped: paths of videos that are gone.
    """

    to_embed: list[FileState] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def find_videos(folder: Path) -> list[FileState]:
    """All videos below a folder, by suffix, ordered by path.

    Raises:
        ValueError: the folder is missing or holds no videos.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder. Pass the folder that holds the videos.")
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            facts = path.stat()
            found.append(FileState(path.relative_to(folder).as_posix(), facts.st_size, facts.st_mtime_ns))
    if not found:
        raise ValueError(f"{folder}: no videos, expected files that end in {', '.join(sorted(VIDEO_SUFFIXES))}.")
    return found


class VideoIndex:
    """The index of one folder of videos in a folder of its own.

    Args:
        path: folder of the index; made if missing.
        videos: the folder of videos.
        checkpoint: hashes of the checkpoint's files by name.
        settings: what else embeddings depend on.
        rebuild: forget what the index holds.

    Raises:
        IndexMismatchError: the index was made with another checkpoint, other settings or for another folder.
    """

    def __init__(self, path: Path, videos: Path, checkpoint: dict, settings: dict, rebuild: bool = False):
        self.shards = path / "videos"
        # The folder as the index sees it, so that both can move together.
        folder = Path(os.path.relpath(videos.resolve(), path.resolve())).as_posix()
        identity = {"format": FORMAT, "folder": folder, "checkpoint": checkpoint, "settings": settings}
        identity = json.loads(json.dumps(identity))
        manifest = path / "index.json"
        known = manifest.exists() and not rebuild
        if known:
            _refuse_other(manifest, identity)
        self.shards.mkdir(parents=True, exist_ok=True)
        if known:
            return
        # What is embedded goes first: without it the old manifest says nothing wrong, wherever this is interrupted.
        for shard in self._files():
            shard.unlink()
        write_text(manifest, json.dumps(identity, indent=2) + "\n")

    def plan(self, found: list[FileState]) -> IndexUpdate:
        """Compare the index with the videos that are there; forget those that are gone, changed or damaged."""
        update, current = IndexUpdate(), {state.path: state for state in found}
        for shard in sorted(self._files()):
            state = _stored_state(shard)
            whole = state is not None and shard == self._shard(state.path)  # else broken off, or damaged since
            if whole and state.path in current and current[state.path].same_file_as(state):
                update.known.append(state.path)
                continue
            shard.unlink()
            if whole and state.path not in current:
                update.dropped.append(state.path)
        known = set(update.known)
        update.to_embed = [state for state in found if state.path not in known]
        return update

    def add(self, state: FileState, rows: list[WindowRow]) -> None:
        """Keep the windows of a video in place of those it had."""
        values = [{name: getattr(row, name) for name in SCHEMA.names} for row in rows]
        for value in values:
            value["trajectory_embeddings"] = list(value["trajectory_embeddings"])
        schema = SCHEMA.with_metadata({"video": json.dumps(asdict(state))})
        table = pa.Table.from_pylist(values, schema=schema)
        write_whole(self._shard(state.path), lambda part: pq.write_table(table, part, compression="zstd"))

    def unreadable(self) -> list[FileState]:
        """Videos that could not be read, by path."""
        states = [_state_of(pq.read_schema(shard)) for shard in self.shards.glob("*.parquet")]
        return sorted((state for state in states if state.error), key=lambda state: state.path)

    def windows(self) -> tuple[list[tuple[str, int]], np.ndarray]:
        """Path of the video and number of the window within it, for every window, and all embeddings (W, E)."""
        places, embeddings = [], []
        for shard in sorted(self.shards.glob("*.parquet")):
            table = pq.read_table(shard, columns=["embedding"])
            path = _state_of(table.schema).path
            places += [(path, number) for number in range(table.num_rows)]
            if table.num_rows:
                flat = table.column("embedding").combine_chunks().flatten().to_numpy()
                embeddings.append(flat.reshape(table.num_rows, -1))
        return places, np.concatenate(embeddings) if embeddings else np.zeros((0, 0), np.float32)

    def row(self, path: str, number: int) -> WindowRow:
        """All that is known of one window of one video."""
        values = pq.read_table(self._shard(path)).slice(number, 1).to_pylist()[0]
        dtypes = {"frame_indices": np.int64, "trajectory_ids": np.int64}
        arrays = {
            name: np.array(value, dtypes.get(name, np.float32)) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return WindowRow(**arrays, path=path)

    def _files(self) -> list[Path]:
        """The shards, and what writers left that were killed."""
        return [*self.shards.glob("*.parquet"), *self.shards.glob(PARTS)]

    def _shard(self, path: str) -> Path:
        return self.shards / f"{hashlib.sha256(path.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.parquet"


def _stored_state(shard: Path) -> FileState | None:
    try:
        return _state_of(pq.read_schema(shard))
    except (pa.ArrowException, KeyError, ValueError, TypeError, OSError):
        return None


def _state_of(schema: pa.Schema) -> FileState:
    return FileState(**json.loads((schema.metadata or {})[b"video"]))


def _refuse_other(manifest: Path, identity: dict) -> None:
    try:
        stored = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IndexMismatchError(f"{manifest} cannot be read ({error}). Pass --rebuild to make it anew.") from error
    differing = [name for name in identity if not isinstance(stored, dict) or stored.get(name) != identity[name]]
    if not differing:
        return
    what = differing[0]
    if what in ("checkpoint", "folder"):
        told = f"with {'another checkpoint' if what == 'checkpoint' else 'another folder of videos'}"
        was, now = stored.get(what), identity[what]
    elif what == "settings" and isinstance(stored.get("settings"), dict):
        was, now = stored["settings"], identity["settings"]
        names = sorted(name for name in {*was, *now} if was.get(name) != now.get(name))
        told = f"with other settings ({', '.join(names)})"
        was, now = ({name: values.get(name) for name in names} for values in (was, now))
    else:
        told, was, now = "by another version of this script", None, None
    facts = "" if was is None else f" It has {json.dumps(was)}, expected {json.dumps(now)}."
    raise IndexMismatchError(
        f"The index {manifest.parent} was made {told}.{facts} Go back to those, pass --index FOLDER for a second "
        "index, or pass --rebuild to embed all videos anew."
    )
