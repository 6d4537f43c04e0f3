"""Real and freshly encoded files through every decoder that works here."""

import functools
import http.server
import io
import os
import sys
import threading
import time

import av
import numpy as np
import pytest
from PIL import Image

from modeling_trajtok.processors import decoder_backends, frame_decoding
from modeling_trajtok.processors.frame_decoding import BACKEND_ORDER, decode_video, usable_backends
from modeling_trajtok.processors.frame_sampling import sample_frame_indices
from modeling_trajtok.processors.video_sources import MachineError, VideoDecodeError, VideoTimeoutError


def only(*indices):
    return lambda timeline: indices


def middle(num_frames):
    return lambda timeline: sample_frame_indices(timeline, num_frames=num_frames, strategy="middle")


@pytest.fixture(params=BACKEND_ORDER)
def backend(request):
    if request.param not in usable_backends():
        pytest.skip(f"{request.param} does not work on this machine")
    return request.param


def test_pyav_works_here():
    assert usable_backends()[0] == "pyav"


# --- the same frames whichever decoder ran ---------------------------------------------------------------------------

REAL_CLIPS = {
    "decord_edge/video_90.mov": (3, (568, 320)),  # rotated
    "intel_asl/thanks.mkv": (51, (480, 640)),  # full range, no frame count in the header
    "mdn/flower.webm": (150, (540, 960)),  # VP8
    "moviepy/chaplin.mp4": (241, (360, 640)),
    "torchcodec/bt709_full_range.mp4": (30, (720, 1280)),
    "torchcodec/h265_video.mp4": (10, (128, 128)),  # decord's own seeking returns wrong frames
    "torchcodec/nasa_13013.mp4": (390, (270, 480)),  # two video streams
}


@functools.cache
def every_frame(path, wanted):
    video = decode_video(path, backend="pyav")
    return video.frames_uint8[list(wanted)], video.frame_times_s[list(wanted)]


@pytest.mark.parametrize("name", REAL_CLIPS)
def test_chosen_frames_equal_those_of_a_full_read(name, backend, shared_data):
    total, size_hw = REAL_CLIPS[name]
    path = shared_data / "clips" / name
    if backend == "decord" and "nasa" in name:
        pytest.skip("decord is not used for files with several video streams")
    chosen = sample_frame_indices(total, num_frames=5, strategy="middle").tolist()
    sparse = decode_video(path, middle(5), backend=backend)
    assert (sparse.total_num_frames, sparse.source_size_hw, sparse.backend) == (total, size_hw, backend)
    assert sparse.frame_indices.tolist() == chosen
    frames, times_s = every_frame(path, tuple(chosen))
    np.testing.assert_allclose(sparse.frame_times_s, times_s, atol=2e-3)
    difference = np.abs(sparse.frames_uint8.astype(np.int16) - frames).mean(axis=(1, 2, 3))
    assert difference.max() < 1.0, f"{backend} differs from PyAV by {difference} of 255"


def test_bt709_full_range_colours_are_right(backend, shared_data):
    """Against the conversion formula of the standard, worked out from the stored luma and chroma."""
    path = shared_data / "clips" / "torchcodec" / "bt709_full_range.mp4"
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).reformat(format="yuvj444p").to_ndarray().astype(np.float64)
    y, u, v = stored[0], stored[1] - 128, stored[2] - 128
    red, blue = y + 1.5748 * v, y + 1.8556 * u
    green = (y - 0.2126 * red - 0.0722 * blue) / 0.7152
    expected = np.stack([red, green, blue], axis=-1).clip(0, 255)
    got = decode_video(path, only(0), backend=backend).frames_uint8[0]
    assert np.abs(got - expected).mean() < 2.0


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda x: x),
        ((0, 1, -1, 0), lambda x: np.rot90(x, 3, axes=(1, 2))),
        ((-1, 0, 0, -1), lambda x: np.rot90(x, 2, axes=(1, 2))),
        ((0, -1, 1, 0), lambda x: np.rot90(x, 1, axes=(1, 2))),
    ],
)
def test_rotation_is_honoured(matrix, shown, backend, tmp_path, bars, encode_clip, set_display_matrix):
    path = encode_clip(tmp_path / "clip.mp4", bars(3, 64, 96))
    plain = decode_video(path, backend="pyav").frames_uint8
    set_display_matrix(path, *matrix)
    np.testing.assert_array_equal(decode_video(path, backend=backend).frames_uint8, shown(plain))


