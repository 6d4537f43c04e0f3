"""Chat messages: conversations in whatever form become plain messages of texts, images and videos, or an error.

In:   one conversation or a batch of them: dicts, data classes, Pydantic models, other objects with these attributes
Out:  for each a list of {"role", "content"}; parts are {"type": "text", "text"}, and of type image or video with their
      source under "image" or "video", "url", "path" or "base64", as chat templates know them; nothing is left out
From: the user     To: processing_trajvlm
"""

import base64
import dataclasses
import difflib
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import PIL.Image
from transformers.image_utils import load_image

ROLES = ("system", "developer", "user", "assistant", "tool")
# Types of parts by what they hold: those of Transformers, and those of OpenAI's two interfaces.
KINDS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "video": "video",
    "video_url": "video",
    "input_video": "video",
}
# Keys of a part that name its image or video.
SOURCES = {
    "image": ("image", "url", "path", "base64", "image_url"),
    "video": ("video", "url", "path", "base64", "video_url"),
}
# Where that source stands afterwards.
KEPT_KEYS = {"image_url": "url", "video_url": "url"}
FACTS = "video_metadata"
SOUND = ("audio", "input_audio", "audio_url")


def list_conversations(conversation: Any, template: str) -> tuple[list[list[dict]], bool]:
    """Plain messages of one conversation or of a batch, and whether it was a batch.

    Args:
        conversation: a list of messages, an object with ``messages``, or a list of either.
        template: the chat template; keys of messages and roles that it names are passed on to it.

    Raises:
        ValueError: for anything that would not reach the model; the message says where it stands.
    """
    conversation = getattr(conversation, "messages", conversation)
    if isinstance(conversation, (str, Mapping)) or not isinstance(conversation, (list, tuple)):
        raise ValueError(
            f"Got a conversation of type {type(conversation).__name__}, expected a list of messages, such as "
            '[{"role": "user", "content": "What happens?"}].'
        )
    batched = len(conversation) > 0 and all(
        isinstance(one, (list, tuple)) or hasattr(one, "messages") for one in conversation
    )
    if not batched:
        return [_messages(conversation, template, "")], False
    return [
        _messages(getattr(one, "messages", one), template, f"Conversation {number} of {len(conversation)}, ")
        for number, one in enumerate(conversation, 1)
    ], True


def pop_video_metadata(conversations: list[list[dict]]) -> list[dict] | None:
    """Take out of the parts what they say about their videos: one entry per video, or None if nobody said anything."""
    facts = [
        part.pop(FACTS, {})
        for messages in conversations
        for message in messages
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "video"
    ]
    return facts if any(facts) else None


def image_source(image: Any) -> Any:
    """An image, or nested lists of them, as Transformers' image processors load it; what else came stays as it is."""
    if isinstance(image, (list, tuple)):
        return [image_source(one) for one in image]
    if isinstance(image, os.PathLike):
        return os.fspath(image)
    if isinstance(image, str) and image.lower().startswith("file:"):
        return url2pathname(urlparse(image).path)
    if isinstance(image, (bytes, bytearray, memoryview)):
        try:
            return PIL.Image.open(io.BytesIO(image)).convert("RGB")
        except OSError as error:
            raise ValueError(
                f"Got {len(image)} bytes that are no image ({error}), expected an encoded one."
            ) from error
    return image


def has_source(part: dict) -> bool:
    """Whether a part of `list_conversations` comes with what it shows."""
    return any(name in part for name in (part["type"], *SOURCES.get(part["type"], ())))


