"""Video facts: what a caller tells about frames in memory, and what the processor tells about the frames it chose.

In:   VideoMetadata or dicts, nested as the videos are; the number of frames that came with them
Out:  SourceFacts: which frames of which source these are, and when they are shown
From: the user     To: video_processing_trajtok
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from transformers.video_utils import VideoMetadata

from .frame_sampling import FrameTimeline
from .setting_checks import number, plain, whole_number

# Frames in memory may be said to end a little before their last frame: rates and durations are rounded.
DURATION_TOLERANCE = 0.1


@dataclass
class TrajTokVideoMetadata(VideoMetadata):
    """Where the valid frames of a clip come from.

    Attributes:
        frame_times_s: seconds after the first frame of the source, true for variable frame rates too; None for
            frames in memory whose rate nobody told.
        name: path, URL or kind of the source.
    """

    frame_times_s: list[float] | None = None
    name: str | None = None

    @property
    def timestamps(self) -> list[float]:
        """Times of the sampled frames in seconds."""
        return super().timestamps if self.frame_times_s is None else self.frame_times_s


KNOWN_FACTS = tuple(field.name for field in fields(TrajTokVideoMetadata))


@dataclass(frozen=True, eq=False)
class SourceFacts:
    """Frames in memory and the source they were taken from.

    Attributes:
        frame_indices: (T,) int64, position of each frame in the source.
        timeline: of the T frames; times are those in the source.
        total_num_frames: frames in the source.
        fps: average frames per second of the source; None if nobody told.
        duration_s: of the source; None if nobody told.
        size_hw: height and width of the source in pixels; None: that of the frames.
        name: of the source, or None.
    """

    frame_indices: np.ndarray
    timeline: FrameTimeline
    total_num_frames: int
    fps: float | None
    duration_s: float | None
    size_hw: tuple[int, int] | None
    name: str | None


def facts_per_video(video_metadata: Any, num_videos: int) -> list[dict]:
    """One dict of checked facts per video; empty where nothing was told.

    Args:
        video_metadata: None, the facts about one video, or a list with an entry (or None) per video, which may be
            nested as the videos are.
        num_videos: how many videos came.

    Raises:
        ValueError: another number of entries, an unknown fact, or one of a wrong type or range.
    """
    if video_metadata is None:
        return [{}] * num_videos
    facts = flatten_facts(video_metadata)
    if len(facts) != num_videos:
        raise ValueError(f"video_metadata has {len(facts)} entries for {num_videos} videos; pass one per video.")
    return [_checked(fact) for fact in facts]


def describe_frames(facts: dict, num_frames: int) -> SourceFacts:
    """Bring together what was told about frames in memory.

    Args:
        facts: from `facts_per_video`.
        num_frames: how many frames came.

    Raises:
        ValueError: facts that do not fit the frames or each other.
    """
    indices = facts.get("frames_indices")
    total, fps, duration_s = (facts.get(name) for name in ("total_num_frames", "fps", "duration"))
    if indices is None:
        if total not in (None, num_frames):
            raise ValueError(
                f"came with {num_frames} frames, of which video_metadata says total_num_frames={total}; pass "
                f"frames_indices as well (which frames of the source these are), or total_num_frames={num_frames}"
            )
        total, indices = num_frames, np.arange(num_frames)
    elif len(indices) != num_frames:
        raise ValueError(f"came with {num_frames} frames, but video_metadata has {len(indices)} frames_indices")
    if total is None:
        total = round(fps * duration_s) if fps and duration_s else 0
        total = max(total, int(indices[-1]) + 1)
    if indices[-1] >= total:
        raise ValueError(
            f"has frames_indices up to {indices[-1]} in video_metadata, but total_num_frames={total}; indices count "
            "from 0 in the source"
        )
    if fps is None and duration_s:
        fps = total / duration_s
    if duration_s is None and fps:
        duration_s = total / fps
    times_s = facts.get("frame_times_s")
    if times_s is None and fps:
        times_s = indices / fps
    if times_s is None:
        timeline = FrameTimeline(num_frames)
    elif len(times_s) != num_frames:
        raise ValueError(f"came with {num_frames} frames, but video_metadata has {len(times_s)} frame_times_s")
    else:
        step_s = float(np.median(np.diff(times_s))) if num_frames > 1 else 1 / (fps or 1)
        end_s = float(times_s[-1]) + step_s
        if duration_s is not None:
            if times_s[-1] > duration_s * (1 + DURATION_TOLERANCE) + step_s:
                raise ValueError(
                    f"has its last frame at {times_s[-1]:.6g} s by video_metadata (fps={fps:.6g}, source frame "
                    f"{indices[-1]}), after the end of the source at {duration_s:.6g} s; correct fps, duration or "
                    "frames_indices"
                )
            end_s = duration_s if total == num_frames else min(end_s, max(duration_s, float(times_s[-1])))
        timeline = FrameTimeline(num_frames, times_s, end_s)
    size_hw = (facts["height"], facts["width"]) if facts.get("height") and facts.get("width") else None
    return SourceFacts(indices, timeline, total, fps, duration_s, size_hw, facts.get("name"))


def flatten_facts(video_metadata: Any) -> list:
    """One entry per video of facts about one video, or of lists of them, nested or not."""
    if isinstance(video_metadata, (list, tuple)):
        return [fact for entry in video_metadata for fact in flatten_facts(entry)]
    return [video_metadata]


def _checked(fact: Any) -> dict:
    if fact is None:
        return {}
    if not isinstance(fact, Mapping):
        raise ValueError(f"video_metadata holds {type(fact).__name__}; expected VideoMetadata, a dict or None.")
    for name in fact:
        if name not in KNOWN_FACTS and not isinstance(fact, VideoMetadata):
            close = difflib.get_close_matches(str(name), KNOWN_FACTS, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(KNOWN_FACTS)}."
            raise ValueError(f"video_metadata has no fact `{name}`; {hint}")
    given = {name: fact[name] for name in KNOWN_FACTS if name in tuple(fact) and fact[name] is not None}
    facts = {name: given[name] for name in ("name", "video_backend") if name in given}
    for name in ("total_num_frames", "height", "width"):
        if name in given:
            facts[name] = whole_number(f"video_metadata's {name}", given[name])
    for name in ("fps", "duration"):
        # Readers of Transformers write 0 where a file does not tell its rate or duration.
        if name in given and plain(given[name]) != 0:
            facts[name] = number(f"video_metadata's {name}", given[name])
    if "frames_indices" in given:
        facts["frames_indices"] = _ascending("frames_indices", given["frames_indices"], whole=True)
    if "frame_times_s" in given:
        facts["frame_times_s"] = _ascending("frame_times_s", given["frame_times_s"], whole=False)
    return facts


def _ascending(name: str, values: Any, *, whole: bool) -> np.ndarray:
    try:
        found = np.asarray(plain(values), dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    steps = np.diff(found) if found.ndim == 1 else found
    bad_step = (steps <= 0) if whole else (steps < 0)
    fits = found.ndim == 1 and len(found) and np.isfinite(found).all() and found[0] >= 0 and not bad_step.any()
    if not fits or (whole and (found != np.floor(found)).any()):
        expected = "whole numbers from 0, each above the one before" if whole else "seconds from 0, never falling"
        raise ValueError(f"video_metadata's {name} must be {expected}, one per frame; got {_short(values)}.")
    return found.astype(np.int64) if whole else found


def _short(values: Any) -> str:
    text = repr(plain(values))
    return text if len(text) <= 120 else text[:117] + "..."
