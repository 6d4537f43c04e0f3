"""Trajectory maps: which trajectory does every pixel of a video belong to, and what follows from that.

In:   labels (T, H_px, W_px) at source size, frame times in seconds, frame indices
Out:  TrajectoryMap with ids, areas, boxes and time spans; COCO RLE (as in SA-V) and MOTChallenge text
From: video_processing_trajtok.post_process_trajectories     To: trajectory_drawing, evaluation, files
"""

import operator
from dataclasses import dataclass, field

import numpy as np

NO_TRAJECTORY = -1


@dataclass
class TrajectoryMap:
    """Trajectories of one clip at the size of its source; refuses parts that do not fit together.

    Attributes:
        labels: (T, H_px, W_px) int16, trajectory id per pixel; -1 = none.
        frame_times_s: (T,) float64, seconds from the start of the file, never decreasing.
        frame_indices: (T,) int64, index in the source file, strictly ascending.
        ids: (M,) int64, the trajectories that own at least one pixel, ascending.
        areas_px: (M, T) int64, pixels owned per frame; 0 where absent.
        boxes_xyxy_px: (M, T, 4) float32, half-open (x1 and y1 are exclusive); NaN where absent.
        time_spans_s: (M, 2) float64, first and last time at which a trajectory is visible.
    """

    labels: np.ndarray
    frame_times_s: np.ndarray
    frame_indices: np.ndarray
    ids: np.ndarray = field(init=False, repr=False)
    areas_px: np.ndarray = field(init=False, repr=False)
    boxes_xyxy_px: np.ndarray = field(init=False, repr=False)
    time_spans_s: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._validate()
        highest = int(self.labels.max(initial=NO_TRAJECTORY))
        owned = [_owned_rows_and_columns(frame, highest + 1) for frame in self.labels]
        areas = np.stack([rows.sum(axis=1) for rows, _ in owned], axis=1)  # (highest + 1, T)
        self.ids = np.flatnonzero(areas.sum(axis=1)).astype(np.int64)
        self.areas_px = areas[self.ids]
        self.boxes_xyxy_px = np.full((len(self.ids), self.num_frames, 4), np.nan, dtype=np.float32)
        for t, (rows, columns) in enumerate(owned):
            here = self.areas_px[:, t] > 0
            (y0, y1), (x0, x1) = _first_and_past_last(rows[self.ids]), _first_and_past_last(columns[self.ids])
            self.boxes_xyxy_px[here, t] = np.stack([x0, y0, x1, y1], axis=1)[here]
        visible = self.areas_px > 0
        first = visible.argmax(axis=1)
        last = self.num_frames - 1 - visible[:, ::-1].argmax(axis=1)
        self.time_spans_s = np.stack([self.frame_times_s[first], self.frame_times_s[last]], axis=1)

    def _validate(self) -> None:
        self.labels = _array("labels", self.labels, "(T, H_px, W_px) whole numbers")
        if self.labels.ndim != 3 or 0 in self.labels.shape:
            raise ValueError(f"labels must be (T, H_px, W_px), none of them 0; got {self.labels.shape}.")
        if not np.issubdtype(self.labels.dtype, np.integer):
            raise ValueError(f"labels must be whole numbers (trajectory ids, -1 = none), got {self.labels.dtype}.")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < NO_TRAJECTORY or high > np.iinfo(np.int16).max:
            raise ValueError(f"labels must lie in -1..{np.iinfo(np.int16).max}, got {low}..{high}.")
        self.labels = self.labels.astype(np.int16, copy=False)
        self.frame_times_s = _array("frame_times_s", self.frame_times_s, "seconds").astype(np.float64)
        indices = _array("frame_indices", self.frame_indices, "whole numbers")
        for name, values in (("frame_times_s", self.frame_times_s), ("frame_indices", indices)):
            if values.shape != (len(self.labels),):
                raise ValueError(f"{name} must have one entry per frame, ({len(self.labels)},); got {values.shape}.")
        if not (np.isfinite(indices) & (indices == np.floor(indices))).all():
            raise ValueError(f"frame_indices must be whole numbers, got {indices.tolist()}.")
        self.frame_indices = indices.astype(np.int64)
        if not np.isfinite(self.frame_times_s).all() or (np.diff(self.frame_times_s) < 0).any():
            raise ValueError(f"frame_times_s must be finite and never decrease, got {self.frame_times_s.tolist()}.")
        if (np.diff(self.frame_indices) <= 0).any() or self.frame_indices[0] < 0:
            raise ValueError(f"frame_indices must be strictly ascending from 0, got {self.frame_indices.tolist()}.")

    @property
    def num_frames(self) -> int:
        """Number of frames T."""
        return len(self.labels)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.labels.shape[1], self.labels.shape[2]

    def to_coco_rle(self) -> list[list[dict]]:
        """Masks as COCO run lengths, one list per trajectory (order of `ids`), one dict per frame.

        Returns:
            M lists of T dicts {"size": [H_px, W_px], "counts": str}, as in SA-V and as pycocotools reads them.
        """
        return [[encode_coco_rle(frame == trajectory) for frame in self.labels] for trajectory in self.ids]

    def to_mot_text(self) -> str:
        """Boxes in MOTChallenge layout: frame, id, left, top, width, height, confidence, -1, -1, -1.

        Returns:
            One line per trajectory and visible frame, ordered by frame, then id. Frames count from 1 in the source
            file (`frame_indices + 1`); ids are `ids`; pixels count from 1 as MOTChallenge does.
        """
        lines = []
        for t, frame_index in enumerate(self.frame_indices.tolist()):
            for trajectory, box in zip(self.ids.tolist(), self.boxes_xyxy_px[:, t].tolist(), strict=True):
                x0, y0, x1, y1 = box
                if x0 == x0:  # NaN, the only number that differs from itself, marks absence
                    place = f"{x0 + 1:g},{y0 + 1:g},{x1 - x0:g},{y1 - y0:g}"
                    lines.append(f"{frame_index + 1},{trajectory},{place},1,-1,-1,-1\n")
        return "".join(lines)


