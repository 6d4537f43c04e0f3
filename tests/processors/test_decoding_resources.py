"""What decoding takes and what it leaves: threads, frames, files, memory; and processes that are forked after it."""

import gc
import io
import multiprocessing
import os
import threading
import time

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from modeling_trajtok.processors import VideoDecodeError, decode_video, usable_backends
from modeling_trajtok.processors.decoder_backends import DECODER_BYTES_PER_PX, DEFAULT_MAX_BYTES
from modeling_trajtok.processors.frame_decoding import PROBE_CLIP

LINUX = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads and files as Linux tells them")


def middle(timeline):
    return [timeline.total_num_frames // 2]


def left_now():
    """Threads of this process with those of libraries, its open files, and PyAV's objects."""
    objects = [type(value).__name__ for value in gc.get_objects() if str(type(value).__module__).startswith("av.")]
    kinds = ("VideoFrame", "InputContainer", "VideoStream", "VideoCodecContext", "Packet", "VideoReformatter")
    threads, files = (len(os.listdir(f"/proc/self/{what}")) for what in ("task", "fd"))
    return {"threads": threads, "files": files, **{kind: objects.count(kind) for kind in kinds}}


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def damaged(clip: bytes) -> bytes:
    broken = bytearray(clip)
    broken[len(clip) // 2 : len(clip) // 2 + 500] = bytes(500)
    return bytes(broken)


@LINUX
def test_nothing_is_left_after_a_decode(tmp_path, encode_clip, bars, no_collector):
    """The garbage collector is off, so only what is freed at once is gone."""
    clip = encode_clip(tmp_path / "clip.mp4", bars(40, 64, 96), gop=10).read_bytes()
    sources = {
        "whole": (clip, None),
        "jumps": (clip, lambda timeline: [3, 15, 39]),
        "read in order": (encode_clip(tmp_path / "raw.h264", bars(20, 64, 96)).read_bytes(), middle),
        "damaged": (damaged(clip), None),
        "no video": (b"this is no video", None),
        "bad choice": (clip, lambda timeline: [99]),
    }
    decode_video(clip)
    before = left_now()
    for name, (source, choose) in sources.items():
        try:
            decode_video(source, choose)
        except ValueError as error:
            assert name in ("damaged", "no video", "bad choice"), error
        assert left_now() == before, name


@LINUX
def test_a_decoder_uses_few_threads(tmp_path, encode_clip, bars):
    clip = encode_clip(tmp_path / "clip.mp4", bars(150, 64, 96))
    counts, done = [], threading.Event()

    def watch():
        while not done.wait(0.001):
            counts.append(len(os.listdir("/proc/self/task")))

    decode_video(clip)
    before = len(os.listdir("/proc/self/task"))
    threading.Thread(target=watch).start()
    decode_video(clip)
    done.set()
    assert max(counts) <= before + 10


@LINUX
def test_nothing_grows_over_a_thousand_decodes(no_collector):
    """A clip of two frames, with the garbage collector off."""

    def resident_bytes():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for _ in range(100):
        decode_video(PROBE_CLIP, middle)
    before, memory = left_now(), resident_bytes()
    for _ in range(1000):
        decode_video(PROBE_CLIP, middle)
    assert left_now() == before
    assert resident_bytes() - memory < 20e6


class Clips(Dataset):
    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return decode_video(self.path, middle, timeout_s=30).frames_uint8


def test_workers_decode_after_their_parent_has(tmp_path, encode_clip, bars):
    """With every way to start a process, all at once, because a new interpreter takes long to import everything."""
    path = encode_clip(tmp_path / "clip.mp4", bars(60, 64, 96))
    expected = decode_video(path, middle).frames_uint8
    gc.disable()  # so that whatever a decode leaves is inherited, to be collected by the child
    try:
        decode_video(path)
        options = {"batch_size": 4, "num_workers": 1, "timeout": 200}
        loaders = [
            DataLoader(Clips(path), multiprocessing_context=context, **options)
            for context in multiprocessing.get_all_start_methods()
        ]
        batches = [list(running) for running in [iter(loader) for loader in loaders]]
    finally:
        gc.enable()
    for batch in [batch for some in batches for batch in some]:
        for frames in batch.numpy():
            np.testing.assert_array_equal(frames, expected)
    assert [len(some) for some in batches] == [2] * len(loaders)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_collects_its_garbage(tmp_path, encode_clip, bars, no_collector):
    decode_video(encode_clip(tmp_path / "clip.mp4", bars(60, 64, 96)))
    child = os.fork()
    if child == 0:
        gc.collect()
        os._exit(0)
    deadline = time.monotonic() + 20
    while not (ended := os.waitpid(child, os.WNOHANG)[0]) and time.monotonic() < deadline:
        time.sleep(0.02)
    if not ended:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended, "the child hangs in gc.collect()"


def test_threads_decode_side_by_side(tmp_path, encode_clip, bars):
    path = encode_clip(tmp_path / "clip.mp4", bars(30, 64, 96))
    expected, wrong = decode_video(path).frames_uint8, []

    def work():
        for _ in range(5):
            if not np.array_equal(decode_video(path).frames_uint8, expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in threads)


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", usable_backends())
def test_memory_is_bounded_by_what_is_asked_for(backend, tmp_path, encode_clip, bars):
    path = encode_clip(tmp_path / "clip.mp4", bars(60, 64, 96))
    bound = 64 * 64 * 96  # of which 21 frames are made
    with pytest.raises(
        VideoDecodeError, match=r"clip\.mp4: needs 0\.0 GB for 60 frames of 64x96 px .*Choose fewer frames"
    ):
        decode_video(path, backend=backend, max_bytes=bound)
    assert len(decode_video(path, lambda timeline: range(21), backend=backend, max_bytes=bound).frames_uint8) == 21


def test_pictures_too_large_for_a_decoder_are_refused_before_decoding(tmp_path, encode_clip, bars):
    """A decoder keeps many pictures: a black video of 16384 x 16384 px took 7 GB for one frame."""
    path = encode_clip(tmp_path / "clip.mp4", bars(3, 64, 96))
    with pytest.raises(VideoDecodeError, match=r"clip\.mp4: has frames of 64x96 px .*Raise `max_bytes`"):
        decode_video(path, middle, max_bytes=64 * 64 * 96 - 1)
    assert len(decode_video(path, middle, max_bytes=64 * 64 * 96).frames_uint8) == 1
    assert 8192 * 4320 < DEFAULT_MAX_BYTES // DECODER_BYTES_PER_PX < 16384 * 8192


def test_pictures_of_pillow_are_bounded_as_well():
    stored = io.BytesIO()
    frames = [Image.new("RGB", (200, 100), colour) for colour in ("red", "green", "blue")]
    frames[0].save(stored, "GIF", save_all=True, append_images=frames[1:], duration=100)
    with pytest.raises(VideoDecodeError, match=r"needs .* for 3 frames of 100x200 px"):
        decode_video(stored.getvalue(), max_bytes=100_000)
    assert decode_video(stored.getvalue(), middle, max_bytes=100_000).total_num_frames == 3


@pytest.mark.parametrize("size", [(10, 5000), (5000, 10)])
def test_long_thin_pictures_are_decoded_at_once(size, tmp_path, encode_clip, bars):
    path = encode_clip(tmp_path / "thin.mp4", bars(3, *size), codec="mpeg4")
    started = time.perf_counter()
    assert decode_video(path, timeout_s=10).source_size_hw == size
    assert time.perf_counter() - started < 5
