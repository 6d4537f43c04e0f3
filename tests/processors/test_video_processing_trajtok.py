"""Any video in, pixels or trajectory tokens out, and trajectories back to pixels."""

import io
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from transformers import BertConfig, BertModel
from transformers.video_utils import VideoMetadata

from modeling_trajtok.configuration_trajtok import TrajTokConfig
from modeling_trajtok.modeling_trajtok import TrajTokModel
from modeling_trajtok.processors import (
    TrajTokVideoMetadata,
    TrajTokVideoProcessor,
    TrajViT2Processor,
    VideoDecodeError,
    decode_video,
)
from modeling_trajtok.processors import trajectory_postprocessing as postprocessing
from modeling_trajtok.processors import video_processing_trajtok as video_processing

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.fixture
def processor():
    return TrajTokVideoProcessor(size={"height": 64, "width": 96}, num_frames=4)


@pytest.fixture
def clip(tmp_path, bars, encode_clip):
    return encode_clip(tmp_path / "clip.mp4", bars(12, 64, 96))


@pytest.fixture(scope="module")
def tiny_model():
    torch.manual_seed(0)
    config = TrajTokConfig(
        backbone_config={"model_type": "dinov3_convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
        hidden_size=32,
        num_trajectories=6,
        num_attention_heads=2,
        num_query_layers=1,
        num_encoder_layers=1,
        high_res_factor=2,
    )
    return TrajTokModel(config).eval()


# --- videos to pixels ------------------------------------------------------------------------------------------------


def test_released_settings_are_the_defaults():
    settings = TrajTokVideoProcessor().to_dict()
    assert settings["size"] == {"height": 224, "width": 224} and settings["resample"] == 3
    assert settings["sampling_strategy"] == "middle"


def test_every_source_gives_the_same_batch(processor, clip):
    frames = decode_video(clip).frames_uint8
    expected = processor(clip)
    assert expected["pixel_values_videos"].shape == (1, 4, 3, 64, 96)
    assert expected["pixel_values_videos"].dtype == torch.float32
    assert expected["frame_valid"].tolist() == [[True] * 4]
    pixels = torch.from_numpy(frames[[1, 4, 7, 10]]).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(expected["pixel_values_videos"][0], (pixels - MEAN) / STD)
    first = torch.from_numpy(frames).permute(0, 3, 1, 2)
    for source in (str(clip), clip.read_bytes(), io.BytesIO(clip.read_bytes()), frames, first, list(frames)):
        torch.testing.assert_close(processor(source)["pixel_values_videos"], expected["pixel_values_videos"])
    for source in (frames / 255, [Image.fromarray(frame) for frame in frames]):
        torch.testing.assert_close(processor(source)["pixel_values_videos"], expected["pixel_values_videos"])


def test_floats_and_bytes_agree_after_resizing(processor, bars):
    frames = bars(4, 50, 70)
    ours = [processor(form)["pixel_values_videos"] for form in (frames, frames / 255)]
    assert (ours[0] - ours[1]).abs().max() < 1.5 / 255 / STD.min()  # bytes are rounded after each pass


def test_resizing_sharp_edges_stays_in_range(processor):
    stripes = np.zeros((1, 20, 30, 3))
    stripes[:, :, ::2] = 1
    pixels = processor(stripes, do_normalize=False)["pixel_values_videos"]
    assert pixels.min() == 0 and pixels.max() == 1


def test_a_batch_of_different_videos(processor, clip, shared_data, bars):
    gif = shared_data / "clips" / "kubric_movi" / "movi_a_1.gif"
    batch = processor([clip, gif, bars(9, 40, 30)], return_tensors="pt", return_metadata=True)
    assert batch["pixel_values_videos"].shape == (3, 4, 3, 64, 96) and batch["frame_valid"].all()
    facts = batch["video_metadata"]
    assert [fact.total_num_frames for fact in facts] == [12, 24, 9]
    assert [(fact.height, fact.width) for fact in facts] == [(64, 96), (256, 256), (40, 30)]
    assert facts[0].frames_indices == [1, 4, 7, 10] and facts[0].name == str(clip)
    np.testing.assert_allclose(facts[0].frame_times_s, np.array([1, 4, 7, 10]) / 30)
    assert facts[0].timestamps == facts[0].frame_times_s
    for row, source in enumerate((clip, gif, bars(9, 40, 30))):
        torch.testing.assert_close(processor(source)["pixel_values_videos"][0], batch["pixel_values_videos"][row])


def test_short_clips_are_padded_and_marked_or_refused(processor, bars):
    batch = processor([bars(3, 40, 30), bars(6, 40, 30)])
    assert batch["frame_valid"].tolist() == [[True, True, True, False], [True] * 4]
    pixels = batch["pixel_values_videos"]
    torch.testing.assert_close(pixels[0, 3], pixels[0, 2])
    with pytest.raises(ValueError, match="3 frames, fewer than num_frames=4"):
        processor(bars(3, 40, 30), short_clips="raise")


def test_clips_sampled_by_rate_are_padded_to_the_longest(processor, clip, bars):
    facts = [{"fps": 10.0, "total_num_frames": 5}, {"fps": 10.0, "total_num_frames": 9}]
    batch = processor([bars(5, 40, 30), bars(9, 40, 30)], fps=5, video_metadata=facts, return_metadata=True)
    assert batch["frame_valid"].sum(dim=1).tolist() == [3, 5] and batch["frame_valid"].shape == (2, 5)
    assert batch["video_metadata"][1].frame_times_s == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    assert processor(clip, sampling_strategy="all")["frame_valid"].shape == (1, 12)
    assert processor(clip, do_sample_frames=False)["frame_valid"].shape == (1, 12)


def test_pictures_are_clips_of_one_frame(processor, bars, tmp_path):
    picture = bars(1, 40, 30)[0]
    Image.fromarray(picture).save(tmp_path / "picture.png")
    batch = processor([tmp_path / "picture.png", picture, Image.fromarray(picture)])
    assert batch["pixel_values_videos"].shape == (3, 1, 3, 64, 96) and batch["frame_valid"].all()
    torch.testing.assert_close(batch["pixel_values_videos"][0], batch["pixel_values_videos"][2])


def test_aspect_ratio_can_be_kept_in_steps_the_backbone_accepts(processor, bars):
    batch = processor(bars(4, 45, 80), size={"shortest_edge": 64})
    assert batch["pixel_values_videos"].shape[-2:] == (64, 128)
    with pytest.raises(ValueError, match=r"64x128 .*128x64 .*Pass size="):
        processor([bars(4, 45, 80), bars(4, 80, 45)], size={"shortest_edge": 64})


def test_raw_pixels_on_request(processor, bars):
    frames = bars(4, 64, 96)
    raw = processor(frames, do_resize=False, do_rescale=False, do_normalize=False)["pixel_values_videos"]
    torch.testing.assert_close(raw[0], torch.from_numpy(frames).permute(0, 3, 1, 2).float())
    as_numpy = processor(frames, return_tensors="np", device="cpu")
    assert isinstance(as_numpy["pixel_values_videos"], np.ndarray)


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nun_frames": 3}, "no setting `nun_frames`; did you mean `num_frames`"),
        ({"num_frames": 0}, "num_frames must be above 0, got 0"),
        ({"num_frames": "a"}, "num_frames"),
        ({"fps": 2, "num_frames": 3}, "num_frames=3 and fps=2"),
        ({"sampling_strategy": "fps"}, "fps=None"),
        ({"sampling_strategy": "centre"}, "must be one of middle"),
        ({"short_clips": "drop"}, "pad, raise; got 'drop'"),
        ({"decoder_backend": "ffmpeg"}, "auto, pyav"),
        ({"decode_timeout_s": 0}, "above 0"),
        ({"do_pad": True}, "do_pad"),
        ({"size": {"height": 16, "width": 16}}, "16x16 px .* at least 32"),
        ({"size": {"max_height": 64, "max_width": 64}}, "shortest_edge"),
        ({"video_metadata": [{"fps": 1.0}] * 2}, "2 entries for 1 videos"),
    ],
)
def test_bad_settings_are_refused(processor, bars, settings, message):
    with pytest.raises(ValueError, match=message):
        processor(bars(6, 64, 96), **settings)


