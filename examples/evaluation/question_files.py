"""Questions about videos, as public benchmarks distribute them.

In:   files of MVBench, Video-MME, LongVideoBench and LVBench; plain JSON, JSON lines or parquet
Out:  VideoQuestion, the same for all of them
To:   evaluate_videoqa.py
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# The tasks of MVBench, and where their videos are below its folder `video`.
MVBENCH_FOLDERS = {
    "action_sequence": "star/Charades_v1_480",
    "action_prediction": "star/Charades_v1_480",
    "action_antonym": "ssv2_video",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "unexpected_action": "FunQA_test/test",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_v1_480",
    "object_shuffle": "perception/videos",
    "moving_direction": "clevrer/video_validation",
    "action_localization": "sta/sta_video",
    "scene_transition": "scene_qa/video",
    "action_count": "perception/videos",
    "moving_count": "clevrer/video_validation",
    "moving_attribute": "clevrer/video_validation",
    "state_change": "perception/videos",
    "fine_grained_pose": "nturgbd",
    "character_order": "perception/videos",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/frames_fps3_hq",
    "counterfactual_inference": "clevrer/video_validation",
}
# Videos of this task of MVBench are folders of pictures at this rate.
MVBENCH_FRAMES_PER_SECOND = {"episodic_reasoning": 3.0}

# Two public files that belong together: ActivityNet-QA has its answers in a file of their own.
QUESTIONS_ENDING, ANSWERS_ENDING = "_q.json", "_a.json"


@dataclass(frozen=True)
class VideoQuestion:
    """A question about a video, or about a stretch of it.

    Attributes:
        id: what the file calls it; each comes once.
        video: name or path as the file has it, with or without suffix.
        question: its words, without the choices.
        choices: answers to choose from; none = open-ended.
        answer: number of the right choice, or the right answer in words.
        categories: what it counts for, in the tables of scores; there may be several.
        start_s: where the stretch starts in the file, None = at the beginning.
        end_s: where it ends, None = at the end.
        frames_per_second: of a video that is a folder of pictures; None = a file.
        subtitles: file name of the subtitles; the model is not shown them.
    """

    id: str
    video: str
    question: str
    choices: tuple[str, ...] = ()
    answer: int | str = ""
    categories: tuple[str, ...] = ()
    start_s: float | None = None
    end_s: float | None = None
    frames_per_second: float | None = None
    subtitles: str | None = None


@dataclass(frozen=True)
class _Entry:
    """An entry of a file; what is asked of it is there, or the error names the file, the entry and the field."""

    path: Path
    place: str
    fields: dict

    def wrong(self, name: str, expected: str) -> ValueError:
        found = _short(self.fields[name]) if name in self.fields else f"nothing; it has {_short(list(self.fields))}"
        return ValueError(
            f'{self.path}, {self.place}: the field "{name}" is {found}, expected {expected}. Correct the entry, or '
            "choose another --layout."
        )

    def has(self, *names: str) -> str | None:
        """The first of these names that is a field with a value."""
        return next((name for name in names if self.fields.get(name) is not None), None)

    def text(self, *names: str) -> str:
        name = self.has(*names) or names[0]
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
            raise self.wrong(name, "a text that is not empty")
        return str(value).strip()

    def text_or_none(self, *names: str) -> str | None:
        return self.text(*names) if self.has(*names) else None

    def texts(self, *names: str) -> list[str]:
        name = self.has(*names) or names[0]
        values = self.fields.get(name)
        if not isinstance(values, list) or not 2 <= len(values) <= len(LETTERS):
            raise self.wrong(name, f"a list of 2 to {len(LETTERS)} texts")
        return [
            _Entry(self.path, f"{self.place}, {name} {place}", {name: value}).text(name)
            for place, value in enumerate(values)
        ]

    def stretch(self) -> tuple[float | None, float | None]:
        """Seconds of "start" and "end"; None where there are none."""
        times = [self.fields.get(name) for name in ("start", "end")]
        for name, value in zip(("start", "end"), times, strict=True):
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0):
                raise self.wrong(name, "seconds from the beginning of the video")
        start_s, end_s = (None if value is None else float(value) for value in times)
        if end_s is not None and end_s < (start_s or 0.0):
            raise self.wrong("end", f"a time after the start at {start_s or 0.0:g} s")
        return start_s, end_s

    def letter(self, name: str, num_choices: int) -> int:
        value = self.text(name).upper()
        if value not in LETTERS[:num_choices]:
            raise self.wrong(name, f"a letter from A to {LETTERS[num_choices - 1]}")
        return LETTERS.index(value)

    def number(self, name: str, num_choices: int) -> int:
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < num_choices:
            raise self.wrong(name, f"the number of a choice, 0 to {num_choices - 1}")
        return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


# --- the formats -----------------------------------------------------------------------------------------------------


def _mvbench(entry: _Entry, index: int) -> Iterator[VideoQuestion]:
    task = entry.path.stem
    choices = entry.texts("candidates")
    answer = entry.text("answer")
    if answer not in choices:
        raise entry.wrong("answer", f"one of the candidates {_short(choices)}")
    start_s, end_s = entry.stretch()
    folder = f"{MVBENCH_FOLDERS[task]}/" if task in MVBENCH_FOLDERS else ""
    yield VideoQuestion(
        id=f"{task}/{index}",
        video=folder + entry.text("video"),
        question=entry.text("question"),
        choices=tuple(choices),
        answer=choices.index(answer),
        categories=(task.replace("_", " "),),
        start_s=start_s,
        end_s=end_s,
        frames_per_second=MVBENCH_FRAMES_PER_SECOND.get(task),
    )


def _videomme(entry: _Entry, index: int) -> Iterator[VideoQuestion]:
    choices = []
    for letter, option in zip(LETTERS, entry.texts("options"), strict=False):
        if not option.startswith(f"{letter}."):
            raise entry.wrong("options", f'texts that begin with "A.", "B.", ...; one is {option!r}')
        choices.append(option[2:].strip())
    video = entry.text("videoID")
    yield VideoQuestion(
        id=entry.text("question_id"),
        video=video,
        question=entry.text("question"),
        choices=tuple(choices),
        answer=entry.letter("answer", len(choices)),
        categories=(entry.text("duration"), entry.text("domain"), entry.text("task_type")),
        subtitles=f"{video}.srt",
    )


def _longvideobench(entry: _Entry, index: int) -> Iterator[VideoQuestion]:
    if entry.has("candidates"):
        choices = entry.texts("candidates")
    else:  # the parquet file has five columns, the last of which may be "N/A"
        choices = [entry.text(f"option{number}") for number in range(5)]
        choices = [choice for choice in choices if choice != "N/A"]
    yield VideoQuestion(
        id=entry.text("id"),
        video=entry.text("video_path"),
        question=entry.text("question"),
        choices=tuple(choices),
        answer=entry.number("correct_choice", len(choices)),
        categories=(entry.text("question_category"), f"up to {entry.text('duration_group')} s"),
        subtitles=entry.text_or_none("subtitle_path"),
    )


def _lvbench(entry: _Entry, index: int) -> Iterator[VideoQuestion]:
    video = entry.text("key")
    if not isinstance(entry.fields.get("qa"), list):
        raise entry.wrong("qa", "a list of questions")
    for number, asked in enumerate(entry.fields["qa"]):
        qa = _Entry(entry.path, f"{entry.place} ({video}), qa {number}", asked if isinstance(asked, dict) else {})
        # The choices are lines of the question: "(A) a red car".
        question, *parts = re.split(r"(?:^|\n)[ \t]*\(([A-Z])\)", qa.text("question"))
        letters, choices = "".join(parts[::2]), tuple(" ".join(part.split()) for part in parts[1::2])
        if len(letters) < 2 or letters != LETTERS[: len(letters)] or not all((question.strip(), *choices)):
            raise qa.wrong("question", 'a question and its choices in lines "(A) ...", "(B) ...", ...')
        types = qa.fields.get("question_type")
        if not isinstance(types, list) or not types or not all(isinstance(kind, str) for kind in types):
            raise qa.wrong("question_type", "a list of texts")
        yield VideoQuestion(
            id=qa.text("uid"),
            video=video,
            question=question.strip(),
            choices=choices,
            answer=qa.letter("answer", len(choices)),
            categories=tuple(types),
        )


def _plain(entry: _Entry, index: int) -> Iterator[VideoQuestion]:
    choices = entry.texts("choices", "candidates", "options") if entry.has("choices", "candidates", "options") else []
    answer = entry.fields.get("answer")
    if not choices:
        answer = entry.text("answer")
    elif answer in choices:
        answer = choices.index(answer)
    elif isinstance(answer, str):
        answer = entry.letter("answer", len(choices))
    else:
        answer = entry.number("answer", len(choices))
    category = entry.text_or_none("category", "type")
    start_s, end_s = entry.stretch()
    yield VideoQuestion(
        id=entry.text_or_none("id", "question_id") or str(index),
        video=entry.text("video", "video_name", "video_id"),
        question=entry.text("question"),
        choices=tuple(choices),
        answer=answer,
        categories=() if category is None else (category,),
        start_s=start_s,
        end_s=end_s,
    )


LAYOUTS: dict[str, Callable[[_Entry, int], Iterable[VideoQuestion]]] = {
    "mvbench": _mvbench,
    "videomme": _videomme,
    "longvideobench": _longvideobench,
    "lvbench": _lvbench,
    "plain": _plain,
}


def _layout_of(path: Path, fields: dict) -> str:
    for layout, needed in (
        ("lvbench", {"key", "qa"}),
        ("videomme", {"videoID", "options"}),
        ("longvideobench", {"video_path", "question_category"}),
    ):
        if needed <= fields.keys():
            return layout
    if path.stem in MVBENCH_FOLDERS and "candidates" in fields:
        return "mvbench"
    if "question" in fields:
        return "plain"
    raise ValueError(
        f"{path} has entries with the fields {', '.join(fields) or '(none)'}, expected those of MVBench, Video-MME, "
        'LongVideoBench or LVBench, or {"video", "question", "answer"}. Check the file, or set --layout.'
    )


# --- reading ---------------------------------------------------------------------------------------------------------


def read_questions(path: str | os.PathLike, layout: str = "auto") -> list[VideoQuestion]:
    """Read the questions of a benchmark.

    Args:
        path: a file in one of these layouts, as JSON, JSON lines or parquet; for MVBench also its folder.
            "mvbench": json/TASK.json, lists of {"video", "question", "candidates", "answer"[, "start", "end"]}.
            "videomme": rows of videoID, question_id, question, options ("A. ..."), answer ("A"), duration, domain,
            task_type.
            "longvideobench": entries of id, video_path, question, candidates (or option0 ... option4),
            correct_choice, question_category, duration_group, subtitle_path.
            "lvbench": {"key", "qa": [{"uid", "question", "answer", "question_type"}]}, choices inside the question.
            "plain": {"video", "question", "answer"[, "choices", "category", "start", "end", "id"]}; an answer to
            choices is the choice itself, its letter or its number from 0. Without choices the question is open-ended.
            ActivityNet-QA's test_q.json is read with the test_a.json beside it.
        layout: one of those, or "auto": as the content looks.

    Returns:
        The questions in the order of the file (MVBench: of the tasks).

    Raises:
        ValueError: for a file of no such layout, an entry that lacks something, an id that comes twice.
        OSError: if there is no such file.
    """
    path = Path(path)
    if layout not in ("auto", *LAYOUTS):
        raise ValueError(f"Unknown layout {layout!r}, expected auto, {', '.join(LAYOUTS)}.")
    if path.is_dir():
        if layout not in ("auto", "mvbench"):
            raise ValueError(f"{path} is a folder, expected a file for the layout {layout}. Only MVBench is a folder.")
        layout = "mvbench"
    questions = [question for file in _files(path) for question in _read_file(file, layout)]
    if not questions:
        raise ValueError(f"{path} has no questions, expected at least one. Was the download complete?")
    ident, times = Counter(question.id for question in questions).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{path} has the id {ident!r} {times} times, expected it once. Correct the ids.")
    return questions


def _files(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("json/*.json")) or sorted(path.glob("*.json"))
    if not files:
        raise ValueError(f"{path} has no json/*.json, expected the folder of MVBench with a file per task.")
    return files


def question_files(path: str | os.PathLike) -> list[Path]:
    """The files that `read_questions` reads."""
    files = list(_files(Path(path)))
    return files + [answers for file in files if (answers := _answers_of(file)) is not None]


def _answers_of(path: Path) -> Path | None:
    answers = path.with_name(path.name.removesuffix(QUESTIONS_ENDING) + ANSWERS_ENDING)
    return answers if path.name.endswith(QUESTIONS_ENDING) and answers.is_file() else None


def _read_file(path: Path, layout: str) -> Iterator[VideoQuestion]:
    rows = _rows(path)
    answers = _answers_of(path)
    if answers is not None:
        rows = _with_answers(path, rows, answers)
    for index, (place, fields) in enumerate(rows):
        if not isinstance(fields, dict):
            raise ValueError(f"{path}, {place} is {_short(fields)}, expected a dict with a question.")
        if layout == "auto":
            layout = _layout_of(path, fields)
        yield from LAYOUTS[layout](_Entry(path, place, fields), index)


def _with_answers(path: Path, rows: list[tuple[str, Any]], answers: Path) -> list[tuple[str, Any]]:
    known = {entry.get("question_id"): entry for _, entry in _rows(answers) if isinstance(entry, dict)}
    merged = []
    for place, fields in rows:
        ident = fields.get("question_id") if isinstance(fields, dict) else None
        if ident not in known:
            raise ValueError(f'{path}, {place}: the field "question_id" is {ident!r}, expected one of {answers}.')
        merged.append((place, {**known[ident], **fields}))
    return merged


def _rows(path: Path) -> list[tuple[str, Any]]:
    """Where each entry is, and the entry."""
    if path.suffix.lower() == ".parquet":
        try:
            entries = pq.read_table(path).to_pylist()
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is no parquet ({error}). Was the download complete?") from error
        return [(f"row {number}", entry) for number, entry in enumerate(entries)]
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".jsonl":
            lines = [(f"line {number}", line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
            return [(place, _parsed(path, place, line)) for place, line in lines]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8, expected JSON, JSON lines or parquet by its suffix.") from error
    content = _parsed(path, "as a whole", text)
    if not isinstance(content, list):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a list of questions.")
    return [(f"entry {number}", entry) for number, entry in enumerate(content)]


def _parsed(path: Path, place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, {place}, is no JSON ({error}). Was the download complete?") from error
