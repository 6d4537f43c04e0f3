"""Trajectories as pictures: overlay, contact sheet, video file.

In:   frames_uint8 (T, H_px, W_px, 3) RGB 0-255, and the TrajectoryMap of the same frames
Out:  frames_uint8 of the same shape, a PIL picture, an .mp4 file; the inputs are never written to
From: post_process_trajectories (video processor)     To: a person's eyes

A colour belongs to a trajectory id: the same id has the same colour in every frame, clip and run.
"""

import numbers
import os
from collections.abc import Iterator
from fractions import Fraction
from functools import cache

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image, ImageDraw, ImageFont

from .trajectory_maps import TrajectoryMap

NUM_COLOURS = 128
MAX_SHEET_PX = 1 << 27
TICKS_PER_S = 90_000  # of time stamps in videos
COLOUR_OF_NONE = (48, 48, 48)  # what belongs to no trajectory, where a picture shows ids only

# Okabe and Ito's colours for all kinds of sight, without black: the first ids, which are the most frequent, get these.
_OKABE_ITO = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (0, 114, 178),
    (240, 228, 66),
    (204, 121, 167),
)

# How linear RGB looks without red or without green cones (Machado, Oliveira and Fernandes, 2009).
_PROTANOPIA = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
_DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))


def trajectory_colours(ids: np.ndarray) -> np.ndarray:
    """The colour of each id, depending on nothing but the id.

    Colours of different ids are as far apart as possible, for the eye with all cones and for red- and green-blind eyes
    together; the smaller the ids, the farther. After `NUM_COLOURS` ids the colours begin again.

    Args:
        ids: (M,) integers; negative = no trajectory.

    Returns:
        (M, 3) uint8 RGB.

    Raises:
        ValueError: if the ids are no whole numbers.
    """
    ids = np.asarray(ids)
    if not np.issubdtype(ids.dtype, np.integer):
        if ids.size:
            raise ValueError(f"ids must be whole numbers (trajectories, negative = none), got {ids.dtype}.")
        ids = ids.astype(np.int64)
    colours = _palette()[ids % NUM_COLOURS]
    colours[ids < 0] = COLOUR_OF_NONE
    return colours


def draw_overlay(
    frames_uint8: np.ndarray,
    trajectory_map: TrajectoryMap,
    alpha: float = 0.5,
    outlines: bool = True,
    labels: bool = True,
) -> np.ndarray:
    """Paint every trajectory over the video in its colour.

    Args:
        frames_uint8: (T, H_px, W_px, 3) RGB.
        trajectory_map: its labels are (T, H_px, W_px); pixels with label -1 stay as they are.
        alpha: strength of the colour, 0 (none) to 1 (hides the video).
        outlines: draw a white line with a dark shadow where two trajectories meet.
        labels: write the id inside each region that has room for it, deep inside its broadest part.

    Returns:
        (T, H_px, W_px, 3) uint8 RGB, a new array.

    Raises:
        ValueError: if frames and labels disagree in shape, or `alpha` is not within 0 and 1.
    """
    frames_uint8, label_maps = _checked_inputs(frames_uint8, trajectory_map)
    if not _is_number(alpha) or not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 (no colour) to 1 (only colour), got {alpha!r}.")
    line_px = max(1, round(min(label_maps.shape[1:]) / 480))
    text_points = _text_points(label_maps) if labels else [{}] * len(label_maps)
    painted = np.empty_like(frames_uint8)
    for frame, label_map, points, target in zip(frames_uint8, label_maps, text_points, painted, strict=True):
        target[:] = _filled(frame, label_map, alpha)
        if outlines:
            _outline(target, label_map, line_px)
        if points:
            target[:] = _with_ids(target, points)
    return painted


