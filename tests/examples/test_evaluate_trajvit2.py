"""Retrieval and zero-shot classification as a user runs them: real annotation formats, real clips, a tiny model."""

import json
import os
import re
import shutil

import evaluate_retrieval
import evaluate_zero_shot
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluation.benchmark_files import (
    TEMPLATES,
    BenchmarkItem,
    VideoFolder,
    read_class_folders,
    read_classes,
    read_labelled,
    read_retrieval,
    read_templates,
)
from evaluation.embedding_cache import VideoRequest, embed_captions, read_stretch
from evaluation.provenance import sha256_of
from PIL import Image
from transformers import BertTokenizer

import modeling_trajtok.processors.video_processing_trajtok as video_processing
from modeling_trajtok import (
    TrajTokVideoProcessor,
    TrajViT2Config,
    TrajViT2Model,
    TrajViT2Processor,
)
from modeling_trajtok.processors import VideoDecodeError

# --- readers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def annotations(shared_data):
    return shared_data / "annotations"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("file", "settings", "num_items", "num_texts", "first"),
    [
        (
            "msrvtt_test.sample.json",
            {},
            5,
            5,
            BenchmarkItem("video7020.mp4", ("a woman creating a fondant baby and flower",)),
        ),
        (
            "didemo_test_data.sample.json",
            {},
            5,
            5,
            BenchmarkItem(
                "26292851@N04_4253489686_265c3c8051.m4v",
                ("someone kicks the bug towards some rocks.",),
            ),
        ),
        (
            "anet_captions_val_1.sample.json",
            {},
            5,
            5,
            BenchmarkItem(
                "v_uqiMw7tQ1Cc",
                (
                    "A weight lifting tutorial is given. The coach helps the guy in red with the proper body "
                    "placement and lifting technique.",
                ),
            ),
        ),
        (
            "anet_captions_val_1.sample.json",
            {"texts": "segments"},
            18,
            18,
            BenchmarkItem("v_uqiMw7tQ1Cc", ("A weight lifting tutorial is given.",), start_s=0.28, end_s=55.15),
        ),
        (
            "youcook2_val.sample.json",
            {"layout": "youcook2"},
            24,
            24,
            BenchmarkItem("v_xHr8X2Wpmno", ("pick the ends off the verdalago",), start_s=47.0, end_s=60.0),
        ),
    ],
)
def test_samples_of_the_retrieval_benchmarks(annotations, file, settings, num_items, num_texts, first):
    items = read_retrieval(annotations / file, **settings)
    assert (len(items), sum(len(item.captions) for item in items)) == (num_items, num_texts)
    assert items[0] == first


def test_a_video_in_several_entries_is_one_item(tmp_path):
    file = write(
        tmp_path / "didemo.json",
        [
            {"video": "a.mov", "description": "first."},
            {"video": "b.mov", "description": "other."},
            {"video": "a.mov", "description": " second."},
        ],
    )
    assert read_retrieval(file) == [BenchmarkItem("a.mov", ("first. second.",)), BenchmarkItem("b.mov", ("other.",))]
    assert read_retrieval(file, texts="each")[0].captions == ("first.", "second.")


def test_the_table_of_msrvtt(tmp_path):
    table = 'key,vid_key,video_id,sentence\nret0,msr9770,video9770,a person, who\nret1,msr9,video9,"one, two"\n'
    file = write(tmp_path / "test.csv", table.replace("a person, who", "a person"))
    assert read_retrieval(file) == [BenchmarkItem("video9770", ("a person",)), BenchmarkItem("video9", ("one, two",))]


def test_vatex_keeps_the_captions_of_a_video_apart(tmp_path):
    file = write(tmp_path / "vatex.json", [{"videoID": "x_000001_000011", "enCap": ["one", "two"], "chCap": ["三"]}])
    assert read_retrieval(file) == [BenchmarkItem("x_000001_000011", ("one", "two"))]


