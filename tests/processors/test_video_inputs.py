"""Frames in memory: every form gives the same pixels, every mistake a message."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_trajtok.processors import VideoDecodeError, decode_video
from modeling_trajtok.processors.picture_frames import read_pictures
from modeling_trajtok.processors.video_inputs import as_source, flatten_videos, frames_to_tensor, list_videos


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
        (np.zeros((16, 24, 32), np.uint8), r'no axis of colours; pass input_data_format="none"'),
        (torch.zeros(2, 24, 32, 3).to_sparse(), "expected a dense one"),
        (torch.zeros(2, 24, 32, 3, device="meta"), "without plain values"),
        (np.full((2, 24, 32, 3), 300, ">u2"), r"300\.\.300; expected 0\.\.255. Scale them"),
        (
            [np.zeros((24, 32, 3), np.uint8), np.zeros((24, 32, 3), np.float32)],
            "different types, torch.float32, torch.uin",
        ),
        ([np.zeros((24, 32, 3), np.uint8), 3], "holds int; expected a path"),
        (None, "holds NoneType; expected a path"),
        ([np.zeros((24, 32, 3), np.uint8), np.zeros((24, 30, 3), np.uint8)], "different shapes"),
    ],
)
def test_mistakes_are_named(value, message):
    with pytest.raises(ValueError, match=message):
        frames_to_tensor(value, do_convert_rgb=True)


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_three_axes_that_mean_two_things_are_refused_until_the_caller_says_which(bars, count, kind):
    """Three grey frames look like one picture with its colours first."""
    grey = np.ascontiguousarray(bars(count, 24, 32)[..., 0])
    with pytest.raises(ValueError, match=rf"{count} grey frames. Pass input_data_format=.channels_first. .* .none."):
        frames_to_tensor(kind(grey), do_convert_rgb=True)
    as_frames = frames_to_tensor(kind(grey), do_convert_rgb=True, channels="none")
    torch.testing.assert_close(as_frames, torch.from_numpy(grey)[:, None].expand(-1, 3, -1, -1))
    as_picture = frames_to_tensor(kind(grey), do_convert_rgb=True, channels="channels_first")
    torch.testing.assert_close(as_picture, torch.from_numpy(grey[:3])[None])
    in_a_list = frames_to_tensor([kind(grey)] * 2, do_convert_rgb=True)
    assert in_a_list.shape == (2, 3, 24, 32), "a list holds pictures"
    with pytest.raises(ValueError, match=r"expected grey frames \(T, H, W\)"):
        frames_to_tensor(bars(2, 24, 32), do_convert_rgb=True, channels="none")


def test_number_types_that_torch_or_numpy_keep_apart(bars):
    frames = bars(2, 24, 32)
    first = torch.from_numpy(frames).permute(0, 3, 1, 2)
    for form in (frames.astype(">u2"), frames.astype(np.uint64), torch.from_numpy(frames.astype(np.uint16))):
        torch.testing.assert_close(frames_to_tensor(form, do_convert_rgb=True), first)
    for form in ((frames / 255).astype(">f4"), (frames / 255).astype(np.longdouble), torch.from_numpy(frames / 255)):
        torch.testing.assert_close(frames_to_tensor(form, do_convert_rgb=True), first / 255)
    tracked = (first / 255).requires_grad_()
    assert not frames_to_tensor(tracked, do_convert_rgb=True).requires_grad


# --- pictures of other kinds: the same by file and by object ---------------------------------------------------------


def _pictures_of_every_mode(bars):
    colours = Image.fromarray(bars(1, 24, 32)[0])
    grey = np.arange(24 * 32).reshape(24, 32) % 256
    see_through = colours.convert("P")
    see_through.info["transparency"] = bytes(range(256))
    turned = colours.copy()
    turned.getexif()[0x0112] = 6
    full_range = Image.fromarray((grey * 257).astype(np.uint16))
    return {
        "1": (colours.convert("1"), None),
        "L": (colours.convert("L"), None),
        "LA": (colours.convert("LA"), colours.convert("L")),
        "P": (see_through, None),
        "RGBA": (colours.convert("RGBA"), colours),
        "CMYK": (colours.convert("CMYK"), None),
        "I;16": (full_range, Image.fromarray(grey.astype(np.uint8))),
        "I": (Image.fromarray(grey.astype(np.int32)), Image.fromarray(grey.astype(np.uint8))),
        "F": (Image.fromarray((grey / 255).astype(np.float32)), Image.fromarray(grey.astype(np.uint8))),
        "turned": (turned, colours.transpose(Image.Transpose.ROTATE_270)),
    }


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F", "turned"])
def test_a_picture_of_any_mode_is_the_same_in_memory_and_in_a_file(bars, tmp_path, mode):
    picture, expected = _pictures_of_every_mode(bars)[mode]
    pixels = frames_to_tensor(picture, do_convert_rgb=True)
    expected = np.asarray((expected or picture).convert("RGB"))
    torch.testing.assert_close(pixels[0], torch.from_numpy(expected.copy()).permute(2, 0, 1))
    name = tmp_path / ("picture.tiff" if mode in ("CMYK", "I", "F") else "picture.png")
    picture.save(name, **({"exif": picture.getexif()} if mode == "turned" else {}))
    np.testing.assert_array_equal(decode_video(name).frames_uint8[0], expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((24, 32), 40000, np.int32), r"mode 'I' with values in \[4e\+04, 4e\+04\]; expected whole numbers"),
        (np.full((24, 32), 255, np.float32), r"mode 'F' with values in \[255, 255\]; expected floats in \[0, 1\]"),
        (np.full((24, 32), np.nan, np.float32), "mode 'F'"),
    ],
)
def test_pictures_without_a_range_are_refused_by_both_doors_where_they_need_one(values, message, tmp_path):
    picture = Image.fromarray(values)
    with pytest.raises(ValueError, match=message):
        frames_to_tensor(picture, do_convert_rgb=True)
    picture.save(tmp_path / "picture.tiff")
    with pytest.raises(VideoDecodeError, match=message):
        decode_video(tmp_path / "picture.tiff")


def test_without_conversion_pictures_must_be_rgb(bars):
    with pytest.raises(ValueError, match="mode 'L'; expected RGB, as do_convert_rgb is False"):
        frames_to_tensor(Image.fromarray(bars(1, 24, 32)[0]).convert("L"), do_convert_rgb=False)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_keeps_its_times_in_a_file_and_as_an_object(bars, tmp_path, kind):
    frames = [Image.fromarray(frame) for frame in bars(4, 24, 32)]
    name = tmp_path / f"animation.{kind.lower()}"
    times_ms = [100, 300, 200, 400]
    more = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(name, kind, save_all=True, append_images=frames[1:], duration=times_ms, **more)
    decoded = decode_video(name)
    np.testing.assert_allclose(decoded.frame_times_s, [0, 0.1, 0.4, 0.6])
    assert decoded.duration_s == pytest.approx(1.0) and decoded.total_num_frames == 4
    if kind != "GIF":
        np.testing.assert_array_equal(decoded.frames_uint8, bars(4, 24, 32))
    with Image.open(name) as animation:
        assert len(list_videos(animation)) == 1 and len(list_videos([animation, frames[0]])) == 2
        with pytest.raises(ValueError, match="the same animated picture several times"):
            frames_to_tensor([animation, animation], do_convert_rgb=True)
        taken, _, timeline = read_pictures(animation, lambda timeline: np.array([1, 3]), check_time=lambda: None)
    np.testing.assert_array_equal(taken, decoded.frames_uint8[[1, 3]])
    np.testing.assert_allclose(timeline.frame_times_s, decoded.frame_times_s)


def test_frames_without_a_delay_are_shown_as_browsers_show_them(bars, tmp_path):
    frames = [Image.fromarray(frame) for frame in bars(3, 24, 32)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    decoded = decode_video(tmp_path / "a.gif")
    np.testing.assert_allclose(decoded.frame_times_s, [0, 0.1, 0.2])
    assert decoded.source_fps == pytest.approx(10)


def test_the_picture_before_an_animation_is_not_one_of_its_frames(bars, tmp_path):
    frames = [Image.fromarray(frame) for frame in bars(3, 24, 32)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=100, default_image=True)
    decoded = decode_video(tmp_path / "a.png")
    np.testing.assert_array_equal(decoded.frames_uint8, bars(3, 24, 32)[1:])
    np.testing.assert_allclose(decoded.frame_times_s, [0, 0.1])


# --- one video or several --------------------------------------------------------------------------------------------


def test_one_video_and_a_list_of_videos_are_told_apart():
    picture = np.zeros((24, 32, 3), np.uint8)
    clip = np.zeros((2, 24, 32, 3), np.uint8)
    for one in ("a.mp4", Path("a.mp4"), b"bytes", clip, torch.from_numpy(clip), [picture] * 3, picture):
        assert len(list_videos(one)) == 1
    for two in (["a.mp4", Path("b.mp4")], [clip, "b.mp4"], np.stack([clip] * 2), [[picture] * 3, [picture]]):
        assert len(list_videos(two)) == 2
    assert len(list_videos(clip for _ in range(3))) == 3 and len(list_videos(picture for _ in range(3))) == 1
    assert list_videos(np.array(["a.mp4", "b.mp4"])) == ["a.mp4", "b.mp4"]


def test_lists_of_lists_are_flattened():
    clip = np.zeros((2, 24, 32, 3), np.uint8)
    nested = [["a.mp4", [clip]], [], "b.mp4", [clip[0], clip[1]]]
    assert [type(video) for video in flatten_videos(nested)] == [str, np.ndarray, str, list]
    assert flatten_videos(nested, keep_empty=True)[2] == []


def test_dicts_of_data_sets_are_files_or_bytes():
    assert as_source({"path": "a.mp4", "bytes": None}) == "a.mp4"
    assert as_source({"path": "a.mp4", "bytes": b"1"}) == b"1" and as_source(b"2") == b"2"
    assert len(list_videos({"bytes": b"1"})) == 1
    for value, message in (
        ({"path": None, "bytes": None}, "expected a path"),
        ({"video": 1, "path": "a.mp4"}, "dict with 'video', 'path'"),
        ({"path": "zip://a.mp4::b.zip"}, "let it decode the column"),
    ):
        with pytest.raises(ValueError, match=message):
            as_source(value)
    with pytest.raises(ValueError, match=r"got a dict with 'video', 'label'. Of a row .* pass the video alone"):
        list_videos({"video": "a.mp4", "label": 3})


@pytest.mark.parametrize(
    ("value", "message"),
    [([], "empty list"), (None, "NoneType"), (3, "int"), (np.zeros((2, 2, 2, 2, 2, 2)), "2, 2, 2, 2, 2, 2")],
)
def test_what_is_no_video_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        list_videos(value)
