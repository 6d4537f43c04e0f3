"""Training a TrajVLM: only answers are learnt, every conversation counts the same, and it learns."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation.question_evaluation import answer_questions, evaluate_questions, normalised
from PIL import Image
from train_trajvlm import main
from training.caption_tokenizer import learn_chat_tokenizer
from training.chat_training import AnswerTraining
from training.chat_views import CAPTION_REQUESTS, LIST_REQUEST, ChatCollator, ChatViews
from training.clip_cache import ClipCache, open_clips
from training.question_packing import conversation_mask
from training.recipe import ClipSource, TrajVLMRecipe, load_recipe
from trajectory_data import open_dataset
from transformers import AutoProcessor

from modeling_trajtok import TrajVLMForConditionalGeneration, TrajVLMProcessor

RECIPE = """
model:
  vision_config: {hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, patch_size: 8}
  trajtok_config: {backbone_config: {depths: [1, 1, 1, 1], hidden_sizes: [8, 8, 8, 8]}, hidden_size: 32,
                   num_attention_heads: 2, num_trajectories: 6, num_encoder_layers: 1}
  text_config: {hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
                num_key_value_heads: 2, head_dim: 16, tie_word_embeddings: true}
  frames_per_chunk: 2
  num_connector_heads: 2
  segmenter_size_px: 32