def test_the_original_file_of_youcook2(tmp_path):
    step = {"segment": [1, 4], "id": 0, "sentence": "cut"}
    database = {
        "a": {"subset": "validation", "annotations": [step, {"segment": [5, 9], "id": 1, "sentence": "fry"}]},
        "b": {"subset": "training", "annotations": [step]},
    }
    file = write(tmp_path / "youcook2.json", {"database": database})
    assert read_retrieval(file) == [
        BenchmarkItem("a", ("cut",), start_s=1.0, end_s=4.0),
        BenchmarkItem("a", ("fry",), start_s=5.0, end_s=9.0),
    ]
    assert read_retrieval(file, texts="paragraph") == [BenchmarkItem("a", ("cut fry",))]
    assert [item.video for item in read_retrieval(file, subset="training")] == ["b"]


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("a.json", "[{", {}, "a.json is no JSON"),
        ("a.json", [], {}, "holds a list whose first entry is None"),
        ("a.json", [{"video": "a.mp4", "captions": "b"}], {}, "expected a list of entries with"),
        ("a.json", [{"video": "a", "caption": "b"}, {"caption": "c"}], {}, r'entry 1 is .*with "video": a str'),
        ("a.json", [{"video": "a", "caption": " "}], {}, "a has an empty caption"),
        ("a.json", [{"video": "a", "caption": "b"}], {"texts": "segments"}, "has no times"),
        ("a.json", [{"video": "a", "caption": "b"}], {"layout": "didemo"}, "the layout of msrvtt, expected didemo"),
        ("a.json", {"v": {"sentences": ["b"], "timestamps": []}}, {}, "one for each sentence"),
        ("a.json", {"v": {"sentences": ["b"], "timestamps": [[5, 1]]}}, {"texts": "segments"}, r"times \[5, 1\]"),
        ("a.json", {"database": {"v": {"subset": "training"}}}, {}, "subset='validation'"),
        ("a.csv", "video,words\na,b\n", {}, "has the columns video, words; expected video_id and sentence"),
    ],
)
def test_annotations_that_are_wrong_say_where_and_what_was_expected(tmp_path, name, content, settings, message):
    with pytest.raises(ValueError, match=message):
        read_retrieval(write(tmp_path / name, content), **settings)


@pytest.mark.parametrize(
    ("file", "num_classes", "number", "name"),
    [
        ("kinetics_label_map_k400.txt", 400, 1, "air drumming"),
        ("kinetics_label_map_k600.txt", 600, 0, "abseiling"),
        ("kinetics_label_map_k700.txt", 700, 699, "zumba"),
        ("sthv1_label_map.txt", 174, 0, "Holding something"),
        ("sthv2_label_map.txt", 174, 0, "Approaching something with your camera"),
        ("ucf101_label_map.txt", 101, 0, "Apply Eye Makeup"),
        ("hmdb51_label_map.txt", 51, 0, "brush hair"),
        ("activitynet_label_map.txt", 200, 3, "BMX"),
        ("diving48_label_map.txt", 48, 0, "Back+15som+05Twis+FREE"),
    ],
)
def test_label_maps(annotations, file, num_classes, number, name):
    classes = read_classes(annotations / file)
    assert (len(classes), classes.names[number]) == (num_classes, name)
    assert [classes.number_of(key) for key in classes.keys] == list(range(num_classes))


def test_other_lists_of_classes(tmp_path):
    assert read_classes(write(tmp_path / "a.txt", "2 BasketballDunk\n1 ApplyLipstick\n")).names == (
        "Apply Lipstick",
        "Basketball Dunk",
    )
    assert read_classes(write(tmp_path / "a.json", {"Closing something": "1", "Holding": "0"})).keys == (
        "Holding",
        "Closing something",
    )
    imagenet = read_classes(write(tmp_path / "b.txt", "n01440764 tench, Tinca tinca\nn01443537 goldfish\n"))
    assert (imagenet.keys[0], imagenet.names) == ("n01440764", ("tench", "goldfish"))
    for content, message in (("run\nRun\n", "twice"), ("", "no classes"), ("1 a\n3 b\n", "numbers to be 0, 1, 2")):
        with pytest.raises(ValueError, match=message):
            read_classes(write(tmp_path / "c.txt", content))


