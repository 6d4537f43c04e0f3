"""Small video files for the tests of this room, encoded on the spot."""

from fractions import Fraction

import av
import numpy as np
import pytest


def moving_bars(num_frames: int, height: int, width: int) -> np.ndarray:
    """(T, H_px, W_px, 3) uint8: coloured bars on a slope, different in every frame."""
    t, y, x = np.meshgrid(np.arange(num_frames), np.arange(height), np.arange(width), indexing="ij")
    channels = (x * 3 + t * 9, y * 4 + t * 5, (x + y) * 2 + t * 13)
    return np.stack([128 + 100 * np.sin(channel / 20) for channel in channels], axis=-1).astype(np.uint8)


@pytest.fixture
def bars():
    return moving_bars


@pytest.fixture
def encode_clip():
    """encode_clip(path, frames, [more streams]) writes a file; `pts` (in 1/30 s) makes the frame rate variable."""

    def encode(
        path,
        *streams,
        codec="libx264",
        rate=30,
        gop=12,
        pts=None,
        audio=False,
        title=None,
        container_options=None,
    ):
        with av.open(str(path), "w", options=container_options or {}) as container:
            container.metadata.update({"title": title} if title else {})
            tracks = []
            for frames in streams:
                track = container.add_stream(codec, rate=rate)
                track.height, track.width = frames.shape[1:3]
                track.pix_fmt = "yuv420p"
                track.codec_context.gop_size = gop
                track.codec_context.time_base = Fraction(1, rate)
                tracks.append(track)
            if audio:
                sound = container.add_stream("aac", rate=16000)
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
                silence.rate = 16000
                container.mux(sound.encode(silence))
                container.mux(sound.encode(None))
            for track, frames in zip(tracks, streams, strict=True):
                for number, pixels in enumerate(frames):
                    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                    frame.pts = number if pts is None else pts[number]
                    frame.time_base = Fraction(1, rate)
                    container.mux(track.encode(frame))
                container.mux(track.encode(None))
        return path

    return encode


@pytest.fixture
def set_display_matrix():
    """set_display_matrix(path, a, b, c, d) rewrites how an MP4 file wants to be shown."""

    def rewrite(path, a, b, c, d):
        data = bytearray(path.read_bytes())
        at = data.index(b"\x00\x01\x00\x00" + bytes(12) + b"\x00\x01\x00\x00", data.index(b"tkhd"))
        for offset, value in ((0, a), (4, b), (12, c), (16, d)):
            data[at + offset : at + offset + 4] = int(value * 65536).to_bytes(4, "big", signed=True)
        path.write_bytes(data)
        return path

    return rewrite
