"""What `datasets` hands out for videos, and torchcodec's decoders: sampled as files are, never decoded whole."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Image, Video

from modeling_trajtok.processors import TrajTokVideoProcessor, VideoDecodeError, VideoTimeoutError
from modeling_trajtok.processors.video_inputs import list_videos


@pytest.fixture
def processor():
    return TrajTokVideoProcessor(size={"height": 64, "width": 96}, num_frames=4)


@pytest.fixture
def clips(tmp_path, bars, encode_clip):
    return [str(encode_clip(tmp_path / f"{n}.mp4", bars(12 + n, 64, 96))) for n in range(2)]


@pytest.fixture
def uneven(tmp_path, bars, encode_clip):
    """10 frames; the fourth is held from 0.3 to 3.5 s, later ones for 0.3 s each."""
    times = [0, 3, 6, 9, 105, 114, 123, 132, 141, 150]
    return str(encode_clip(tmp_path / "uneven.mp4", bars(10, 64, 96), pts=times))


@pytest.fixture
def open_decoder():
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError) as error:  # installed, but without the libraries that it needs
        pytest.skip(f"torchcodec does not load: {str(error).splitlines()[0]}")
    return VideoDecoder


# --- files of data sets ----------------------------------------------------------------------------------------------


def test_every_form_of_a_column_of_files_gives_what_the_files_give(processor, clips):
    expected = processor(clips)["pixel_values_videos"]
    paths = Dataset.from_dict({"video": clips})
    files = paths.cast_column("video", Video(decode=False))
    data = Dataset.from_dict({"video": [{"path": None, "bytes": Path(clip).read_bytes()} for clip in clips]})
    for form in (
        paths["video"],
        files["video"],
        files[:]["video"],
        files.to_iterable_dataset()["video"],
        (row["video"] for row in files.to_iterable_dataset()),
        data.cast_column("video", Video(decode=False))["video"],
        files.with_format("arrow")[:]["video"],
        files.with_format("pandas")[:]["video"],
    ):
        torch.testing.assert_close(processor(form)["pixel_values_videos"], expected)
    names = processor(files["video"], return_metadata=True)["video_metadata"]
    assert [facts.name for facts in names] == clips
    torch.testing.assert_close(processor(files[1]["video"])["pixel_values_videos"], expected[1:])


def test_columns_are_read_row_by_row(clips):
    column = Dataset.from_dict({"video": clips})["video"]
    assert list_videos(column) is column


def test_every_row_of_a_column_is_a_video_also_where_it_is_a_picture(processor, bars):
    pictures = Dataset.from_dict({"image": list(bars(3, 40, 30))}).cast_column("image", Image())
    assert processor(pictures["image"])["frame_valid"].shape == (3, 1)
    assert processor(pictures.cast_column("image", Image(decode=False))["image"])["frame_valid"].shape == (3, 1)


def test_a_row_or_a_missing_video_is_named(processor, clips):
    rows = Dataset.from_dict({"video": clips, "label": [0, 1]}).cast_column("video", Video(decode=False))
    with pytest.raises(ValueError, match=r"got a dict with 'video', 'label'. Of a row of a data set, pass the video"):
        processor(rows[0])
    with pytest.raises(ValueError, match=r"Video 2 of 2: .* dict with 'path', 'bytes'; expected a path"):
        processor([clips[0], {"path": None, "bytes": None}])
    batch = processor([{"path": "gone.mp4", "bytes": None}, rows[0]["video"]], skip_bad_videos=True)
    assert batch["kept_videos"] == [1] and "gone.mp4: no such file" in batch["failures"][0]["error"]


# --- open decoders ---------------------------------------------------------------------------------------------------


def test_decoders_of_a_data_set_give_what_the_files_give(processor, clips, open_decoder):
    expected = processor(clips, return_metadata=True)
    column = Dataset.from_dict({"video": clips}).cast_column("video", Video())
    for form in (column["video"], column[:]["video"], column.to_iterable_dataset()["video"]):
        batch = processor(form, return_metadata=True)
        assert (batch["pixel_values_videos"] - expected["pixel_values_videos"]).abs().max() < 3 / 255 / 0.224
        for ours, of_file in zip(batch["video_metadata"], expected["video_metadata"], strict=True):
            assert ours.frames_indices == of_file.frames_indices and ours.name == of_file.name
            assert ours.frame_times_s == pytest.approx(of_file.frame_times_s)
            assert ours.duration == pytest.approx(of_file.duration) and ours.fps == pytest.approx(of_file.fps)
            assert (ours.height, ours.width, ours.total_num_frames) == (64, 96, of_file.total_num_frames)
    assert processor(column[0]["video"])["frame_valid"].shape == (1, 4)


@pytest.mark.parametrize("options", [{}, {"dimension_order": "NHWC"}, {"seek_mode": "approximate"}])
def test_decoders_are_sampled_by_rate_whatever_they_were_opened_with(processor, clips, open_decoder, options):
    by_rate = processor([open_decoder(clips[0], **options), clips[0]], fps=10, return_metadata=True)
    assert [facts.frames_indices for facts in by_rate["video_metadata"]] == [[0, 3, 6, 9]] * 2
    assert (by_rate["pixel_values_videos"][0] - by_rate["pixel_values_videos"][1]).abs().max() < 3 / 255 / 0.224


def test_the_rate_goes_by_time_stamps_in_decoders_too(processor, uneven, open_decoder):
    batch = processor([open_decoder(uneven), uneven], fps=1, return_metadata=True)
    for facts in batch["video_metadata"]:
        assert facts.frames_indices == [0, 3, 5, 9] and facts.frame_times_s == pytest.approx([0, 0.3, 3.8, 5])
    by_number = processor(open_decoder(uneven), return_metadata=True)["video_metadata"][0]
    assert by_number.frame_times_s == pytest.approx([0, 0.3, 3.8, 4.7])


class _Recorder:
    """A decoder that remembers which frames were decoded."""

    def __init__(self, decoder):
        self.decoder, self.metadata, self.decoded = decoder, decoder.metadata, []

    def __len__(self):
        return len(self.decoder)

    def get_frames_at(self, indices):
        self.decoded.append(list(indices))
        return self.decoder.get_frames_at(indices)


def test_only_the_chosen_frames_are_decoded_a_few_at_a_time(processor, tmp_path, bars, encode_clip, open_decoder):
    long = encode_clip(tmp_path / "long.mp4", bars(90, 64, 96))
    recorder = _Recorder(open_decoder(str(long)))
    processor([recorder], num_frames=30)
    decoded = [index for call in recorder.decoded for index in call]
    assert decoded == list(range(1, 90, 3)) and max(map(len, recorder.decoded)) <= 8
    facts = {"frames_indices": [3, 70]}
    chosen = processor(recorder, do_sample_frames=False, video_metadata=facts, return_metadata=True)
    assert chosen["video_metadata"][0].frames_indices == [3, 70] and recorder.decoded[-1] == [3, 70]


def test_decoders_have_the_limits_of_files(processor, clips, open_decoder):
    with pytest.raises(VideoTimeoutError, match=r"did not end within 1e-09 s; raise `decode_timeout_s`"):
        processor(open_decoder(clips[0]), decode_timeout_s=1e-9)
    recorder = _Recorder(open_decoder(clips[0]))
    with pytest.raises(ValueError, match=r"12 frames of 20000x20000 px .* more than 4 GiB"):
        processor(recorder, sampling_strategy="all", size=20000)
    with pytest.raises(ValueError, match=r"12 frames of 64x96 px .* raise `max_bytes`"):
        processor(recorder, sampling_strategy="all", do_resize=False, max_bytes=12 * 3 * 64 * 96 - 1)
    assert recorder.decoded == []


def test_a_decoder_that_fails_is_a_bad_video(processor, clips, open_decoder, tmp_path):
    data = bytearray(Path(clips[0]).read_bytes())
    start = data.index(b"mdat") + 4
    data[start : start + 3000] = bytes(3000)
    (tmp_path / "damaged.mp4").write_bytes(data)
    with pytest.raises(VideoDecodeError, match=r"VideoDecoder in memory>: cannot be decoded by the decoder"):
        processor(open_decoder(str(tmp_path / "damaged.mp4")))


def test_frames_that_a_decoder_returned_go_with_their_times(processor, clips, open_decoder):
    frames = open_decoder(clips[0]).get_frames_at([0, 3, 9])
    with pytest.raises(ValueError, match=r"pass the frames \(`frames.data`\), and the times"):
        processor(frames)
    facts = [{"frame_times_s": frames.pts_seconds}]
    batch = processor(frames.data, video_metadata=facts, return_metadata=True)
    np.testing.assert_allclose(batch["video_metadata"][0].frame_times_s, [0, 0.1, 0.3])