def test_prompts_and_names_are_those_of_clip(annotations):
    prompts = annotations / "clip_prompts.md"
    assert TEMPLATES["kinetics"] == read_templates(prompts, "Kinetics700")
    assert TEMPLATES["ucf101"] == read_templates(prompts, "UCF101")
    assert len(read_templates(prompts, "CIFAR10")) == 18
    listed = re.findall(r"'(.*)',", prompts.read_text(encoding="utf-8").split("## UCF101")[1].split("]")[0])
    # CLIP writes one name differently.
    expected = {"Handstand Pushups" if name == "Hand Stand Pushups" else name for name in listed}
    assert set(read_classes(annotations / "ucf101_label_map.txt").names) == expected
    with pytest.raises(ValueError, match="no section 'ImageNet'"):
        read_templates(prompts, "ImageNet")


def test_templates_of_a_file(tmp_path):
    assert read_templates(write(tmp_path / "a.txt", "a {}.\n\nthe {}.\n")) == ("a {}.", "the {}.")
    with pytest.raises(ValueError, match="expected a text with"):
        read_templates(write(tmp_path / "a.txt", "a cat\n"))


@pytest.mark.parametrize(
    ("name", "content", "label_map", "settings", "expected"),
    [
        ("val.txt", "air drumming/a b.mp4 1\n", "kinetics_label_map_k400", {}, [("air drumming/a b.mp4", 1)]),
        ("val.txt", "a b.mp4 air drumming\n", "kinetics_label_map_k400", {}, [("a b.mp4", 1)]),
        ("val.csv", "x.mp4,1\ny.mp4,abseiling\n", "kinetics_label_map_k400", {}, [("x.mp4", 1), ("y.mp4", 0)]),
        ("val.csv", "x.mp4 1\n", "kinetics_label_map_k400", {}, [("x.mp4", 1)]),
        (
            "val.csv",
            "label,youtube_id,time_start,time_end,split\nair drumming,-3b,10,20,val\n",
            "kinetics_label_map_k400",
            {},
            [("-3b_000010_000020", 1)],
        ),
        ("testlist01.txt", "YoYo/v_YoYo_g01_c01.avi\n", "ucf101_label_map", {}, [("YoYo/v_YoYo_g01_c01.avi", 100)]),
        ("trainlist01.txt", "YoYo/v.avi 101\n", "ucf101_label_map", {"first_label": 1}, [("YoYo/v.avi", 100)]),
        (
            "validation.json",
            [{"id": "74225", "template": "Approaching [something] with your camera"}],
            "sthv2_label_map",
            {},
            [("74225", 0)],
        ),
    ],
)  # fmt: skip
def test_lists_of_videos(annotations, tmp_path, name, content, label_map, settings, expected):
    classes = read_classes(annotations / f"{label_map}.txt")
    items = read_labelled(write(tmp_path / name, content), classes, **settings)
    assert [(item.video, item.label) for item in items] == expected


def test_the_split_files_of_hmdb51(annotations, tmp_path):
    classes = read_classes(annotations / "hmdb51_label_map.txt")
    write(tmp_path / "brush_hair_test_split1.txt", "a.avi 1 \nb.avi 2 \nc.avi 0 \n")
    write(tmp_path / "wave_test_split1.txt", "d.avi 2 \n")
    write(tmp_path / "wave_test_split2.txt", "e.avi 2 \n")
    assert read_labelled(tmp_path, classes) == [BenchmarkItem("b.avi", label=0), BenchmarkItem("d.avi", label=50)]
    assert read_labelled(tmp_path, classes, split=2) == [BenchmarkItem("e.avi", label=50)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x.avi 51\n", "line 1: the label is 51, expected 0..50"),
        ("x.avi -1\n", "the label is -1"),
        ("x.avi 0\nx.avi waving\n", "line 2: the label 'waving' is none of the classes; did you mean 'wave'"),
        ("x.avi\n", "'x.avi' has no label after it"),
        ("wave/x.avi 49\n", r"folder of class 50 \(wave\), but has the label 49 \(walk\)"),
        ("\n", "lists no videos"),
    ],
)
def test_labels_that_are_wrong_say_where(annotations, tmp_path, content, message):
    classes = read_classes(annotations / "hmdb51_label_map.txt")
    with pytest.raises(ValueError, match=message):
        read_labelled(write(tmp_path / "list.txt", content), classes)


