"""Frame decoding: a video, animation or picture from anywhere becomes RGB frames.

In:   path, http(s) URL, bytes or binary file object; a callback that chooses frames once the timeline is known
Out:  DecodedVideo (frames_uint8 (T, H_px, W_px, 3), indices, times in seconds)
From: video_sources, decoder_backends     To: video_processing_trajtok, and anybody who wants frames

`backend="auto"` takes the first of `BACKEND_ORDER` that has just proven itself on a tiny clip. PyAV comes first:
with its seeking by packet index it returns the same pixels as torchcodec and decord and is at least as fast; unlike
decord it is also right for HEVC, reads GIF and AV1, and can be told to stop.
"""

import base64
import functools
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path

import numpy as np

from .decoder_backends import (
    ChooseFrames,
    DecodedVideo,
    decode_with_decord,
    decode_with_pillow,
    decode_with_pyav,
    decode_with_torchcodec,
)
from .frame_sampling import FrameTimeline
from .video_sources import VideoDecodeError, VideoSource, VideoTimeoutError, open_source

BACKENDS: dict[str, Callable[[str, ChooseFrames, float], DecodedVideo]] = {
    "pyav": decode_with_pyav,
    "torchcodec": decode_with_torchcodec,
    "decord": decode_with_decord,
}
BACKEND_ORDER = tuple(BACKENDS)
PROBE_TIMEOUT_S = 20.0
PICTURE_SIGNATURES = (b"GIF8", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*")

# An MPEG-4 clip of 2 frames, 64x64 pixels, against which a backend proves that it is installed *and* works.
PROBE_CLIP = zlib.decompress(
    base64.b85decode(
        "c-muNV30{GsVvAW&d+6FU}6B#Kx~v-U}DI?z`&7Kl$r{pC*-CimM}0dZe|c*2U6R_SS6fu|Kx7}xb6P2+jR^K3nsRh0a^9Za6t(3"
        "Jp;o7WU2Q^X2`KiJcX<M4K(9oUo?gRK<0j+8OTyVKC@wNetsFyT{*dB87T}XfcXU&Gcte>0x+VgLgza$-~~)T6kSr3m<?pdlw^bL"
        "WX3cNWH)|$u-fYYcYsQ2N=Y%0mPySiE<xyknhVy;csVyEGZDy8$W1}_JH(*SBVdkhMoLZ*Or|U|B^6m^7?7Xuk(if~lL}J9SeKib"
        "mj+~rl;wgAMRul23PesOr6@HG$s0VSML7x(Hltl}Nm34weXF>nI0Z?~DPTe>!x0o9w>mI*0BH}LD$s$%|NlTTA+<QA7#!dY4GsQ4"
        "Z7e|AQ9%%_gasUwtUwWcpotqmuG`uv3^ANhf#FDR2ZJaR3x|j^kh{qzu`JolNYBVZ&(Oe#4XB5a2^0!RB}LHSXMv>*iQ*D))WF;c"
        "R0r}rgACBe$w=Z*IWR2(l&gZuxj@B%V#)bP>UDrPsWhbo6s1wQsbCre6p^D380AHY1qC_CL7|%oNh7K&OY%Vm$^x@!A}kPr{z?P-"
        "%g_kqF973Hujl"
    )
)


def decode_video(
    source: VideoSource,
    choose_frames: ChooseFrames | None = None,
    *,
    backend: str = "auto",
    timeout_s: float = 60.0,
) -> DecodedVideo:
    """Decode the chosen frames of one video.

    Args:
        source: path, http(s) URL, encoded bytes or binary file object. Pictures are videos of one frame; pictures and
            animations (GIF, APNG, WebP) are read by Pillow whatever `backend` says.
        choose_frames: called once with the `FrameTimeline` of the source (number of frames, times, duration); returns
            the indices to keep, strictly ascending. None keeps all frames.
        backend: "auto", or one of `BACKEND_ORDER`.
        timeout_s: seconds after which the video is given up, download included.

    Returns:
        The frames, upright, in RGB, with indices, times and duration.

    Raises:
        VideoDecodeError: the file is missing, unreadable, no video, audio only, truncated or corrupt, has no frames,
            or (VideoTimeoutError) took too long. The message starts with the name of the file.
        ValueError: an unknown backend, a time limit that is not positive, indices outside the video.
    """
    if timeout_s <= 0:
        raise ValueError(f"timeout_s must be above 0 seconds, got {timeout_s}.")
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"Unknown decoder backend {backend!r}; expected auto, {', '.join(BACKENDS)}.")
    choose_frames = choose_frames or every_frame
    deadline = time.monotonic() + timeout_s
    with open_source(source, deadline) as video:
        try:
            decode = decode_with_pillow if _is_picture(video.path) else BACKENDS[_usable_backend(backend)]
            return _within_time(decode, video.path, choose_frames, deadline)
        except VideoTimeoutError as error:
            raise VideoTimeoutError(
                f"{video.name}: decoding did not end within {timeout_s:g} s; raise `decode_timeout_s` for long videos."
            ) from error
        except VideoDecodeError as error:
            raise VideoDecodeError(f"{video.name}: {error}.") from error


def every_frame(timeline: FrameTimeline) -> np.ndarray:
    """The choice of all frames: (total_num_frames,) int64."""
    return np.arange(timeline.total_num_frames)


@functools.cache
def usable_backends() -> tuple[str, ...]:
    """Backends that decode a tiny clip here and now, best first: installed is not enough, libraries may be missing."""
    return tuple(name for name in BACKENDS if _passes_probe(name))


@functools.cache
def _passes_probe(name: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="trajtok-probe-") as folder:
        path = Path(folder) / "probe.mp4"
        path.write_bytes(PROBE_CLIP)
        deadline = time.monotonic() + PROBE_TIMEOUT_S
        try:
            video = _within_time(BACKENDS[name], str(path), every_frame, deadline)
        except Exception:  # noqa: BLE001 - a broken installation can fail in any way, and each way means "not usable"
            return False
        return video.frames_uint8.shape == (2, 64, 64, 3)


def _usable_backend(backend: str) -> str:
    if backend == "auto":
        chosen = next((name for name in BACKENDS if _passes_probe(name)), None)
        if chosen is None:
            raise VideoDecodeError("no video decoder works here: `pip install av` brings one along")
        return chosen
    if not _passes_probe(backend):
        raise ValueError(
            f"The decoder {backend!r} is not installed or cannot load its libraries. "
            f"Use decoder_backend='auto'; here it picks from: {', '.join(usable_backends()) or 'none'}."
        )
    return backend


def _is_picture(path: str) -> bool:
    with open(path, "rb") as file:
        start = file.read(16)
    return start.startswith(PICTURE_SIGNATURES) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")


def _within_time(decode: Callable, path: str, choose_frames: ChooseFrames, deadline: float) -> DecodedVideo:
    """Run in a thread that is left behind when it is late; the backends check the deadline and end it soon after.

    Decoders release the interpreter lock while they work (decord does not, which is why it has its own process), so
    the caller goes on even when a decoder hangs inside one frame.
    """
    outcome: Future[DecodedVideo] = Future()

    def work() -> None:
        try:
            outcome.set_result(decode(path, choose_frames, deadline))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            outcome.set_exception(error)

    threading.Thread(target=work, name="trajtok-decoder", daemon=True).start()
    try:
        return outcome.result(timeout=max(deadline - time.monotonic(), 0) + 0.25)
    except FutureTimeoutError as error:
        raise VideoTimeoutError("decoding did not end within the time limit") from error
