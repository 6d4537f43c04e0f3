"""Questions about videos as a user asks them: the formats of public benchmarks, real clips, a tiny model."""

import json
import re

import av
import evaluate_videoqa
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from evaluation import question_run
from evaluation.benchmark_files import VideoFolder
from evaluation.embedding_cache import VideoRequest
from evaluation.provenance import sha256_of
from evaluation.question_evaluation import answer_questions
from evaluation.question_files import VideoQuestion, question_files, read_questions
from evaluation.question_run import AnswerFile, locate, read_pictures
from evaluation.question_scoring import chosen_letter, is_right, prompt_text, question_scores
from evaluation.video_prompts import (
    answer_log_likelihoods,
    answer_tokens,
    encode_video,
    generate_answers,
    video_prompts,
)
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_trajtok import TrajVLMForConditionalGeneration, TrajVLMModel, TrajVLMProcessor
from modeling_trajtok.processors import VideoDecodeError, decode_video

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
FPS = 10


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(content), path)
    elif path.suffix == ".jsonl" and not isinstance(content, str):
        path.write_text("\n".join(json.dumps(entry) for entry in content) + "\n")
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# --- readers ---------------------------------------------------------------------------------------------------------

MVBENCH = [
    {"video": "ZS9XR.mp4", "question": "What happened?", "candidates": ["Sat.", "Ran."], "answer": "Ran.",
     "start": 11.1, "end": 19.6},
    {"video": "ZS9XR.mp4", "question": "What then?", "candidates": ["Sat.", "Ran.", "Fell."], "answer": "Sat."},
]  # fmt: skip
VIDEOMME = {
    "video_id": "001",
    "duration": "short",
    "domain": "Knowledge",
    "sub_category": "Humanity & History",
    "url": "https://www.youtube.com/watch?v=fFjv93ACGo8",
    "videoID": "fFjv93ACGo8",
    "question_id": "001-1",
    "task_type": "Counting Problem",
    "question": "Which is larger?",
    "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. A. B. equal."],
    "answer": "C",
}
LONGVIDEOBENCH = {
    "video_id": "86CxyhFV9MI",
    "question": "In the video, which subtitles appear?",
    "question_wo_referring_query": "Which subtitles appear?",
    "candidates": ["promisc", "run in with", "the sea"],
    "correct_choice": 1,
    "position": [854, 1018],
    "topic_category": "NP-News-Programs",
    "question_category": "TOS",
    "level": "L2-Relation",
    "id": "86CxyhFV9MI_0",
    "video_path": "86CxyhFV9MI.mp4",
    "subtitle_path": "86CxyhFV9MI_en.json",
    "duration_group": 600,
    "starting_timestamp_for_subtitles": 0,
    "duration": 190.16,
    "view_count": 259852,
}
LVBENCH = {
    "key": "Cm73ma6Ibcs",
    "type": "sport",
    "qa": [
        {
            "uid": "0",
            "question": "What year appears in the opening caption?\n(A) 1636\n(B) 1366 (about)\n(C) 1363\n(D) 1633",
            "answer": "D",
            "question_type": ["key information retrieval", "entity recognition"],
            "time_reference": "00:15-00:19",
        },
        {"uid": "1", "question": "Who?\n(A) he\n(B) she", "answer": "A", "question_type": ["reasoning"]},
    ],
    "video_info": {"duration_minutes": 77.3, "fps": 30.0},
}


def test_the_folder_of_mvbench(tmp_path):
    write(tmp_path / "json" / "action_sequence.json", MVBENCH)
    frames = {"video": "castle_s03e07_seg02_clip_17", "question": "Why?", "candidates": ["a", "b"], "answer": "a"}
    write(tmp_path / "json" / "episodic_reasoning.json", [{**frames, "start": 0.0, "end": 4.5}])
    first, second, third = read_questions(tmp_path)
    assert first == VideoQuestion(
        id="action_sequence/0",
        video="star/Charades_v1_480/ZS9XR.mp4",
        question="What happened?",
        choices=("Sat.", "Ran."),
        answer=1,
        categories=("action sequence",),
        start_s=11.1,
        end_s=19.6,
    )
    assert (second.id, second.answer, second.start_s, second.end_s) == ("action_sequence/1", 0, None, None)
    assert (third.video, third.frames_per_second) == ("tvqa/frames_fps3_hq/castle_s03e07_seg02_clip_17", 3.0)
    assert read_questions(tmp_path / "json" / "action_sequence.json") == [first, second]
    assert [file.name for file in question_files(tmp_path)] == ["action_sequence.json", "episodic_reasoning.json"]
    other = write(tmp_path / "other.json", MVBENCH)
    assert [one.id for one in read_questions(other, "mvbench")] == ["other/0", "other/1"]
    assert read_questions(other)[0].video == "ZS9XR.mp4"  # as plain questions, which it looks like