def test_videos_are_found_under_the_names_of_the_annotations(tmp_path):
    for name in ("a/video1.webm", "v_abc.mp4", "xyz.mkv", "b/same.mp4", "c/same.mp4", "notes.txt"):
        write(tmp_path / name, "x")
    folder = VideoFolder(tmp_path)
    for name, expected in (
        ("video1", "a/video1.webm"),
        ("video1.mp4", "a/video1.webm"),
        ("elsewhere/video1.mp4", "a/video1.webm"),
        ("abc", "v_abc.mp4"),
        ("v_xyz", "xyz.mkv"),
        ("c/same.mp4", "c/same.mp4"),
        ("lists/c/same.avi", "c/same.mp4"),
    ):
        assert folder.find(name) == tmp_path / expected
    assert folder.find("notes") is None
    with pytest.raises(ValueError, match=r"may be .* or "):
        folder.find("same")
    with pytest.raises(ValueError, match="is no folder"):
        VideoFolder(tmp_path / "nowhere")


# --- the scripts -----------------------------------------------------------------------------------------------------

CLIPS = {
    "video7020.mp4": "torchcodec/h265_video.mp4",
    "video7021.mp4": "decord_edge/video_0.mov",
    "video7024.mp4": "intel_asl/thanks.mkv",
    "video7025.mp4": "kubric_movi/movi_a_1.gif",
    "video7026.mp4": "intel_asl/help.mkv",
}


def save_model(folder, seed):
    torch.manual_seed(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = BertTokenizer(vocab={token: number for number, token in enumerate(tokens)}, model_max_length=32)
    backbone = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 12, 16, 20], "layer_scale_init_value": 0.5}
    small = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64}
    config = TrajViT2Config(
        trajtok_config={
            "backbone_config": backbone,
            "hidden_size": 48,
            "num_attention_heads": 3,
            "num_trajectories": 6,
            "encoder_output_size": 32,
            "high_res_factor": None,
            "num_encoder_layers": 1,
            "initializer_range": 0.2,
        },
        transformer_config={**small, "num_attention_heads": 4, "initializer_range": 0.2},
        text_config={**small, "model_type": "bert", "num_attention_heads": 2, "vocab_size": len(tokens)},
        projection_dim=16,
        num_frames=3,
        initializer_range=0.2,
    )
    TrajViT2Model(config).save_pretrained(folder)
    video_processor = TrajTokVideoProcessor(size={"height": 32, "width": 32}, num_frames=3)
    TrajViT2Processor(video_processor, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("checkpoint"), 0)


@pytest.fixture
def videos(shared_data, tmp_path):
    """The videos of the sample of MSR-VTT."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, source in CLIPS.items():
        shutil.copy(shared_data / "clips" / source, folder / name)
    return folder


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded from now on."""
    names, decode = [], video_processing.decode_video

    def recording(source, *args, **kwargs):
        names.append(os.path.basename(source))
        return decode(source, *args, **kwargs)

    monkeypatch.setattr(video_processing, "decode_video", recording)
    return names