def close_name(name: Any, known: Iterable[str]) -> str:
    """A hint at the name that was probably meant, to end an error with."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def _messages(messages: Any, template: str, where: str) -> list[dict]:
    if len(messages) == 0:
        raise ValueError(
            f"{where or 'The conversation: '}got no messages, expected at least one, such as "
            '{"role": "user", "content": "What happens?"}.'
        )
    return [_message(one, template, f"{where}message {number}") for number, one in enumerate(messages, 1)]


def _message(message: Any, template: str, where: str) -> dict:
    fields = _fields(message, ("role", "content"))
    if fields is None:
        raise ValueError(
            f'{where}: got {_shown(message)}, expected {{"role": ..., "content": ...}} or an object with these.'
        )
    role, content = fields.pop("role", None), fields.pop("content", None)
    for name in fields:
        if name not in template:
            raise ValueError(
                f"{where}: the chat template knows no {name!r}, expected 'role' and 'content'."
                + close_name(name, ("role", "content"))
            )
    if not isinstance(role, str) or (role not in ROLES and repr(role) not in template):
        raise ValueError(
            f"{where}: got the role {role!r}, expected one of {', '.join(ROLES)}.{close_name(role, ROLES)}"
        )
    if isinstance(content, str):
        return {"role": role, "content": content, **fields}
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, (list, tuple)):
        raise ValueError(
            f"{where}: got content of type {type(content).__name__}, expected a text or a list of parts, such as "
            '[{"type": "video", "video": "clip.mp4"}, {"type": "text", "text": "What happens?"}].'
        )
    parts = [_part(part, f"{where}, part {number}") for number, part in enumerate(content, 1)]
    return {"role": role, "content": parts, **fields}


def _part(part: Any, where: str) -> dict:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    fields = _fields(part, ("type", *KINDS))
    if fields is None:
        raise ValueError(
            f'{where}: got {_shown(part)}, expected a dict such as {{"type": "video", "video": "clip.mp4"}}.'
        )
    named = fields.pop("type", None)
    if named is None:
        named = next((name for name in KINDS if name in fields), None)
    if named in SOUND or (named is None and set(fields) & set(SOUND)):
        raise ValueError(
            f"{where}: got sound ({named or 'audio'}), expected text, image or video. TrajVLM cannot hear."
        )
    if named not in KINDS:
        raise ValueError(
            f"{where}: got a part of type {named!r}, expected text, image or video." + close_name(named, KINDS)
        )
    kind = KINDS[named]
    return _text_part(fields, where) if kind == "text" else _visual_part(kind, fields, where)


def _text_part(fields: dict, where: str) -> dict:
    text = fields.pop("text", None)
    _refuse_others(fields, "text", ("text",), where)
    if not isinstance(text, str):
        raise ValueError(f"{where}: got the text {text!r}, expected a string under 'text'.")
    return {"type": "text", "text": str(text)}


def _visual_part(kind: str, fields: dict, where: str) -> dict:
    given = {name: fields.pop(name) for name in SOURCES[kind] if name in fields}
    facts = fields.pop(FACTS, None) if kind == "video" else None
    # How finely to look, a wish that has no counterpart here, unless it wishes for nothing.
    if fields.get("detail") == "auto":
        fields.pop("detail")
    _refuse_others(fields, kind, (*SOURCES[kind], FACTS) if kind == "video" else SOURCES[kind], where)
    if len(given) > 1:
        raise ValueError(f"{where}: names its {kind} more than once ({', '.join(given)}), expected one of them.")
    part = {"type": kind}
    for name, value in given.items():
        decoded = kind == "video" and name == "base64"
        part[kind if decoded else KEPT_KEYS.get(name, name)] = _source(kind, name, value, where)
    if facts is not None:
        part[FACTS] = facts
    return part


def _source(kind: str, name: str, value: Any, where: str) -> Any:
    if isinstance(value, Mapping) and "url" in value:
        inner = {
            key: entry for key, entry in value.items() if not _is_nothing(entry) and (key, entry) != ("detail", "auto")
        }
        value = inner.pop("url")
        _refuse_others(inner, kind, ("url",), where)
    if isinstance(value, str) and not value.strip():
        raise ValueError(f"{where}: the {kind} under {name!r} is an empty string, expected a path or an address.")
    if kind == "image":
        return value if name == "base64" else image_source(value)
    if name == "base64" and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except ValueError as error:
            raise ValueError(f"{where}: what stands under 'base64' is not base64 ({error}).") from error
    if isinstance(value, (list, tuple)) and any(isinstance(one, (str, bytes, os.PathLike)) for one in value):
        return [_frame(one, f"{where}, frame {number}") for number, one in enumerate(value, 1)]
    return value


def _frame(source: Any, where: str) -> Any:
    """One picture of a list that is a video; what is in memory already stays as it is."""
    if not isinstance(source, (str, bytes, os.PathLike)):
        return source
    try:
        picture = image_source(source)
        return load_image(picture) if isinstance(picture, str) else picture
    except (OSError, ValueError) as error:
        name = Path(source).name if isinstance(source, os.PathLike) else source
        raise ValueError(
            f"{where}: {_shown(name)} is no picture, expected the frames of one video. Give a video file by its path "
            "alone, and several videos as several parts."
        ) from error


def _refuse_others(fields: dict, kind: str, known: Iterable[str], where: str) -> None:
    for name, value in fields.items():
        raise ValueError(
            f"{where}: nothing here reads {name!r} of a {kind} ({_shown(value)}), expected {', '.join(known)}."
            + (close_name(name, known) or " Pass settings in processor_kwargs={...}.")
        )


def _fields(value: Any, names: Iterable[str]) -> dict | None:
    """What a dict or an object says, without what it leaves empty; None for something else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif not isinstance(value, Mapping) and callable(getattr(value, "model_dump", None)):
        value = value.model_dump()
    elif not isinstance(value, Mapping) and hasattr(value, "__dict__") and any(hasattr(value, name) for name in names):
        value = {name: entry for name, entry in vars(value).items() if not name.startswith("_")}
    if not isinstance(value, Mapping):
        return None
    return {name: entry for name, entry in value.items() if not _is_nothing(entry)}


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, (list, tuple, Mapping)) and len(value) == 0)


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, int, float)) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


__all__ = ["close_name", "has_source", "image_source", "list_conversations", "pop_video_metadata"]
