"""The zero-shot pipeline, through `pipeline(...)`, real files and a saved folder."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoProcessor, BertTokenizer, pipeline
from transformers.pipelines.pt_utils import KeyDataset
from transformers.utils import logging

from modeling_trajtok import (
    TrajTokModel,
    TrajTokVideoProcessor,
    TrajViT2Config,
    TrajViT2ForVideoClassification,
    TrajViT2Model,
    TrajViT2Processor,
    ZeroShotVideoClassificationPipeline,
)
from modeling_trajtok.processors import TrajectoryMap, VideoDecodeError

LABELS = ["a red ball rolls", "a dog", "the sea at night"]
TASK = "zero-shot-video-classification"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    letters = "abcdefghijklmnopqrstuvwxyz."
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "initializer_range": 0.3}
    config = TrajViT2Config(
        trajtok_config={
            "backbone_config": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 12, 16, 20]},
            "hidden_size": 48,
            "num_attention_heads": 3,
            "num_trajectories": 6,
            "num_encoder_layers": 1,
            "encoder_output_size": 32,
            "high_res_factor": None,
            "initializer_range": 0.3,
        },
        transformer_config={"hidden_size": 32, **sizes},
        text_config={"hidden_size": 32, "vocab_size": len(pieces), "max_position_embeddings": 40, **sizes},
        projection_dim=16,
        num_frames=4,
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("pipeline") / "tiny"
    TrajViT2Model(config).save_pretrained(folder)
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, model_max_length=40)
    processor = TrajViT2Processor(TrajTokVideoProcessor(size={"height": 40, "width": 48}, num_frames=2), tokenizer)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classify(folder):
    return pipeline(TASK, model=str(folder))


@pytest.fixture(scope="module")
def videos() -> list[np.ndarray]:
    """Three clips; the second has fewer frames than the model wants."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (count, 50, 60, 3), dtype=np.uint8) for count in (6, 3, 9)]


def scores(result) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in result}


def test_the_card_s_line_runs(classify, folder, shared_data):
    assert type(classify) is ZeroShotVideoClassificationPipeline and type(classify.model) is TrajViT2Model
    clip = shared_data / "clips" / "torchcodec" / "nasa_13013.mp4"
    result = classify(str(clip), candidate_labels=LABELS)
    assert sorted(entry["label"] for entry in result) == sorted(LABELS)
    assert [entry["score"] for entry in result] == sorted((entry["score"] for entry in result), reverse=True)
    assert sum(entry["score"] for entry in result) == pytest.approx(1.0)
    by_class = pipeline(model=TrajViT2Model.from_pretrained(folder), pipeline_class=type(classify), task=TASK,
                        processor=AutoProcessor.from_pretrained(folder))  # fmt: skip
    assert scores(by_class(str(clip), LABELS)) == pytest.approx(scores(result))


