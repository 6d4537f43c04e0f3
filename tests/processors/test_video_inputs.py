"""Frames in memory: every form gives the same pixels, every mistake a message."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_trajtok.processors.video_inputs import frames_to_tensor, list_videos


def test_every_form_of_the_same_frames_gives_the_same_tensor(bars):
    frames = bars(5, 24, 32)
    first = torch.from_numpy(frames).permute(0, 3, 1, 2)
    for form in (
        frames,
        frames.astype(np.int64),
        torch.from_numpy(frames),
        first,
        list(frames),
        [Image.fromarray(frame) for frame in frames],
        [torch.from_numpy(frame) for frame in frames],
        frames[::-1][::-1],
    ):
        got = frames_to_tensor(form, do_convert_rgb=True)
        assert got.dtype == torch.uint8
        torch.testing.assert_close(got, first)
    for form in (frames / 255, (frames / 255).astype(np.float32), first / 255):
        torch.testing.assert_close(frames_to_tensor(form, do_convert_rgb=True), first / 255)


def test_grey_and_rgba_become_rgb(bars):
    frames = bars(2, 24, 32)
    grey = frames[..., :1]
    for form in (grey, list(grey[..., 0]), [Image.fromarray(g) for g in grey[..., 0]]):
        got = frames_to_tensor(form, do_convert_rgb=True)
        torch.testing.assert_close(got, torch.from_numpy(grey).permute(0, 3, 1, 2).expand(-1, 3, -1, -1))
    rgba = np.concatenate([frames, np.full_like(frames[..., :1], 255)], axis=-1)
    torch.testing.assert_close(
        frames_to_tensor(rgba, do_convert_rgb=True), torch.from_numpy(frames).permute(0, 3, 1, 2)
    )
    with pytest.raises(ValueError, match=r"expected 3 colour channels .*\(2, 24, 32, 1\)"):
        frames_to_tensor(grey, do_convert_rgb=False)


def test_channels_can_be_named_where_shapes_leave_it_open():
    frames = torch.zeros(2, 3, 16, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"3x16 px .* at least 8"):
        frames_to_tensor(frames, do_convert_rgb=True)
    wide = torch.zeros(2, 3, 16, 24, dtype=torch.uint8)
    assert frames_to_tensor(wide, do_convert_rgb=True, channels="channels_first").shape == (2, 3, 16, 24)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((0, 24, 32, 3), np.uint8), "zero frames"),
        ([], "zero frames"),
        (np.full((2, 24, 32, 3), np.nan), "4608 pixel values that are NaN or infinite"),
        (np.full((2, 24, 32, 3), np.inf, np.float32), "NaN or infinite"),
        (np.zeros((2, 24, 32, 5), np.uint8), "colour channels"),
        (np.full((2, 24, 32, 3), 255.0), r"floats in \[255, 255\]; expected \[0, 1\]. Divide by 255"),
        (np.full((2, 24, 32, 3), -0.5), r"floats in \[-0.5, -0.5\]"),
        (np.full((2, 24, 32, 3), 256), r"256\.\.256; expected 0\.\.255"),
        (np.full((2, 24, 32, 3), 300, np.uint16), r"300\.\.300"),
        (np.full((2, 24, 32, 3), "a"), "values of type <U1"),
        (np.zeros((2, 24, 32, 3), bool), "values of type torch.bool"),
        (np.zeros((2, 4, 32, 3), np.uint8), "4x32 px"),
        (np.zeros((1, 2, 24, 32, 3), np.uint8), "expected frames"),
        ([np.zeros((24, 32, 3), np.uint8), np.zeros((24, 30, 3), np.uint8)], "different shapes"),
    ],
)
def test_mistakes_are_named(value, message):
    with pytest.raises(ValueError, match=message):
        frames_to_tensor(value, do_convert_rgb=True)


def test_one_video_and_a_list_of_videos_are_told_apart():
    picture = np.zeros((24, 32, 3), np.uint8)
    clip = np.zeros((2, 24, 32, 3), np.uint8)
    for one in ("a.mp4", Path("a.mp4"), b"bytes", clip, torch.from_numpy(clip), [picture] * 3, picture):
        assert len(list_videos(one)) == 1
    for two in (["a.mp4", Path("b.mp4")], [clip, "b.mp4"], np.stack([clip] * 2), [[picture] * 3, [picture]]):
        assert len(list_videos(two)) == 2


@pytest.mark.parametrize(
    ("value", "message"),
    [([], "empty list"), (None, "NoneType"), (3, "int"), (np.zeros((2, 2, 2, 2, 2, 2)), "2, 2, 2, 2, 2, 2")],
)
def test_what_is_no_video_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        list_videos(value)