def contact_sheet(
    frames_uint8: np.ndarray,
    trajectory_map: TrajectoryMap,
    max_columns: int = 8,
    column_width_px: int = 240,
) -> Image.Image:
    """One picture of the whole clip: evenly spaced frames as columns; source, overlay and plain ids as rows.

    Args:
        frames_uint8: (T, H_px, W_px, 3) RGB.
        trajectory_map: its labels are (T, H_px, W_px); its frame times are written under the columns.
        max_columns: at most so many frames are shown, the first and the last among them.
        column_width_px: width of each small picture; the height follows from the video.

    Returns:
        An RGB picture.

    Raises:
        ValueError: if frames and labels disagree in shape, or there is no column or no width.
    """
    frames_uint8, label_maps = _checked_inputs(frames_uint8, trajectory_map)
    if not all(_is_number(value, numbers.Integral) and value > 0 for value in (max_columns, column_width_px)):
        raise ValueError(
            f"A sheet needs columns with a width, whole numbers above 0; got {max_columns=} and {column_width_px=}."
        )
    num_frames, height, width = label_maps.shape
    chosen = np.unique(np.linspace(0, num_frames - 1, min(max_columns, num_frames)).round().astype(int))
    size = (column_width_px, max(1, round(column_width_px * height / width)))
    if 3 * len(chosen) * size[0] * size[1] > MAX_SHEET_PX:
        raise ValueError(
            f"A sheet of 3 rows and {len(chosen)} columns of {size[1]}x{size[0]} px (height x width) is larger than "
            f"{MAX_SHEET_PX / 1e6:.0f} million pixels; pass a smaller column_width_px or fewer max_columns."
        )
    small_frames = np.stack([np.asarray(Image.fromarray(frames_uint8[t]).resize(size)) for t in chosen])
    rows = np.arange(size[1]) * height // size[1]
    columns = np.arange(size[0]) * width // size[0]
    small_labels = label_maps[np.ix_(chosen, rows, columns)]
    small_map = TrajectoryMap(small_labels, trajectory_map.frame_times_s[chosen], trajectory_map.frame_indices[chosen])
    plain = np.empty_like(small_frames)
    plain[:] = COLOUR_OF_NONE
    strips = {
        "source": small_frames,
        "overlay": draw_overlay(small_frames, small_map),
        "trajectories": draw_overlay(plain, small_map, alpha=1.0),
    }

    gap, caption_px = 4, 18
    font = ImageFont.load_default(13)
    margin = gap * 2 + max(round(font.getlength(title)) for title in strips)
    sheet_size = (margin + chosen.size * (size[0] + gap), len(strips) * (size[1] + gap) + gap + caption_px)
    sheet = Image.new("RGB", sheet_size, "white")
    pen = ImageDraw.Draw(sheet)
    for row, (title, strip) in enumerate(strips.items()):
        top = gap + row * (size[1] + gap)
        pen.text((gap, top + size[1] // 2), title, fill="black", font=font, anchor="lm")
        for column, picture in enumerate(strip):
            sheet.paste(Image.fromarray(picture), (margin + column * (size[0] + gap), top))
    for column, time_s in enumerate(small_map.frame_times_s):
        middle = margin + column * (size[0] + gap) + size[0] // 2
        pen.text((middle, sheet_size[1] - caption_px // 2 - 1), f"{time_s:.2f} s", "black", font, anchor="mm")
    return sheet


def write_video(
    path: str | os.PathLike,
    frames_uint8: np.ndarray,
    fps: float,
    crf: int = 18,
    *,
    frame_times_s: np.ndarray | None = None,
) -> None:
    """Write an .mp4 that every player and browser shows: H.264, 4:2:0, index in front.

    Such a video has even sides: an odd one gets its last row or column twice.

    Args:
        path: the file to write; replaced if it exists.
        frames_uint8: (T, H_px, W_px, 3) RGB.
        fps: frames per second.
        crf: quality of H.264, 0 (no loss) to 51; 18 looks like the original.
        frame_times_s: (T,) rising seconds at which the frames appear, the first one's being where the video starts;
            `fps` is then their average, and how long the last one is shown. None: equal steps.

    Raises:
        ValueError: if there is no frame, the frames are no uint8 RGB, `fps` or `crf` are out of range, or the times
            do not rise.
    """
    frames_uint8 = _checked_frames(frames_uint8)
    if not _is_number(fps) or not fps > 0:
        raise ValueError(f"fps must be positive, got {fps!r}.")
    if not 0.001 <= fps <= 1000:
        raise ValueError(f"fps must be from 0.001 to 1000 frames per second, got {fps}.")
    if not _is_number(crf, numbers.Integral) or not 0 <= crf <= 51:
        raise ValueError(f"crf must be a whole number from 0 (no loss) to 51, got {crf!r}.")
    ticks = None if frame_times_s is None else _ticks(frame_times_s, len(frames_uint8))
    height, width = frames_uint8.shape[1:3]
    even = np.pad(frames_uint8, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    options = {"crf": str(crf)}
    if ticks is not None:
        options["bf"] = "0"  # packets in the order of showing: only then a file tells how long its last frame is shown
        shown_for = dict(zip(ticks.tolist(), [*np.diff(ticks).tolist(), round(TICKS_PER_S / fps)], strict=True))
    with av.open(os.fspath(path), "w", format="mp4", options={"movflags": "+faststart"}) as file:
        stream = file.add_stream("libx264", rate=Fraction(float(fps)).limit_denominator(1001), options=options)
        stream.height, stream.width = even.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # Conversion is by BT.601; players that are not told so take BT.709 for large videos, and colours shift.
        stream.codec_context.colorspace = Colorspace.SMPTE170M
        stream.codec_context.color_range = ColorRange.MPEG
        if ticks is not None:
            stream.codec_context.time_base = Fraction(1, TICKS_PER_S)
        for number in range(len(even) + 1):
            frame = av.VideoFrame.from_ndarray(even[number], format="rgb24") if number < len(even) else None
            if ticks is not None and frame is not None:
                frame.pts = int(ticks[number])
            for packet in stream.encode(frame):
                if ticks is not None:
                    packet.duration = shown_for[packet.pts]
                file.mux(packet)


def _ticks(frame_times_s: np.ndarray, num_frames: int) -> np.ndarray:
    """Time stamps (T,) int64 from 0, in units of 1 / `TICKS_PER_S`."""
    times_s = np.asarray(frame_times_s, dtype=np.float64)
    if times_s.shape == (num_frames,) and np.isfinite(times_s).all():
        ticks = ((times_s - times_s[0]) * TICKS_PER_S).round().astype(np.int64)
        if (np.diff(ticks) > 0).all():
            return ticks
    raise ValueError(f"frame_times_s must be {num_frames} rising numbers of seconds, got {times_s.tolist()}.")


@cache
def _palette() -> np.ndarray:
    """(NUM_COLOURS, 3) uint8: Okabe and Ito's colours, then always the candidate farthest from all taken so far."""
    steps = np.linspace(0, 255, 14).round()
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness, *hue = _oklab(_linear(grid)).T
    colourful = (lightness > 0.45) & (lightness < 0.93) & (np.hypot(*hue) > 0.06)
    candidates = np.concatenate([np.array(_OKABE_ITO, dtype=np.float64), grid[colourful]])
    linear = _linear(candidates)
    looks = np.concatenate(
        [_oklab(linear)] + [_oklab((linear @ np.array(sight).T).clip(0, 1)) for sight in (_PROTANOPIA, _DEUTERANOPIA)],
        axis=1,
    )  # (C, 9): where each candidate lies for three kinds of eyes
    taken = list(range(len(_OKABE_ITO)))
    distance = np.linalg.norm(looks[:, None] - looks[taken], axis=-1).min(axis=1)
    while len(taken) < NUM_COLOURS:
        taken.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(looks - looks[taken[-1]], axis=-1))
    return candidates[taken].astype(np.uint8)


def _linear(srgb: np.ndarray) -> np.ndarray:
    """Light intensities (..., 3) in 0-1 of sRGB values 0-255."""
    unit = srgb / 255
    return np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)


def _oklab(linear: np.ndarray) -> np.ndarray:
    """Ottosson's OKLab coordinates (..., 3): equal distances look equally different."""
    to_cones = np.array(
        [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
         [0.0883024619, 0.2817188376, 0.6299787005]]
    )  # fmt: skip
    to_lab = np.array(
        [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
         [0.0259040371, 0.7827717662, -0.8086757660]]
    )  # fmt: skip
    return np.cbrt(linear @ to_cones.T) @ to_lab.T


def _filled(frame: np.ndarray, label_map: np.ndarray, alpha: float) -> np.ndarray:
    """One frame (H, W, 3) with each trajectory's colour mixed in."""
    weight = round(alpha * 256)
    offset = max(0, -int(label_map.min()))  # the tables below begin with the label -offset
    present = np.arange(-offset, int(label_map.max()) + 1)
    colour = trajectory_colours(present).astype(np.uint16) * weight
    colour[present < 0] = 0
    keep = np.where(present < 0, 256, 256 - weight).astype(np.uint16)
    index = label_map.astype(np.intp) + offset
    mixed = frame * np.take(keep, index)[..., None]
    mixed += np.take(colour, index, axis=0)
    return (mixed >> 8).astype(np.uint8)


def _outline(frame: np.ndarray, label_map: np.ndarray, line_px: int) -> None:
    """Draw into `frame`: where labels change, white on the upper or left side, dark on the other."""
    before, after = np.zeros_like(label_map, dtype=bool), np.zeros_like(label_map, dtype=bool)
    for shift in range(1, line_px + 1):
        changes = label_map[shift:] != label_map[:-shift]
        before[:-shift] |= changes
        after[shift:] |= changes
        changes = label_map[:, shift:] != label_map[:, :-shift]
        before[:, :-shift] |= changes
        after[:, shift:] |= changes
    frame[after] = 24
    frame[before] = 255


def _text_points(label_maps: np.ndarray) -> Iterator[dict[int, tuple[int, int]]]:
    """For each frame {id: (x, y)}: the points in px where the ids that have room are to be written.

    A point stays where it was in the frame before while that is nearly as good, so that numbers in a video keep calm.
    """
    height, width = label_maps.shape[1:]
    step = -(-max(height, width) // 160)  # a grid of at most 160 points each way is fine enough to place a number
    font = _font(height, width)
    room = {}  # id: half of the side of the square that its number needs
    previous: dict[int, tuple[int, int]] = {}
    for label_map in label_maps[:, step // 2 :: step, step // 2 :: step]:
        depth = _depth(label_map) * step
        deepest: dict[int, tuple[int, int]] = {}
        for trajectory in np.unique(label_map):
            if trajectory < 0:
                continue
            own_depth = np.where(label_map == trajectory, depth, 0)
            broadest = np.argwhere(own_depth == own_depth.max())
            best = tuple(broadest[np.abs(broadest - broadest.mean(axis=0)).sum(axis=1).argmin()])
            if trajectory in previous and own_depth[previous[trajectory]] >= 0.8 * own_depth[best]:
                best = previous[trajectory]
            if trajectory not in room:
                room[trajectory] = max(font.getlength(str(trajectory)), font.size) / 2
            if own_depth[best] >= room[trajectory]:
                deepest[int(trajectory)] = best
        previous = deepest
        yield {key: (int(x * step + step // 2), int(y * step + step // 2)) for key, (y, x) in deepest.items()}


def _depth(label_map: np.ndarray) -> np.ndarray:
    """(H, W) int: d where the square of side 2 d - 1 around a point has one label and lies within the picture."""
    depth = np.ones(label_map.shape, dtype=np.int64)
    inside = np.zeros(label_map.shape, dtype=bool)
    if min(label_map.shape) < 3:
        return depth
    windows = np.lib.stride_tricks.sliding_window_view(label_map, (3, 3))
    inside[1:-1, 1:-1] = (windows == label_map[1:-1, 1:-1, None, None]).all(axis=(-1, -2))
    while inside.any():
        depth += inside
        across = inside[:, :-2] & inside[:, 1:-1] & inside[:, 2:]
        inside = np.pad(across[:-2] & across[1:-1] & across[2:], 1)
    return depth


def _with_ids(frame: np.ndarray, points: dict[int, tuple[int, int]]) -> np.ndarray:
    """The frame (H, W, 3) with each id written around its point (x, y)."""
    picture = Image.fromarray(frame)
    pen = ImageDraw.Draw(picture)
    font = _font(*frame.shape[:2])
    for trajectory, point in points.items():
        pen.text(
            point,
            str(trajectory),
            "white",
            font,
            anchor="mm",
            stroke_width=max(1, font.size // 10),
            stroke_fill="black",
        )
    return np.asarray(picture)


@cache
def _font(height: int, width: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(max(11, round(min(height, width) / 26)))


def _checked_frames(frames_uint8: np.ndarray) -> np.ndarray:
    """The frames as an array; lists and tensors are taken as well."""
    found = np.asarray(frames_uint8)
    if found.ndim != 4 or found.shape[-1] != 3 or found.dtype != np.uint8 or not found.size:
        raise ValueError(
            f"frames_uint8 must be (T, H_px, W_px, 3) uint8 with at least one frame, got {found.shape} {found.dtype}."
        )
    return found


def _checked_inputs(frames_uint8: np.ndarray, trajectory_map: TrajectoryMap) -> tuple[np.ndarray, np.ndarray]:
    """The frames (T, H, W, 3), and the labels (T, H, W) of the map, known to fit them."""
    frames_uint8 = _checked_frames(frames_uint8)
    if not isinstance(trajectory_map, TrajectoryMap):
        raise ValueError(
            f"trajectory_map must be a TrajectoryMap, as post_process_trajectories returns one for each clip; "
            f"got {type(trajectory_map).__name__}."
        )
    label_maps = trajectory_map.labels
    if label_maps.shape != frames_uint8.shape[:3]:
        raise ValueError(
            f"frames_uint8 {frames_uint8.shape} and the labels {label_maps.shape} of the trajectory map do not fit. "
            "Draw on the frames that the map was made from (its `frame_indices` name them)."
        )
    return frames_uint8, label_maps


def _is_number(value: object, kind: type = numbers.Real) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