@pytest.mark.parametrize(("matrix", "axis"), [((-1, 0, 0, 1), 2), ((1, 0, 0, -1), 1)])
def test_mirrored_files_are_shown_mirrored(matrix, axis, tmp_path, bars, encode_clip, set_display_matrix):
    path = encode_clip(tmp_path / "clip.mp4", bars(2, 64, 96))
    plain = decode_video(path).frames_uint8
    set_display_matrix(path, *matrix)
    np.testing.assert_array_equal(decode_video(path).frames_uint8, np.flip(plain, axis))


def test_of_two_streams_the_default_one_is_read(backend, tmp_path, bars, encode_clip):
    path = encode_clip(tmp_path / "two.mp4", bars(4, 64, 64), bars(6, 128, 96))
    if backend == "decord":  # it would read the other one
        with pytest.raises(VideoDecodeError, match="2 video streams"):
            decode_video(path, backend=backend)
    else:
        video = decode_video(path, backend=backend)
        assert (video.source_size_hw, video.total_num_frames) == ((64, 64), 4)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate_keeps_true_times(suffix, backend, tmp_path, bars, encode_clip):
    pts = [0, 3, 4, 30, 31, 60]
    path = encode_clip(tmp_path / f"vfr.{suffix}", bars(6, 64, 96), pts=pts)
    video = decode_video(path, only(1, 3, 5), backend=backend)
    np.testing.assert_allclose(video.frame_times_s, [0.1, 1.0, 2.0], atol=1e-3)
    assert video.duration_s == decode_video(path).duration_s and 2 < video.duration_s < 3
    assert video.source_fps == pytest.approx(6 / video.duration_s)
    timelines = []
    for name in usable_backends():
        decode_video(path, lambda timeline: timelines.append(timeline) or [0], backend=name)
    for timeline in timelines:
        np.testing.assert_allclose(timeline.frame_times_s, np.array(pts) / 30, atol=1e-3)
        assert (timeline.total_num_frames, timeline.duration_s) == (6, video.duration_s)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx", "libvpx-vp9", "mpeg4"])
def test_seeking_returns_the_frames_of_an_ordered_read(codec, tmp_path, bars, encode_clip, monkeypatch):
    monkeypatch.setattr(decoder_backends, "_decode_in_order", None)  # no falling back to it
    suffix = "webm" if "vpx" in codec else "mp4"
    path = encode_clip(tmp_path / f"clip.{suffix}", bars(60, 64, 96), codec=codec, gop=10)
    dense = decode_video(path, backend="pyav").frames_uint8
    assert len(dense) == 60
    for wanted in ((0,), (59,), (9, 10, 11), (5, 20, 41), (13, 58)):
        sparse = decode_video(path, only(*wanted), backend="pyav").frames_uint8
        np.testing.assert_array_equal(sparse, dense[list(wanted)])


def test_packets_that_show_nothing_are_not_frames(tmp_path, bars, encode_clip):
    """VP8 may store reference pictures in packets of their own, which are decoded but never shown."""
    source = encode_clip(tmp_path / "source.webm", bars(60, 64, 96), codec="libvpx")
    path = tmp_path / "hidden.webm"
    with av.open(str(source)) as full, av.open(str(path), "w") as container:
        track = container.add_stream_from_template(full.streams.video[0])
        for number, packet in enumerate(full.demux(video=0)):
            data = bytearray(bytes(packet))
            if number == 30:
                data[0] &= ~0x10  # the show_frame bit
            if data:
                copy = av.Packet(bytes(data))
                copy.stream, copy.time_base, copy.pts, copy.dts = track, packet.time_base, packet.pts, packet.dts
                copy.is_keyframe = packet.is_keyframe
                container.mux(copy)
    assert decode_video(path).total_num_frames == 59
    np.testing.assert_allclose(decode_video(path, only(29, 30)).frame_times_s, [29 / 30, 31 / 30], atol=1e-3)


def test_files_without_time_stamps_are_read_in_order(tmp_path, bars, encode_clip):
    path = encode_clip(tmp_path / "raw.h264", bars(20, 64, 96))
    video = decode_video(path, only(2, 15))
    dense = decode_video(path)
    assert video.total_num_frames == 20
    np.testing.assert_array_equal(video.frames_uint8, dense.frames_uint8[[2, 15]])


