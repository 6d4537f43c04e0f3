"""Videos and texts in the space where TrajViT2 compares them; a video is decoded once, whatever happens to the run.

In:   a TrajViT2 model and its processor; files, or stretches of files; texts
Out:  embeddings (N, E) of length 1; the videos that could not be read, by name
To:   evaluate_retrieval.py, evaluate_zero_shot.py, caption_evaluation; question_run reads its stretches here

The cache is a folder per combination of weights, processor settings and code, with a safetensors file per batch. A
file is renamed into place once it is complete, so a run that is killed loses the batch that it was working on.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from storage import write_whole
from torch import Tensor
from tqdm import tqdm

import modeling_trajtok
from modeling_trajtok import TrajViT2Model
from modeling_trajtok.processors import (
    DecodedVideo,
    FrameTimeline,
    VideoDecodeError,
    decode_video,
    sample_frame_indices,
)


@dataclass(frozen=True)
class VideoRequest:
    """A video to embed.

    Attributes:
        name: what the annotations call it.
        path: its file; None if there is none.
        start_s: where the stretch starts, None = at the beginning.
        end_s: where the stretch ends, None = at the end.
    """

    name: str
    path: Path | None
    start_s: float | None = None
    end_s: float | None = None


@dataclass
class VideoEmbeddings:
    """What became of the requests.

    Attributes:
        embeds: (n, E), of length 1.
        kept: which request each row is, ascending.
        failures: {"video", "error"} for each of the others.
        num_from_cache: rows that were read from the cache.
    """

    embeds: Tensor
    kept: list[int]
    failures: list[dict[str, str]] = field(default_factory=list)
    num_from_cache: int = 0


def embedding_key(checkpoint: dict, video_processor: Any, num_frames: int) -> str:
    """A hash of all that decides a video's embedding, apart from the video.

    Args:
        checkpoint: of `provenance.checkpoint_record`; where the checkpoint lies does not count.
        video_processor: the processor with its settings.
        num_frames: frames per video.
    """
    code = hashlib.sha256()
    package = Path(modeling_trajtok.__file__).parent
    processors = Path(modeling_trajtok.processors.__file__).parent
    for file in sorted({*package.glob("*.py"), *processors.glob("*.py")}, key=lambda path: path.name):
        code.update(file.name.encode() + file.read_bytes())
    facts = {
        "checkpoint": checkpoint["sha256"],
        "processor": video_processor.to_dict(),
        "num_frames": num_frames,
        "code": code.hexdigest(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


class EmbeddingCache:
    """Embeddings on disk, each under the state of its file.

    Args:
        folder: of all caches; None keeps nothing on disk.
        key: of `embedding_key`.
    """

    def __init__(self, folder: str | os.PathLike | None, key: str):
        self.folder = None if folder is None else Path(folder) / key[:32]
        self._embeds: dict[str, np.ndarray] = {}
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            for file in sorted(self.folder.glob("*.safetensors")):
                self._read(file)

    def _read(self, file: Path) -> None:
        try:
            with safe_open(file, "numpy") as shard:
                names = json.loads(shard.metadata()["names"])
                self._embeds.update(zip(names, shard.get_tensor("embeds"), strict=True))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            tqdm.write(f"{file} cannot be read; its videos are embedded again.")

    def __len__(self) -> int:
        return len(self._embeds)

    def get(self, name: str) -> np.ndarray | None:
        """The embedding (E,) under this name, or None."""
        return self._embeds.get(name)

    def add(self, names: Sequence[str], embeds: np.ndarray) -> None:
        """Keep embeddings (n, E), on disk before this returns.

        Raises:
            OSError: the disk is full.
        """
        self._embeds.update(zip(names, embeds, strict=True))
        if self.folder is None:
            return
        shard = hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]
        tensors, metadata = {"embeds": np.ascontiguousarray(embeds)}, {"names": json.dumps(list(names))}
        write_whole(self.folder / f"{shard}.safetensors", lambda part: save_file(tensors, part, metadata=metadata))


def file_state(request: VideoRequest) -> str:
    """Path, size, time of change and stretch: another value means another video.

    Raises:
        OSError: the file is not there.
    """
    if request.path is None:
        raise FileNotFoundError(errno.ENOENT, "no such file")
    path = request.path.resolve()
    facts = path.stat()
    return json.dumps([str(path), facts.st_size, facts.st_mtime_ns, request.start_s, request.end_s])


def missing_file(request: VideoRequest, error: OSError) -> str:
    """What to say of a request for which `file_state` raised this error."""
    return f"{request.path or 'no file of this name in the folder of videos'}: {error.strerror}."


def frames_of_stretch(request: VideoRequest, num_frames: int, timeline: FrameTimeline) -> np.ndarray:
    """Which of a video's frames show a stretch: the middle of each of ``num_frames`` equal parts of its frames.

    Args:
        request: seconds; the stretch has the frames that are on show during them, by their time stamps.
        num_frames: frames; a stretch with fewer gives all of them.
        timeline: of the whole video.

    Raises:
        VideoDecodeError: the video ends before the stretch starts, or nobody knows its times.
    """
    times_s, duration_s = timeline.frame_times_s, timeline.duration_s
    if times_s is None or duration_s is None:
        raise VideoDecodeError("it has no times, so seconds cannot be found in it")
    hair_s = min(1e-3, duration_s / timeline.total_num_frames / 4)  # containers round time stamps
    start_s = request.start_s or 0.0
    if start_s >= max(duration_s, times_s[-1] + hair_s):
        raise VideoDecodeError(f"it ends at {duration_s:.1f} s, before the stretch from {start_s:g} s")
    first = max(0, int(np.searchsorted(times_s, start_s + hair_s, side="right")) - 1)
    last = timeline.total_num_frames
    if request.end_s is not None:
        last = max(first + 1, int(np.searchsorted(times_s, request.end_s - hair_s)))
    return first + sample_frame_indices(last - first, num_frames=num_frames, strategy="middle")


def decode_stretch(request: VideoRequest, num_frames: int, **decoder) -> DecodedVideo:
    """The frames of `frames_of_stretch` and their times.

    Args:
        request: file and seconds.
        num_frames: frames; a stretch with fewer gives all of them.
        **decoder: of `decode_video` (``backend``, ``timeout_s``).

    Raises:
        VideoDecodeError: the file cannot be decoded, or ends before the stretch starts.
    """
    return decode_video(request.path, partial(frames_of_stretch, request, num_frames), **decoder)


def read_stretch(request: VideoRequest, num_frames: int, **decoder) -> np.ndarray:
    """Frames (T, H_px, W_px, 3) uint8 of a stretch; arguments and errors as in `decode_stretch`."""
    return decode_stretch(request, num_frames, **decoder).frames_uint8


@torch.no_grad()
def embed_videos(
    model: TrajViT2Model,
    video_processor: Any,
    requests: Sequence[VideoRequest],
    *,
    cache: EmbeddingCache,
    num_frames: int,
    batch_size: int = 8,
) -> VideoEmbeddings:
    """Embed videos, those that the cache lacks in batches.

    Videos that cannot be read are left out and listed; the next run tries them again.

    Args:
        model: in evaluation mode.
        video_processor: of the model.
        requests: the videos; the same one may come several times.
        cache: for this model, processor and number of frames.
        num_frames: frames per video.
        batch_size: videos at a time.

    Returns:
        `VideoEmbeddings`.

    Raises:
        ValueError: for processor settings that do not fit, embeddings that are not finite, or no video that could be
            read.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1.")
    # Settings that do not fit would otherwise look like videos that cannot be read.
    video_processor(np.zeros((num_frames, 64, 64, 3), np.uint8), num_frames=num_frames)
    states: list[str | None] = []
    errors: dict[str | None, str] = {}
    missing: dict[int, str] = {}
    for index, request in enumerate(requests):
        try:
            states.append(file_state(request))
        except OSError as error:
            states.append(None)
            missing[index] = missing_file(request, error)
    todo = {
        state: request
        for state, request in zip(states, requests, strict=True)
        if state is not None and cache.get(state) is None
    }
    from_cache = sum(state is not None and state not in todo for state in states)
    waiting = list(todo.items())
    with tqdm(total=len(waiting), desc="videos", unit="video", disable=not waiting) as progress:
        for first in range(0, len(waiting), batch_size):
            batch = waiting[first : first + batch_size]
            for rows, inputs in _read_batch(video_processor, batch, num_frames, errors):
                videos = {name: value.to(model.device) for name, value in inputs.items()}
                embeds = model.get_video_features(**videos).pooler_output.float().cpu()
                for (_, request), embed in zip(rows, embeds, strict=True):
                    if not embed.isfinite().all():
                        raise ValueError(
                            f"The embedding of {request.name} is not finite, expected numbers. Are the weights of the "
                            "checkpoint sound?"
                        )
                cache.add([state for state, _ in rows], embeds.numpy())
            progress.update(len(batch))
            progress.set_postfix(unreadable=len(errors) + len(missing))
    found = [None if state is None else cache.get(state) for state in states]
    kept = [index for index, embed in enumerate(found) if embed is not None]
    failures = [
        {"video": request.name, "error": missing.get(index) or errors[states[index]]}
        for index, request in enumerate(requests)
        if found[index] is None
    ]
    if not kept:
        first = f" First: {failures[0]['video']}: {failures[0]['error']}" if failures else ""
        raise ValueError(f"None of the {len(requests)} videos could be read. Check the folder of videos.{first}")
    return VideoEmbeddings(torch.from_numpy(np.stack([found[index] for index in kept])), kept, failures, from_cache)


