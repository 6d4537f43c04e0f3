"""Annotation files of public benchmarks, as they are distributed: retrieval, and classification of videos or images.

In:   annotation files of MSR-VTT, DiDeMo, ActivityNet Captions, YouCook2 and VATEX; label maps, lists of videos,
      folders of classes; prompt templates; the folder of the videos
Out:  BenchmarkItem, ClassList, templates, the file of each video
To:   evaluate_retrieval.py, evaluate_zero_shot.py, evaluate_videoqa.py
"""

import csv
import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trajectory_data.clip_files import VIDEO_SUFFIXES

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"))
MEDIA_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES

# What a layout's texts are in the published protocols; `read_retrieval` can be told otherwise.
TEXTS_OF_LAYOUT = {
    "msrvtt": "each",
    "vatex": "each",
    "didemo": "paragraph",
    "activitynet": "paragraph",
    "youcook2": "segments",
}
TEXTS = ("each", "paragraph", "segments")

# Columns of lists of videos, in order of preference.
VIDEO_COLUMNS = ("clip_path", "path", "video_path", "filename", "file", "video", "youtube_id", "video_id", "clip_name")
LABEL_COLUMNS = ("label", "class", "class_name", "category")


@dataclass(frozen=True)
class BenchmarkItem:
    """One video, or a stretch of it, and what is known of it.

    Attributes:
        video: name or path as the annotations have it, with or without suffix.
        captions: texts, each of which describes it.
        label: number of its class.
        start_s: where it starts in the file, None = at the beginning.
        end_s: where it ends, None = at the end of the file.
    """

    video: str
    captions: tuple[str, ...] = ()
    label: int | None = None
    start_s: float | None = None
    end_s: float | None = None


def _plain(name: str) -> str:
    """What is left of a class name that is written in different ways: letters and digits."""
    return re.sub(r"[\W_]", "", name.lower())


@dataclass(frozen=True)
class ClassList:
    """Classes in the order of their numbers.

    Attributes:
        keys: what folders and lists call them.
        names: how they read in a sentence.
    """

    keys: tuple[str, ...]
    names: tuple[str, ...]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {_plain(text): number for texts in (self.names, self.keys) for number, text in enumerate(texts)}

    def __len__(self) -> int:
        return len(self.keys)

    def number_of(self, text: str) -> int | None:
        """The class that is called so; upper case, spaces, brackets and underscores do not count. None: no class."""
        return self._numbers.get(_plain(text))


# --- retrieval -------------------------------------------------------------------------------------------------------


