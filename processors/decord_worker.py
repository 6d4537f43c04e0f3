"""Decord worker: a child process that decodes one file with decord, so that it can be killed when decord hangs.

decord can deadlock while it holds the interpreter lock; inside the caller's process no time limit could end it.

In:   argv[1] the file; on stdin one JSON line, the frame indices wanted (ascending)
Out:  on stdout one JSON line {"total_num_frames", "source_fps"}, then, once the indices came,
      one JSON line {"shape", "times_s"} and the frames as raw uint8 RGB (T, H_px, W_px, 3)
From: decoder_backends (parent process)     To: decoder_backends
"""

import json
import sys

WORKER_FILE = __file__


def main(path: str) -> None:
    """Answer one request."""
    try:
        import decord
    except ImportError:
        sys.exit("decord is not installed.")
    reply = sys.stdout.buffer
    reader = decord.VideoReader(path)
    send(reply, {"total_num_frames": len(reader), "source_fps": float(reader.get_avg_fps())})
    wanted = set(json.loads(sys.stdin.readline()))
    frames, times_s = [], []
    # Always in order: decord's seeking and `skip_frames` return wrong frames for HEVC, reading in order never does.
    for index in range(max(wanted) + 1):
        frame = reader.next()
        if index in wanted:
            frames.append(frame.asnumpy())
            times_s.append(float(reader.get_frame_timestamp(index)[0] - reader.get_frame_timestamp(0)[0]))
    send(reply, {"shape": [len(frames), *frames[0].shape], "times_s": times_s})
    for frame in frames:
        reply.write(frame.tobytes())
    reply.flush()


def send(reply, message: dict) -> None:
    """Write one JSON line and push it out."""
    reply.write(json.dumps(message).encode() + b"\n")
    reply.flush()


if __name__ == "__main__":
    main(sys.argv[1])