def test_the_readme_s_lines_run(shared_data, tmp_path, monkeypatch):
    """As they stand there, in a folder with a clip of that name; the embedding is the one that the pipeline scores."""
    root = Path(__file__).resolve().parents[2]
    blocks = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "video_embeds" in block]
    shutil.copytree(root / "checkpoints" / "trajvit2-tiny", tmp_path / "checkpoints" / "trajvit2-tiny")
    shutil.copy(shared_data / "clips" / "torchcodec" / "nasa_13013.mp4", tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    embeds, classify = names["video_embeds"], names["classify"]
    assert embeds.shape == (1, classify.model.config.projection_dim) and embeds.norm().item() == pytest.approx(1)
    result = scores(classify("clip.mp4", candidate_labels=["A red star moves left.", "A red star moves right."]))
    texts = classify.processor(text=list(result), return_tensors="pt")
    with torch.no_grad():
        text_embeds = classify.model.get_text_features(**texts).pooler_output
        expected = (embeds @ text_embeds.T / classify.model.temperature).softmax(dim=1)[0]
    assert list(result.values()) == pytest.approx(expected.tolist(), abs=1e-4)


def test_scores_are_the_softmax_of_the_model_s_logits(classify, videos):
    model, processor = classify.model, classify.processor
    texts = processor(text=[f"a video of {label}." for label in LABELS], return_tensors="pt")
    pixels = processor.video_processor(videos[0], num_frames=4, return_tensors="pt")
    with torch.no_grad():
        expected = model(**pixels, **texts).logits_per_video.softmax(dim=1)[0]
    found = scores(classify(videos[0], LABELS))
    assert [found[label] for label in LABELS] == pytest.approx(expected.tolist(), abs=1e-5)
    assert expected.max() > 0.4  # the scores say something


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_batch_gives_what_each_video_gives(classify, videos, batch_size, monkeypatch):
    alone = [scores(classify(video, LABELS)) for video in videos]
    sizes = []
    embed = classify.model.get_video_features
    monkeypatch.setattr(
        classify.model, "get_video_features", lambda *a, **k: sizes.append(len(k["frame_valid"])) or embed(*a, **k)
    )
    together = classify(videos, LABELS, batch_size=batch_size)
    assert sizes == {1: [1, 1, 1], 2: [2, 1], 8: [3]}[batch_size]
    for found, expected in zip(together, alone, strict=True):
        assert scores(found) == pytest.approx(expected, abs=1e-5)


def test_any_input_of_the_processor(classify, videos, tmp_path):
    expected = scores(classify(videos[0], LABELS))
    pictures = [Image.fromarray(frame) for frame in videos[0]]
    pictures[0].save(tmp_path / "clip.gif", save_all=True, append_images=pictures[1:], duration=100)
    assert scores(classify(pictures, LABELS)) == pytest.approx(expected)
    assert scores(classify(torch.from_numpy(videos[0]), LABELS)) == pytest.approx(expected)
    batch = classify(np.stack([videos[0], videos[0][::-1]]), LABELS)
    assert len(batch) == 2 and scores(batch[0]) == pytest.approx(expected, abs=1e-5)
    streamed = list(classify((video for video in videos), LABELS))
    assert len(streamed) == 3 and scores(streamed[0]) == pytest.approx(expected)
    gif = tmp_path / "clip.gif"
    assert len(classify(gif, LABELS)) == 3
    assert scores(classify(gif.read_bytes(), LABELS)) == pytest.approx(scores(classify(str(gif), LABELS)))
    assert len(classify(pictures[0], LABELS)) == 3  # an image is a clip of one frame


def test_texts_are_encoded_once(classify, videos, monkeypatch):
    calls = []
    embed = classify.model.get_text_features
    monkeypatch.setattr(
        classify.model, "get_text_features", lambda ids, mask: calls.append(len(ids)) or embed(ids, mask)
    )
    labels = ["only here", "and there"]
    classify(videos, labels, batch_size=2)
    classify(videos[0], labels)
    assert calls == [2]
    classify(videos[0], labels, hypothesis_template="{}")
    classify(videos[0], [*labels, "more"])
    assert calls == [2, 2, 3]


def test_templates_are_averaged(classify, videos):
    templates = ["a video of {}.", "{} in the dark"]
    found = scores(classify(videos[0], LABELS, hypothesis_template=templates))
    parts = []
    for template in templates:
        tokens = classify.processor(text=[template.format(label) for label in LABELS], return_tensors="pt")
        with torch.no_grad():
            parts.append(classify.model.get_text_features(**tokens).pooler_output)
            pixels = classify.processor.video_processor(videos[0], num_frames=4, return_tensors="pt")
            video = classify.model.get_video_features(**pixels).pooler_output
    texts = F.normalize(parts[0] + parts[1], dim=1)
    expected = (video @ texts.t() / classify.model.temperature).softmax(dim=1)[0]
    assert [found[label] for label in LABELS] == pytest.approx(expected.tolist(), abs=1e-5)


def test_trajectories_come_with_their_scores(classify, videos):
    results = classify(videos[:2], LABELS, batch_size=2, return_trajectories=True)
    for result, video in zip(results, videos, strict=False):
        tracks, table = result["trajectories"], result["trajectory_scores"]
        assert isinstance(tracks, TrajectoryMap) and tracks.labels.shape[1:] == video.shape[1:3]
        assert table.shape == (3, 6) and table.abs().max() <= 1 + 1e-5
        assert [entry["label"] for entry in result["labels"]] == list(scores(classify(video, LABELS)))
    assert len(results[1]["trajectories"].labels) == 3  # padded frames are gone


def test_settings_of_processor_and_tokenizer(classify, videos, monkeypatch):
    seen = []
    embed = classify.model.get_video_features
    monkeypatch.setattr(
        classify.model,
        "get_video_features",
        lambda *a, **k: seen.append(k["pixel_values_videos"].shape[1]) or embed(**k),
    )
    classify(videos[0], LABELS)
    classify(videos[0], LABELS, videos_kwargs={"num_frames": 5})
    classify(videos[0], LABELS, videos_kwargs={"sampling_strategy": "all"})
    assert seen == [4, 5, 6]
    short = scores(classify(videos[0], LABELS, tokenizer_kwargs={"max_length": 4}))
    assert short != pytest.approx(scores(classify(videos[0], LABELS)))


def test_a_list_shows_its_progress(classify, videos, capsys):
    classify(videos, LABELS)
    assert "3/3" in capsys.readouterr().err
    classify(videos[0], LABELS)
    classify(videos, LABELS, progress=False)
    assert "video" not in capsys.readouterr().err


def test_long_labels_are_cut_with_a_warning(classify, videos, caplog):
    logging.enable_propagation()
    classify(videos[0], ["a dog " * 30, "a dog"])
    logging.disable_propagation()
    assert "1 of 2 texts have more than 40 tokens" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidate_labels": []}, "candidate_labels is empty"),
        ({"candidate_labels": ["a", 3]}, "holds 3, expected texts"),
        ({"candidate_labels": ["a", " "]}, "not empty"),
        ({"candidate_labels": "a dog"}, "expected a list of texts"),
        ({}, "candidate_labels is None"),
        ({"candidate_labels": LABELS, "hypothesis_template": "no place"}, "where the label goes"),
    ],
)
def test_bad_labels_are_refused(classify, videos, settings, message):
    with pytest.raises(ValueError, match=message):
        classify(videos[0], **settings)


