"""Questions about videos put to a TrajVLM; an answer is kept as soon as it is there, whatever happens to the run.

In:   questions, the folder of their videos, a checkpoint
Out:  answers, on disk and in memory; the videos that could not be read, by name
To:   evaluate_videoqa.py

A video is decoded and encoded once for all of its questions, and not at all if they were answered before. Questions of
several videos may share a batch.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from storage import folder_lock, telling_full_disk
from tqdm import tqdm

from modeling_trajtok import TrajVLMForConditionalGeneration, TrajVLMProcessor
from modeling_trajtok.processors import FrameTimeline, VideoDecodeError
from modeling_trajtok.processors.video_sources import is_machine_error

from .benchmark_files import IMAGE_SUFFIXES, VideoFolder
from .benchmark_run import CheckpointRun
from .embedding_cache import (
    VideoRequest,
    decode_stretch,
    embedding_key,
    file_state,
    frames_of_stretch,
    missing_file,
)
from .question_evaluation import MAX_ANSWER_TOKENS
from .question_files import VideoQuestion
from .question_scoring import chosen_letter, chosen_text, possible_answers, prompt_text
from .video_prompts import VideoPrompt, answer_log_likelihoods, encode_video, generate_answers, video_prompts

SCORING = ("likelihood", "generation")
# Some releases of MVBench have videos that were cut to their stretches, in folders of their own.
CUT_ENDING = "_segment"


def locate(folder: VideoFolder, question: VideoQuestion) -> VideoRequest:
    """The file of a question's video, or its folder of pictures, and the seconds to look at.

    Raises:
        ValueError: if several files fit equally.
    """
    path = folder.find_pictures(question.video) if question.frames_per_second else None
    path = path or folder.find(question.video)
    if path is not None and path.parent.name.endswith(CUT_ENDING):
        return VideoRequest(question.video, path)
    return VideoRequest(question.video, path, question.start_s, question.end_s)


def read_pictures(request: VideoRequest, num_frames: int, frames_per_second: float) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, H_px, W_px, 3) uint8 of a folder of pictures, in the order of their names, and their times (T,) in s.

    Raises:
        VideoDecodeError: the folder ends before the stretch starts, or a picture cannot be read.
    """
    files = sorted(file for file in request.path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    try:
        chosen = frames_of_stretch(request, num_frames, FrameTimeline.at_rate(len(files), frames_per_second))
    except VideoDecodeError as error:
        raise VideoDecodeError(f"{request.path}: {error}.") from error
    frames = []
    for index in chosen:
        try:
            with Image.open(files[index]) as picture:
                frames.append(np.asarray(picture.convert("RGB")))
        except (OSError, UnidentifiedImageError) as error:
            if is_machine_error(error):
                raise
            raise VideoDecodeError(f"{files[index]}: not a picture that can be read ({error}).") from error
    if len({frame.shape for frame in frames}) > 1:
        raise VideoDecodeError(f"{request.path}: its pictures differ in size, expected frames of one video.")
    return np.stack(frames), chosen / frames_per_second


class AnswerFile:
    """Answers on disk, a JSON object in a line for each, under a key of all that decides it.

    Args:
        path: of the file; it is made with its folder. A line that was being written when a run was killed is ignored.
            Several processes may add to it.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = self.path.read_text(encoding="utf-8", errors="replace") if self.path.is_file() else ""
        self._rows: dict[str, dict] = {}
        for line in content.splitlines():
            try:
                row = json.loads(line)
                self._rows[row["key"]] = row
            except (json.JSONDecodeError, KeyError, TypeError):
                tqdm.write(f"{self.path} has a line that cannot be read; its question is asked again.")

    def get(self, key: str) -> dict | None:
        """The answer under this key, or None."""
        return self._rows.get(key)

    def add(self, rows: Sequence[dict]) -> None:
        """Keep answers, each with its "key"; they are in the file before this returns.

        Raises:
            OSError: the disk is full.
        """
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        with folder_lock(self.path.parent, wait=True), telling_full_disk(self.path), self.path.open("ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                lines = lines if file.read(1) == b"\n" else b"\n" + lines  # a line may have been broken off
            file.write(lines)
        self._rows.update({row["key"]: row for row in rows})


@dataclass
class Answers:
    """What became of the questions.

    Attributes:
        rows: of each question, {"key", "id", "video", "prediction", and "reply" or "log_likelihoods"}; None if its
            video could not be read. The prediction is the number of a choice, words, or None for an unreadable reply.
        failures: {"video", "error"} for each video that could not be read.
        num_videos: how many there are, by file and stretch, those that could not be read included.
        num_resumed: answers that were there before.
    """

    rows: list[dict | None]
    failures: list[dict[str, str]]
    num_videos: int
    num_resumed: int


def _sha256(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


class QuestionRun(CheckpointRun):
    """A TrajVLM checkpoint that answers questions.

    Args:
        settings: with what `add_checkpoint_arguments` asks for; ``scoring`` and ``answers``.

    Attributes:
        key: a hash of all that decides an answer, apart from the question and the video.
    """

    def __init__(self, settings: argparse.Namespace):
        super().__init__(settings, TrajVLMForConditionalGeneration, TrajVLMProcessor)
        self.num_frames = settings.num_frames or self.processor.video_processor.num_frames
        # With it, prompts fit whatever the model's token selection.
        self.processor.trajectory_model = self.model
        self.key = _sha256(
            {
                "videos": embedding_key(self.checkpoint, self.processor.video_processor, self.num_frames),
                "processor": self.processor.to_dict(),
                "vocabulary": self.processor.tokenizer.get_vocab(),
                "chat_template": self.processor.chat_template,
                "scoring": settings.scoring,
                "answers": settings.answers,
                "max_new_tokens": MAX_ANSWER_TOKENS,
            }
        )

    def ask(self, questions: Sequence[VideoQuestion], requests: Sequence[VideoRequest], file: AnswerFile) -> Answers:
        """Ask what was not answered before.

        Args:
            questions: at least one.
            requests: the video of each.
            file: keeps the answers.

        Raises:
            ValueError: settings that do not fit, a prompt that is too long, or no video that could be read.
        """
        errors: dict[Any, tuple[str, str]] = {}
        states: list[Any] = []
        for request in requests:
            try:
                states.append(file_state(request))
            except OSError as error:
                states.append((request.name, request.path))
                errors[states[-1]] = (request.name, missing_file(request, error))
        keys = [self._key(question, state) for question, state in zip(questions, states, strict=True)]
        groups: dict[Any, list[int]] = {}
        for index, state in enumerate(states):
            if state not in errors and file.get(keys[index]) is None:
                groups.setdefault(state, []).append(index)
        resumed = sum(file.get(key) is not None for key in keys)
        waiting: list[tuple[int, VideoPrompt]] = []
        size = self.settings.batch_size

        def answer(batch: list[tuple[int, VideoPrompt]]) -> None:
            rows = self._answer([questions[index] for index, _ in batch], [prompt for _, prompt in batch])
            file.add([{"key": keys[index], **row} for (index, _), row in zip(batch, rows, strict=True)])
            progress.update(len(batch))

        with tqdm(total=sum(map(len, groups.values())), desc="questions", disable=not groups) as progress:
            for state, group in groups.items():
                asked = [questions[index] for index in group]
                try:
                    waiting += zip(group, self._prompts(requests[group[0]], asked), strict=True)
                except VideoDecodeError as error:
                    errors[state] = (requests[group[0]].name, str(error).removeprefix("Video 1 of 1: "))
                    progress.update(len(group))
                    progress.set_postfix(unreadable=len(errors))
                while len(waiting) >= size:
                    answer(waiting[:size])
                    waiting = waiting[size:]
            if waiting:
                answer(waiting)
        failures = [{"video": name, "error": error} for name, error in errors.values()]
        if len(errors) == len(set(states)):
            first = f" First: {failures[0]['video']}: {failures[0]['error']}"
            raise ValueError(f"None of the {len(failures)} videos could be read. Check the folder of videos.{first}")
        return Answers([file.get(key) for key in keys], failures, len(set(states)), resumed)

    def _key(self, question: VideoQuestion, state: Any) -> str:
        facts = [question.id, prompt_text(question, self.settings.answers), question.choices]
        return _sha256([self.key, str(state), question.frames_per_second, *facts])

    def _prompts(self, request: VideoRequest, questions: Sequence[VideoQuestion]) -> list[VideoPrompt]:
        """Prompts about one video; see `video_prompts` for errors."""
        video, settings = self._video(request, questions[0].frames_per_second)
        texts = [prompt_text(question, self.settings.answers) for question in questions]
        return video_prompts(self.processor, encode_video(self.model, self.processor, video, **settings), texts)

    def _video(self, request: VideoRequest, frames_per_second: float | None) -> tuple[Any, dict]:
        """A file or frames, and the processor's settings for it."""
        pictures = request.path.is_dir()
        if not pictures and request.start_s is None and request.end_s is None:
            return request.path, {} if self.settings.num_frames is None else {"num_frames": self.num_frames}
        if self.num_frames is None:
            raise ValueError(
                f"{request.name} is a stretch of a video, and the processor takes no fixed number of frames, expected "
                "one. Pass --num-frames."
            )
        if pictures:
            frames, times_s = read_pictures(request, self.num_frames, frames_per_second)
        else:
            own = self.processor.video_processor
            decoder = {"backend": own.decoder_backend, "timeout_s": own.decode_timeout_s}
            decoded = decode_stretch(request, self.num_frames, **decoder)
            frames, times_s = decoded.frames_uint8, decoded.frame_times_s
        # Times in prompts count from the beginning of the stretch, at which the first frame may have been on show.
        times_s = np.maximum(times_s - (request.start_s or 0.0), 0.0)
        return frames, {"do_sample_frames": False, "video_metadata": [{"frame_times_s": times_s}]}

    def _answer(self, questions: Sequence[VideoQuestion], prompts: Sequence[VideoPrompt]) -> list[dict]:
        """What to keep of each answer; open-ended questions are always generated."""
        compared = [bool(question.choices) and self.settings.scoring == "likelihood" for question in questions]
        rows: list[dict] = [{"id": question.id, "video": question.video} for question in questions]
        for ask, wanted in ((self._compare, True), (self._generate, False)):
            chosen = [index for index, one in enumerate(compared) if one == wanted]
            if chosen:
                found = ask([questions[index] for index in chosen], [prompts[index] for index in chosen])
                for index, one in zip(chosen, found, strict=True):
                    rows[index] |= one
        return rows

    def _compare(self, questions: Sequence[VideoQuestion], prompts: Sequence[VideoPrompt]) -> list[dict]:
        answers = [possible_answers(question, self.settings.answers) for question in questions]
        found = answer_log_likelihoods(self.model, self.processor, prompts, answers, self.settings.batch_size)
        return [{"prediction": int(np.argmax(values)), "log_likelihoods": values} for values in found]

    def _generate(self, questions: Sequence[VideoQuestion], prompts: Sequence[VideoPrompt]) -> list[dict]:
        replies = generate_answers(self.model, self.processor, prompts, MAX_ANSWER_TOKENS)
        choose = chosen_letter if self.settings.answers == "letters" else chosen_text
        return [
            {"prediction": choose(reply, question.choices) if question.choices else reply.strip(), "reply": reply}
            for question, reply in zip(questions, replies, strict=True)
        ]