@pytest.fixture
def run(checkpoint, tmp_path):
    """run(script, data, ...) -> the record that the script wrote."""

    def run_script(script, data, *options, model=checkpoint):
        out = tmp_path / "records" / "results.json"
        out.unlink(missing_ok=True)
        common = ["--model", str(model), "--cache", str(tmp_path / "cache"), "--out", str(out), "--batch-size", "2"]
        assert script.main([str(data), *common, "--device", "cpu", *(str(option) for option in options)]) == 0
        return json.loads(out.read_text(encoding="utf-8"))

    return run_script


@pytest.fixture
def msrvtt(run, annotations, videos):
    """msrvtt(...) -> the record of the sample of MSR-VTT."""

    def run_msrvtt(*options, **settings):
        sample = annotations / "msrvtt_test.sample.json"
        return run(evaluate_retrieval, sample, "--videos", videos, *options, **settings)

    return run_msrvtt


def expected_embeds(checkpoint, files):
    model = TrajViT2Model.from_pretrained(checkpoint).eval()
    processor = TrajViT2Processor.from_pretrained(checkpoint)
    with torch.no_grad():
        inputs = processor.video_processor(files, num_frames=3, return_tensors="pt")
        return model, processor, model.get_video_features(**inputs).pooler_output


def test_the_record_of_a_retrieval(msrvtt, checkpoint, annotations, videos, capsys):
    record = msrvtt()
    printed = capsys.readouterr().out
    assert "| 5 videos, 5 texts | R@1 | R@5 | R@10 | median rank |" in printed
    assert {name: record["scores"][f"{name}_r5"] for name in ("text_to_video", "video_to_text")} == {
        "text_to_video": 1.0,
        "video_to_text": 1.0,
    }
    assert record["counts"] == {
        "videos_listed": 5,
        "videos": 5,
        "videos_unreadable": 0,
        "videos_from_cache": 0,
        "texts": 5,
        "texts_left_out": 0,
        "texts_cut": 2,  # a token per letter, 32 tokens with [CLS] and [SEP]: 35 and 52 letters are too many
    }
    assert record["failures"] == []
    assert record["checkpoint"] == {
        "name": checkpoint.name,
        "sha256": {name: sha256_of(checkpoint / name) for name in ("model.safetensors", "config.json")},
    }
    assert record["config_sha256"] == sha256_of(checkpoint / "config.json")
    assert record["annotations"]["sha256"] == sha256_of(annotations / "msrvtt_test.sample.json")
    assert record["settings"]["num_frames"] == 3
    assert record["settings"]["videos"] == str(videos)
    assert record["processor"]["size"] == {"height": 32, "width": 32}
    assert set(record["versions"]) >= {"commit", "python", "torch", "transformers", "trajtok"}


def test_texts_and_videos_are_matched_by_the_annotations(msrvtt, checkpoint, videos, monkeypatch):
    _, _, embeds = expected_embeds(checkpoint, [videos / name for name in CLIPS])
    similarity = embeds @ embeds.t()
    assert (similarity - torch.eye(5)).max() < 0.9999  # different videos are told apart, or this test says nothing

    monkeypatch.setattr(evaluate_retrieval, "embed_captions", lambda *args: (embeds, 0))
    scores = msrvtt()["scores"]
    assert (scores["text_to_video_r1"], scores["video_to_text_r1"]) == (1.0, 1.0)
    monkeypatch.setattr(evaluate_retrieval, "embed_captions", lambda *args: (embeds[[1, 0, 2, 3, 4]], 0))
    scores = msrvtt()["scores"]
    assert (scores["text_to_video_r1"], scores["video_to_text_r1"]) == (0.6, 0.6)