@pytest.mark.parametrize("settings", [{"num_frame": 3}, {"short_clip": "pad"}, {"fps": 2, "num_frames": 3}])
def test_bad_settings_are_refused_on_construction(settings, tmp_path):
    with pytest.raises(ValueError, match=r"did you mean|pass one"):
        TrajTokVideoProcessor(**settings)
    TrajTokVideoProcessor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"did you mean|pass one"):
        TrajTokVideoProcessor.from_pretrained(tmp_path, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": "8"}, r"num_frames must be a whole number, got '8' \(str\)"),
        ({"num_frames": 8.0}, "num_frames must be a whole number, got 8.0"),
        ({"num_frames": True}, "num_frames must be a whole number, got True"),
        ({"num_frames": -1}, "num_frames must be above 0, got -1"),
        ({"fps": "2"}, r"fps must be a finite number, got '2' \(str\)"),
        ({"fps": float("nan")}, "fps must be a finite number, got nan"),
        (
            {"fps": 2, "sampling_strategy": "middle"},
            "sampling_strategy='middle' does not go with fps=2. Pass fps alone",
        ),
        ({"fps": 2, "sampling_strategy": "all"}, "sampling_strategy='all' does not go with fps=2"),
        ({"num_frames": 3, "sampling_strategy": "all"}, "does not go with num_frames=3; it takes every frame"),
        ({"num_frames": 3, "sampling_strategy": "fps"}, "does not go with fps=None; it takes fps"),
        ({"decode_timeout_s": float("inf")}, "decode_timeout_s must be a finite number, got inf"),
        ({"decode_timeout_s": None}, "decode_timeout_s must be a finite number, got None"),
        ({"max_bytes": 1e9}, "max_bytes must be a whole number, got 1000000000.0"),
        ({"short_clips": None}, "short_clips must be one of pad, raise; got None"),
        ({"decoder_backend": ["pyav"]}, "decoder_backend must be one of auto, pyav"),
        ({"size": "224"}, "size must be a whole number, got '224'"),
        ({"size": -3}, "size must be above 0, got -3"),
        ({"size": (3, 4, 5)}, r"size must be \(height, width\)"),
        ({"size": {"height": 64}}, r"size must be .*shortest_edge.* got \{'height': 64\}"),
        ({"size": {"height": "64", "width": 64}}, r"size\['height'\] must be a whole number, got '64'"),
        ({"size": {"height": 16, "width": 64}}, "16x64 px .* at least 32"),
        ({"size": None}, "size is None, but do_resize is True"),
        ({"do_center_crop": True}, "crop_size is None, but do_center_crop is True"),
        ({"crop_size": {"shortest_edge": 64}}, "crop_size must be .*height.*width"),
        (
            {"resample": 5},
            r"resample must be one of nearest \(0\), bilinear \(2\), bicubic \(3\), lanczos \(1\); got 5",
        ),
        ({"image_mean": [0.5]}, "image_mean must be a number, or one for each of red, green and blue"),
        ({"image_std": [0, 1, 1]}, "image_std must be above 0"),
        ({"image_std": None}, "image_std is None, but do_normalize is True"),
        ({"rescale_factor": "a"}, "rescale_factor must be a finite number, got 'a'"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"device": "nope"}, "device must be one that torch knows, .* got 'nope'"),
        ({"return_tensors": "tf"}, "return_tensors must be one of pt, np"),
        ({"do_resize": "false"}, r"do_resize must be True or False, got 'false' \(str\)"),
        ({"skip_bad_videos": "yes"}, "skip_bad_videos must be True or False"),
        ({"data_format": "channels_last"}, "data_format must be channels_first, got 'channels_last'"),
        ({"input_data_format": "first"}, "input_data_format must be one of channels_first, channels_last, none"),
    ],
)
def test_every_door_checks_the_same_with_the_same_words(processor, bars, tmp_path, settings, message):
    TrajTokVideoProcessor().save_pretrained(tmp_path)
    saved = TrajTokVideoProcessor().to_dict()
    for door in (
        lambda: TrajTokVideoProcessor(**settings),
        lambda: TrajTokVideoProcessor.from_pretrained(tmp_path, **settings),
        lambda: TrajTokVideoProcessor.from_dict(saved, **settings),
        lambda: processor(bars(6, 64, 96), **settings),
    ):
        with pytest.raises(ValueError, match=message):
            door()


