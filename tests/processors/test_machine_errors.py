"""Errors of the machine - a full disk, no memory, too many open files, no decoder - are no fault of a video."""

import io
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback

import numpy as np
import pytest
from PIL import Image

from modeling_trajtok.processors import (
    MachineError,
    TrajTokVideoProcessor,
    VideoDecodeError,
    decode_video,
    decoder_backends,
    frame_decoding,
    media_container,
    usable_backends,
)
from modeling_trajtok.processors.frame_decoding import PROBE_CLIP
from modeling_trajtok.processors.video_sources import is_machine_error


@pytest.fixture
def unproven():
    """Decoders that have not been tried."""
    frame_decoding._passes_probe.cache_clear()
    yield
    frame_decoding._passes_probe.cache_clear()


def in_a_process(act, *arguments):
    """Run in a forked process, whose limits end with it."""

    def run():
        try:
            act(*arguments)
        except BaseException:  # noqa: BLE001 - the parent process is told by the exit status
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    if process.exitcode is None:
        process.kill()
    assert process.exitcode == 0, "see what the process printed"


def with_full_disk(path):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    tempfile.tempdir = None
    for source in (path, PROBE_CLIP):  # these need no disk
        assert decode_video(source).backend == "pyav"
    with pytest.raises(MachineError, match=r"^<BytesIO>: this machine could not read it \(.*The video may be"):
        decode_video(io.BytesIO(PROBE_CLIP))


def with_full_disk_found_late(path):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    tempfile.gettempdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    with pytest.raises(MachineError, match=r"^<BytesIO>: this machine could not read it \(File too large\)"):
        decode_video(io.BytesIO(PROBE_CLIP * 1000))


@pytest.mark.parametrize("act", [with_full_disk, with_full_disk_found_late])
def test_a_full_disk_is_no_fault_of_a_video(act, tmp_path, unproven):
    path = tmp_path / "clip.mp4"
    path.write_bytes(PROBE_CLIP)
    in_a_process(act, path)


def with_too_many_files(path):
    soft = len(os.listdir("/proc/self/fd")) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    processor = TrajTokVideoProcessor(size={"height": 64, "width": 64})
    for read in (decode_video, lambda path: processor(path, skip_bad_videos=True)):
        with pytest.raises(MachineError, match=r"clip\.mp4: this machine could not read it \(Too many open files\)"):
            read(path)
    with pytest.raises(MachineError, match=r"<\d+ bytes in memory>: .*\(Too many open files\)"):
        decode_video(PROBE_CLIP, backend="decord")
    for descriptor in taken:
        os.close(descriptor)
    assert decode_video(path).backend == "pyav"
    assert decode_video(PROBE_CLIP, backend="decord").backend == "decord"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts files as Linux tells them")
def test_too_many_open_files_are_no_fault_of_a_video_or_decoder(tmp_path, unproven):
    if "decord" not in usable_backends():
        pytest.skip("decord does not work on this machine")
    frame_decoding._passes_probe.cache_clear()
    path = tmp_path / "clip.mp4"
    path.write_bytes(PROBE_CLIP)
    in_a_process(with_too_many_files, path)


# In an interpreter of its own: what this process has freed before would be memory beyond the limit.
WITH_LITTLE_MEMORY = """
import os, re, resource, sys
from modeling_trajtok.processors import MachineError, decode_video

with open("/proc/self/statm", encoding="ascii") as file:
    used_bytes = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
limit = used_bytes + (300 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    decode_video(sys.argv[1])
except MachineError as error:
    assert re.search(r"clip\\.mp4: this machine could not read it \\(Unable to allocate", str(error)), error
else:
    raise AssertionError("0.5 GB of frames were decoded in 0.3 GB of memory")
assert len(decode_video(sys.argv[1], lambda timeline: [0]).frames_uint8) == 1
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="measures memory as Linux tells it")
def test_no_memory_is_no_fault_of_a_video(tmp_path, encode_clip):
    frames = np.broadcast_to(np.uint8(200), (160, 1024, 1024, 3))  # 0.5 GB
    command = [sys.executable, "-c", WITH_LITTLE_MEMORY, str(encode_clip(tmp_path / "clip.mp4", frames))]
    subprocess.run(command, check=True, timeout=120)


def test_a_missing_decoder_is_no_fault_of_a_video(monkeypatch, unproven):
    for module in (media_container, decoder_backends):
        monkeypatch.setattr(module, "av", None)
    processor = TrajTokVideoProcessor(size={"height": 64, "width": 64})
    with pytest.raises(MachineError, match=r"could not read it \(no video decoder works here: `pip install av`"):
        decode_video(PROBE_CLIP)
    assert usable_backends() == ()
    for backend in ("auto", "decord"):
        with pytest.raises(MachineError):
            processor([PROBE_CLIP, PROBE_CLIP], skip_bad_videos=True, decoder_backend=backend)

    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    assert decode_video(picture.getvalue()).backend == "pillow"


def test_a_decoder_that_is_late_once_is_tried_again(monkeypatch, unproven):
    monkeypatch.setattr(frame_decoding, "PROBE_TIMEOUT_S", 1e-9)
    with pytest.raises(MachineError, match=r"the decoder pyav did not answer within 1e-09 s"):
        decode_video(PROBE_CLIP)
    monkeypatch.undo()
    assert decode_video(PROBE_CLIP).backend == "pyav"


def test_what_a_file_says_of_itself_is_no_error_of_the_machine():
    with pytest.raises(VideoDecodeError):
        decode_video(PROBE_CLIP[: len(PROBE_CLIP) // 2])
    assert not is_machine_error(media_container.av.error.MemoryError(12, "a file that claims to be enormous"))