def test_a_bad_and_a_missing_video_are_listed_and_counted(msrvtt, videos, capsys):
    (videos / "video7020.mp4").write_bytes(b"no video at all" * 100)
    (videos / "video7025.mp4").unlink()
    (videos / "video7026.mp4").write_bytes(b"")
    record = msrvtt()
    assert [failure["video"] for failure in record["failures"]] == ["video7020.mp4", "video7025.mp4", "video7026.mp4"]
    assert "not a video" in record["failures"][0]["error"]
    assert "no file of this name" in record["failures"][1]["error"]
    assert "empty" in record["failures"][2]["error"]
    counts = record["counts"]
    assert (counts["videos_listed"], counts["videos"], counts["videos_unreadable"]) == (5, 2, 3)
    assert (counts["texts"], counts["texts_left_out"]) == (2, 3)
    assert record["scores"]["text_to_video_r5"] == 1.0
    assert "3 of 5 videos could not be read" in capsys.readouterr().out


def test_a_batch_of_bad_videos_does_not_stop_the_others(msrvtt, videos):
    for name in ("video7020.mp4", "video7021.mp4"):  # the whole first batch
        (videos / name).write_bytes(b"no video at all" * 100)
    record = msrvtt()
    assert record["counts"]["videos"] == 3
    assert all(failure["error"].startswith(str(videos)) for failure in record["failures"])


def test_a_video_that_is_mended_is_tried_again(msrvtt, videos, shared_data):
    (videos / "video7020.mp4").write_bytes(b"no video at all" * 100)
    assert msrvtt()["counts"]["videos"] == 4
    shutil.copy(shared_data / "clips" / CLIPS["video7020.mp4"], videos / "video7020.mp4")
    counts = msrvtt()["counts"]
    assert (counts["videos"], counts["videos_from_cache"]) == (5, 4)


def test_the_second_run_decodes_nothing_and_says_the_same(msrvtt, decoded):
    first = msrvtt()
    assert sorted(decoded) == sorted(CLIPS)
    decoded.clear()
    second = msrvtt()
    assert decoded == []
    assert second["scores"] == first["scores"]
    assert second["counts"]["videos_from_cache"] == 5


def test_a_changed_file_other_settings_and_another_checkpoint_are_no_hit(
    msrvtt, decoded, videos, shared_data, tmp_path
):
    first = msrvtt()
    shutil.copy(shared_data / "clips" / "intel_asl" / "yes.mkv", videos / "video7024.mp4")
    decoded.clear()
    assert msrvtt()["counts"]["videos_from_cache"] == 4
    assert decoded == ["video7024.mp4"]

    decoded.clear()
    assert msrvtt("--num-frames", 2)["settings"]["num_frames"] == 2
    assert len(decoded) == 5

    decoded.clear()
    other = msrvtt(model=save_model(tmp_path / "other", 1))
    assert len(decoded) == 5
    assert other["counts"]["videos_from_cache"] == 0
    assert other["embedding_key"] != first["embedding_key"]


def test_a_moved_checkpoint_is_the_same_checkpoint(msrvtt, decoded, checkpoint, tmp_path):
    msrvtt()
    shutil.copytree(checkpoint, tmp_path / "moved")
    decoded.clear()
    assert msrvtt(model=tmp_path / "moved")["counts"]["videos_from_cache"] == 5
    assert decoded == []


def test_a_killed_run_goes_on_where_it_was(msrvtt, decoded, monkeypatch, tmp_path):
    recording = video_processing.decode_video

    def killed(source, *args, **kwargs):
        if len(decoded) == 3:  # in the middle of the second batch of two
            raise KeyboardInterrupt
        return recording(source, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(video_processing, "decode_video", killed)
        with pytest.raises(KeyboardInterrupt):
            msrvtt()
    (folder,) = (tmp_path / "cache").iterdir()
    assert len(list(folder.glob("*.safetensors"))) == 1
    (folder / ".half.part").write_bytes(b"x")
    decoded.clear()
    counts = msrvtt()["counts"]
    assert (counts["videos"], counts["videos_from_cache"]) == (5, 2)
    assert len(decoded) == 3


def test_a_broken_file_of_the_cache_is_made_again(msrvtt, decoded, tmp_path):
    first = msrvtt()
    (folder,) = (tmp_path / "cache").iterdir()
    shards = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_size)
    assert len(shards) == 3
    shards[-1].write_bytes(shards[-1].read_bytes()[:-10])
    decoded.clear()
    assert msrvtt()["scores"] == first["scores"]
    assert len(decoded) == 2
    decoded.clear()
    msrvtt()
    assert decoded == []