def test_the_table_of_videomme(tmp_path):
    (question,) = read_questions(write(tmp_path / "test-00000-of-00001.parquet", [VIDEOMME]))
    assert question == VideoQuestion(
        id="001-1",
        video="fFjv93ACGo8",
        question="Which is larger?",
        choices=("Apples.", "Candles.", "Berries.", "A. B. equal."),
        answer=2,
        categories=("short", "Knowledge", "Counting Problem"),
        subtitles="fFjv93ACGo8.srt",
    )


def test_longvideobench_as_json_and_as_a_table(tmp_path):
    (question,) = read_questions(write(tmp_path / "lvb_val.json", [LONGVIDEOBENCH]))
    assert question == VideoQuestion(
        id="86CxyhFV9MI_0",
        video="86CxyhFV9MI.mp4",
        question="In the video, which subtitles appear?",
        choices=("promisc", "run in with", "the sea"),
        answer=1,
        categories=("TOS", "up to 600 s"),
        subtitles="86CxyhFV9MI_en.json",
    )
    columns = {name: value for name, value in LONGVIDEOBENCH.items() if name not in ("candidates", "position")}
    options = [*LONGVIDEOBENCH["candidates"], "N/A", "N/A"]
    columns |= {f"option{number}": option for number, option in enumerate(options)}
    assert read_questions(write(tmp_path / "validation.parquet", [columns])) == [question]


def test_the_lines_of_lvbench(tmp_path):
    first, second = read_questions(write(tmp_path / "video_info.meta.jsonl", [LVBENCH]))
    assert first == VideoQuestion(
        id="0",
        video="Cm73ma6Ibcs",
        question="What year appears in the opening caption?",
        choices=("1636", "1366 (about)", "1363", "1633"),
        answer=3,
        categories=("key information retrieval", "entity recognition"),
    )
    assert (second.question, second.choices, second.answer) == ("Who?", ("he", "she"), 0)


def test_plain_questions(tmp_path):
    entries = [
        {"video": "a.mp4", "question": "What?", "answer": "a star"},
        {"video": "a.mp4", "question": "Which?", "choices": ["B", "A", "x"], "answer": "B", "category": "kind"},
        {"video": "a.mp4", "question": "Which?", "options": ["u", "v"], "answer": "b", "start": 1, "end": 2},
        {"video": "a.mp4", "question": "Which?", "candidates": [1, 2.5], "answer": 1, "id": "last"},
    ]
    found = read_questions(write(tmp_path / "mine.jsonl", entries))
    assert found == read_questions(write(tmp_path / "mine.json", entries))
    assert [(one.id, one.choices, one.answer) for one in found] == [
        ("0", (), "a star"),
        ("1", ("B", "A", "x"), 0),
        ("2", ("u", "v"), 1),
        ("last", ("1", "2.5"), 1),
    ]
    assert (found[1].categories, found[2].start_s, found[2].end_s) == (("kind",), 1.0, 2.0)


def test_the_two_files_of_activitynet_qa(tmp_path):
    asked = [{"video_name": "1QIUV7WYKXg", "question": "is he tall", "question_id": "v_1_0"}]
    path = write(tmp_path / "test_q.json", asked)
    write(tmp_path / "test_a.json", [{"answer": "yes", "type": 3, "question_id": "v_1_0"}])
    expected = VideoQuestion("v_1_0", "1QIUV7WYKXg", "is he tall", answer="yes", categories=("3",))
    assert read_questions(path) == [expected]
    assert [file.name for file in question_files(path)] == ["test_q.json", "test_a.json"]
    write(tmp_path / "test_a.json", [{"answer": "yes", "type": 3, "question_id": "v_1_1"}])
    with pytest.raises(
        ValueError, match=r"test_q\.json, entry 0: the field \"question_id\" is 'v_1_0', expected one of"
    ):
        read_questions(path)