Row = tuple[str, VideoRequest]


def _read_batch(video_processor: Any, batch: list[Row], num_frames: int, errors: dict) -> Iterator[tuple[list, dict]]:
    """Rows that could be read and the model's inputs for them; what could not be read goes into ``errors``."""
    rows, sources = [], []
    decoder = {"backend": video_processor.decoder_backend, "timeout_s": video_processor.decode_timeout_s}
    for state, request in batch:
        whole = request.start_s is None and request.end_s is None
        try:
            sources.append(request.path if whole else read_stretch(request, num_frames, **decoder))
            rows.append((state, request))
        except VideoDecodeError as error:
            errors[state] = str(error)
    if rows:
        yield from _process(video_processor, rows, sources, num_frames, errors)


def _process(
    video_processor: Any, rows: list[Row], sources: list, num_frames: int, errors: dict
) -> Iterator[tuple[list, dict]]:
    try:
        inputs = dict(video_processor(sources, num_frames=num_frames, return_tensors="pt", skip_bad_videos=True))
    except ValueError as error:
        if len(rows) == 1:
            errors[rows[0][0]] = str(error).removeprefix("None of the 1 videos could be read. First: ")
            return
        # All of them are bad, or their pictures differ in size and cannot be stacked: one by one.
        for row, source in zip(rows, sources, strict=True):
            yield from _process(video_processor, [row], [source], num_frames, errors)
        return
    for failure in inputs.pop("failures"):
        errors[rows[failure["index"]][0]] = failure["error"]
    yield [rows[position] for position in inputs.pop("kept_videos")], inputs


@torch.no_grad()
def embed_captions(
    model: TrajViT2Model, tokenizer: Any, texts: Sequence[str], batch_size: int = 256
) -> tuple[Tensor, int]:
    """Texts -> embeddings (N, E) of length 1, and how many texts were longer than the model reads and were cut."""
    limits = (tokenizer.model_max_length, getattr(model.config.text_config, "max_position_embeddings", None))
    limit = min(value for value in limits if value is not None)
    parts, num_cut = [], 0
    firsts = range(0, len(texts), batch_size)
    for first in tqdm(firsts, desc="texts", unit="batch", leave=False, disable=len(firsts) <= 1):
        batch = list(texts[first : first + batch_size])
        if limit < 1_000_000:  # tokenizers that know no limit have an enormous one
            num_cut += sum(len(tokens) > limit for tokens in tokenizer(batch, verbose=False)["input_ids"])
            tokens = tokenizer(batch, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        else:
            tokens = tokenizer(batch, padding=True, return_tensors="pt")
        ids, mask = tokens["input_ids"].to(model.device), tokens["attention_mask"].to(model.device)
        parts.append(model.get_text_features(ids, mask).pooler_output.float().cpu())
    return torch.cat(parts), num_cut
