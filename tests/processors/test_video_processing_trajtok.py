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

from modeling_trajtok.configuration_trajtok import TrajTokConfig
from modeling_trajtok.modeling_trajtok import TrajTokModel
from modeling_trajtok.processors import TrajTokVideoProcessor, VideoDecodeError, decode_video
from modeling_trajtok.processors import trajectory_postprocessing as postprocessing

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
    ],
)
def test_post_processing_names_what_does_not_fit(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor.post_process_trajectories({"trajectory_ids": torch.zeros(1, 2, 2, 3, dtype=torch.long)}, **arguments)