@pytest.mark.parametrize(
    ("name", "content", "layout", "message"),
    [
        ("a.json", "[{", "auto", "a.json, as a whole, is no JSON"),
        ("a.jsonl", '{"video": "a", "question": "b", "answer": "c"}\n{', "auto", "a.jsonl, line 2, is no JSON"),
        ("a.json", {}, "auto", "holds a dict, expected a list"),
        ("a.json", [], "auto", "has no questions"),
        ("a.json", [1], "auto", "entry 0 is 1, expected a dict"),
        ("a.json", [{"video": "a"}], "auto", "entries with the fields video, expected those of MVBench"),
        ("a.json", [{"video": "a", "question": "b"}], "auto", r'entry 0: the field "answer" is nothing; it has'),
        ("a.json", [{"question": "b", "answer": "c"}], "auto", r'the field "video" is nothing'),
        ("a.json", [{"video": "a", "question": " ", "answer": "c"}], "auto", r'the field "question" is \' \''),
        ("a.json", [{"video": "a", "question": "b", "choices": ["c"], "answer": "c"}], "auto", "a list of 2 to 26"),
        ("a.json", [{"video": "a", "question": "b", "choices": ["c", None], "answer": 0}], "auto", "choices 1: the"),
        ("a.json", [{"video": "a", "question": "b", "choices": ["c", "d"], "answer": 2}], "auto", "0 to 1"),
        ("a.json", [{"video": "a", "question": "b", "answer": "c", "id": 1}] * 2, "auto", "the id '1' 2 times"),
        (
            "a.json",
            [{"video": "a", "question": "b", "answer": "c", "start": "1"}],
            "auto",
            "\"start\" is '1', expected",
        ),
        ("a.json", [{"video": "a", "question": "b", "answer": "c", "start": 2, "end": 1}], "auto", "after the start"),
        ("a.json", [MVBENCH[0] | {"answer": "Flew."}], "mvbench", r'entry 0: the field "answer" is \'Flew.\''),
        ("a.parquet", [VIDEOMME | {"answer": "E"}], "auto", r'row 0: the field "answer" is \'E\', expected a letter'),
        ("a.parquet", [VIDEOMME | {"options": ["A. a", "C. c"]}], "auto", 'texts that begin with "A."'),
        ("a.json", [LONGVIDEOBENCH | {"correct_choice": 3}], "auto", '"correct_choice" is 3, expected'),
        ("a.jsonl", [LVBENCH | {"qa": [LVBENCH["qa"][0] | {"question": "Who?"}]}], "auto", r"line 1 \(Cm73.*, qa 0: "),
        ("a.jsonl", [LVBENCH | {"qa": [LVBENCH["qa"][1] | {"answer": "C"}]}], "auto", "a letter from A to B"),
        ("a.jsonl", [LVBENCH | {"qa": None}], "lvbench", 'the field "qa" is None, expected a list'),
        ("a.json", [LONGVIDEOBENCH], "videomme", 'the field "options" is nothing'),
        ("a.json", [LONGVIDEOBENCH], "others", "Unknown layout 'others', expected auto, mvbench"),
    ],
)
def test_entries_that_are_wrong_say_where_and_what_was_expected(tmp_path, name, content, layout, message):
    with pytest.raises(ValueError, match=message):
        read_questions(write(tmp_path / name, content), layout)


def test_files_that_are_wrong_say_what_was_expected(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"a\.parquet is no parquet"):
        read_questions(tmp_path / "a.parquet")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"has no json/\*\.json"):
        read_questions(tmp_path / "folder")
    with pytest.raises(ValueError, match="expected a file for the layout lvbench"):
        read_questions(tmp_path / "folder", "lvbench")


# --- videos ----------------------------------------------------------------------------------------------------------


