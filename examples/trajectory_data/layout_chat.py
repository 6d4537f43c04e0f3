"""Layout `chat`, conversations about videos, one per line.

    chat.jsonl        as Transformers writes messages, {"video": "a/1.mp4", "messages": [{"role": "user", "content":
                      "What happens?"}, ...]}, or as LLaVA does, {"video": "a/1.mp4", "conversations": [{"from":
                      "human", "value": "<video> What happens?"}, ...]}; an image goes under "image". Paths are
                      relative to the folder.
    a/1.mp4           the video, in any format that can be decoded

In:   such a folder     Out: ClipRecord with metadata["messages"]     From: the disk     To: clip_dataset
"""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np

from modeling_trajtok.processors.frame_decoding import decode_video

from .clip_files import require, spaced_indices
from .clip_record import ClipRecord

CHAT = "chat.jsonl"
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def find_names(folder: Path) -> list[str]:
    """A name for each line: its number and its video."""
    return list(_conversations(folder / CHAT)) if (folder / CHAT).is_file() else []


def read(folder: Path, name: str, num_frames: int | None) -> ClipRecord:
    """The conversation of one line and its video."""
    source, messages = _conversations(folder / CHAT)[name]
    path = require(folder / source, "the video that a conversation is about")
    video = decode_video(path, lambda timeline: spaced_indices(timeline.total_num_frames, num_frames))
    unknown = np.full(video.frames_uint8.shape[:3], -1, dtype=np.int16)
    metadata = {"messages": [dict(message) for message in messages]}
    return ClipRecord(name, video.frames_uint8, unknown, video.frame_times_s, metadata)


@lru_cache(maxsize=8)
def _conversations(path: Path) -> dict[str, tuple[str, list[dict[str, str]]]]:
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            source, messages = _parse(line, f"{path}, line {number}")
            found[f"{number:06d}:{source}"] = (source, messages)
    return found


def _parse(line: str, where: str) -> tuple[str, list[dict[str, str]]]:
    """Source and messages whose content is text; places of the video in the text are removed."""
    try:
        entry = json.loads(line)
        source = entry.get("video") or entry["image"]
        if "messages" in entry:
            turns = [(message["role"], message["content"]) for message in entry["messages"]]
        else:
            turns = [(ROLES[turn["from"]], turn["value"]) for turn in entry["conversations"]]
        messages = [{"role": role, "content": _text(content)} for role, content in turns]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{where}: {type(error).__name__} {error}; expected {{"video": ..., "messages": [{{"role": ..., '
            '"content": ...}]} or the same with LLaVA\'s "conversations".'
        ) from error
    roles = [message["role"] for message in messages if message["role"] != "system"]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError(f"{where}: the turns are {roles}, expected user and assistant in turn, the assistant last.")
    if not all(message["content"] for message in messages):
        raise ValueError(f"{where}: a turn is empty, expected some text in each.")
    return source, messages


def _text(content) -> str:
    """The words of a message."""
    if not isinstance(content, str):
        content = "\n".join(part["text"] for part in content if part["type"] == "text")
    return content.replace("<video>", "").replace("<image>", "").strip()