def test_several_captions_per_video_are_all_judged(run, videos, tmp_path):
    entries = [
        {"videoID": "video7020", "enCap": ["a", "b", "c"]},
        {"videoID": "video7021", "enCap": ["d"]},
        {"videoID": "gone", "enCap": ["e", "f"]},
    ]
    record = run(evaluate_retrieval, write(tmp_path / "vatex.json", entries), "--videos", videos)
    counts = record["counts"]
    assert (counts["videos"], counts["texts"], counts["texts_left_out"]) == (2, 4, 2)
    assert record["scores"]["text_to_video_r1"] in (0.0, 0.25, 0.5, 0.75, 1.0)


def test_stretches_of_one_video_are_different_videos(run, videos, tmp_path):
    steps = [([0, 1], "one"), ([1, 2], "two"), ([90, 95], "far behind the end")]
    annotations = [{"segment": times, "id": 0, "sentence": text} for times, text in steps]
    database = {"video7024": {"subset": "validation", "annotations": annotations}}
    record = run(evaluate_retrieval, write(tmp_path / "y.json", {"database": database}), "--videos", videos)
    assert record["counts"]["videos"] == 2
    assert "before the stretch from 90 s" in record["failures"][0]["error"]


def test_frames_of_a_stretch(shared_data):
    path = shared_data / "clips" / "intel_asl" / "thanks.mkv"  # 51 frames, 30 per second
    whole = read_stretch(VideoRequest("a", path), 51)
    part = read_stretch(VideoRequest("a", path, 0.5, 0.7), 2)  # frames 15..20: the middles of 15-17 and 18-20
    assert whole.shape[0] == 51
    assert np.array_equal(part, whole[[16, 19]])
    assert len(read_stretch(VideoRequest("a", path, 1.6, 90.0), 8)) == 3  # 48, 49, 50 are left
    with pytest.raises(VideoDecodeError, match=r"ends at 1\.7 s, before the stretch from 2 s"):
        read_stretch(VideoRequest("a", path, 2.0, 3.0), 2)


def test_texts_are_cut_where_the_model_ends(checkpoint):
    model, processor = TrajViT2Model.from_pretrained(checkpoint), TrajViT2Processor.from_pretrained(checkpoint)
    embeds, num_cut = embed_captions(model, processor.tokenizer, ["a", "b" * 30, "c" * 31], batch_size=2)
    assert num_cut == 1  # 32 tokens, of which two are [CLS] and [SEP]
    assert embeds.shape == (3, 16)
    assert embeds.norm(dim=1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)


def test_embeddings_of_classes_are_the_mean_over_the_templates(checkpoint):
    model, processor = TrajViT2Model.from_pretrained(checkpoint), TrajViT2Processor.from_pretrained(checkpoint)
    embeds, _ = evaluate_zero_shot.embed_classes(model, processor.tokenizer, ["cat", "dog"], ["a {}", "{} two"])
    each, _ = embed_captions(model, processor.tokenizer, ["a cat", "cat two", "a dog", "dog two"])
    expected = F.normalize(torch.stack([each[0] + each[1], each[2] + each[3]]), dim=-1)
    torch.testing.assert_close(embeds, expected)