def test_what_a_program_sets_is_checked_when_used_and_when_saved(processor, bars, tmp_path):
    processor.num_frames = "8"
    assert '"num_frames": "8"' in repr(processor), "showing a processor never fails"
    for use in (lambda: processor(bars(6, 64, 96)), lambda: processor.save_pretrained(tmp_path)):
        with pytest.raises(ValueError, match="num_frames must be a whole number, got '8'"):
            use()
    processor.num_frames = np.int64(3)
    assert processor(bars(6, 64, 96))["frame_valid"].shape == (1, 3)
    processor.note = "kept"
    processor.save_pretrained(tmp_path)
    loaded = TrajTokVideoProcessor.from_pretrained(tmp_path)
    assert loaded.num_frames == 3 and type(loaded.num_frames) is int and loaded.note == "kept"


def test_numbers_of_other_libraries_are_taken_and_saved_as_plain_ones(bars, tmp_path):
    given = {
        "num_frames": np.int64(4),
        "decode_timeout_s": torch.tensor(30.5),
        "size": {"height": np.int32(64), "width": torch.tensor(96)},
        "image_mean": np.array([0.5, 0.4, 0.3]),
        "image_std": (np.float32(0.5), 1, 0.25),
        "rescale_factor": np.float64(1 / 255),
        "do_normalize": np.bool_(True),
        "do_convert_rgb": 1,
        "resample": InterpolationMode.BILINEAR,
        "device": torch.device("cpu"),
    }
    plain = {
        "num_frames": 4,
        "decode_timeout_s": 30.5,
        "size": {"height": 64, "width": 96},
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 1.0, 0.25],
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": 2,
        "device": "cpu",
    }
    processor = TrajTokVideoProcessor(**given)
    processor.save_pretrained(tmp_path)
    saved = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert {name: saved[name] for name in plain} == plain
    expected = processor(bars(6, 40, 30))["pixel_values_videos"]
    for same in (
        TrajTokVideoProcessor(**plain)(bars(6, 40, 30)),
        TrajTokVideoProcessor()(bars(6, 40, 30), **given),
        TrajTokVideoProcessor.from_pretrained(tmp_path)(bars(6, 40, 30)),
        TrajTokVideoProcessor.from_json_file(next(tmp_path.glob("*.json")))(bars(6, 40, 30)),
    ):
        torch.testing.assert_close(same["pixel_values_videos"], expected)


def test_processors_around_it_leave_the_checks_to_it(processor, vlm_tokenizer, bars):
    around = TrajViT2Processor(processor, vlm_tokenizer)
    assert around(videos=bars(6, 64, 96), num_frames=np.int64(3))["frame_valid"].shape == (1, 3)
    times = {"video_metadata": [{"frame_times_s": np.arange(6)}], "return_metadata": True}
    assert around(videos=bars(6, 64, 96), **times)["video_metadata"][0].frame_times_s == [0, 1, 3, 4]
    with pytest.raises(ValueError, match=r"num_frames must be a whole number, got '3' \(str\)"):
        around(videos=bars(6, 64, 96), num_frames="3")


def test_none_in_a_call_means_the_processors_own_sampling(processor, bars):
    for name in ("num_frames", "fps", "sampling_strategy"):
        assert processor(bars(9, 64, 96), **{name: None})["frame_valid"].shape == (1, 4)


