"""Damaged files against an independent decode in order: damage that FFmpeg reports is never shown as right frames."""

import random
from fractions import Fraction

import av
import numpy as np
import pytest

from modeling_trajtok.processors import VideoDecodeError, decode_video, usable_backends

KINDS = {
    "h264.mp4": "libx264",
    "h264.mkv": "libx264",
    "h264.ts": "libx264",
    "h264.flv": "libx264",
    "hevc.mp4": "libx265",
    "vp8.webm": "libvpx",
    "vp8.ivf": "libvpx",
    "vp9.webm": "libvpx-vp9",
    "ffv1.mkv": "ffv1",
    "ffv1.avi": "ffv1",
    "mpeg2.ts": "mpeg2video",
    "mpeg4.avi": "mpeg4",
    "mjpeg.avi": "mjpeg",
    "raw.h264": "libx264",
}


def encode(path, codec, frames):
    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=25)
        track.height, track.width = frames.shape[1:3]
        track.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        track.codec_context.gop_size = 10
        if codec == "ffv1":
            track.codec_context.options = {"level": "3", "slicecrc": "1"}
        for pixels in frames:
            container.mux(track.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(track.encode(None))
    return path.read_bytes()


def damaged_copies(data: bytes, kind: str):
    """(name, bytes): flipped bits, holes, pieces cut out, a broken end, an end that was never written."""
    dice = random.Random(kind)
    for number in range(6):
        flipped = bytearray(data)
        for _ in range(1 if number < 3 else 20):
            flipped[dice.randrange(len(data) // 4, len(data) - 60)] ^= 1 << dice.randrange(8)
        yield f"flipped {number}", bytes(flipped)
    half = len(data) // 2
    for size in (150, 1500):
        yield f"hole of {size}", data[:half] + bytes(size) + data[half + size :]
    yield "piece lost", data[:half] + data[half + 500 :]
    for share in (0.35, 0.6, 0.9):
        yield f"cut at {share}", data[: int(len(data) * share)]
        yield f"empty from {share}", data[: int(len(data) * share)].ljust(len(data), b"\0")
    if kind.endswith(".ts"):
        half -= half % 188
        yield "packets lost", data[:half] + data[half + 4 * 188 :]


def decode_in_order(path) -> tuple[int, bool]:
    """Pictures that FFmpeg shows, and whether it reports anything, by nothing but PyAV."""
    reported, count = False, 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        try:
            for packet in container.demux(stream):
                reported = reported or packet.is_corrupt
                try:
                    for frame in packet.decode():
                        count, reported = count + 1, reported or frame.is_corrupt
                except EOFError:
                    pass
        except av.FFmpegError:
            reported = True
    return count, reported


@pytest.mark.parametrize("kind", KINDS)
def test_reported_damage_is_never_silent(kind, tmp_path, bars):
    clean_path = tmp_path / f"clean-{kind}"
    data = encode(clean_path, KINDS[kind], bars(40, 64, 96))
    clean = decode_video(clean_path)
    assert clean.total_num_frames == 40
    refused = []
    for name, copy in damaged_copies(data, kind):
        path = tmp_path / f"{name}.{kind}"
        path.write_bytes(copy)
        try:
            video = decode_video(path, timeout_s=20)
        except VideoDecodeError as error:
            assert str(error).startswith(f"{path}: ") and "did not end" not in str(error)
            refused.append(name)
            continue
        places = np.abs(clean.frame_times_s[None] - video.frame_times_s[:, None]).argmin(axis=1)
        altered = (video.frames_uint8 != clean.frames_uint8[places]).any(axis=(1, 2, 3))
        shown, reported = decode_in_order(path)
        assert video.total_num_frames == shown, name
        assert not (altered.any() and reported), f"{name}: {altered.sum()} frames are altered without a word"
    assert len(refused) >= 4, "the test damages too little"


def test_headers_of_nonsense_give_a_clear_error(tmp_path, bars):
    """Files with random bytes near their start: frames, or an error that names the file, and nothing else."""
    dice, outcomes = random.Random(1), {"frames": 0, "error": 0}
    for kind in ("h264.mp4", "h264.flv", "ffv1.mkv", "mpeg2.ts", "mpeg4.avi", "vp8.ivf"):
        data = encode(tmp_path / f"clean-{kind}", KINDS[kind], bars(6, 64, 96))
        for _ in range(40):
            broken = bytearray(data)
            for _ in range(dice.choice([1, 3, 10, 40])):
                broken[dice.randrange(min(len(data), 1500))] = dice.choice([0, 255, 127, 128, dice.randrange(256)])
            try:
                decode_video(bytes(broken), lambda timeline: [0], timeout_s=20)
                outcomes["frames"] += 1
            except VideoDecodeError as error:
                assert str(error).startswith(f"<{len(data)} bytes in memory>: ") and "did not end" not in str(error)
                outcomes["error"] += 1
    assert min(outcomes.values()) > 20


@pytest.mark.parametrize("suffix", ["mkv", "avi"])
def test_ffv1_checksums_are_compared(suffix, tmp_path, bars):
    """FFmpeg conceals slices whose checksum differs, and says so only in its log."""
    data = encode(tmp_path / f"clean.{suffix}", "ffv1", bars(6, 64, 96))
    with av.open(str(tmp_path / f"clean.{suffix}")) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for packet in packets:
        at = data.index(packet) + len(packet) // 2
        path = tmp_path / f"flipped.{suffix}"
        path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        with pytest.raises(VideoDecodeError, match=r"corrupt|not a video|damaged"):
            decode_video(path)


@pytest.fixture
def one_bad_frame(tmp_path, encode_clip, bars):
    """H.264 in MP4, keyframes at 0, 12, 24: the packet of frame 17 is random bytes."""
    path = encode_clip(tmp_path / "clip.mp4", bars(36, 64, 96))
    with av.open(str(path)) as container:
        packets = {packet.pts * packet.time_base: bytes(packet) for packet in container.demux(video=0) if packet.size}
    packet, data = packets[Fraction(17, 30)], path.read_bytes()
    at = data.index(packet)
    junk = random.Random(0).randbytes(len(packet) - 5)
    path.write_bytes(data[: at + 5] + junk + data[at + len(packet) :])
    return path


@pytest.mark.parametrize("backend", usable_backends())
def test_only_frames_that_were_asked_for_matter(backend, one_bad_frame):
    good = [0, 5, 11, 24, 30, 35]
    if backend != "decord":  # see below
        video = decode_video(one_bad_frame, lambda timeline: good, backend=backend)
        assert (video.frame_indices.tolist(), video.total_num_frames) == (good, 36)
    with pytest.raises(
        VideoDecodeError, match=r"clip\.mp4: is corrupt: .* in 1 of the 3 chosen frames, first at 0\.57"
    ):
        decode_video(one_bad_frame, lambda timeline: [0, 17, 30], backend=backend)


def test_damaged_frames_are_left_out_and_counted_on_request(one_bad_frame):
    video = decode_video(one_bad_frame, skip_damaged=True)
    assert video.num_damaged_frames == 36 - len(video.frame_indices) > 0
    assert video.total_num_frames == 36 and len(video.frames_uint8) == len(video.frame_times_s)
    assert 17 not in video.frame_indices and set(range(12)) | set(range(24, 36)) <= set(video.frame_indices.tolist())
    np.testing.assert_allclose(video.frame_times_s, video.frame_indices / 30, atol=1e-6)
    sound = decode_video(one_bad_frame, lambda timeline: range(12))
    np.testing.assert_array_equal(video.frames_uint8[:12], sound.frames_uint8)
    with pytest.raises(VideoDecodeError, match="1 of the 1 chosen"):
        decode_video(one_bad_frame, lambda timeline: [17], skip_damaged=True)


# --- good files that look damaged ------------------------------------------------------------------------------------


def write(path, codec, times_ms, last_ms=100, options=None, muxer=None):
    with av.open(str(path), "w", options=muxer or {}) as container:
        track = container.add_stream(codec, rate=10, options=options or {})
        track.width, track.height, track.pix_fmt = 96, 64, "yuv420p"
        unit_ms = 100 if codec == "mpeg4" else 1
        track.codec_context.time_base = Fraction(unit_ms, 1000)
        packets = []
        for number, at_ms in enumerate(times_ms):
            picture = np.full((64, 96, 3), number * 20, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = at_ms // unit_ms, track.codec_context.time_base
            packets += track.encode(frame)
        for packet in packets + track.encode(None):
            if packet.pts == times_ms[-1] // unit_ms:
                packet.duration = last_ms // unit_ms
            container.mux(packet)
    return path


STEADY_MS = [100 * number for number in range(12)]


@pytest.mark.parametrize("backend", usable_backends())
@pytest.mark.parametrize("suffix", ["mkv", "webm", "mp4"])
def test_the_last_picture_may_be_held(suffix, backend, tmp_path):
    codec, options = ("libvpx", {}) if suffix == "webm" else ("libx264", {"bf": "0"})
    video = decode_video(write(tmp_path / f"held.{suffix}", codec, STEADY_MS, 3000, options), backend=backend)
    np.testing.assert_allclose(video.frame_times_s, np.arange(12) / 10, atol=1e-3)
    assert video.duration_s == pytest.approx(4.1, abs=0.01)


@pytest.mark.parametrize("backend", usable_backends())
def test_an_avi_file_may_skip_pictures(backend, tmp_path):
    times_ms = STEADY_MS[:6] + [5000 + time_ms for time_ms in STEADY_MS[:6]]
    video = decode_video(write(tmp_path / "skipped.avi", "mpeg4", times_ms), backend="pyav")
    np.testing.assert_allclose(video.frame_times_s, np.array(times_ms) / 1000, atol=1e-3)


def test_a_transport_stream_may_pass_the_end_of_its_clock(tmp_path):
    path = write(tmp_path / "wrap.ts", "libx264", STEADY_MS, options={"bf": "0"}, muxer={"output_ts_offset": "95443"})
    video = decode_video(path)
    np.testing.assert_allclose(video.frame_times_s, np.arange(12) / 10, atol=1e-3)


def test_a_recording_may_begin_anywhere(tmp_path, bars):
    """Its first pictures refer to ones that are not there, and are no damage."""
    data = encode(tmp_path / "whole.ts", "mpeg2video", bars(60, 64, 96))
    path = tmp_path / "middle.ts"
    path.write_bytes(data[len(data) // 3 // 188 * 188 :])
    shown, _ = decode_in_order(path)
    video = decode_video(path)
    assert video.total_num_frames == shown and 20 < shown < 45
    whole = decode_video(tmp_path / "whole.ts").frames_uint8
    np.testing.assert_array_equal(video.frames_uint8, whole[-shown:])
    for index in (0, shown // 2, shown - 1):
        one = decode_video(path, lambda timeline, index=index: [index])
        np.testing.assert_array_equal(one.frames_uint8[0], video.frames_uint8[index])


# --- streams of pictures, palettes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stream.mjpeg", "stream", "stream.jpg", "stream.mp4"])
def test_a_stream_of_jpeg_pictures_is_a_clip(name, tmp_path, bars):
    frames = bars(12, 64, 96)
    encode(tmp_path / "clip.mjpeg", "mjpeg", frames)
    (tmp_path / "clip.mjpeg").rename(tmp_path / name)
    video = decode_video(tmp_path / name)
    assert video.total_num_frames == 12 and video.source_fps == pytest.approx(25)
    assert np.abs(video.frames_uint8.astype(np.int16) - frames).mean() < 12
    one = decode_video(tmp_path / name, lambda timeline: [7])
    np.testing.assert_array_equal(one.frames_uint8[0], video.frames_uint8[7])


def test_a_photograph_with_a_preview_is_one_picture(tmp_path):
    from PIL import Image

    photograph, preview = Image.new("RGB", (96, 64), "red"), Image.new("RGB", (96, 64), "blue")
    photograph.save(tmp_path / "photograph.jpg", "MPO", save_all=True, append_images=[preview])
    Image.new("RGB", (48, 32), "blue").save(tmp_path / "small.jpg")
    photograph.save(tmp_path / "appended.jpg")
    with (tmp_path / "appended.jpg").open("ab") as file:
        file.write((tmp_path / "small.jpg").read_bytes())
    for name in ("photograph.jpg", "appended.jpg"):
        video = decode_video(tmp_path / name)
        assert (video.total_num_frames, video.backend) == (1, "pillow")


@pytest.mark.parametrize("suffix", ["avi", "mov"])
def test_palettes_colour_every_frame(suffix, tmp_path):
    """The palette comes with the first packet, which a jump to a later frame would leave out."""
    path = tmp_path / f"palette.{suffix}"
    palette = np.zeros((256, 4), np.uint8)
    palette[:, 0], palette[:, 1:] = 255, np.random.default_rng(0).integers(0, 256, (256, 3))
    numbers = (np.arange(64)[:, None] + np.arange(96)[None] + np.arange(20)[:, None, None]).astype(np.uint8)
    with av.open(str(path), "w") as container:
        track = container.add_stream("rawvideo", rate=10)
        track.width, track.height, track.pix_fmt = 96, 64, "pal8"
        for picture in numbers:
            container.mux(track.encode(av.VideoFrame.from_ndarray((picture, palette), format="pal8")))
        container.mux(track.encode(None))
    with av.open(str(path)) as container:  # what the file itself holds, in order
        stored = [frame.to_ndarray() for frame in container.decode(video=0)]
    expected = np.stack([colours[picture][..., 1:] for picture, colours in stored])
    for wanted in (range(20), [19], [3, 17]):
        got = decode_video(path, lambda timeline, wanted=wanted: list(wanted)).frames_uint8
        np.testing.assert_array_equal(got, expected[list(wanted)])


# --- the timeline ----------------------------------------------------------------------------------------------------


def test_times_ascend_where_a_container_stores_none(tmp_path):
    """AVI has no time stamps for reordered pictures."""
    path = write(tmp_path / "reordered.avi", "libx264", STEADY_MS, options={"bf": "2", "b-adapt": "0"})
    video = decode_video(path)
    assert video.total_num_frames == 12 and (np.diff(video.frame_times_s) > 0).all()


def test_animations_keep_their_times(tmp_path):
    from PIL import Image

    frames = [Image.new("RGB", (32, 24), (40 * number, 0, 0)) for number in range(4)]
    for suffix in ("gif", "png", "webp"):
        path = tmp_path / f"animation.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=[100, 500, 100, 300], loop=0)
        video = decode_video(path)
        np.testing.assert_allclose(video.frame_times_s, [0, 0.1, 0.6, 0.7])
        assert video.duration_s == pytest.approx(1.0) and video.source_fps == pytest.approx(4)
