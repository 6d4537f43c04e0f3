"""The answer sheet: the best clips for each text as a picture, with the trajectory that answers standing out.

In:   Answer (window, its TrajectoryMap, the number of the answering trajectory, lines of text)
Out:  highlighted frames_uint8 (T, H_px, W_px, 3); a PIL picture
From: clip_embedding, video_index     To: search_videos.py
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from modeling_trajtok.processors import TrajectoryMap
from modeling_trajtok.processors.trajectory_drawing import draw_overlay

REST_BRIGHTNESS = 0.35
TINT = 0.2
FRAME_WIDTH_PX, FRAME_HEIGHT_PX = 224, 168
MAX_COLUMNS = 6
MARGIN_PX = 250
GAP_PX, LINE_PX, HEADING_PX = 6, 18, 30


@dataclass
class Answer:
    """One of the best clips for a text.

    Attributes:
        lines: what is written beside the frames.
        frames_uint8: (T, H_px, W_px, 3) RGB.
        trajectories: of the same frames.
        answering_id: the trajectory that answers the text best; -1 = none.
    """

    lines: Sequence[str]
    frames_uint8: np.ndarray
    trajectories: TrajectoryMap
    answering_id: int


def highlight(frames_uint8: np.ndarray, trajectories: TrajectoryMap, answering_id: int) -> np.ndarray:
    """Outline one trajectory, with a touch of its colour, and dim all else.

    Args:
        frames_uint8: (T, H_px, W_px, 3) RGB.
        trajectories: its labels are (T, H_px, W_px).
        answering_id: which one; frames where it is not seen are dimmed altogether.

    Returns:
        (T, H_px, W_px, 3) uint8 RGB, a new array.

    Raises:
        ValueError: if frames and labels disagree in shape.
    """
    if trajectories.labels.shape != frames_uint8.shape[:3]:
        raise ValueError(
            f"frames_uint8 {frames_uint8.shape} and the labels {trajectories.labels.shape} do not fit, expected the "
            "trajectories of these frames."
        )
    answers = (trajectories.labels == answering_id) & (answering_id >= 0)
    dimmed = np.where(answers[..., None], frames_uint8, (frames_uint8 * REST_BRIGHTNESS).astype(np.uint8))
    alone = np.where(answers, trajectories.labels, -1)
    alone = TrajectoryMap(alone, trajectories.frame_times_s, trajectories.frame_indices)
    return draw_overlay(dimmed, alone, alpha=TINT, labels=False)


def answer_sheet(answers_by_text: Sequence[tuple[str, Sequence[Answer]]]) -> Image.Image:
    """One picture: under each text a row of frames for each of its clips.

    Args:
        answers_by_text: texts and their clips, best first; at most `MAX_COLUMNS` frames of a clip are shown.

    Returns:
        An RGB picture.
    """
    num_columns = max(min(len(answer.frames_uint8), MAX_COLUMNS) for _, found in answers_by_text for answer in found)
    row_px = FRAME_HEIGHT_PX + LINE_PX + GAP_PX
    height = GAP_PX + sum(HEADING_PX + row_px * len(found) for _, found in answers_by_text)
    sheet = Image.new("RGB", (MARGIN_PX + num_columns * (FRAME_WIDTH_PX + GAP_PX), height), "white")
    pen, top = ImageDraw.Draw(sheet), GAP_PX
    font, heading_font = ImageFont.load_default(13), ImageFont.load_default(17)
    for text, found in answers_by_text:
        heading = shortened(text, heading_font, sheet.width - 2 * GAP_PX)
        pen.text((GAP_PX, top + HEADING_PX // 2), heading, "black", heading_font, anchor="lm")
        top += HEADING_PX
        for answer in found:
            for number, line in enumerate(answer.lines):
                line = shortened(line, font, MARGIN_PX - 2 * GAP_PX)
                pen.text((GAP_PX, top + number * (LINE_PX + 2)), line, "black", font)
            for column, (picture, time_s) in enumerate(_small_pictures(answer)):
                left = MARGIN_PX + column * (FRAME_WIDTH_PX + GAP_PX)
                sheet.paste(picture, (left, top))
                middle = (left + picture.width // 2, top + picture.height + LINE_PX // 2)
                pen.text(middle, f"{time_s:.2f} s", "black", font, anchor="mm")
            top += row_px
    return sheet


def shortened(text: str, font: ImageFont.FreeTypeFont, width_px: int) -> str:
    """The text on one line, its middle left out if it is wider than `width_px`."""
    text = whole = " ".join(text.split())
    kept = len(whole)
    while kept > 2 and font.getlength(text) > width_px:
        kept -= 1
        text = f"{whole[: (kept + 1) // 2]}...{whole[len(whole) - kept // 2 :]}"
    return text


def _small_pictures(answer: Answer) -> list[tuple[Image.Image, float]]:
    """Evenly spaced frames at the size of the sheet, drawn on at that size so that lines stay thin; with times."""
    num_frames, height, width = answer.trajectories.labels.shape
    chosen = np.unique(np.linspace(0, num_frames - 1, min(MAX_COLUMNS, num_frames)).round().astype(int))
    scale = min(FRAME_WIDTH_PX / width, FRAME_HEIGHT_PX / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    frames = np.stack([np.asarray(Image.fromarray(answer.frames_uint8[t]).resize(size)) for t in chosen])
    rows, columns = np.arange(size[1]) * height // size[1], np.arange(size[0]) * width // size[0]
    source = answer.trajectories
    small = TrajectoryMap(
        source.labels[np.ix_(chosen, rows, columns)], source.frame_times_s[chosen], source.frame_indices[chosen]
    )
    drawn = highlight(frames, small, answer.answering_id)
    return [(Image.fromarray(frame), time_s) for frame, time_s in zip(drawn, small.frame_times_s, strict=True)]