def test_taking_every_frame_and_a_number_replace_each_other(processor, bars, tmp_path):
    TrajTokVideoProcessor(sampling_strategy="all", size=64).save_pretrained(tmp_path)
    every = TrajTokVideoProcessor.from_pretrained(tmp_path)
    assert every(bars(9, 64, 96))["frame_valid"].shape == (1, 9)
    assert every(bars(9, 64, 96), num_frames=5)["frame_valid"].shape == (1, 5)
    assert processor(bars(9, 64, 96), sampling_strategy="all")["frame_valid"].shape == (1, 9)
    older = {**every.to_dict(), "num_frames": 16}
    assert TrajTokVideoProcessor.from_dict(older)(bars(9, 64, 96))["frame_valid"].shape == (1, 9)


def test_a_device_that_is_not_there_is_named(processor, bars):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="device='cuda' cannot be used here"):
        processor(bars(6, 64, 96), device="cuda")


def test_frames_are_never_padded_to_a_crop(processor, bars):
    crop = {"do_center_crop": True, "crop_size": {"height": 32, "width": 64}}
    cropped = processor(bars(4, 64, 96), **crop)["pixel_values_videos"]
    torch.testing.assert_close(cropped, processor(bars(4, 64, 96))["pixel_values_videos"][..., 16:48, 16:80])
    with pytest.raises(ValueError, match=r"64x96 px .* cannot be cropped to 65x64"):
        processor(bars(4, 64, 96), do_center_crop=True, crop_size={"height": 65, "width": 64})


# --- limits ----------------------------------------------------------------------------------------------------------


def test_the_time_limit_holds_for_resizing(processor, bars, monkeypatch):
    now = iter(range(0, 1000, 20))
    monkeypatch.setattr(video_processing.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(video_processing, "RESIZED_VALUES_AT_A_TIME", 3 * 64 * 96)
    with pytest.raises(VideoDecodeError, match=r"resizing from 40x50 to 64x96 px did not end within 50 s; raise `dec"):
        processor(bars(4, 40, 50), decode_timeout_s=50)


def test_blocks_of_frames_do_not_change_the_pixels(processor, bars, monkeypatch):
    whole = processor(bars(4, 50, 70))["pixel_values_videos"]
    monkeypatch.setattr(video_processing, "RESIZED_VALUES_AT_A_TIME", 3 * 64 * 96 * 3)
    torch.testing.assert_close(processor(bars(4, 50, 70))["pixel_values_videos"], whole, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 10**7}, r"10000000 frames of 64x96 px .* would take 686.6 GiB, more than 4 GiB"),
        ({"size": {"height": 50000, "width": 50000}}, "4 frames of 50000x50000 px"),
        ({"size": {"shortest_edge": 60000}}, r"4 frames of 60000x\d+ px"),
        (
            {"size": {"height": 20000, "width": 30000}, "do_center_crop": True, "crop_size": 64},
            "1 frame of 20000x30000 px",
        ),
    ],
)
def test_more_than_fits_is_refused_before_memory_is_taken(processor, clip, bars, settings, message):
    for video in (clip, bars(6, 64, 96)):
        with pytest.raises(ValueError, match=message):
            processor(video, **settings)


def test_only_chosen_frames_in_memory_are_converted(processor, bars):
    frames = bars(12, 64, 96) / 255
    expected = processor(frames)["pixel_values_videos"]
    frames[[0, 2, 11]] = np.nan  # frames 1, 4, 7 and 10 are taken
    for form in (frames, list(frames), torch.from_numpy(frames)):
        torch.testing.assert_close(processor(form)["pixel_values_videos"], expected)
    with pytest.raises(ValueError, match="NaN"):
        processor(frames, sampling_strategy="all")


def test_a_batch_is_bounded_as_well(processor, bars):
    processor.max_bytes = 4 * 12 * 64 * 96
    assert len(processor([bars(4, 64, 96)] * 4)["frame_valid"]) == 4
    with pytest.raises(ValueError, match=r"5 clips of 4 frames of 64x96 px .* pass fewer videos at a time"):
        processor([bars(4, 64, 96)] * 5)
    assert len(processor([bars(4, 64, 96)] * 5, max_bytes=1 << 20)["frame_valid"]) == 5


# --- frames that somebody sampled before -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [VideoMetadata, TrajTokVideoMetadata, dict])
def test_what_the_caller_knows_about_frames_in_memory_is_kept(processor, bars, kind):
    """8 of 240 frames at 30 fps, every 30th."""
    facts = kind(total_num_frames=240, fps=30.0, duration=8.0, frames_indices=list(range(0, 240, 30)))
    given = {"video_metadata": [[facts]], "return_metadata": True}
    (kept,) = processor(bars(8, 40, 30), do_sample_frames=False, **given)["video_metadata"]
    assert kept.frames_indices == list(range(0, 240, 30)) and kept.timestamps == list(range(8))
    assert (kept.total_num_frames, kept.fps, kept.duration) == (240, 30.0, 8.0)
    batch = processor(bars(8, 40, 30), **given)
    assert batch["video_metadata"][0].frames_indices == [0, 60, 120, 180], "sampling goes on from there"
    assert batch["video_metadata"][0].frame_times_s == [0, 2, 4, 6]
    by_rate = processor(bars(8, 40, 30), fps=0.5, **given)["video_metadata"][0]
    assert by_rate.frame_times_s == [0, 2, 4, 6]


