"""Rows of tokens in Parquet files, which any tool reads: `datasets`, pandas, Ray, Spark.

In:   `TokenRow`s
Out:  FOLDER/shard-NUMBER-HASH.parquet, each whole or not there; FOLDER/made_with.json; FOLDER/bad_videos-PROCESS.jsonl
From: tokenize_dataset.py     To: train_from_tokens.py; training and inference without videos

A video is done when a shard holds it, so work that was killed goes on, with any number of processes.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from datasets import Dataset, load_dataset
from storage import telling_full_disk, write_text, write_whole
from torch import Tensor
from transformers import PreTrainedModel

from modeling_trajtok import TrajVLMFeatures

from .token_makers import load_model, maker_identity
from .tokenizing import TokenRow

MADE_WITH = "made_with.json"


class TokenShards:
    """A folder of shards that the processes of one run write and nobody reads half.

    Args:
        folder: may hold shards of an earlier run.
        made_with: checkpoint and settings; the same for all shards.
        dtype: "float16" or "float32", of the tokens.
        process: number of this process.

    Raises:
        ValueError: if the folder's shards were made with something else.
    """

    def __init__(self, folder: Path, made_with: dict[str, Any], dtype: str, process: int = 0):
        self.folder, self.process = folder, process
        self.made_with = json.loads(json.dumps({**made_with, "dtype": dtype}, default=str))
        self.dtype = np.dtype(dtype)
        folder.mkdir(parents=True, exist_ok=True)
        known = folder / MADE_WITH
        if known.is_file():
            found = json.loads(known.read_text(encoding="utf-8"))
            for name, value in self.made_with.items():
                if _nameless(found.get(name)) != _nameless(value):
                    raise ValueError(
                        f"The tokens in {folder} were made with {name} {found.get(name)}, this run has {value}. Use "
                        "the same, or another --out."
                    )
        elif process == 0:
            write_text(known, json.dumps(self.made_with, indent=1))

    def finished(self) -> set[str]:
        """Names of videos that are in a shard."""
        names = set()
        for path in self.folder.glob("shard-*.parquet"):
            names.update(pq.read_table(path, columns=["name"])["name"].to_pylist())
        return names

    def bad_videos(self) -> list[dict[str, str]]:
        """Name and last error of each video that could not be read and is in no shard."""
        found, finished = {}, self.finished()
        for path in sorted(self.folder.glob("bad_videos-*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(json.JSONDecodeError):  # a process was killed while it wrote
                    bad = json.loads(line)
                    found[bad["name"]] = bad
        return [bad for name, bad in sorted(found.items()) if name not in finished]

    def add_bad(self, name: str, error: str) -> None:
        """Note a video that cannot be read."""
        path = self.folder / f"bad_videos-{self.process:05d}.jsonl"
        with telling_full_disk(path), path.open("a", encoding="utf-8") as file:
            # The line before may have been broken off.
            file.write("\n" * (file.tell() > 0) + json.dumps({"name": name, "error": error}))

    def write(self, rows: Sequence[TokenRow], annotations: Sequence[Sequence[dict]]) -> Path:
        """One shard; its name follows from the videos in it.

        Args:
            rows: all that a video has, of some videos.
            annotations: what is told of the video of each row, a list of entries (see video_lists).

        Raises:
            OSError: if the disk is full; then there is no shard.
        """
        columns = [_columns(row, told, self.dtype) for row, told in zip(rows, annotations, strict=True)]
        table = pa.Table.from_pylist(columns, schema=self._schema(rows))
        digest = hashlib.sha256("\n".join(f"{row.window} {row.name}" for row in rows).encode()).hexdigest()[:16]
        path = self.folder / f"shard-{self.process:05d}-{digest}.parquet"
        write_whole(path, lambda part: pq.write_table(table, part, compression="zstd"))
        return path

    def _schema(self, rows: Sequence[TokenRow]) -> pa.Schema:
        fields = {
            "name": pa.string(),
            "window": pa.int32(),
            "tokens": pa.list_(pa.list_(pa.from_numpy_dtype(self.dtype), rows[0].tokens.shape[1])),
            "token_valid": pa.list_(pa.bool_()),
            "trajectories": pa.list_(pa.int32()),
            "area_shares": pa.list_(pa.float32()),
            "boxes_xyxy_px": pa.list_(pa.list_(pa.list_(pa.float32(), 4))),
            "time_spans_s": pa.list_(pa.list_(pa.float64(), 2)),
            "frame_times_s": pa.list_(pa.float64()),
            "size_hw": pa.list_(pa.int32(), 2),
            "annotations": pa.string(),
        }
        if rows[0].masks is not None:
            frames = pa.list_(pa.string())
            fields["masks"] = pa.list_(pa.struct({"trajectory": pa.int32(), "counts": frames}))
            fields["grid_hw"] = pa.list_(pa.int32(), 2)
        return pa.schema(fields, metadata={"made_with": json.dumps(self.made_with)})


def _nameless(value: Any) -> Any:
    """Without the names of checkpoints: the same weights may lie in several places."""
    if not isinstance(value, dict):
        return value
    return {key: _nameless(inner) for key, inner in value.items() if key != "name"}


def _columns(row: TokenRow, annotations: Sequence[dict], dtype: np.dtype) -> dict[str, Any]:
    columns = {
        "name": row.name,
        "window": row.window,
        "tokens": list(row.tokens.astype(dtype, copy=False)),
        "token_valid": row.valid,
        "trajectories": row.trajectories,
        "area_shares": row.area_shares,
        "boxes_xyxy_px": [list(boxes) for boxes in row.boxes_xyxy_px],
        "time_spans_s": list(row.time_spans_s),
        "frame_times_s": row.frame_times_s,
        "size_hw": row.size_hw,
        "annotations": json.dumps(annotations, default=str),
    }
    if row.masks is not None:
        columns["masks"] = [{"trajectory": number, "counts": counts} for number, counts in row.masks.items()]
        columns["grid_hw"] = row.grid_hw
    return columns


def open_tokens(folder: str | Path, checkpoint: str | PreTrainedModel | None = None) -> Dataset:
    """The tokens of a folder, a row per clip, sorted by name and window; read from disk as they are needed.

    Args:
        folder: what tokenize_dataset.py wrote.
        checkpoint: the model that is to read the tokens, or its folder or Hub name. What it does with tokens may have
            been trained since; what makes them must be the same.

    Raises:
        ValueError: if there are none, or they were made with other weights or settings.
    """
    folder = Path(folder)
    shards = sorted(str(path) for path in folder.glob("shard-*.parquet"))
    if not shards:
        raise ValueError(f"{folder} holds no shard-*.parquet, expected what tokenize_dataset.py wrote.")
    if checkpoint is not None:
        made_with = json.loads((folder / MADE_WITH).read_text(encoding="utf-8"))["checkpoint"]
        model = load_model(checkpoint) if isinstance(checkpoint, str) else checkpoint
        reader = maker_identity(model, model.name_or_path)
        if differing := [name for name in ("weights", "settings") if made_with[name] != reader[name]]:
            told = " and ".join(f"{name} {made_with[name][:12]} instead of {reader[name][:12]}" for name in differing)
            raise ValueError(
                f"The tokens in {folder} were made with {made_with['name']}, the model is {reader['name']}: {told} "
                "make the tokens. Tokenize the videos with it, or load the model that made them."
            )
    rows = load_dataset("parquet", data_files=shards, split="train")
    # `Dataset.sort` tells pyarrow in a deprecated way where empty values go.
    keys = rows.select_columns(["name", "window"]).with_format("arrow")[:]
    order = pc.sort_indices(keys, [("name", "ascending"), ("window", "ascending")])
    return rows.select(order.to_numpy().astype(np.int64))


def collate_tokens(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Rows of `open_tokens` as ``trajectory_embeds`` (B, n, D) and ``token_valid`` (B, n), n the most of a row."""
    tokens = [torch.from_numpy(np.asarray(row["tokens"], dtype=np.float32)) for row in rows]
    valid = [torch.tensor(row["token_valid"], dtype=torch.bool) for row in rows]
    return {
        "trajectory_embeds": torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True),
        "token_valid": torch.nn.utils.rnn.pad_sequence(valid, batch_first=True),
    }


def video_features(rows: Sequence[dict[str, Any]]) -> dict[str, TrajVLMFeatures]:
    """Rows of `open_tokens` as the ``mm_encoder_outputs`` of a TrajVLM; prompts need as many placeholders."""
    tokens = [torch.from_numpy(np.asarray(row["tokens"], dtype=np.float32)) for row in rows]
    return {"video": TrajVLMFeatures(pooler_output=tokens)}