train: {seed: 1, num_clips: 6, num_frames: 4, difficulty: eventful}
held_out: {seed: 2, num_clips: 2, num_frames: 4, difficulty: eventful}
size_px: 32
num_frames: 4
batch_size: 4
num_steps: 4
warmup_steps: 1
max_text_length: 160
num_workers: 0
checkpoint_every: 2
evaluate_every: 4
"""


@pytest.fixture
def recipe_path(tmp_path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def clips(recipe_path, tmp_path) -> ClipCache:
    recipe = load_recipe(TrajVLMRecipe, recipe_path)
    return ClipCache(open_clips(recipe.train, 32), tmp_path / "cache", num_frames=4, size_px=32)


def losses_of(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_a_run_continues_and_its_model_answers(recipe_path, tmp_path):
    run, again = tmp_path / "run", tmp_path / "again"
    cache = ["--cache", str(tmp_path / "clips")]
    assert main(["--recipe", str(recipe_path), "--out", str(run), *cache]) == 0
    # The second run stops after two steps and goes on from its checkpoint, its schedule being that of four.
    checkpoint = run / "checkpoints" / "step-2"
    (again / "checkpoints").mkdir(parents=True)
    checkpoint.rename(again / "checkpoints" / "step-2")
    (run / "tokenizer").rename(again / "tokenizer")
    assert main(["--recipe", str(recipe_path), "--out", str(again), *cache]) == 0
    assert losses_of(again) == pytest.approx(losses_of(run)[2:], abs=1e-6)

    model = TrajVLMForConditionalGeneration.from_pretrained(run / "final")
    processor = AutoProcessor.from_pretrained(run / "final")
    assert processor.video_processor.num_frames == 4 and processor.video_processor.size["height"] == 32
    clip = open_clips(ClipSource(seed=3, num_clips=1, num_frames=4, difficulty="eventful"), 32)[0]
    asked = [question["question"] for question in clip.metadata["questions"]]
    answers = answer_questions(model.eval(), processor, clip.frames_uint8, asked, max_new_tokens=3)
    assert len(answers) == len(asked)
    for question, answer in zip(asked[:2], answers, strict=False):  # together as alone
        assert answer_questions(model, processor, clip.frames_uint8, [question], max_new_tokens=3) == [answer]


def test_accumulation_changes_no_loss(recipe_path, tmp_path):
    found = []
    for steps in (1, 2):
        out = tmp_path / f"run{steps}"
        change = [f"accumulation_steps={steps}", "num_steps=2"]
        assert main(["--recipe", str(recipe_path), "--out", str(out), "--cache", str(tmp_path / "c"), *change]) == 0
        found.append(losses_of(out))
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_it_learns(recipe_path, tmp_path):
    out = tmp_path / "run"
    change = ["train.num_clips=2", "batch_size=2", "num_steps=60", "learning_rate=0.01", "checkpoint_every=60"]
    change += ["evaluate_every=60", "questions_per_clip=1", "warmup_steps=5"]
    assert main(["--recipe", str(recipe_path), "--out", str(out), *change]) == 0
    losses = losses_of(out)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])


def test_conversations_tell_the_truth(recipe_path, clips):
    recipe = load_recipe(TrajVLMRecipe, recipe_path, ["questions_per_clip=3", "left_out_types=[shape]"])
    views = ChatViews(clips, recipe)
    kinds = set()
    for number in range(len(views)):
        [messages] = views[number]
        assert str([messages]) == str(views[number])
        first = messages[0]["content"]
        assert [part["type"] for part in first] == ["video", "text"]
        assert sum(part["type"] == "video" for message in messages for part in message["content"]) == 1
        texts = [message["content"][-1]["text"] for message in messages]
        asked = dict(zip(texts[::2], texts[1::2], strict=True))
        frames = first[0]["video"]
        clip = next(i for i in range(len(clips)) if np.array_equal(clips[i][0], frames))
        known = {one["question"]: one for one in clips.metadata(clip)["questions"]}
        assert all(known[question]["answer"] == answer for question, answer in asked.items())
        types = [known[question]["type"] for question in asked]
        assert len(types) <= 3 and "shape" not in types
        if len({one["type"] for one in known.values()} - {"shape"}) >= 3:
            assert len(set(types)) == 3  # the types take turns
        kinds |= set(types)
    assert len(kinds) >= 3
    views = ChatViews(clips, load_recipe(TrajVLMRecipe, recipe_path, ["stage=captions"]))
    captions = [caption for index in range(len(clips)) for caption in clips.metadata(index)["captions"]]
    assert all(views[number][0][1]["content"][0]["text"] in captions for number in range(6))


def test_descriptions_and_further_types_are_asked_on_request(recipe_path, clips):
    changes = ["caption_share=0.5", "extra_types=[motion]", "questions_per_clip=20", "num_steps=10"]
    views = ChatViews(clips, load_recipe(TrajVLMRecipe, recipe_path, changes))
    described = 0
    for number in range(len(views)):
        asked = [message["content"][-1]["text"] for message in views[number][0]][::2]
        described += asked[0] in CAPTION_REQUESTS
        assert not set(asked[1:]) & set(CAPTION_REQUESTS)
        assert any(question.startswith("What does the ") for question in asked)
    assert 0.2 < described / len(views) < 0.8


def test_lists_name_every_object_in_any_order(recipe_path, clips):
    recipe = load_recipe(TrajVLMRecipe, recipe_path, ["list_share=1.0", "questions_apart=true", "num_steps=6"])
    views, places = ChatViews(clips, recipe), set()
    for number in range(len(views)):
        told = {view[0]["content"][-1]["text"]: view[1]["content"][0]["text"] for view in views[number]}
        frames = views[number][0][0]["content"][0]["video"]
        clip = next(i for i in range(len(clips)) if np.array_equal(clips[i][0], frames))
        names = [f"{one['colour']} {one['shape']}" for one in clips.metadata(clip)["objects"]]
        found = [told[LIST_REQUEST].find(name) for name in names]
        assert min(found) >= 0
        places.add((clip, tuple(np.argsort(found))))
    assert len(places) > len({clip for clip, _ in places})


def test_similar_lengths_stand_together(recipe_path, tmp_path):
    recipe = load_recipe(TrajVLMRecipe, recipe_path, ["train.num_clips=24", "length_groups=6", "batch_size=4"])
    clips = ClipCache(open_clips(recipe.train, 32), tmp_path / "many", num_frames=4, size_px=32)

    def spread(views) -> float:
        order = views.order(0)
        assert sorted(order) == list(range(24))
        lengths = [sum(len(q["question"]) for q in clips.metadata(int(c))["questions"]) for c in order]
        return float(np.mean([np.ptp(lengths[first : first + 4]) for first in range(0, 24, 4)]))

    recipe_plain = load_recipe(TrajVLMRecipe, recipe_path, ["train.num_clips=24", "batch_size=4"])
    assert spread(ChatViews(clips, recipe)) < 0.5 * spread(ChatViews(clips, recipe_plain))


def test_only_answers_are_learnt(recipe_path, clips, tmp_path):
    recipe = load_recipe(TrajVLMRecipe, recipe_path, ["questions_per_clip=2"])
    metadata = [clips.metadata(index) for index in range(len(clips))]
    tokenizer = learn_chat_tokenizer(metadata, 400, 200)
    assert tokenizer.decode(tokenizer("The Red star moves LEFT?")["input_ids"]) == "the red star moves left?"
    config = main_config(recipe, tokenizer)
    processor = TrajVLMProcessor.from_model_config(config, tokenizer, size={"height": 32, "width": 32}, num_frames=4)
    views = [ChatViews(clips, recipe)[number] for number in range(3)]
    batch = ChatCollator(processor)(views)
    for row, view in zip(batch["labels"], views, strict=True):
        told = [message["content"][0]["text"].lower() for message in view[0] if message["role"] == "assistant"]
        assert tokenizer.decode(row[row >= 0], skip_special_tokens=False).replace(" ", "") == "".join(
            f"{answer}<|im_end|>" for answer in told
        ).replace(" ", "")
    # Every conversation counts the same: the batch's loss is the mean of each one's own.
    torch.manual_seed(0)
    training = AnswerTraining(TrajVLMForConditionalGeneration(config)).eval()
    with torch.no_grad():
        together = training(**batch)["loss"]
        alone = [training(**ChatCollator(processor)([view]))["loss"] for view in views]
    torch.testing.assert_close(together, torch.stack(alone).mean(), atol=1e-4, rtol=1e-4)


def test_questions_asked_apart_see_the_video_and_not_each_other(recipe_path, clips):
    recipe = load_recipe(TrajVLMRecipe, recipe_path, ["questions_per_clip=3", "questions_apart=true"])
    tokenizer = learn_chat_tokenizer([clips.metadata(index) for index in range(len(clips))], 400, 200)
    config = main_config(recipe, tokenizer)
    processor = TrajVLMProcessor.from_model_config(config, tokenizer, size={"height": 32, "width": 32}, num_frames=4)
    views = [ChatViews(clips, recipe)[number] for number in range(3)]
    assert all(len(view) == 3 and all(len(messages) == 2 for messages in view) for view in views)
    torch.manual_seed(0)
    model = TrajVLMForConditionalGeneration(config).eval()
    collate, training = ChatCollator(processor), AnswerTraining(model)
    packed = collate(views)
    assert len(packed["pixel_values_videos"]) == 3  # each video once
    with torch.no_grad():
        logits = model(
            **{name: packed[name] for name in ("input_ids", "position_ids", "pixel_values_videos", "frame_valid")},
            attention_mask=conversation_mask(packed["conversations"], torch.float32),
        ).logits
        for row, view in enumerate(views):
            for number, conversation in enumerate(view, start=1):
                alone = collate([[conversation]])
                learnt = alone["labels"][0] != -100
                expected = model(**{name: value for name, value in alone.items() if name != "labels"}).logits[0]
                own = packed["conversations"][row] == number
                place = own & (packed["labels"][row] != -100)
                assert packed["input_ids"][row][place].tolist() == alone["input_ids"][0][learnt].tolist()
                torch.testing.assert_close(logits[row][place], expected[learnt], atol=1e-4, rtol=1e-4)
        # A chained conversation gives other numbers: the later questions see the earlier answers.
        chained_views = ChatViews(clips, load_recipe(TrajVLMRecipe, recipe_path, ["questions_per_clip=3"]))
        chained = collate([chained_views[number] for number in range(3)])
        assert (chained["labels"] >= 0).sum() == (packed["labels"] >= 0).sum()
        assert not torch.isclose(training(**packed)["loss"], training(**chained)["loss"], atol=1e-5)


def main_config(recipe: TrajVLMRecipe, tokenizer):
    from train_trajvlm import build_model

    return build_model(recipe, tokenizer).config


def test_exact_match_is_counted_by_type(recipe_path, monkeypatch):
    clips = open_clips(ClipSource(seed=5, num_clips=3, num_frames=4, difficulty="eventful"), 32)
    questions = [question for clip in (clips[i] for i in range(3)) for question in clip.metadata["questions"]]
    known = {
        (clip.frames_uint8.tobytes(), question["question"]): question["answer"]
        for clip in (clips[i] for i in range(3))
        for question in clip.metadata["questions"]
        if question["type"] == "colour"
    }
    monkeypatch.setattr(
        "evaluation.question_evaluation.answer_questions",
        lambda model, processor, video, asked: [
            f" {known.get((video.tobytes(), one), 'nothing')}. ".upper() for one in asked
        ],
    )
    scores = evaluate_questions(torch.nn.Identity(), None, clips, num_frames=4)
    kinds = {question["type"] for question in questions}
    assert {name for name in scores if name.startswith("exact_match/")} == {f"exact_match/{kind}" for kind in kinds}
    assert scores["exact_match/colour"] == 1.0 and scores["exact_match/count"] == 0.0
    assert scores["exact_match"] == pytest.approx(1 / len(kinds)) and scores["questions"] == len(questions)
    counts = [question["answer"] for question in questions if question["type"] == "count"]
    assert scores["majority/count"] == max(map(counts.count, counts)) / len(counts)
    assert normalised(" A  Red Star. ") == "a red star"


@pytest.mark.parametrize("style", ["messages", "conversations"])
def test_chats_from_files(style, tmp_path, recipe_path):
    folder = tmp_path / "chats"
    (folder / "a").mkdir(parents=True)
    frames = [Image.new("RGB", (40, 30), (80 * n, 0, 0)) for n in range(3)]
    frames[0].save(folder / "a" / "1.gif", save_all=True, append_images=frames[1:], duration=100)
    frames[1].save(folder / "2.png")
    turns = [("What happens?", "It gets red."), ("Really?", "Yes.")]
    lines = []
    for key, name in (("video", "a/1.gif"), ("image", "2.png")):
        said = [(role, text) for pair in turns for role, text in zip(("user", "assistant"), pair, strict=True)]
        if style == "messages":
            entry = {"messages": [{"role": role, "content": text} for role, text in said]}
        else:
            names = {"user": "human", "assistant": "gpt"}
            entry = {"conversations": [{"from": names[role], "value": text} for role, text in said]}
            entry["conversations"][0]["value"] = f"<{key}>\n" + entry["conversations"][0]["value"]
        lines.append(json.dumps({key: name, **entry}))
    (folder / "chat.jsonl").write_text("\n".join(lines) + "\n")
    dataset = open_dataset(folder)
    assert dataset.layout == "chat" and len(dataset) == 2
    assert [len(dataset[n].frames_uint8) for n in range(2)] == [3, 1]
    expected = [{"role": r, "content": t} for q, a in turns for r, t in (("user", q), ("assistant", a))]
    assert dataset[0].metadata["messages"] == expected == dataset[1].metadata["messages"]
    change = [f"train.path={folder}", "num_steps=2", "batch_size=2", "held_out.num_clips=1"]
    assert main(["--recipe", str(recipe_path), "--out", str(tmp_path / "run"), *change]) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: JSONDecodeError"),
        ('{"messages": []}', "line 1: KeyError 'image'"),
        ('{"video": "a.mp4", "messages": [{"role": "user", "content": "Hello?"}]}', r"turns are \['user'\], expected"),
        (
            '{"video": "a", "conversations": [{"from": "human", "value": "<video>"}, {"from": "gpt", "value": "x"}]}',
            "a turn is empty",
        ),
    ],
)
def test_bad_chat_files_are_refused(line, message, tmp_path):
    (tmp_path / "chat.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path)


def test_a_bad_stage_is_refused(recipe_path, tmp_path, capsys):
    assert main(["--recipe", str(recipe_path), "--out", str(tmp_path / "run"), "stage=talk"]) == 1
    assert "expected 'captions' or 'instructions'" in capsys.readouterr().err