def test_times_size_and_name_of_the_source_are_kept(processor, bars):
    facts = {"frame_times_s": np.array([0, 0.5, 4]), "height": 480, "width": 640, "name": "holiday.mp4", "duration": 5}
    batch = processor(bars(3, 40, 30), video_metadata=facts, do_sample_frames=False, return_metadata=True)
    (kept,) = batch["video_metadata"]
    assert kept.frame_times_s == [0, 0.5, 4] and kept.name == "holiday.mp4" and kept.duration == 5
    ids = torch.zeros(1, 3, 2, 3, dtype=torch.long)
    (found,) = processor.post_process_trajectories({"trajectory_ids": ids}, batch["video_metadata"])
    assert found.size_hw == (480, 640) and found.frame_times_s.tolist() == [0, 0.5, 4]
    by_rate = processor(bars(3, 40, 30), video_metadata=kept, fps=0.5, return_metadata=True)["video_metadata"][0]
    assert by_rate.frame_times_s == [0, 0.5, 4]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"total_num_frames": 240, "fps": 30.0},
            "came with 8 frames, of which .* total_num_frames=240; pass frames_indices",
        ),
        (
            {"frames_indices": [0, 1, 2], "total_num_frames": 9},
            "came with 8 frames, but video_metadata has 3 frames_ind",
        ),
        ({"frames_indices": list(range(8)), "total_num_frames": 5}, "frames_indices up to 7 .* total_num_frames=5"),
        ({"frames_indices": [0, 1, 1, 2, 3, 4, 5, 6]}, "whole numbers from 0, each above the one before"),
        ({"frames_indices": [0.5, 1, 2, 3, 4, 5, 6, 7]}, "whole numbers from 0"),
        ({"frames_indices": "all"}, "whole numbers from 0"),
        ({"frame_times_s": [0, 1, 2, 3, 4, 5, 6, float("nan")]}, "seconds from 0, never falling"),
        ({"frame_times_s": [0, 1]}, "came with 8 frames, but video_metadata has 2 frame_times_s"),
        (
            {"fps": 3.0, "duration": 8.0, "total_num_frames": 240, "frames_indices": list(range(0, 240, 30))},
            "after the end",
        ),
        ({"fps": -1}, "video_metadata's fps must be above 0"),
        ({"fps": "30"}, "video_metadata's fps must be a finite number, got '30'"),
        ({"framerate": 30}, "video_metadata has no fact `framerate`; did you mean"),
        (30, "video_metadata holds int; expected VideoMetadata, a dict or None"),
    ],
)
def test_facts_that_do_not_fit_the_frames_are_refused(processor, bars, facts, message):
    with pytest.raises(ValueError, match=message):
        processor(bars(8, 40, 30), video_metadata=facts)


def test_a_file_speaks_for_itself(processor, clip):
    facts = {"total_num_frames": 12, "fps": 5.0, "frames_indices": [2, 7]}
    (kept,) = processor(clip, video_metadata=facts, return_metadata=True)["video_metadata"]
    assert kept.fps == 30 and kept.frames_indices == [1, 4, 7, 10]
    (kept,) = processor(clip, video_metadata=facts, return_metadata=True, do_sample_frames=False)["video_metadata"]
    assert kept.frames_indices == [2, 7], "the frames that the caller chose"
    with pytest.raises(ValueError, match=r"clip\.mp4: has 12 frames, but video_metadata says 10"):
        processor(clip, video_metadata={"total_num_frames": 10})


def test_frames_can_be_chosen_without_a_video(processor):
    facts = {"total_num_frames": 12, "fps": 4}
    assert processor.sample_frames(facts).tolist() == [1, 4, 7, 10]
    assert processor.sample_frames(facts, fps=1).tolist() == [0, 4, 8]
    with pytest.raises(ValueError, match="nobody knows them"):
        processor.sample_frames({"total_num_frames": 12}, fps=1)


# --- animations, grey clips ------------------------------------------------------------------------------------------


def test_an_open_animation_is_bounded_and_a_closed_one_is_named(processor, bars, tmp_path):
    pictures = [Image.fromarray(frame) for frame in bars(6, 64, 96)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:])
    with Image.open(tmp_path / "a.gif") as animation:
        with pytest.raises(ValueError, match=r"6 frames of 64x96 px .* raise `max_bytes`, now 100000"):
            processor(animation, max_bytes=100_000, sampling_strategy="all", do_resize=False)
        with pytest.raises(VideoDecodeError, match=r"a\.gif: decoding did not end within 1e-09 s; raise"):
            processor(animation, decode_timeout_s=1e-9)
    with pytest.raises(ValueError, match=r"a\.gif: "):
        processor(animation)


def test_an_open_animation_is_a_video(processor, bars, tmp_path):
    pictures = [Image.fromarray(frame) for frame in bars(6, 64, 96)]
    name = tmp_path / "a.webp"
    pictures[0].save(name, save_all=True, append_images=pictures[1:], duration=500, lossless=True)
    with Image.open(name) as animation:
        batch = processor([animation, name], fps=1, return_metadata=True)
        assert processor(animation)["frame_valid"].shape == (1, 4)
    torch.testing.assert_close(*batch["pixel_values_videos"])
    for facts in batch["video_metadata"]:
        assert facts.frame_times_s == [0, 1, 2] and facts.fps == 2 and facts.name == str(name)