def read_retrieval(
    path: str | os.PathLike, layout: str = "auto", texts: str | None = None, subset: str = "validation"
) -> list[BenchmarkItem]:
    """Read the annotations of a benchmark of text-video retrieval.

    Args:
        path: a file in one of these layouts.
            "msrvtt": list of {"video", "caption"} (a text or a list of texts), or csv with columns video_id, sentence.
            "vatex": list of {"videoID", "enCap": [texts]}.
            "didemo": list of {"video", "description"}, a video in several entries.
            "activitynet": {video: {"timestamps", "sentences"}}.
            "youcook2": the same, or {"database": {video: {"subset", "annotations"}}}.
        layout: one of those, or "auto": as the content looks. ActivityNet and a YouCook2 file of the first kind look
            the same, and are taken for ActivityNet.
        texts: "each" caption is a text of its whole video; all make one "paragraph"; or "segments": each is a text of
            its stretch of the video. None: as published for the layout (MSR-VTT and VATEX each, DiDeMo and ActivityNet
            paragraph, YouCook2 segments).
        subset: which part of a file with "database".

    Returns:
        One item per video, or per stretch of a video, in the order of the file.

    Raises:
        ValueError: for a file of no such layout, an entry that lacks something, or texts that the layout has not.
        OSError: if there is no such file.
    """
    path = Path(path)
    if layout not in ("auto", *TEXTS_OF_LAYOUT):
        raise ValueError(f"Unknown layout {layout!r}, expected auto, {', '.join(TEXTS_OF_LAYOUT)}.")
    if texts not in (None, *TEXTS):
        raise ValueError(f"Unknown texts {texts!r}, expected one of {', '.join(TEXTS)}.")
    content = _msrvtt_table(path) if path.suffix.lower() == ".csv" else _load_json(path)
    found = _layout_of(path, content)
    looks_alike = (layout, found) == ("youcook2", "activitynet")
    if layout not in ("auto", found) and not looks_alike:
        raise ValueError(f"{path} has the layout of {found}, expected {layout}. Leave the layout out, or set it so.")
    rows = list(_rows(path, content, found, subset))
    if not rows:
        raise ValueError(f"{path} describes no video, expected at least one. Check subset={subset!r} and the file.")
    texts = texts or TEXTS_OF_LAYOUT[layout if looks_alike else found]
    if texts == "segments" and any(time is None for *_, time in rows):
        raise ValueError(f"{path} has no times, so its texts belong to whole videos. Use texts='each' or 'paragraph'.")
    groups: dict[tuple, list[str]] = {}
    for video, caption, time in rows:
        stretch = _stretch(path, video, time) if texts == "segments" else (None, None)
        groups.setdefault((video, *stretch), []).append(caption)
    if texts == "paragraph":
        groups = {key: [" ".join(" ".join(captions).split())] for key, captions in groups.items()}
    items = []
    for (video, start_s, end_s), captions in groups.items():
        if not all(caption.strip() for caption in captions):
            raise ValueError(f"{path}: {video} has an empty caption, expected words. Correct it, or take it out.")
        tidy = tuple(" ".join(caption.split()) for caption in captions)
        items.append(BenchmarkItem(video, tidy, start_s=start_s, end_s=end_s))
    return items


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8, expected JSON. Is it the annotation file?") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}), expected annotations. Was the download complete?") from error


def _msrvtt_table(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        columns = table.fieldnames or []
        video = next((name for name in ("video_id", "video", "image_id") if name in columns), None)
        caption = next((name for name in ("sentence", "caption") if name in columns), None)
        if video is None or caption is None:
            raise ValueError(
                f"{path} has the columns {', '.join(columns) or '(none)'}; expected video_id and sentence in the "
                "first line, as MSRVTT_JSFUSION_test.csv has. Add the line, or rename the columns."
            )
        return [{"video": row[video], "caption": row[caption]} for row in table]


def _layout_of(path: Path, content: Any) -> str:
    entries = list(content.values()) if isinstance(content, dict) else content
    first = entries[0] if isinstance(entries, list) and entries else None
    keys = set(first) if isinstance(first, dict) else set()
    if isinstance(content, dict):
        if isinstance(content.get("database"), dict):
            return "youcook2"
        if "sentences" in keys:
            return "activitynet"
    for layout, needed in (("vatex", "enCap"), ("didemo", "description"), ("msrvtt", "caption")):
        if isinstance(content, list) and needed in keys:
            return layout
    raise ValueError(
        f"{path} holds a {type(content).__name__} whose first entry is {_short(first)}; expected a list of entries "
        'with "caption" (MSR-VTT), "description" (DiDeMo) or "enCap" (VATEX), or a dict with "sentences" per video '
        '(ActivityNet, YouCook2) or with "database" (YouCook2).'
    )


def _rows(path: Path, content: Any, layout: str, subset: str) -> Iterator[tuple[str, str, Any]]:
    """Video, caption, and [start, end] in seconds as the file has it (None where there are no times)."""
    if layout == "activitynet":
        for video, entry in content.items():
            sentences = _field(path, video, entry, "sentences", list)
            times = entry.get("timestamps", [None] * len(sentences))
            if not isinstance(times, list) or len(times) != len(sentences):
                raise ValueError(
                    f"{path}: {video} has {len(sentences)} sentences and the timestamps {_short(times)}, expected one "
                    "for each sentence."
                )
            for sentence, time in zip(sentences, times, strict=True):
                yield video, _caption(path, video, sentence), time
    elif layout == "youcook2":
        for video, entry in content["database"].items():
            if entry.get("subset", subset) == subset:
                for step in _field(path, video, entry, "annotations", list):
                    caption = _caption(path, video, _field(path, video, step, "sentence", str))
                    yield video, caption, _field(path, video, step, "segment", list)
    else:
        names = {"msrvtt": ("video", "caption"), "didemo": ("video", "description"), "vatex": ("videoID", "enCap")}
        for number, entry in enumerate(content):
            video = _field(path, f"entry {number}", entry, names[layout][0], str)
            captions = _field(path, video, entry, names[layout][1], (str, list))
            for caption in [captions] if isinstance(captions, str) else captions:
                yield video, _caption(path, video, caption), None


def _field(path: Path, where: str, entry: Any, name: str, kind: type | tuple) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get(name), kind) or not entry[name]:
        wanted = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(
            f'{path}: {where} is {_short(entry)}, expected a dict with "{name}": a {wanted} that is not empty. '
            "Correct the entry, or take it out."
        )
    return entry[name]