def save_video(path, seed, frames=20, times_s=None):
    """An mp4 of 2 s at 10 frames per second: a square on a background, both in colours of the seed; or of times."""
    rng = np.random.default_rng(seed)
    back, square = rng.integers(0, 256, (2, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            picture = np.broadcast_to(back, (48, 64, 3)).copy()
            picture[10:30, 2 * number : 2 * number + 20] = square
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number if times_s is None else round(times_s[number] * FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def save_pictures(folder, count):
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        Image.new("RGB", (48, 48), (number * 10, 0, 0)).save(folder / f"{number:05d}.png")
    return folder


def test_videos_of_mvbench_are_found_whole_or_cut(tmp_path):
    question = VideoQuestion("0", "star/Charades_v1_480/A.mp4", "?", start_s=1.0, end_s=2.0)
    cut = write(tmp_path / "star" / "Charades_segment" / "A.mp4", "x")
    assert locate(VideoFolder(tmp_path), question) == VideoRequest(question.video, cut)
    whole = write(tmp_path / "star" / "Charades_v1_480" / "A.mp4", "x")
    assert locate(VideoFolder(tmp_path), question) == VideoRequest(question.video, whole, 1.0, 2.0)
    other = VideoQuestion("0", "A.mp4", "?")
    with pytest.raises(ValueError, match=r"A\.mp4 may be .* or "):
        locate(VideoFolder(tmp_path), other)
    nested = write(tmp_path / "nested" / "video" / "star" / "Charades_v1_480" / "B.mp4", "x")
    write(tmp_path / "nested" / "video" / "star" / "Charades_segment" / "B.mp4", "x")
    below = VideoQuestion("0", "star/Charades_v1_480/B.mp4", "?", start_s=1.0)
    assert locate(VideoFolder(tmp_path), below) == VideoRequest(below.video, nested, 1.0)
    frames = VideoQuestion("0", "tvqa/frames_fps3_hq/B_01", "?", start_s=1.0, frames_per_second=3.0)
    assert locate(VideoFolder(tmp_path), frames).path is None
    folder = save_pictures(tmp_path / "tvqa" / "frames_fps3_hq" / "B_01", 2)
    assert locate(VideoFolder(tmp_path), frames) == VideoRequest(frames.video, folder, 1.0)


def test_frames_of_a_folder_of_pictures(tmp_path):
    folder = save_pictures(tmp_path / "clip", 12)
    frames, times_s = read_pictures(VideoRequest("a", folder, 1.0, 3.0), 2, 3.0)  # of 3..8: 4 and 7
    assert times_s.tolist() == pytest.approx([4 / 3, 7 / 3])
    assert frames[:, 0, 0, 0].tolist() == [50, 80]
    with pytest.raises(VideoDecodeError, match=r"clip: it ends at 4\.0 s, before the stretch from 5 s"):
        read_pictures(VideoRequest("a", folder, 5.0), 2, 3.0)
    (folder / "00005.png").write_bytes(b"no picture")
    with pytest.raises(VideoDecodeError, match=r"00005\.png: not a picture"):
        read_pictures(VideoRequest("a", folder), 12, 3.0)


# --- prompts and scoring ---------------------------------------------------------------------------------------------


def save_model(folder, config, tokenizer, seed=0, **settings):
    torch.manual_seed(seed)
    TrajVLMForConditionalGeneration(config).save_pretrained(folder)
    TrajVLMProcessor.from_model_config(config, tokenizer, num_frames=4, **settings).save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(vlm_config, vlm_tokenizer, tmp_path):
    return save_model(tmp_path / "checkpoint", vlm_config, vlm_tokenizer)


@pytest.fixture
def loaded(checkpoint):
    return TrajVLMForConditionalGeneration.from_pretrained(checkpoint).eval(), TrajVLMProcessor.from_pretrained(
        checkpoint
    )


def clip(seed, frames=4):
    return np.random.default_rng(seed).integers(0, 256, (frames, 48, 48, 3), dtype=np.uint8)


def encoded(processor, video, question, **settings):
    content = [{"type": "video", "video": video}, {"type": "text", "text": question}]
    return processor.apply_chat_template(
        [[{"role": "user", "content": content}]],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"do_sample_frames": False, **settings},
    )


ASKED = ["what is the colour ?", "how many red objects ? A. two B. three", "star ?"]


@pytest.mark.parametrize("selection", ["all", "valid"])
@pytest.mark.parametrize("use_timestamps", [False, True])
def test_prompts_are_those_of_the_chat_template(vlm_config, vlm_tokenizer, selection, use_timestamps):
    vlm_config.token_selection = selection
    torch.manual_seed(0)
    model = TrajVLMForConditionalGeneration(vlm_config).eval()
    processor = TrajVLMProcessor.from_model_config(vlm_config, vlm_tokenizer, use_timestamps=use_timestamps)
    if selection == "valid":
        processor.trajectory_model = model
    settings = {"video_metadata": [{"fps": 2.0}]}
    prompts = video_prompts(
        processor, encode_video(model, processor, clip(0), do_sample_frames=False, **settings), ASKED
    )
    for question, prompt in zip(ASKED, prompts, strict=True):
        inputs = encoded(processor, clip(0), question, **settings)
        assert list(prompt.input_ids) == inputs["input_ids"][0].tolist()
        assert len(prompt.video_embeds) == prompt.input_ids.count(processor.video_token_id) > 0
        expected = model.generate(**inputs, max_new_tokens=4, do_sample=False)[:, len(prompt.input_ids) :]
        found = generate_answers(model, processor, [prompt], 4)
        assert found == processor.batch_decode(expected, skip_special_tokens=True)
    with pytest.raises(ValueError, match=r"with 2 placeholders of videos, expected one"):
        video_prompts(
            processor,
            encode_video(model, processor, clip(0), do_sample_frames=False, **settings),
            ["what <|video_pad|> ?"],
        )


def test_likelihoods_are_those_of_the_plain_forward(loaded):
    model, processor = loaded
    prompts, answers, expected = [], [("A", "B", "C"), ("red", "blue star", "two three objects"), ("two", "three")], []
    for seed, (question, listed) in enumerate(zip(ASKED, answers, strict=True)):
        prompts += video_prompts(
            processor, encode_video(model, processor, clip(seed), do_sample_frames=False), [question]
        )
        inputs = encoded(processor, clip(seed), question)
        length, found = inputs["input_ids"].shape[1], []
        for answer in listed:
            tokens = torch.tensor([processor.tokenizer.convert_tokens_to_ids(answer.split())])
            ids = torch.cat((inputs["input_ids"], tokens), dim=1)
            with torch.no_grad():
                logits = model(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[0]
            log_probs = logits.log_softmax(dim=-1)
            terms = [log_probs[length - 1 + place, token] for place, token in enumerate(tokens[0])]
            found.append(float(sum(terms)) / len(terms))
        expected.append(found)
    for batch_size in (1, 3, 100):
        found = answer_log_likelihoods(model, processor, prompts, answers, batch_size)
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other, abs=1e-4)
    assert answer_tokens(processor, prompts[0], "blue star") == tuple(
        processor.tokenizer.convert_tokens_to_ids(["blue", "star"])
    )
    with pytest.raises(ValueError, match="tells the answers 'left', 'right' not apart"):
        answer_log_likelihoods(model, processor, prompts[:1], [("left", "right")], 1)


def test_letters_of_a_prompt_cost_one_sequence(loaded, monkeypatch):
    model, processor = loaded
    prompts = video_prompts(processor, encode_video(model, processor, clip(0), do_sample_frames=False), ASKED)
    rows, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: rows.append(len(inputs["input_ids"])) or forward(**inputs))
    answer_log_likelihoods(model, processor, prompts, [("A", "B", "C", "D")] * 3, 2)
    assert rows == [2, 1]


def test_a_batch_of_several_videos_answers_as_each_alone(loaded):
    model, processor = loaded
    settings = {"do_sample_frames": False}
    prompts = [
        prompt
        for seed, frames in ((0, 4), (1, 7))
        for prompt in video_prompts(processor, encode_video(model, processor, clip(seed, frames), **settings), ASKED)
    ]
    assert len({len(prompt.input_ids) for prompt in prompts}) > 3  # the batch is padded
    together = generate_answers(model, processor, prompts, 6)
    assert together == [generate_answers(model, processor, [prompt], 6)[0] for prompt in prompts]
    assert len(set(together)) > 1
    assert together[:3] == answer_questions(model, processor, clip(0), ASKED, max_new_tokens=6)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("B", 1), (" b. ", 1), ("(C)", 2), ("**A**", 0), ("B\n", 1), ("[D]", None), ("E", None),
        ("B. the dog", 1), ("(B) the dog", 1), ("B: the dog", 1), ("**B.** the dog", 1), ("A) a cat", 0),
        ("a cat", 0), ("The Dog.", 1), ("the", None), ("a", 0),
        ("The answer is B", 1), ("The correct answer is (C).", 2), ("Answer: B", 1), ("answer:B because it barks", 1),
        ("I choose option C, as it swims.", 2), ("It must be (B), because it barks.", 1), ("Choice B", 1),
        ("The answer is A", 0), ("The answer is A dog barks", None), ("A dog barks", None),
        ("Both (A) and (B).", None),
        ("The answer is B or the answer is C", None), ("I do not know", None), ("", None), ("...", None),
        ("Dogs", None),
        ("A, B and C", None), ("(b) or so", None),
    ],
)  # fmt: skip
def test_which_choice_a_reply_means(reply, expected):
    assert chosen_letter(reply, ("a cat", "the dog", "a fish")) == expected