def test_grey_clips_need_a_word(processor, bars):
    grey = bars(3, 64, 96)[..., 0]
    with pytest.raises(ValueError, match=r'3 grey frames. Pass input_data_format="channels_first"'):
        processor(grey)
    with pytest.raises(ValueError, match="3 grey frames"):
        processor([grey])
    for form in (grey, [grey]):
        assert processor(form, input_data_format="none")["frame_valid"].sum() == 3
    assert processor(grey, input_data_format="channels_first")["frame_valid"].shape == (1, 1)


# --- bad videos ------------------------------------------------------------------------------------------------------


def test_a_bad_video_is_named_or_skipped_and_counted(processor, clip, tmp_path, bars):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:500])
    videos = [broken, clip, np.full((4, 40, 30, 3), np.nan), bars(6, 40, 30)]
    with pytest.raises(VideoDecodeError, match=r"Video 1 of 4: .*broken\.mp4: is corrupt"):
        processor(videos)
    batch = processor(videos, skip_bad_videos=True, return_metadata=True)
    assert batch["kept_videos"] == [1, 3] and len(batch["video_metadata"]) == 2
    assert batch["pixel_values_videos"].shape[0] == 2
    assert [failure["index"] for failure in batch["failures"]] == [0, 2]
    assert batch["failures"][0]["video"] == str(broken) and "corrupt" in batch["failures"][0]["error"]
    assert "NaN" in batch["failures"][1]["error"]
    with pytest.raises(ValueError, match=r"None of the 1 videos .*broken\.mp4"):
        processor([broken], skip_bad_videos=True)
    assert processor(clip, skip_bad_videos=True)["failures"] == []


# --- save and load ---------------------------------------------------------------------------------------------------


def test_saving_and_loading_gives_the_same_processor(processor, tmp_path, clip):
    processor.save_pretrained(tmp_path)
    loaded = TrajTokVideoProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    torch.testing.assert_close(loaded(clip)["pixel_values_videos"], processor(clip)["pixel_values_videos"])


def test_rate_and_number_replace_each_other(tmp_path, clip):
    TrajTokVideoProcessor(fps=10).save_pretrained(tmp_path)
    by_rate = TrajTokVideoProcessor.from_pretrained(tmp_path)
    assert (by_rate.fps, by_rate.num_frames, by_rate.sampling_strategy) == (10, None, "fps")
    assert by_rate(clip)["frame_valid"].shape == (1, 4)
    by_number = TrajTokVideoProcessor.from_pretrained(tmp_path, num_frames=6)
    assert (by_number.fps, by_number.num_frames, by_number.sampling_strategy) == (None, 6, "middle")
    assert by_rate(clip, num_frames=5)["frame_valid"].shape == (1, 5)
    assert by_number(clip, fps=5)["frame_valid"].shape == (1, 2)


def test_the_files_work_alone_as_remote_code(processor, tmp_path, bars, clip, monkeypatch):
    """Saved with its code and loaded in a process that knows nothing of this package."""
    monkeypatch.setattr(TrajTokVideoProcessor, "_auto_class", "AutoVideoProcessor")
    processor.save_pretrained(tmp_path / "hub")
    np.save(tmp_path / "frames.npy", bars(6, 40, 30))
    script = f"""
        import sys
        import numpy as np

        class Hidden:
            def find_spec(self, name, *rest):
                if name.split(".")[0] == "modeling_trajtok":
                    raise ImportError(name)

        sys.meta_path.insert(0, Hidden())
        from transformers import AutoVideoProcessor

        processor = AutoVideoProcessor.from_pretrained({str(tmp_path / "hub")!r}, trust_remote_code=True)
        batch = processor([np.load({str(tmp_path / "frames.npy")!r}), {str(clip)!r}])
        np.save({str(tmp_path / "pixels.npy")!r}, batch["pixel_values_videos"].numpy())
    """
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = processor([bars(6, 40, 30), clip])["pixel_values_videos"]
    np.testing.assert_array_equal(np.load(tmp_path / "pixels.npy"), expected.numpy())


# --- trajectory tokens -----------------------------------------------------------------------------------------------


def test_tokens_come_instead_of_pixels(processor, tiny_model, bars):
    videos = [bars(3, 40, 30), bars(8, 40, 30)]
    pixels = processor(videos)
    with torch.no_grad():
        expected = tiny_model(**pixels)
    processor.trajectory_tokenizer = tiny_model
    tokens = processor(videos)
    assert set(tokens) == {"trajectory_embeds", "token_valid", "trajectory_ids", "frame_valid"}
    torch.testing.assert_close(tokens["trajectory_embeds"], expected.trajectory_embeds)
    torch.testing.assert_close(tokens["trajectory_ids"], expected.trajectory_ids)
    assert not tokens["trajectory_embeds"].requires_grad
    assert (tokens["trajectory_ids"][0, 3] == -1).all()