def test_only_chosen_frames_are_kept_of_a_long_video(tmp_path, bars, encode_clip):
    frames = np.concatenate([bars(50, 64, 96)] * 40)
    path = encode_clip(tmp_path / "long.mp4", frames)
    started = time.perf_counter()
    video = decode_video(path, middle(4))
    assert video.total_num_frames == 2000 and video.frames_uint8.shape == (4, 64, 96, 3)
    assert time.perf_counter() - started < 2.0


# --- pictures and animations -----------------------------------------------------------------------------------------


def test_gif_frames_and_times(shared_data):
    video = decode_video(shared_data / "clips" / "kubric_movi" / "movi_a_1.gif", only(0, 1, 23))
    assert (video.total_num_frames, video.source_size_hw, video.backend) == (24, (256, 256), "pillow")
    np.testing.assert_allclose(video.frame_times_s[:2], [0, 0.08])
    assert np.abs(np.diff(video.frames_uint8.astype(np.int16), axis=0)).max() > 0


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_a_picture_is_one_frame(suffix, tmp_path, bars):
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(bars(1, 40, 56)[0]).save(path)
    video = decode_video(path)
    assert video.frames_uint8.shape == (1, 40, 56, 3)
    assert video.source_fps is None and video.frame_times_s.tolist() == [0.0]


def test_phone_photographs_come_upright(tmp_path, bars):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees
    Image.fromarray(bars(1, 40, 56)[0]).save(tmp_path / "photo.png", exif=exif)
    upright = decode_video(tmp_path / "photo.png").frames_uint8
    np.testing.assert_array_equal(upright[0], np.rot90(bars(1, 40, 56)[0], 3))


# --- sources ---------------------------------------------------------------------------------------------------------


class SlowHandler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/slow"):
            self.send_response(200)
            self.end_headers()
            for _ in range(20):
                time.sleep(0.1)
                self.wfile.write(b"x")
        elif self.path.startswith("/short"):
            self.send_response(200)
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(b"x" * 100)
        else:
            super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    handler = functools.partial(SlowHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_path_bytes_file_and_url_give_the_same_frames(tmp_path, bars, encode_clip, server):
    path = encode_clip(tmp_path / "clip.mp4", bars(5, 64, 96))
    expected = decode_video(path).frames_uint8
    for source in (str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), f"{server}/clip.mp4?key=secret"):
        np.testing.assert_array_equal(decode_video(source).frames_uint8, expected)
    with path.open("rb") as file:
        np.testing.assert_array_equal(decode_video(file).frames_uint8, expected)


def test_failed_downloads_name_the_address_but_not_the_key(server):
    with pytest.raises(VideoDecodeError, match=r"nothing\.mp4: the download failed .*404") as failure:
        decode_video(f"{server}/nothing.mp4?key=secret")
    assert "secret" not in str(failure.value)
    with pytest.raises(VideoDecodeError, match="100 of 5000 bytes"):
        decode_video(f"{server}/short")


def test_a_slow_download_ends_at_the_time_limit(server):
    started = time.perf_counter()
    with pytest.raises(VideoTimeoutError, match="time limit"):
        decode_video(f"{server}/slow", timeout_s=0.4)
    assert time.perf_counter() - started < 1.5


# --- bad files -------------------------------------------------------------------------------------------------------


def test_truncated_and_corrupt_files_say_so(tmp_path, bars, encode_clip, backend):
    path = encode_clip(tmp_path / "clip.mp4", bars(30, 96, 128))
    data = path.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoDecodeError, match=r"cut\.mp4: "):
        decode_video(cut, backend=backend)


def test_a_broken_off_streaming_file_says_how_many_frames_are_there(tmp_path, bars, encode_clip):
    path = encode_clip(tmp_path / "clip.mp4", bars(60, 96, 128), container_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.7)])
    with pytest.raises(VideoDecodeError, match=r"truncated: it holds \d+ of the 60 frames it announces"):
        decode_video(path)


def test_a_broken_off_matroska_file_says_how_much_is_there(tmp_path, bars, encode_clip, backend):
    path = encode_clip(tmp_path / "clip.mkv", bars(60, 96, 128))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    with pytest.raises(VideoDecodeError, match=r"truncated: it holds \d+ of the \d+ bytes"):
        decode_video(path, backend=backend)