def test_the_words_of_a_prompt():
    question = VideoQuestion("0", "a", "Which?", ("one", "two"), 0)
    assert prompt_text(question, "letters") == "Which?\nA. one\nB. two\nAnswer with the letter of the right choice."
    assert prompt_text(question, "text") == "Which?"
    assert prompt_text(VideoQuestion("0", "a", "Which?", answer="one"), "letters") == "Which?"


def test_scores_of_each_category():
    questions = [
        VideoQuestion("0", "a", "?", ("x", "y"), 1, ("one", "two")),
        VideoQuestion("1", "a", "?", ("x", "y", "z", "u"), 0, ("one",)),
        VideoQuestion("2", "a", "?", answer="A red star.", categories=("open",)),
        VideoQuestion("3", "a", "?", ("x", "y"), 0),
    ]
    scores = question_scores(questions, [1, None, " a  red star", 1])
    assert scores.pop("per_category") == {
        "one": {"questions": 2, "accuracy": 0.5, "chance": 0.375, "unparsable": 0.5},
        "two": {"questions": 1, "accuracy": 1.0, "chance": 0.5, "unparsable": 0.0},
        "open": {"questions": 1, "accuracy": 1.0, "chance": None, "unparsable": 0.0},
    }
    assert scores == {"questions": 4, "accuracy": 0.5, "chance": None, "unparsable": 0.25}
    assert not is_right(questions[2], 0) and not is_right(questions[0], "1")


# --- the script ------------------------------------------------------------------------------------------------------


@pytest.fixture
def questions(tmp_path):
    """Five questions about two videos and a stretch of one; the file that holds them."""
    for number in (0, 1):
        save_video(tmp_path / "videos" / f"clip{number}.mp4", number)
    choices = ["red", "blue star", "two"]
    entries = [
        {"video": "clip0", "question": "what is the colour ?", "choices": choices, "answer": 0, "category": "colour"},
        {"video": "clip1", "question": "what is the colour ?", "choices": choices, "answer": 1, "category": "colour"},
        {"video": "clip0", "question": "how many ?", "choices": ["two", "three"], "answer": "B", "category": "count"},
        {"video": "clip0", "question": "what is red ?", "answer": "the star", "category": "open"},
        {"video": "clip1", "question": "how many ?", "choices": ["two", "three"], "answer": "A", "start": 1, "end": 2},
    ]
    return write(tmp_path / "mine.json", entries)


@pytest.fixture
def run(checkpoint, tmp_path):
    """run(data, ...) -> the record that the script wrote."""

    def run_script(data, *options, model=checkpoint, out=tmp_path / "out"):
        common = ["--videos", tmp_path / "videos", "--model", model, "--out", out, "--device", "cpu"]
        assert evaluate_videoqa.main([str(one) for one in (data, *common, *options)]) == 0
        return json.loads((out / "record.json").read_text())

    return run_script


