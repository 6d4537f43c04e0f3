"""What users hand over in place of a path: every source ends, and every error names it."""

import contextlib
import http.server
import io
import multiprocessing
import os
import socket
import tempfile
import threading
import time

import pytest

from modeling_trajtok.processors import VideoDecodeError, decode_video
from modeling_trajtok.processors.frame_decoding import PROBE_CLIP
from modeling_trajtok.processors.video_sources import VideoTimeoutError, source_name


class Failing(io.RawIOBase):
    """A file object whose `read` does what it is told."""

    name = "camera"

    def __init__(self, result):
        self.result = result

    def read(self, size=-1):
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (io.StringIO("text"), r"<StringIO>: expected a file object whose read\(\) returns bytes, got text.*'rb'"),
        (Failing("text"), "camera: expected a file object .* got text"),
        (Failing(None), "camera: expected a file object .* got NoneType"),
        (Failing(7), "camera: expected a file object .* got int"),
        (Failing(OSError("unplugged")), r"camera: reading the file object failed \(unplugged\)"),
        (Failing(RuntimeError()), r"camera: reading the file object failed \(RuntimeError\)"),
        (Failing(b""), "camera: the file is empty"),
        ("bad\0name.mp4", "no such file"),
        ("", "'': no such file"),
    ],
)
def test_unusable_sources_are_refused_by_name(source, message):
    with pytest.raises(VideoDecodeError, match=message):
        decode_video(source, timeout_s=5)


def test_a_file_opened_as_text_is_refused_by_name(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(PROBE_CLIP)
    with open(path, encoding="latin-1") as file, pytest.raises(VideoDecodeError, match=r"clip\.mp4: .* got text"):
        decode_video(file)


def test_names_of_sources():
    assert source_name(b"1234") == "<4 bytes in memory>"
    assert source_name(io.BytesIO()) == "<BytesIO>"
    assert source_name("https://example.org/a.mp4?key=1#t") == "https://example.org/a.mp4"
    read, write = os.pipe()
    with os.fdopen(read, "rb") as file:
        assert source_name(file) == "<BufferedReader>"  # its name is a number
    os.close(write)


def timed(source, limit_s=0.6, **options):
    started = time.perf_counter()
    with pytest.raises(VideoDecodeError) as failure:
        decode_video(source, timeout_s=limit_s, **options)
    assert time.perf_counter() - started < limit_s + 1.5
    return failure


def test_a_pipe_without_a_writer_ends_at_the_time_limit():
    read, write = os.pipe()
    with os.fdopen(read, "rb") as file:
        assert timed(file).type is VideoTimeoutError
        os.close(write)


def test_an_endless_file_object_ends_at_its_size_limit():
    class Endless(io.RawIOBase):
        def read(self, size=-1):
            return bytes(size)

    assert "limit for downloads and file objects" in str(timed(Endless(), 20, max_bytes=1 << 22).value)
    slow = Endless()
    slow.read = lambda size=-1: time.sleep(0.05) or b"x"
    assert timed(slow).type is VideoTimeoutError


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_named_pipes_and_devices_are_no_videos(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", "/dev/zero"):
        assert "not a regular file" in str(timed(path).value)


@pytest.fixture
def drip():
    """A server that answers a byte at a time, for ever: in the headers, or in the body."""
    listening, stopped = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def answer(connection):
        with connection:
            path = connection.recv(4096).split()[1].split(b"?")[0]
            start = {b"/headers": b"HTTP/1.1 200 OK\r\nX-Long: ", b"/body": b"HTTP/1.1 200 OK\r\n\r\n"}[path]
            try:
                connection.sendall(start)
                while not stopped.wait(0.05):
                    connection.sendall(b"x")
            except OSError:
                closed.set()

    def serve():
        while not stopped.is_set():
            try:
                threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()
            except OSError:
                return

    closed = threading.Event()
    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}", closed
    stopped.set()
    listening.close()


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_server_that_drips_ends_at_the_time_limit(part, drip):
    address, closed = drip
    failure = timed(f"{address}/{part}?key=secret")
    assert failure.type is VideoTimeoutError and "secret" not in str(failure.value)
    assert closed.wait(2), "the connection was left open"


def test_a_download_has_a_size_limit(tmp_path):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(bytes(1 << 16))

        def handle(self):
            with contextlib.suppress(OSError):  # the reader goes away
                super().handle()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/endless"
        assert "more than 0.0 GB" in str(timed(address, 20, max_bytes=1 << 21).value)
        server.shutdown()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
def test_nothing_is_left_behind_when_the_process_is_killed(tmp_path, monkeypatch):
    """As a DataLoader does with its workers."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    here, there = multiprocessing.Pipe()

    class Slow(io.RawIOBase):
        def read(self, size=-1):
            there.send("reading")
            time.sleep(0.05)
            return PROBE_CLIP

    child = multiprocessing.get_context("fork").Process(target=decode_video, args=(Slow(),))
    child.start()
    for _ in range(3):
        assert here.poll(10) and here.recv() == "reading"
    child.kill()
    child.join()
    assert list(tmp_path.iterdir()) == []