def test_zero_shot_classification_of_a_list(run, checkpoint, annotations, videos, tmp_path, monkeypatch, capsys):
    names = ("brush_hair", "wave", "wave", "cartwheel", "wave")
    lines = [f"{video} {name}" for video, name in zip(CLIPS, names, strict=True)]
    data, classes = write(tmp_path / "list.txt", "\n".join(lines)), annotations / "hmdb51_label_map.txt"
    options = ("--videos", videos, "--classes", classes, "--prompts", "ucf101")
    record = run(evaluate_zero_shot, data, *options)
    assert (record["counts"]["classes"], record["counts"]["classes_with_videos"]) == (51, 3)
    assert (record["counts"]["templates"], record["class_names"][0]) == (48, "brush hair")
    assert [entry["sha256"] for entry in record["annotations"]] == [sha256_of(data), sha256_of(classes)]
    assert "chance: 2.0" in capsys.readouterr().out

    # Classes whose embeddings are known: brush hair is the first video, wave the second, cartwheel the fifth.
    _, _, embeds = expected_embeds(checkpoint, [videos / name for name in CLIPS])
    ideal = -embeds[:1].repeat(51, 1)
    ideal[0], ideal[50], ideal[1] = embeds[0], embeds[1], embeds[4]
    monkeypatch.setattr(evaluate_zero_shot, "embed_classes", lambda *args: (ideal, 0))
    record = run(evaluate_zero_shot, data, *options)
    assert record["counts"]["videos_from_cache"] == 5
    assert record["per_class"]["brush_hair"] == {
        "name": "brush hair",
        "count": 1,
        "top1": 1.0,
        "top5": 1.0,
        "taken_for": None,
    }
    similarity = (embeds @ ideal[[0, 50, 1]].t()).argmax(dim=1).tolist()
    right = [place == wanted for place, wanted in zip(similarity, (0, 1, 1, 2, 1), strict=True)]
    assert record["scores"]["top1"] == np.mean(right)
    assert record["per_class"]["wave"]["count"] == 3
    assert record["per_class"]["wave"]["top1"] == pytest.approx(np.mean([right[1], right[2], right[4]]))
    assert right[4] is False


def test_a_folder_of_images_for_each_class(run, tmp_path, decoded):
    rng = np.random.default_rng(0)
    for name in ("tench/1.jpg", "tench/2.png", "goldfish/1.jpg"):
        path = tmp_path / "val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(path)
    write(tmp_path / "val" / "goldfish" / "notes.txt", "not an image")
    (tmp_path / "val" / "goldfish" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    record = run(evaluate_zero_shot, tmp_path / "val", "--prompts", "image")
    assert record["class_names"] == ["goldfish", "tench"]
    assert {name: values["count"] for name, values in record["per_class"].items()} == {"goldfish": 1, "tench": 2}
    assert [failure["video"] for failure in record["failures"]] == ["goldfish/broken.jpg"]
    assert record["scores"]["top5"] == 1.0
    decoded.clear()
    again = run(evaluate_zero_shot, tmp_path / "val", "--prompts", "plain")
    assert again["counts"]["videos_from_cache"] == 3
    assert decoded.count("1.jpg") == 0


def test_a_folder_that_is_no_class_is_an_error(annotations, tmp_path):
    write(tmp_path / "flying" / "a.mp4", "x")
    with pytest.raises(ValueError, match="flying is none of the 51 classes"):
        read_class_folders(tmp_path, read_classes(annotations / "hmdb51_label_map.txt"))


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (evaluate_retrieval, ["nowhere.json", "--videos", "."], "nowhere.json"),
        (evaluate_retrieval, ["{sample}", "--videos", "nowhere"], "nowhere is no folder"),
        (evaluate_retrieval, ["{sample}", "--videos", "{empty}"], "None of the 5 videos could be read"),
        (evaluate_retrieval, ["{sample}", "--videos", "{empty}", "--model", "{empty}"], "model.safetensors"),
        (evaluate_zero_shot, ["{sample}", "--videos", "{empty}"], "expected also --classes FILE"),
    ],
)
def test_errors_are_one_line_and_status_1(script, arguments, message, checkpoint, annotations, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    places = {"sample": annotations / "msrvtt_test.sample.json", "empty": tmp_path / "empty"}
    arguments = [argument.format(**places) for argument in arguments]
    common = ["--model", str(checkpoint), "--cache", str(tmp_path / "cache")]
    assert script.main([arguments[0], *common, *arguments[1:]]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