@pytest.fixture
def encodings(monkeypatch):
    """Grows by one whenever a video is encoded."""
    calls, original = [], TrajVLMModel._features
    monkeypatch.setattr(TrajVLMModel, "_features", lambda *args: calls.append(1) or original(*args))
    return calls


def rows_of(folder):
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def test_the_record_of_a_run(run, questions, checkpoint, encodings, tmp_path, capsys):
    record = run(questions, "--batch-size", 2)
    printed = capsys.readouterr().out
    assert len(encodings) == 3  # two videos and a stretch
    assert record["counts"] == {
        "videos_listed": 3,
        "videos": 3,
        "videos_unreadable": 0,
        "questions_listed": 5,
        "questions": 5,
        "questions_left_out": 0,
        "questions_resumed": 0,
        "unparsable": 0,
    }
    rows = {row["id"]: row for row in rows_of(tmp_path / "out")}
    truth = {"0": 0, "1": 1, "2": 1, "4": 0}
    right = {ident: rows[ident]["prediction"] == answer for ident, answer in truth.items()} | {"3": False}
    assert record["scores"]["accuracy"] == sum(right.values()) / 5
    assert record["scores"]["per_category"]["colour"] == {
        "questions": 2,
        "accuracy": (right["0"] + right["1"]) / 2,
        "chance": pytest.approx(1 / 3),
        "unparsable": 0.0,
    }
    assert "| count | 1 | " in printed and "| **all** | 5 | " in printed
    assert record["checkpoint"]["sha256"]["config.json"] == sha256_of(checkpoint / "config.json")
    assert record["annotations"] == [{"file": str(questions), "sha256": sha256_of(questions)}]
    assert (record["settings"]["num_frames"], record["settings"]["scoring"]) == (4, "likelihood")
    assert record["processor"]["num_frames"] == 4 and "commit" in record["versions"]


@pytest.mark.parametrize(
    "options",
    [("--scoring", "likelihood"), ("--scoring", "likelihood", "--answers", "text"), ("--scoring", "generation")],
)
def test_batches_answer_as_single_questions(run, questions, tmp_path, options):
    found = []
    for size in (1, 3, 8):
        record = run(questions, "--batch-size", size, *options, out=tmp_path / f"out{size}")
        found.append((record["scores"], {row.pop("id"): row for row in rows_of(tmp_path / f"out{size}")}))
    for scores, rows in found[1:]:
        assert scores == found[0][0] and rows.keys() == found[0][1].keys()
        for ident, row in rows.items():
            single = found[0][1][ident]
            assert (row["key"], row["prediction"], row.get("reply")) == (
                single["key"],
                single["prediction"],
                single.get("reply"),
            )
            assert row.get("log_likelihoods", []) == pytest.approx(single.get("log_likelihoods", []), abs=1e-4)


def test_the_answer_is_the_most_likely_letter_or_text(run, questions, checkpoint, loaded, tmp_path):
    model, processor = loaded
    listed = read_questions(questions)
    for answers in ("letters", "text"):
        run(questions, "--answers", answers, out=tmp_path / answers)
        rows = {row["id"]: row for row in rows_of(tmp_path / answers)}
        for question in (listed[0], listed[2]):
            words = prompt_text(question, answers)
            path = tmp_path / "videos" / f"{question.video}.mp4"
            inputs = encoded(processor, str(path), words, do_sample_frames=True, num_frames=4)
            with torch.no_grad():
                log_probs = model(**inputs).logits[0, -1].log_softmax(dim=-1)
            compared = ["A", "B", "C"][: len(question.choices)] if answers == "letters" else list(question.choices)
            for number, answer in enumerate(compared):
                if " " not in answer:
                    expected = float(log_probs[processor.tokenizer.convert_tokens_to_ids(answer)])
                    assert rows[question.id]["log_likelihoods"][number] == pytest.approx(expected, abs=1e-4)
            row = rows[question.id]
            assert row["prediction"] == np.argmax(row["log_likelihoods"])


def test_replies_are_read_and_those_that_say_nothing_are_counted(run, questions, monkeypatch, tmp_path, capsys):
    replies = iter(["(A)", "who knows", "The star. ", "C.", "A"])
    monkeypatch.setattr(
        question_run, "generate_answers", lambda model, processor, prompts, limit: [next(replies) for _ in prompts]
    )
    record = run(questions, "--scoring", "generation", "--batch-size", 1)
    rows = {row["id"]: row for row in rows_of(tmp_path / "out")}
    assert [rows[str(number)]["prediction"] for number in range(5)] == [0, 2, None, "The star.", 0]
    assert rows["2"]["reply"] == "who knows"
    assert (record["scores"]["accuracy"], record["scores"]["unparsable"]) == (0.6, 0.2)
    assert record["counts"]["unparsable"] == 1
    assert "| count | 1 | 0.0 | 50.0 | 100.0 |" in capsys.readouterr().out