def test_saving_keeps_the_name_of_the_tokenizer_not_its_weights(processor, tiny_model, tmp_path, bars):
    tiny_model.save_pretrained(tmp_path / "model")
    processor.trajectory_tokenizer = str(tmp_path / "model")
    processor.save_pretrained(tmp_path / "processor")
    assert {file.suffix for file in (tmp_path / "processor").iterdir()} <= {".json", ".py"}, "no weights"
    loaded = TrajTokVideoProcessor.from_pretrained(tmp_path / "processor")
    assert loaded.trajectory_tokenizer == str(tmp_path / "model")
    assert loaded._tokenizer._model is None, "the model is loaded when first used"
    tokens = loaded(bars(4, 40, 30))
    pixels = TrajTokVideoProcessor(size={"height": 64, "width": 96}, num_frames=4)(bars(4, 40, 30))
    with torch.no_grad():
        torch.testing.assert_close(tokens["trajectory_embeds"], tiny_model(**pixels).trajectory_embeds)


def test_a_loaded_model_is_saved_by_where_it_came_from(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    model = TrajTokModel.from_pretrained(tmp_path / "model")
    processor = TrajTokVideoProcessor(trajectory_tokenizer=model)
    processor.save_pretrained(tmp_path / "processor")
    saved = json.loads(next((tmp_path / "processor").glob("*.json")).read_text())
    assert saved["trajectory_tokenizer"] == str(tmp_path / "model")
    replaced = TrajTokVideoProcessor.from_pretrained(tmp_path / "processor", trajectory_tokenizer=tiny_model)
    assert replaced._tokenizer.load() is tiny_model


def test_a_tokenizer_that_was_never_saved_cannot_be_referred_to(processor, tiny_model, tmp_path):
    processor.trajectory_tokenizer = tiny_model
    assert "TrajTokVideoProcessor" in repr(processor)
    with pytest.raises(ValueError, match="never saved"):
        processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="loaded model or the name or path"):
        processor.trajectory_tokenizer = 3


def test_a_tokenizer_that_makes_no_tokens_or_is_not_there_is_named(processor, bars, tmp_path):
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    processor.trajectory_tokenizer = BertModel(config)
    with pytest.raises(ValueError, match="is a BertModel, which makes no trajectory tokens; pass a TrajTokModel"):
        processor(bars(4, 40, 30))
    processor.trajectory_tokenizer = str(tmp_path / "gone")
    with pytest.raises(OSError, match="gone' of the processor cannot be loaded; it must be a folder"):
        processor(bars(4, 40, 30))
    with pytest.raises(ValueError, match="empty name"):
        processor.trajectory_tokenizer = ""
    with pytest.raises(ValueError, match="trajectory_tokenizer belongs to the processor"):
        processor(bars(4, 40, 30), trajectory_tokenizer=None)


# --- and back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("high_res", [False, True])
def test_trajectories_return_to_source_pixels(processor, tiny_model, bars, high_res):
    batch = processor([bars(3, 40, 30), bars(8, 50, 70)], return_metadata=True)
    facts = batch.pop("video_metadata")
    with torch.no_grad():
        outputs = tiny_model(**batch, output_high_res=high_res)
    maps = processor.post_process_trajectories(outputs, facts, frame_valid=batch["frame_valid"])
    assert [found.labels.shape for found in maps] == [(3, 40, 30), (4, 50, 70)]
    assert maps[1].frame_indices.tolist() == [0, 2, 4, 6] == maps[1].frame_times_s.tolist()
    logits = outputs.assignment_logits_high_res if high_res else outputs.assignment_logits
    finer = 2 if high_res else 1
    grid = logits[1].view(4, 16 * finer, 24 * finer, 6).permute(0, 3, 1, 2)
    allowed = outputs.trajectory_ids[1].unique()
    grid = torch.full_like(grid, -torch.inf).index_copy(1, allowed, grid[:, allowed])
    finite = grid.masked_fill(grid == -torch.inf, -1e4)
    expected = F.interpolate(finite, size=(50, 70), mode="bilinear", align_corners=False).argmax(dim=1)
    assert (expected.numpy() == maps[1].labels).mean() > 0.999  # ties may fall either way
    assert set(maps[1].ids) <= set(allowed.tolist()), "only trajectories that have a token"


def test_blocks_of_pixels_do_not_change_the_result(monkeypatch):
    logits = torch.randn(2, 5, 7, 4, generator=torch.Generator().manual_seed(0))
    whole = postprocessing.labels_from_logits(logits, torch.arange(4), (33, 41))
    monkeypatch.setattr(postprocessing, "MAX_VALUES_IN_MEMORY", 4 * 100)
    np.testing.assert_array_equal(postprocessing.labels_from_logits(logits, torch.arange(4), (33, 41)), whole)


def test_ids_alone_are_enlarged_by_the_nearest_patch(processor):
    ids = torch.tensor([[[[0, 1, 1], [2, 2, 1]], [[-1, -1, -1], [-1, -1, -1]]]])
    (found,) = processor.post_process_trajectories({"trajectory_ids": ids}, source_sizes_hw=[(4, 6)])
    assert found.labels.shape == (1, 4, 6), "the padded frame is dropped"
    np.testing.assert_array_equal(found.labels[0], np.kron(ids[0, 0].numpy(), np.ones((2, 2))))


def _ids_and_logits(*owners):
    """One clip of 2 x 2 patches, frame t owned by owners[t] (-1 = nobody)."""
    ids = torch.tensor(owners).view(1, -1, 1, 1).expand(-1, -1, 2, 2).contiguous()
    return ids, F.one_hot(ids.clamp(min=0).flatten(1), 4).float()


