"""A file is read, and nothing that it refers to: canary pictures beside it, and a canary server on this machine."""

import http.server
import io
import os
import threading

import av
import numpy as np
import pytest
from PIL import Image

from modeling_trajtok.processors import VideoDecodeError, decode_video, usable_backends

CANARY_RGB = (250, 10, 200)
DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S">
<Period><AdaptationSet contentType="video">
<Representation id="0" mimeType="video/mp4" codecs="avc1" bandwidth="9" width="64" height="64">
<BaseURL>{url}</BaseURL><SegmentBase indexRange="0-1"/>
</Representation></AdaptationSet></Period></MPD>"""
HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n"
TEXTS = {
    "playlist": HLS,
    "list": "ffconcat version 1.0\nfile '{url}'\n",
    "manifest": DASH,
    "session": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "drawing": "<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'><image href='{url}'/></svg>",
    "subtitles": "1\n00:00:00,000 --> 00:00:02,000\nhello\n\n" * 20,
    "prose": "Call me Ishmael. " * 100,
    "terminal": "\x1b[2J\x1b[31mhello\x1b[0m " * 100,
}


@pytest.fixture
def canary(tmp_path):
    """A folder with canary files, and a server that notes who asks: (folder, address, requests)."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    with av.open(str(tmp_path / "canary.ts"), "w") as container:
        track = container.add_stream("mpeg2video", rate=25)
        track.width, track.height, track.pix_fmt = 64, 64, "yuv420p"
        picture = np.full((64, 64, 3), CANARY_RGB, np.uint8)
        for _ in range(10):
            container.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(track.encode(None))
    for number in range(3):
        for suffix in ("png", "jpg", "ppm"):
            Image.fromarray(picture).save(tmp_path / f"canary{number:03d}.{suffix}")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield tmp_path, f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_are_no_videos_whatever_they_are_called(kind, canary):
    folder, address, requests = canary
    for target in ("canary.ts", str(folder / "canary.ts"), f"{address}/canary.ts"):
        text = TEXTS[kind].format(url=target).encode()
        for name in ("upload.mp4", "upload.m3u8", "upload.ffconcat", "upload.txt", "upload.ts", "upload"):
            (folder / name).write_bytes(text)
            with pytest.raises(VideoDecodeError, match="not a video"):
                decode_video(folder / name)
        for source in (text, io.BytesIO(text)):
            with pytest.raises(VideoDecodeError, match="not a video"):
                decode_video(source)
        if "{url}" not in TEXTS[kind]:
            break
    assert requests == []


@pytest.mark.parametrize("kind", ["playlist", "list"])
def test_every_backend_refuses_lists_of_files(kind, canary):
    folder, address, requests = canary
    for target in ("canary.ts", f"{address}/canary.ts"):
        (folder / "upload.mp4").write_text(TEXTS[kind].format(url=target))
        for backend in usable_backends():
            with pytest.raises(VideoDecodeError, match=r"upload\.mp4: .*not a video"):
                decode_video(folder / "upload.mp4", backend=backend)
    assert requests == []


@pytest.mark.parametrize("suffix", ["png", "jpg", "ppm"])
def test_a_name_with_a_number_pattern_is_only_a_name(suffix, canary):
    folder, _, _ = canary
    path = folder / f"canary%03d.{suffix}"
    for content in (b"nothing", b"P6\n64 64\n255\n" + bytes(64 * 64 * 3)):
        path.write_bytes(content)
        for backend in usable_backends():
            try:
                frames = decode_video(path, backend=backend).frames_uint8
            except VideoDecodeError:
                continue
            assert not frames.any()  # the black picture in the file itself


def test_a_list_that_names_itself_takes_no_files(canary):
    folder, _, _ = canary
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for text in (HLS, TEXTS["list"]):
        (folder / "self.mp4").write_text(text.format(url="self.mp4"))
        with pytest.raises(VideoDecodeError, match=r"self\.mp4: .*not a video"):
            decode_video(folder / "self.mp4")
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before


def test_a_film_whose_pictures_lie_in_another_file_is_not_followed(canary, encode_clip, bars):
    """A QuickTime film may refer to another file (`alis`) in place of holding its pictures."""
    folder, _, _ = canary
    path = encode_clip(folder / "film.mov", bars(5, 64, 64), codec="mpeg4")
    data = bytearray(path.read_bytes())
    at = data.index(b"dref")
    # One reference: 12 bytes `url ` that say "in this file". Make it say "elsewhere".
    assert data[at + 16 : at + 20] in (b"url ", b"alis") and data[at + 23] == 1
    data[at + 23] = 0
    path.write_bytes(data)
    try:
        frames = decode_video(path).frames_uint8
    except VideoDecodeError:
        return
    np.testing.assert_array_equal(frames, decode_video(encode_clip(path, bars(5, 64, 64), codec="mpeg4")).frames_uint8)


def test_downloads_are_not_redirected_to_other_protocols(tmp_path):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", self.path[1:])
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        for target in ("file:///etc/hostname", "ftp://127.0.0.1:1/x", "data:,x"):
            with pytest.raises(VideoDecodeError, match="the download failed"):
                decode_video(f"http://127.0.0.1:{server.server_port}/{target}", timeout_s=5)
        server.shutdown()