def test_a_stretch_is_looked_at_alone(run, questions, loaded, tmp_path):
    model, processor = loaded
    run(questions)
    found = next(row for row in rows_of(tmp_path / "out") if row["id"] == "4")
    frames = decode_video(tmp_path / "videos" / "clip1.mp4").frames_uint8
    asked = prompt_text(read_questions(questions)[4], "letters")
    for chosen, same in (([10, 13, 15, 18], True), ([2, 7, 12, 17], False)):  # of frames 10..19, and of all
        prompts = video_prompts(
            processor, encode_video(model, processor, frames[chosen], do_sample_frames=False), [asked]
        )
        expected = answer_log_likelihoods(model, processor, prompts, [("A", "B")], 1)[0]
        assert (np.abs(np.subtract(found["log_likelihoods"], expected)).max() < 1e-3) == same


def test_a_killed_run_asks_only_what_is_missing(run, questions, encodings, tmp_path):
    first = run(questions)
    path = tmp_path / "out" / "answers.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][: len(lines[3]) // 2])  # killed while it wrote the fourth
    kept = [json.loads(line) for line in lines[:3]]
    assert {row["video"] for row in kept} == {"clip0"}  # so clip0 is not even decoded again
    encodings.clear()
    second = run(questions)
    assert len(encodings) == 2
    assert (second["counts"]["questions_resumed"], second["counts"]["questions"]) == (3, 5)
    assert second["scores"] == first["scores"] and second["answers_key"] == first["answers_key"]
    written = path.read_text().splitlines()
    assert len(written) == 6 and written[:3] == [line.rstrip() for line in lines[:3]]
    assert [json.loads(line)["id"] for line in written[4:]] == ["1", "4"]
    encodings.clear()
    assert run(questions)["counts"]["questions_resumed"] == 5 and encodings == []