def test_a_bad_file_is_named(classify, videos, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(VideoDecodeError, match=r"Video 2 of 2: .*broken\.mp4"):
        classify([videos[0], str(tmp_path / "broken.mp4")], LABELS, batch_size=2)
    with pytest.raises(VideoDecodeError, match=r"batch that starts at video 3 of the input: Video 1 of 1: .*memory"):
        classify([videos[0], videos[1], b"no video"], LABELS)


def test_a_skipped_video_keeps_its_place(classify, videos):
    given = [b"no video", videos[0], videos[1], b"neither", b"nor this", videos[2]]
    settings = {"videos_kwargs": {"skip_bad_videos": True}}
    expected = [scores(classify(video, LABELS)) for video in videos]
    forms = {1: given, 2: (video for video in given), 8: KeyDataset([{"video": one} for one in given], "video")}
    for batch_size, form in forms.items():
        results = list(classify(form, LABELS, batch_size=batch_size, **settings))
        assert [index for index, result in enumerate(results) if "error" in result] == [0, 3, 4]
        for index in (0, 3, 4):
            assert results[index]["index"] == index and "not a video" in results[index]["error"]
            assert results[index]["video"] == f"<{len(given[index])} bytes in memory>"
        for result, wanted in zip((results[1], results[2], results[5]), expected, strict=True):
            assert scores(result) == pytest.approx(wanted, abs=1e-5)
    alone = classify(b"no video", LABELS, **settings)
    assert alone["index"] == 0 and "not a video" in alone["error"]
    with pytest.raises(ValueError, match="candidate_labels is empty"):
        classify([b"no video"], [], **settings)


def test_columns_of_data_sets(classify, videos, tmp_path):
    datasets = pytest.importorskip("datasets")
    paths = []
    for number, frames in enumerate(videos):
        pictures = [Image.fromarray(frame) for frame in frames]
        paths.append(str(tmp_path / f"{number}.gif"))
        pictures[0].save(paths[-1], save_all=True, append_images=pictures[1:], duration=100)
    expected = [scores(result) for result in classify(paths, LABELS)]
    table = datasets.Dataset.from_dict({"video": paths})
    for column in (table["video"], KeyDataset(table, "video"), table.to_iterable_dataset()["video"]):
        results = classify(column, LABELS, batch_size=2)
        assert [scores(result) for result in results] == [pytest.approx(one, abs=1e-5) for one in expected]


def test_a_saved_pipeline_opens_again(folder, videos, tmp_path):
    classify = pipeline(TASK, model=str(folder))
    expected = scores(classify(videos[0], LABELS))
    classify.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"processor_config.json", "tokenizer.json", "model.safetensors", "modeling_trajvit2.py"} <= names
    assert {"zero_shot_video_classification.py", "processing_trajvit2.py", "video_processing_trajtok.py"} <= names
    again = pipeline(TASK, model=str(tmp_path))
    assert scores(again(videos[0], LABELS)) == pytest.approx(expected)
    in_memory = pipeline(TASK, model=classify.model, processor=classify.processor)
    assert scores(in_memory(videos[0], LABELS)) == pytest.approx(expected)


def test_nothing_is_no_list_of_videos(classify):
    with pytest.raises(ValueError, match="Got an empty list of videos"):
        classify([], LABELS)


def test_what_is_missing_is_said(folder, tmp_path, tiny_config):
    shutil.copytree(folder, tmp_path / "bare")
    for path in (tmp_path / "bare").glob("*token*"):
        path.unlink()
    (tmp_path / "bare" / "processor_config.json").unlink()
    with pytest.raises((ValueError, OSError)):
        pipeline(TASK, model=str(tmp_path / "bare"))
    processor = AutoProcessor.from_pretrained(folder)
    with pytest.raises(ValueError, match="TrajTokModel, expected a model that embeds videos and texts"):
        ZeroShotVideoClassificationPipeline(model=TrajTokModel(tiny_config), processor=processor)


def test_fixed_classes_have_the_pipeline_of_transformers(folder, tmp_path, shared_data):
    model = TrajViT2ForVideoClassification.from_pretrained(folder, num_labels=3)
    model.config.id2label = {0: "walks", 1: "runs", 2: "jumps"}
    model.save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    classify = pipeline("video-classification", model=str(tmp_path))
    result = classify(str(shared_data / "clips" / "torchcodec" / "nasa_13013.mp4"))
    assert {entry["label"] for entry in result} == {"walks", "runs", "jumps"}
    assert sum(entry["score"] for entry in result) == pytest.approx(1.0)