def _array(name: str, values: object, expected: str) -> np.ndarray:
    """Numbers of a list, array or tensor."""
    if callable(getattr(values, "detach", None)):
        values = values.detach().cpu()
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be {expected}, got {str(values)[:80]!r}.")
    return array


def _owned_rows_and_columns(labels: np.ndarray, num_ids: int) -> tuple[np.ndarray, np.ndarray]:
    """How many pixels each id owns per row (num_ids, H_px) and per column (num_ids, W_px) of one frame."""
    height, width = labels.shape
    y, x = np.nonzero(labels >= 0)
    owner = labels[y, x].astype(np.int64)
    rows = np.bincount(owner * height + y, minlength=num_ids * height).reshape(num_ids, height)
    columns = np.bincount(owner * width + x, minlength=num_ids * width).reshape(num_ids, width)
    return rows, columns


def _first_and_past_last(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First occupied place and the one after the last, per line of counts (M, places)."""
    occupied = counts > 0
    return occupied.argmax(axis=1), occupied.shape[1] - occupied[:, ::-1].argmax(axis=1)


def encode_coco_rle(mask: np.ndarray) -> dict:
    """Compress a mask as COCO does.

    Args:
        mask: (H_px, W_px) bool.

    Returns:
        {"size": [H_px, W_px], "counts": str}: run lengths down the columns, beginning with background, each from the
        third on as the difference to the one two before, in base 32 with a continuation bit, offset by 48.

    Raises:
        ValueError: the mask has another number of axes.
    """
    mask = _array("mask", mask, "(H_px, W_px) of True and False")
    if mask.ndim != 2:
        raise ValueError(f"mask must be (H_px, W_px), got {mask.shape}.")
    flat = np.concatenate([[False], np.asarray(mask, dtype=bool).ravel(order="F")])
    borders = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], borders, [flat.size - 1]])).tolist()
    letters = []
    for position, run in enumerate(runs):
        value = run - runs[position - 2] if position > 2 else run
        more = True
        while more:
            digit, value = value & 31, value >> 5
            more = value != (-1 if digit & 16 else 0)
            letters.append(chr((digit | 32 if more else digit) + 48))
    return {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": "".join(letters)}


def decode_coco_rle(rle: dict) -> np.ndarray:
    """Undo `encode_coco_rle`; also reads the uncompressed form, where counts is a list of run lengths.

    Args:
        rle: {"size": [H_px, W_px], "counts": str, bytes or list of int}.

    Returns:
        (H_px, W_px) bool.

    Raises:
        ValueError: this is no COCO mask, or its runs do not fill the picture exactly.
    """
    try:
        height, width = map(operator.index, rle["size"])
        counts = rle["counts"]
        runs = list(map(operator.index, counts)) if isinstance(counts, (list, tuple)) else _decompressed_runs(counts)
    except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(
            f'A COCO mask must be {{"size": [H_px, W_px], "counts": text, bytes or list of whole numbers}}, '
            f"got {str(rle)[:120]}."
        ) from error
    if min(height, width, *runs, 0) < 0 or sum(runs) != height * width:
        raise ValueError(
            f"COCO runs must be at least 0 and add up to {height}x{width} = {height * width} pixels; "
            f"got {len(runs)} runs that add up to {sum(runs)}."
        )
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(height, width, order="F")


def _decompressed_runs(counts: str | bytes) -> list[int]:
    runs, value, shift = [], 0, 0
    for letter in counts.encode() if isinstance(counts, str) else counts:
        digit = letter - 48
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    return runs