def test_answers_are_on_disk_before_the_next_batch(run, questions, monkeypatch, tmp_path):
    original, calls = question_run.answer_log_likelihoods, []

    def killed(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(question_run, "answer_log_likelihoods", killed)
    with pytest.raises(KeyboardInterrupt):
        run(questions, "--batch-size", 1)
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["0", "2", "3"]


def test_other_settings_another_checkpoint_a_changed_file_or_question_are_asked_again(
    run, questions, vlm_config, vlm_tokenizer, tmp_path
):
    run(questions)

    def resumed(*options, **settings):
        return run(questions, *options, **settings)["counts"]["questions_resumed"]

    assert resumed("--batch-size", 3) == 5
    assert resumed("--answers", "text") == resumed("--scoring", "generation") == resumed("--num-frames", 3) == 0
    assert resumed(model=save_model(tmp_path / "other", vlm_config, vlm_tokenizer, seed=1)) == 0
    save_video(tmp_path / "videos" / "clip1.mp4", 7)
    assert resumed() == 3
    write(questions, questions.read_text().replace("what is red ?", "what is blue ?").replace('"B"', '"A"'))
    assert resumed() == 4  # another answer is no other question
    assert run(questions, "--limit", 2)["counts"]["questions_listed"] == 2


def test_answers_of_several_runs_share_a_file(tmp_path):
    file = AnswerFile(tmp_path / "new" / "answers.jsonl")
    file.add([{"key": "a", "prediction": 1}, {"key": "b", "prediction": None}])
    with file.path.open("ab") as raw:
        raw.write(b'{"key": "c", "predic\xff')
    again = AnswerFile(file.path)
    assert again.get("a") == {"key": "a", "prediction": 1} and again.get("c") is None
    again.add([{"key": "c", "prediction": 0}])
    assert AnswerFile(file.path).get("c") == {"key": "c", "prediction": 0}


def test_unreadable_and_missing_videos_are_named_and_left_out(run, questions, tmp_path, capsys):
    (tmp_path / "videos" / "clip1.mp4").write_bytes(b"no video at all" * 100)
    entries = [*json.loads(questions.read_text()), {"video": "gone", "question": "what ?", "answer": "red"}]
    record = run(write(questions, entries))
    counts = record["counts"]
    assert (counts["videos_listed"], counts["videos"], counts["videos_unreadable"]) == (4, 1, 3)
    assert (counts["questions"], counts["questions_left_out"], record["scores"]["questions"]) == (3, 3, 3)
    errors = {failure["video"]: failure["error"] for failure in record["failures"]}
    assert "clip1.mp4" in errors["clip1"] and "no file of this name" in errors["gone"]
    printed = capsys.readouterr().out
    assert "3 of 4 videos could not be read" in printed and "3 of 6 questions were left out" in printed
    save_video(tmp_path / "videos" / "clip1.mp4", 1)
    assert run(questions)["counts"]["questions_resumed"] == 3  # a video that is mended is tried again


def test_a_folder_of_pictures_is_a_video(run, tmp_path):
    save_pictures(tmp_path / "videos" / "tvqa" / "frames_fps3_hq" / "B_01", 9)
    entry = {"video": "B_01", "question": "what ?", "candidates": ["red", "two"], "answer": "two"}
    data = tmp_path / "MVBench" / "json" / "episodic_reasoning.json"
    write(data, [{**entry, "start": 0.0, "end": 2.0}, {**entry, "start": 9.0, "end": 9.5}])
    record = run(tmp_path / "MVBench")
    assert record["scores"]["per_category"]["episodic reasoning"]["questions"] == 1
    assert re.search(r"ends at 3\.0 s, before the stretch from 9 s", record["failures"][0]["error"])


@pytest.fixture
def prompted_times(run, vlm_config, vlm_tokenizer, tmp_path, monkeypatch):
    """prompted_times(questions) -> of each video that was encoded, the times in the prompts about it."""

    def times_of(data):
        model = save_model(tmp_path / "timed", vlm_config, vlm_tokenizer, use_timestamps=True)
        seen, original = [], question_run.video_prompts
        monkeypatch.setattr(
            question_run, "video_prompts", lambda *args, **kwargs: seen.append(original(*args, **kwargs)) or seen[-1]
        )
        run(data, model=model)
        texts = [vlm_tokenizer.decode(one[0].input_ids).replace(" ", "") for one in seen]
        return [re.findall(r"<([\d.-]+)seconds>", text) for text in texts]

    return times_of


def test_times_in_prompts_count_from_the_stretch(prompted_times, questions):
    # Frames 2, 7, 12 and 17 of the videos, in chunks of 3; frames 10, 13, 15 and 18, counted from 10.
    assert prompted_times(questions) == [["0.2-1.2", "1.7-1.7"]] * 2 + [["0.0-0.5", "0.8-0.8"]]


def test_times_in_prompts_about_a_stretch_are_those_of_its_frames(prompted_times, tmp_path):
    """A picture is held from 0.3 s to 4 s; the stretches have frames 0, 2, 4, 6, and the held one and two more."""
    times_s = [0.0, 0.1, 0.2, 0.3, 4.0, 4.1, 4.2, 4.3]
    save_video(tmp_path / "videos" / "clip0.mp4", 0, frames=8, times_s=times_s)
    asked = {"video": "clip0", "question": "how many ?", "choices": ["two", "three"], "answer": "A"}
    data = write(tmp_path / "held.json", [{**asked, "start": 0, "end": 4.4}, {**asked, "start": 2, "end": 4.15}])
    assert prompted_times(data) == [["0.0-4.0", "4.2-4.2"], ["0.0-2.1"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere.json"], "nowhere.json"),
        (["{data}", "--videos", "nowhere"], "nowhere is no folder"),
        (["{data}", "--videos", "{empty}"], "None of the 2 videos could be read"),
        (["{data}", "--model", "{empty}"], "model.safetensors"),
        (["{data}", "--batch-size", "0"], "batch_size is 0, expected at least 1"),
        (["{data}", "--limit", "0"], "limit is 0, expected at least 1"),
        (["{data}", "--layout", "lvbench"], 'the field "key" is nothing'),
    ],
)
def test_errors_are_one_line_and_status_1(questions, checkpoint, tmp_path, capsys, options, message):
    (tmp_path / "empty").mkdir()
    options = [option.format(data=questions, empty=tmp_path / "empty") for option in options]
    common = ["--videos", tmp_path / "videos", "--model", checkpoint, "--out", tmp_path / "out"]
    assert evaluate_videoqa.main([options[0], *map(str, common), "--device", "cpu", *options[1:]]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line


# --- other people's harnesses ----------------------------------------------------------------------------------------


def test_code_in_the_style_of_an_evaluation_harness(checkpoint, questions, tmp_path):
    """Requests of a task, in batches, through nothing but Auto classes, chat templates and generate."""
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    system = {"role": "system", "content": "what is the colour ?"}
    batched = []
    for name, context in (("clip0", ASKED[0]), ("clip1", ASKED[1]), ("clip0", ASKED[2])):
        visual = {"type": "video", "video": str(tmp_path / "videos" / f"{name}.mp4")}
        batched.append([system, {"role": "user", "content": [visual, {"type": "text", "text": context}]}])

    def generate_until(messages):
        texts = [processor.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in messages]
        videos = [part["video"] for one in messages for part in one[1]["content"] if part["type"] == "video"]
        inputs = processor(text=texts, images=None, videos=videos, padding=True, return_tensors="pt").to(model.device)
        with torch.no_grad():
            cont = model.generate(
                **inputs,
                eos_token_id=processor.tokenizer.eos_token_id,
                pad_token_id=processor.tokenizer.pad_token_id,
                do_sample=False,
                temperature=None,
                top_p=None,
                num_beams=1,
                max_new_tokens=5,
                use_cache=True,
            )
        trimmed = [out[len(given) :] for given, out in zip(inputs.input_ids, cont, strict=True)]
        return processor.batch_decode(trimmed, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def in_one_call(messages):
        inputs = processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )
        cont = model.generate(**inputs, do_sample=False, max_new_tokens=5)
        return processor.batch_decode(cont[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    together = generate_until(batched)
    assert len(set(together)) > 1
    assert together == [generate_until([one])[0] for one in batched]
    assert together == [in_one_call([one])[0] for one in batched]