def _caption(path: Path, video: str, caption: Any) -> str:
    if not isinstance(caption, str):
        raise ValueError(f"{path}: {video} has the caption {caption!r}, expected a text.")
    return caption


def _stretch(path: Path, video: str, time: Any) -> tuple[float, float]:
    numbers = isinstance(time, list) and len(time) == 2 and all(isinstance(value, (int, float)) for value in time)
    if not numbers or not 0 <= time[0] <= time[1]:
        raise ValueError(f"{path}: {video} has the times {time!r}, expected [start, end] in seconds, start first.")
    return float(time[0]), float(time[1])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


# --- classification --------------------------------------------------------------------------------------------------


def readable(name: str) -> str:
    """A class name as words: "brush_hair" -> "brush hair", "ApplyEyeMakeup" -> "Apply Eye Makeup"."""
    words = " ".join(name.replace("_", " ").split())
    return words if " " in words else re.sub(r"(?<=[a-z])(?=[A-Z])", " ", words)


def read_classes(path: str | os.PathLike) -> ClassList:
    """Read the classes of a benchmark.

    Args:
        path: text with a class per line in the order of their numbers (the label maps of MMAction2); lines "1 Name"
            (classInd.txt of UCF101); lines "key<TAB>name", or "n01440764 tench, Tinca tinca" (ImageNet); or JSON
            {name: number} (labels.json of Something-Something V2).

    Raises:
        ValueError: for no classes, classes twice, or numbers that leave some out.
        OSError: if there is no such file.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        content = _load_json(path)
        if not isinstance(content, dict):
            raise ValueError(f"{path} holds a {type(content).__name__}, expected a dict from class name to number.")
        pairs = [(str(number), name) for name, number in content.items()]
        return _class_list(path, _in_order(path, pairs))
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if lines and all(re.match(r"\d+[ ,\t]+\S", line) for line in lines):
        return _class_list(path, _in_order(path, [re.split(r"[ ,\t]+", line, maxsplit=1) for line in lines]))
    if lines and all(re.match(r"n\d{8}\s+\S", line) for line in lines):
        pairs = [line.split(maxsplit=1) for line in lines]
        return _class_list(path, [key for key, _ in pairs], [names.split(",")[0] for _, names in pairs])
    if lines and all("\t" in line for line in lines):
        pairs = [line.split("\t", maxsplit=1) for line in lines]
        return _class_list(path, [key for key, _ in pairs], [name for _, name in pairs])
    return _class_list(path, lines)


def _in_order(path: Path, pairs: Iterable) -> list[str]:
    try:
        ordered = sorted((int(number), name) for number, name in pairs)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; expected a whole number for each class.") from error
    first = ordered[0][0] if ordered else 0
    if first not in (0, 1) or [number for number, _ in ordered] != list(range(first, first + len(ordered))):
        raise ValueError(f"{path} has {len(ordered)} classes, expected their numbers to be 0, 1, 2, ... or 1, 2, ...")
    return [name for _, name in ordered]


def _class_list(path: Path, keys: list[str], names: list[str] | None = None) -> ClassList:
    if not keys:
        raise ValueError(f"{path} has no classes, expected a name per line.")
    first_of: dict[str, str] = {}
    for key in keys:
        if _plain(key) in first_of:
            raise ValueError(f"{path} has the class {key!r} twice (as {first_of[_plain(key)]!r}), expected it once.")
        first_of[_plain(key)] = key
    return ClassList(tuple(keys), tuple(readable(name) for name in (names or keys)))


def read_labelled(
    path: str | os.PathLike, classes: ClassList, first_label: int = 0, split: int = 1
) -> list[BenchmarkItem]:
    """Read which class each video of a benchmark shows.

    Args:
        path: lines "path label" (MMAction2, trainlist01.txt) or "Class/file" alone (testlist01.txt of UCF101); csv of
            path and label, with or without a first line of names; val.csv of Kinetics (label, youtube_id, time_start,
            time_end); JSON of Something-Something V2 (list of {"id", "template"}); or the folder of HMDB51's split
            files ("brush_hair_test_split1.txt", ...). Labels are numbers or names.
        classes: the classes.
        first_label: the number of the first class in lists that count from 1.
        split: 1, 2 or 3 of HMDB51, whose test videos are taken.

    Raises:
        ValueError: for labels that are no class, or contradict the folder of their video, or a list without videos.
        OSError: if there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        pairs = _hmdb51_split(path, split)
    elif path.suffix.lower() == ".json":
        pairs = _something_something(path)
    else:
        pairs = _listed(path, classes)
    items = []
    for where, video, text in pairs:
        folder = classes.number_of(Path(video).parent.name)
        if text is None and folder is None:
            raise ValueError(
                f"{where}: {video!r} has no label after it, and its folder is no class; expected `path label`, the "
                f"label being 0..{len(classes) - 1} or a name such as {classes.keys[0]!r}."
            )
        label = folder if text is None else _label(where, text, classes, first_label)
        if folder not in (None, label):
            raise ValueError(
                f"{where}: {video} is in the folder of class {folder} ({classes.keys[folder]}), but has the label "
                f"{text} ({classes.keys[label]}). Does the list count from 1 (first_label=1), or is it another map?"
            )
        items.append(BenchmarkItem(video, label=label))
    if not items:
        raise ValueError(f"{path} lists no videos, expected lines `path label`.")
    return items