def test_damage_in_the_middle_is_not_shown_as_frames(shared_data, tmp_path):
    data = bytearray((shared_data / "clips" / "torchcodec" / "h265_video.mp4").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    (tmp_path / "damaged.mp4").write_bytes(data)
    with pytest.raises(VideoDecodeError, match=r"damaged\.mp4: is corrupt"):
        decode_video(tmp_path / "damaged.mp4")


def test_a_title_in_an_old_encoding_does_no_harm(tmp_path, bars, encode_clip):
    path = encode_clip(tmp_path / "clip.mkv", bars(5, 64, 96), title="Ein Titel")
    path.write_bytes(path.read_bytes().replace(b"Ein Titel", b"F\xfcr Elise"[:9]))
    assert decode_video(path).total_num_frames == 5


def test_audio_only_is_refused(tmp_path, encode_clip):
    path = encode_clip(tmp_path / "sound.mp4", audio=True)
    with pytest.raises(VideoDecodeError, match=r"sound\.mp4: has no video stream \(found: audio\)"):
        decode_video(path)


def test_a_song_with_a_cover_picture_is_no_video(tmp_path, bars):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 96, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        silence.rate = 16000
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
        container.mux(cover.encode(av.VideoFrame.from_ndarray(bars(1, 64, 96)[0], format="rgb24")))
        container.mux(cover.encode(None))
    with pytest.raises(VideoDecodeError, match=r"no video stream \(found: audio, cover picture\)"):
        decode_video(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing.mp4", "no such file"),
        (lambda folder: folder, "a folder"),
        (lambda folder: b"", "empty"),
        (lambda folder: b"this is plain text, and not a video at all", "not a video"),
        (lambda folder: b"\x89PNG\r\n\x1a\n cut off", "picture"),
    ],
)
def test_no_video_is_refused_by_name(make, message, tmp_path):
    with pytest.raises(VideoDecodeError, match=message):
        decode_video(make(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_that_would_block_for_ever_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoDecodeError, match="not a regular file"):
        decode_video(tmp_path / "pipe.mp4", timeout_s=2)


def test_indices_outside_the_video_are_refused(tmp_path, bars, encode_clip):
    path = encode_clip(tmp_path / "clip.mp4", bars(5, 64, 96))
    for wanted in ((5,), (-1, 2), (3, 3), (4, 2), ()):
        with pytest.raises(ValueError, match="Frame indices"):
            decode_video(path, only(*wanted))


# --- time limits and broken installations ----------------------------------------------------------------------------


def test_a_decoder_that_hangs_is_left_behind(tmp_path, bars, encode_clip, monkeypatch):
    path = encode_clip(tmp_path / "clip.mp4", bars(5, 64, 96))
    let_go = threading.Event()
    usable_backends()
    monkeypatch.setitem(frame_decoding.BACKENDS, "pyav", lambda *arguments: let_go.wait(20))
    started = time.perf_counter()
    with pytest.raises(VideoTimeoutError, match=r"clip\.mp4: decoding did not end within 0\.3 s"):
        decode_video(path, backend="pyav", timeout_s=0.3)
    assert time.perf_counter() - started < 2
    let_go.set()


def test_a_decord_process_that_hangs_is_killed(tmp_path, bars, encode_clip, monkeypatch):
    path = encode_clip(tmp_path / "clip.mp4", bars(5, 64, 96))
    worker = tmp_path / "hang.py"
    worker.write_text("import time\ntime.sleep(60)\n")
    if "decord" not in usable_backends():
        pytest.skip("decord does not work on this machine")
    monkeypatch.setattr(decoder_backends, "WORKER_FILE", str(worker))
    started = time.perf_counter()
    with pytest.raises(VideoTimeoutError):
        decode_video(path, only(0), backend="decord", timeout_s=0.8)
    assert time.perf_counter() - started < 3


def test_installed_but_broken_is_not_usable(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    frame_decoding._passes_probe.cache_clear()
    try:
        assert not frame_decoding._passes_probe("torchcodec")
        with pytest.raises(MachineError, match="cannot load its libraries; use decoder_backend='auto'"):
            decode_video(frame_decoding.PROBE_CLIP, backend="torchcodec")
        assert decode_video(frame_decoding.PROBE_CLIP).backend == "pyav"
    finally:
        frame_decoding._passes_probe.cache_clear()


def test_unknown_backend_and_time_limit_are_refused():
    with pytest.raises(ValueError, match="'ffmpeg'; expected auto, pyav, torchcodec, decord"):
        decode_video(frame_decoding.PROBE_CLIP, backend="ffmpeg")
    with pytest.raises(ValueError, match="above 0 seconds, got 0"):
        decode_video(frame_decoding.PROBE_CLIP, timeout_s=0)
