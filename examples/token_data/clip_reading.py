"""Clips as a model reads them: whole videos, or one window after the other.

In:   videos of a source, a processor
Out:  `Clip`s, decoded by the loader's processes; of a video that cannot be read one that says why; of a machine that
      cannot read, one that says so, and nothing more
From: video_lists     To: tokenize_dataset.py
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from search.video_windows import read_windows
from storage import one_line
from torch.utils.data import IterableDataset, get_worker_info

from modeling_trajtok import TrajTokVideoProcessor

from .video_lists import DataSetVideos, VideoFiles


class Clip(NamedTuple):
    """One row to be.

    Attributes:
        name: of the video.
        window: how many windows of the video come before it.
        inputs: ``pixel_values_videos`` (1, T, 3, H_px, W_px) and ``frame_valid`` (1, T) as arrays, which pass between
            processes without shared memory, which may be full; None: the video could not be read.
        facts: ``height`` and ``width`` of the source in pixels, ``frame_times_s``.
        is_last: nothing of this video follows.
        error: why it could not be read.
        is_bad: the video is to blame for that, and not this machine.
    """

    name: str
    window: int
    inputs: dict[str, np.ndarray] | None
    facts: dict
    is_last: bool
    error: str = ""
    is_bad: bool = False


class ClipReader(IterableDataset):
    """The clips of some videos; those of one video follow each other, other videos' may stand between them.

    Args:
        videos: of a source.
        chosen: which of them.
        processor: makes pixels of frames, and says how many of a window are read.
        window_seconds: a clip for every so many seconds by the time stamps (the last one may be a quarter longer; a
            held picture may be longer too; a video without times is one); None: one for each video.

    Raises:
        ValueError: windows are asked for and the processor samples by rate.
    """

    def __init__(
        self,
        videos: VideoFiles | DataSetVideos,
        chosen: Sequence[int],
        processor: TrajTokVideoProcessor,
        window_seconds: float | None = None,
    ):
        if window_seconds is not None and processor.sampling_strategy not in ("middle", "uniform"):
            raise ValueError(
                f"The checkpoint's processor samples with {processor.sampling_strategy!r}, expected a number of "
                "frames for each window. Pass --num-frames."
            )
        self.videos, self.chosen, self.processor = videos, chosen, processor
        self.window_seconds = window_seconds

    def __iter__(self) -> Iterator[Clip]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in self.chosen[first::step]:
            name = self.videos.names[index]
            try:
                yield from self._clips(name, index)
            except ValueError as error:
                yield Clip(name, 0, None, {}, True, one_line(error), is_bad=True)
            except (OSError, MemoryError) as error:
                yield Clip(name, 0, None, {}, True, one_line(error))
                return

    def _clips(self, name: str, index: int) -> Iterator[Clip]:
        """The clips of a video, told apart from the last one by looking ahead."""
        before = None
        for window, (inputs, facts) in enumerate(self._inputs(self.videos.video(index))):
            if before is not None:
                yield before
            before = Clip(name, window, inputs, facts, False)
        yield before._replace(is_last=True)

    def _inputs(self, video: str | bytes) -> Iterator[tuple[dict, dict]]:
        if self.window_seconds is None:
            inputs = dict(self.processor(video, return_tensors="np", return_metadata=True))
            [facts] = inputs.pop("video_metadata")
            yield inputs, {name: facts[name] for name in ("height", "width", "frame_times_s")}
            return
        frames = (self.processor.num_frames, self.processor.sampling_strategy)
        decoder = {"backend": self.processor.decoder_backend, "timeout_s": self.processor.decode_timeout_s}
        for windows in read_windows(video, self.window_seconds, *frames, **decoder):
            for window in windows:
                inputs = dict(self.processor([window.frames_uint8], do_sample_frames=False, return_tensors="np"))
                height, width = window.frames_uint8.shape[1:3]
                yield inputs, {"height": height, "width": width, "frame_times_s": window.frame_times_s}