def _label(where: str, text: str, classes: ClassList, first_label: int) -> int:
    if re.fullmatch(r"-?\d+", text):
        number = int(text) - first_label
        if not 0 <= number < len(classes):
            raise ValueError(
                f"{where}: the label is {text}, expected {first_label}..{first_label + len(classes) - 1} for "
                f"{len(classes)} classes. Is it the right label map, and does the list count from {first_label}?"
            )
        return number
    number = classes.number_of(text)
    if number is None:
        close = difflib.get_close_matches(text, classes.keys, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the first of {len(classes)} is {classes.keys[0]!r}."
        raise ValueError(f"{where}: the label {text!r} is none of the classes; {hint}")
    return number


def _listed(path: Path, classes: ClassList) -> Iterator[tuple[str, str, str | None]]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if path.suffix.lower() != ".csv" or not numbered or "," not in numbered[0][1]:
        for number, line in numbered:
            yield f"{path}, line {number}", *_path_and_label(line.strip(), classes)
        return
    table = [
        (number, row) for (number, _), row in zip(numbered, csv.reader(line for _, line in numbered), strict=True)
    ]
    header = [name.strip().lower() for name in table[0][1]]
    label = next((header.index(name) for name in LABEL_COLUMNS if name in header), None)
    video = next((header.index(name) for name in VIDEO_COLUMNS if name in header), None)
    named = label is not None and video is not None
    for number, row in table[1:] if named else table:
        where = f"{path}, line {number}"
        if len(row) != (len(header) if named else 2):
            expected = f"{len(header)} as the first line has" if named else "2: path,label"
            raise ValueError(f"{where} has {len(row)} columns, expected {expected}.")
        if not named:
            yield where, row[0].strip(), row[1].strip()
        elif "time_start" in header and "time_end" in header:
            times = [row[header.index(name)].strip() for name in ("time_start", "time_end")]
            if not all(re.fullmatch(r"\d+(\.0*)?", time) for time in times):
                raise ValueError(f"{where} has the times {times}, expected whole seconds as Kinetics has.")
            start, end = (int(float(time)) for time in times)
            yield where, f"{row[video].strip()}_{start:06d}_{end:06d}", row[label].strip()
        else:
            yield where, row[video].strip(), row[label].strip()


def _path_and_label(line: str, classes: ClassList) -> tuple[str, str | None]:
    """Both may hold spaces: the label is a number at the end, or the longest end that is a class."""
    head, _, tail = line.rpartition(" ")
    if head and re.fullmatch(r"-?\d+", tail):
        return head.strip(), tail
    for gap in re.finditer(r"\s+", line):
        if Path(line[: gap.start()]).suffix and classes.number_of(line[gap.end() :]) is not None:
            return line[: gap.start()], line[gap.end() :]
    if Path(line).suffix.lower() in MEDIA_SUFFIXES or not head:
        return line, None
    return head.strip(), tail


def _something_something(path: Path) -> Iterator[tuple[str, str, str]]:
    content = _load_json(path)
    if not isinstance(content, list):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a list of entries with id and template.")
    for number, entry in enumerate(content):
        where = f"{path}, entry {number}"
        video = str(_field(path, f"entry {number}", entry, "id", (str, int)))
        yield where, video, _field(path, f"entry {number}", entry, "template", str)


def _hmdb51_split(folder: Path, split: int) -> Iterator[tuple[str, str, str]]:
    end = f"_test_split{split}.txt"
    files = sorted(folder.glob(f"*{end}"))
    if not files:
        raise ValueError(f"{folder} has no files *{end}, expected the split files of HMDB51 or a list of videos.")
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            video, _, use = line.strip().rpartition(" ")
            if line.strip() and use not in ("0", "1", "2"):
                raise ValueError(f"{file}, line {number}: got {line!r}, expected `file 0`, `file 1` or `file 2`.")
            if use == "2":
                yield f"{file}, line {number}", video.strip(), file.name.removesuffix(end)


def is_class_folder(path: str | os.PathLike) -> bool:
    """Whether a path is a folder with a folder per class, rather than a list or a folder of split files."""
    path = Path(path)
    return path.is_dir() and not any(path.glob("*_test_split?.txt"))


def read_class_folders(
    folder: str | os.PathLike, classes: ClassList | None = None
) -> tuple[list[BenchmarkItem], ClassList]:
    """Read a folder that has a folder of videos or images for each class (ImageFolder).

    Args:
        folder: the folder.
        classes: the classes; None: those that have a folder, in alphabetical order.

    Returns:
        Items, whose ``video`` is a path inside the folder, and the classes.

    Raises:
        ValueError: for a folder that is no class, or without videos and images.
    """
    folder = Path(folder)
    parts = sorted(part for part in folder.iterdir() if part.is_dir() and not part.name.startswith("."))
    if not parts:
        raise ValueError(f"{folder} has no folders, expected one per class with its videos or images in it.")
    classes = classes or _class_list(folder, [part.name for part in parts])
    items = []
    for part in parts:
        label = classes.number_of(part.name)
        if label is None:
            raise ValueError(
                f"{part} is none of the {len(classes)} classes, expected a folder such as {classes.keys[0]!r}. Is it "
                "the right list of classes?"
            )
        files = sorted(file for file in part.rglob("*") if file.suffix.lower() in MEDIA_SUFFIXES and file.is_file())
        items += [BenchmarkItem(file.relative_to(folder).as_posix(), label=label) for file in files]
    if not items:
        raise ValueError(f"{folder} has no videos or images in its folders, expected names such as clip.mp4, 1.jpg.")
    return items, classes


# --- prompts ---------------------------------------------------------------------------------------------------------

_MEDIA = ("photo", "video", "example", "demonstration")
_DOING = ("", " using", " doing", " during", " performing", " practicing")

# The ensembles of CLIP (prompts.md of openai/CLIP): Kinetics has 28 templates, UCF101 has 48.
TEMPLATES = {
    "plain": ("{}",),
    "image": ("a photo of a {}.",),
    "kinetics": tuple(
        f"a {medium} of {who} {{}}.".replace("  ", " ")
        for medium in _MEDIA
        for who in ("", *(f"a person{doing}" for doing in _DOING))
    ),
    "ucf101": tuple(
        f"a {medium} of {article} person{doing} {{}}."
        for doing in _DOING
        for article in ("a", "the")
        for medium in _MEDIA
    ),
}


def read_templates(path: str | os.PathLike, section: str | None = None) -> tuple[str, ...]:
    """Read prompt templates, in which ``{}`` stands for the class.

    Args:
        path: text with a template per line, or CLIP's prompts.md.
        section: in prompts.md the data set, such as "CIFAR10".

    Raises:
        ValueError: for a template without ``{}``, no templates, or a section that is missing.
        OSError: if there is no such file.
    """
    text = Path(path).read_text(encoding="utf-8")
    if Path(path).suffix.lower() == ".md":
        sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE))
        if section not in sections:
            raise ValueError(f"{path} has no section {section!r}, expected one of {', '.join(sections) or '(none)'}.")
        listed = sections[section].partition("templates = [")[2].partition("\n]")[0]
        templates = tuple(line.strip().rstrip(",")[1:-1] for line in listed.splitlines() if line.strip())
    else:
        templates = tuple(line.strip() for line in text.splitlines() if line.strip())
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"{path} has the template {template!r}, expected a text with {{}} once, for the class.")
    if not templates:
        raise ValueError(f"{path} has no templates, expected a line such as 'a video of {{}}.'.")
    return templates


