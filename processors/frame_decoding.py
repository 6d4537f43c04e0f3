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
import io
import threading
import time
import traceback
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import BinaryIO

import numpy as np

from .decoder_backends import (
    DEFAULT_MAX_BYTES,
    ChooseFrames,
    DecodedVideo,
    DecodeRequest,
    decode_with_decord,
    decode_with_pillow,
    decode_with_pyav,
    decode_with_torchcodec,
    is_still_or_animation,
)
from .frame_sampling import FrameTimeline
from .video_sources import (
    MachineError,
    VideoDecodeError,
    VideoSource,
    VideoTimeoutError,
    is_machine_error,
    machine_error,
    open_source,
    source_name,
)

BACKENDS: dict[str, Callable[[BinaryIO, DecodeRequest], DecodedVideo]] = {
    "pyav": decode_with_pyav,
    "torchcodec": decode_with_torchcodec,
    "decord": decode_with_decord,
}
BACKEND_ORDER = tuple(BACKENDS)
PROBE_TIMEOUT_S = 20.0
GRACE_S = 0.25  # for a decoder that notices the deadline by itself

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
    max_bytes: int = DEFAULT_MAX_BYTES,
    skip_damaged: bool = False,
) -> DecodedVideo:
    """Decode the chosen frames of one video.

    Only the bytes of the source itself are read: formats that are lists of other files (playlists, picture patterns)
    are refused, and so are text files.

    Args:
        source: path, http(s) URL, encoded bytes or binary file object. Pictures are videos of one frame; pictures and
            animations (GIF, APNG, WebP) are read by Pillow whatever `backend` says.
        choose_frames: called with the `FrameTimeline` of the source (number of frames, times, duration); returns the
            indices to keep, strictly ascending. None keeps all frames. Called a second time, with another timeline,
            when decoding shows that the file's packets do not tell its frames.
        backend: "auto", or one of `BACKEND_ORDER`.
        timeout_s: seconds after which the video is given up, download included.
        max_bytes: bound for the memory of the chosen frames, for the pictures that a decoder keeps (64 bytes for each
            pixel of a frame), and for the size of downloads and file objects. The default is 4 GiB.
        skip_damaged: leave damaged frames out and count them (`num_damaged_frames`), in place of an error.

    Returns:
        The frames, upright, in RGB, with indices, times and duration.

    Raises:
        VideoDecodeError: the file is missing, unreadable, no video, audio only, truncated, or damaged where frames are
            wanted; it has no frames, or is too large; or (VideoTimeoutError) it took too long. The message starts with
            the name of the file.
        MachineError: not the video but this machine is to blame: full disk, no memory, too many open files, a backend
            that is not installed or does not work.
        ValueError: an unknown backend, a limit that is not positive, indices outside the video.
    """
    for name, limit in (("timeout_s", timeout_s), ("max_bytes", max_bytes)):
        if limit <= 0:
            raise ValueError(f"{name} must be above 0{' seconds' if name == 'timeout_s' else ''}, got {limit}.")
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"Unknown decoder backend {backend!r}; expected auto, {', '.join(BACKENDS)}.")
    request = DecodeRequest(choose_frames or every_frame, time.monotonic() + timeout_s, max_bytes, skip_damaged)
    late = (
        f"{source_name(source)}: decoding did not end within {timeout_s:g} s, the time limit with download; "
        "raise `decode_timeout_s` for long videos."
    )

    def work() -> DecodedVideo:
        with open_source(source, request.deadline, max_bytes) as video:
            try:
                if is_still_or_animation(video.file, request.deadline):
                    return decode_with_pillow(video.file, request)
                return BACKENDS[_usable_backend(backend)](video.file, request)
            except VideoTimeoutError as error:
                raise VideoTimeoutError(late) from error
            except (VideoDecodeError, OSError, MemoryError) as error:
                raise VideoDecodeError(f"{video.name}: {str(error) or 'does not fit into memory'}.") from error

    try:
        return _within_time(work, request.deadline, late)
    except (VideoDecodeError, OSError, MemoryError) as error:
        if is_machine_error(error):
            raise machine_error(source_name(source), error) from error
        raise


def every_frame(timeline: FrameTimeline) -> np.ndarray:
    """The choice of all frames: (total_num_frames,) int64."""
    return np.arange(timeline.total_num_frames)


def usable_backends() -> tuple[str, ...]:
    """Backends that decode a tiny clip here and now, best first: installed is not enough, libraries may be missing.

    Raises:
        MachineError: it cannot be told now (full disk, too many open files, a machine too busy to answer).
    """
    return tuple(name for name in BACKENDS if _passes_probe(name))


@functools.cache
def _passes_probe(name: str) -> bool:
    request = DecodeRequest(every_frame, time.monotonic() + PROBE_TIMEOUT_S)
    try:
        video = _within_time(lambda: BACKENDS[name](io.BytesIO(PROBE_CLIP), request), request.deadline, name)
    except Exception as error:  # a broken installation can fail in any way, and each way means "not usable"
        if isinstance(error, VideoTimeoutError):
            raise MachineError(f"the decoder {name} did not answer within {PROBE_TIMEOUT_S:g} s") from error
        if is_machine_error(error):  # which may pass: what is raised is not remembered
            raise
        return False
    return video.frames_uint8.shape == (2, 64, 64, 3)


def _usable_backend(backend: str) -> str:
    if backend == "auto":
        chosen = next((name for name in BACKENDS if _passes_probe(name)), None)
        if chosen is None:
            raise MachineError("no video decoder works here: `pip install av` brings one along")
        return chosen
    if not _passes_probe(backend):
        raise MachineError(
            f"the decoder {backend!r} is not installed or cannot load its libraries; use decoder_backend='auto', "
            f"which picks from {', '.join(usable_backends()) or 'none'} here"
        )
    return backend


def _within_time(work: Callable[[], DecodedVideo], deadline: float, late: str) -> DecodedVideo:
    """Run in a thread that is left behind when it is late; all that it does checks the deadline, and it ends soon.

    Decoders release the interpreter lock while they work (decord does not, which is why it has its own process), so
    the caller goes on even when a decoder hangs inside one frame. The thread owns all that it opens.
    """
    outcome: Future[DecodedVideo] = Future()
    try:
        threading.Thread(target=_settle, args=(outcome, work), name="trajtok-decoder", daemon=True).start()
    except RuntimeError as error:
        raise MachineError(str(error)) from error
    try:
        return outcome.result(timeout=max(deadline - time.monotonic(), 0) + GRACE_S)
    except FutureTimeoutError as error:
        raise VideoTimeoutError(late) from error
    finally:
        del outcome  # an exception that leaves here refers to this frame, and the outcome to the exception


def _settle(outcome: Future, work: Callable[[], DecodedVideo]) -> None:
    try:
        outcome.set_result(work())
    except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
        _forget_locals(error)
        outcome.set_exception(error)


def _forget_locals(error: BaseException | None) -> None:
    """Free what the functions held that an exception passed through: no fork may inherit a decoder with threads."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