@pytest.mark.parametrize("with_logits", [False, True])
def test_frames_without_a_trajectory_stay_in_their_place(processor, with_logits):
    ids, logits = _ids_and_logits(2, -1, 3, -1)
    outputs = {"trajectory_ids": ids, **({"assignment_logits": logits} if with_logits else {})}
    facts = {"height": 4, "width": 4, "frames_indices": [5, 6, 9, 11], "frame_times_s": [0.5, 0.6, 0.9, 1.1]}
    (found,) = processor.post_process_trajectories(outputs, [facts])
    assert found.labels[:, 0, 0].tolist() == [2, -1, 3, -1], "metadata knows four frames"
    assert found.frame_indices.tolist() == [5, 6, 9, 11] and found.time_spans_s.tolist() == [[0.5, 0.5], [0.9, 0.9]]
    (found,) = processor.post_process_trajectories(outputs, source_sizes_hw=[(4, 4)])
    assert found.labels[:, 0, 0].tolist() == [2, -1, 3], "without it, empty frames at the end are padding"
    valid = torch.tensor([[True, False, True, False]])
    (found,) = processor.post_process_trajectories(outputs, [facts], frame_valid=valid)
    assert found.labels[:, 0, 0].tolist() == [2, 3] and found.frame_indices.tolist() == [5, 9]
    assert found.frame_times_s.tolist() == [0.5, 0.9]
    (found,) = processor.post_process_trajectories({**outputs, "frame_valid": valid}, source_sizes_hw=[(4, 4)])
    assert found.frame_indices.tolist() == [0, 2], "processors with a tokenizer return the mask themselves"


@pytest.mark.parametrize("with_logits", [False, True])
def test_a_clip_without_any_trajectory_has_an_empty_map(processor, with_logits):
    ids, logits = _ids_and_logits(-1, -1)
    outputs = {"trajectory_ids": ids, **({"assignment_logits": logits} if with_logits else {})}
    (found,) = processor.post_process_trajectories(outputs, source_sizes_hw=[(4, 4)], min_area_fraction=0.1)
    assert found.labels.shape == (2, 4, 4) and (found.labels == -1).all() and found.ids.tolist() == []
    assert found.to_mot_text() == "" and found.to_coco_rle() == []
    with pytest.raises(ValueError, match="Clip 0 has no valid frame"):
        processor.post_process_trajectories(outputs, source_sizes_hw=[(4, 4)], frame_valid=ids[:, :, 0, 0] >= 0)


def test_arrays_and_a_single_entry_of_metadata_are_read_as_well(processor, tiny_model, bars):
    processor.trajectory_tokenizer = tiny_model
    batch = processor(bars(3, 40, 30), return_tensors="np", return_metadata=True)
    (found,) = processor.post_process_trajectories(batch, batch["video_metadata"][0])
    assert found.labels.shape == (3, 40, 30)


def test_small_trajectories_can_be_left_out(processor):
    ids = torch.zeros(1, 1, 4, 4, dtype=torch.long)
    ids[0, 0, 0, 0] = 3
    sizes = {"source_sizes_hw": [(8, 8)]}
    kept = processor.post_process_trajectories({"trajectory_ids": ids}, **sizes)[0]
    left_out = processor.post_process_trajectories({"trajectory_ids": ids}, min_area_fraction=0.1, **sizes)[0]
    assert kept.ids.tolist() == [0, 3] and left_out.ids.tolist() == [0]
    logits = F.one_hot(ids.flatten(1), 5).float()
    with_logits = {"trajectory_ids": ids, "assignment_logits": logits}
    refilled = processor.post_process_trajectories(with_logits, min_area_fraction=0.1, **sizes)[0]
    assert (refilled.labels == 0).all(), "its pixels go to the next best"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Pass video_metadata"),
        ({"source_sizes_hw": [(4, 6)] * 2}, "2 entries for 1 clips"),
        ({"source_sizes_hw": [(4, 6)], "min_area_fraction": 1.5}, "1.5"),
        ({"source_sizes_hw": [(4, 6)], "frame_valid": torch.ones(1, 3, dtype=torch.bool)}, r"\(1, 2\), got \(1, 3\)"),
        ({"source_sizes_hw": [(4, 6)], "min_area_fraction": "a"}, "min_area_fraction must be in"),
        ({"source_sizes_hw": [(4, 0)]}, "The width of clip 0 must be above 0"),
        ({"source_sizes_hw": [4]}, r"must be \(height, width\)"),
        ({"video_metadata": [{"fps": 3}]}, "no height and width"),
        (
            {"video_metadata": [{"height": 4, "width": 6, "frames_indices": [0, 1, 2]}]},
            "have 2 frames and video_metadata",
        ),
    ],
)
def test_post_processing_names_what_does_not_fit(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor.post_process_trajectories({"trajectory_ids": torch.zeros(1, 2, 2, 3, dtype=torch.long)}, **arguments)


def test_outputs_that_are_none_are_named(processor):
    for outputs in ((1, 2), {"pixel_values_videos": 3}, {"trajectory_ids": torch.zeros(1, 2, 2)}):
        with pytest.raises(ValueError, match="trajectory_ids"):
            processor.post_process_trajectories(outputs, source_sizes_hw=[(4, 6)])