# --- files -----------------------------------------------------------------------------------------------------------


class VideoFolder:
    """The videos and images below a folder, found by the names that annotations give them.

    Annotations name files with or without folders and suffixes, or with the suffix of the original upload; YouTube
    names come with and without "v_". The first that fits counts: the path, the file name, the name without suffix.

    Args:
        folder: searched through once, links included.

    Raises:
        ValueError: if it is no folder.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ValueError(f"{folder} is no folder, expected the one with the videos. Pass it as --videos.")
        self._by_name: dict[str, list[Path]] = {}
        self._with_pictures: dict[str, list[Path]] = {}
        for root, folders, files in os.walk(self.folder, followlinks=True):
            folders.sort()
            for name in sorted(files):
                path = Path(root, name)
                if path.suffix.lower() in MEDIA_SUFFIXES:
                    for key in {name, path.stem}:
                        self._by_name.setdefault(key, []).append(path)
            if any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in files):
                self._with_pictures.setdefault(Path(root).name, []).append(Path(root))

    def find(self, name: str) -> Path | None:
        """The file of a video, or None.

        Raises:
            ValueError: if several files fit equally.
        """
        if (self.folder / name).is_file():
            return self.folder / name
        base = Path(name).name
        stem = Path(base).stem if Path(base).suffix.lower() in MEDIA_SUFFIXES else base
        keys = (base, stem, stem.removeprefix("v_"), f"v_{stem}")
        return next((path for key in keys if (path := self._only(name, self._by_name.get(key, [])))), None)

    def find_pictures(self, name: str) -> Path | None:
        """The folder whose pictures are the frames of a video, or None; errors as in `find`."""
        return self._only(name, self._with_pictures.get(Path(name).name, []))

    def _only(self, name: str, found: list[Path]) -> Path | None:
        # A list may put its files into other folders than they are in; the class's folder still tells them apart.
        beside = [path for path in found if path.parent.name == Path(name).parent.name]
        found = beside if len(found) > 1 and beside else found
        if len(found) > 1:
            raise ValueError(
                f"{name} may be {found[0]} or {found[1]}, expected one file. Keep one of them in {self.folder}."
            )
        return found[0] if found else None
