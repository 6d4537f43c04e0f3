"""Decord worker: a child process that decodes one file with decord, so that it can be killed when decord hangs.

decord can deadlock while it holds the interpreter lock; inside the caller's process no time limit could end it.

In:   on stdin one JSON line {"indices" (ascending), "path"}; without a path, the file itself follows
Out:  on stdout one JSON line {"total_num_frames", "shape"} and the frames as raw uint8 RGB (T, H_px, W_px, 3)
From: decoder_backends (parent process)     To: decoder_backends
"""

import io
import json
import sys

WORKER_FILE = __file__


def main() -> None:
    """Answer one request."""
    try:
        import decord
    except ImportError:
        sys.exit("decord is not installed.")
    order = json.loads(sys.stdin.buffer.readline())
    reader = decord.VideoReader(order["path"] if "path" in order else io.BytesIO(sys.stdin.buffer.read()))
    wanted, frames = set(order["indices"]), []
    # Always in order: decord's seeking and `skip_frames` return wrong frames for HEVC, reading in order never does.
    for index in range(min(max(wanted) + 1, len(reader))):
        frame = reader.next()
        if index in wanted:
            frames.append(frame.asnumpy())
    answer = {"total_num_frames": len(reader), "shape": [len(frames), *frames[0].shape]}
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    for frame in frames:
        sys.stdout.buffer.write(frame.tobytes())
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
