"""Contrastive training through real launches: the same losses after a kill, with two processes, frozen or not."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation.object_matching import trajectories_of_objects
from safetensors.torch import load_file
from train_trajvit2 import main
from training.caption_tokenizer import learn_tokenizer
from training.caption_views import CaptionCollator, CaptionViews
from training.clip_cache import ClipCache, open_clips
from training.recipe import TrajViT2Recipe, load_recipe
from transformers import AutoTokenizer

from modeling_trajtok import TrajTokConfig, TrajTokModel, TrajViT2Model, TrajViT2Processor

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RECIPE = """
model:
  trajtok_config: {track_embedding: true, encoder_output_size: 32}
  transformer_config: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}
  text_config: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16,
                max_position_embeddings: 60, hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0}
  text_pooling: mean
  projection_dim: 16
  num_frames: 2
train: {seed: 1, num_clips: 6, num_frames: 3, difficulty: easy}
held_out: {seed: 2, num_clips: 2, num_frames: 2, difficulty: easy}
size_px: 32
num_frames: 2
batch_size: 4
num_steps: 6
warmup_steps: 2
max_text_length: 60
num_workers: 0
checkpoint_every: 2
evaluate_every: 6
"""


@pytest.fixture(scope="module")
def trajtok(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("trajtok") / "tiny"
    config = TrajTokConfig(
        backbone_config={"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 8]},
        hidden_size=32,
        num_attention_heads=2,
        num_trajectories=8,
        num_encoder_layers=1,
        encoder_queries="latents_and_mean",
        high_res_factor=None,
        detach_patch_features=False,
    )
    TrajTokModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def recipe_path(trajtok, tmp_path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{RECIPE}trajtok_checkpoint: {trajtok}\n")
    return path


@pytest.fixture
def launches(training_launches, recipe_path):
    return training_launches("train_trajvit2.py", recipe_path)


def test_a_killed_run_continues_as_if_nothing_had_happened(launches, tmp_path):
    """With averaged weights and steps of single frames, which a checkpoint must remember too."""
    changes = ("ema_decay=0.5", "image_share=0.3")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    launches.run(whole, *changes)
    launches.kill(killed, *changes)
    launches.run(killed, *changes)
    assert launches.losses(killed) == launches.losses(whole) and len(launches.losses(whole)) == 6
    weights = [load_file(out / "final" / "model.safetensors") for out in (whole, killed)]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


def test_two_processes_and_accumulation(launches, tmp_path):
    """Two processes compare their videos with those of both; accumulated batches only with their own."""
    changes = ("num_steps=3", "checkpoint_every=3")
    launches.run(tmp_path / "one", *changes)
    launches.run(tmp_path / "two", *changes, processes=2)
    one, two = launches.log(tmp_path / "one"), launches.log(tmp_path / "two")
    assert [line["step"] for line in one] == [line["step"] for line in two] == [1, 2, 3]
    # The loss of videos and captions is over all processes; that of trajectories and objects is not.
    assert two[0]["contrastive_loss"] == pytest.approx(one[0]["contrastive_loss"], abs=1e-4)
    assert two[0]["segmentation_loss"] == pytest.approx(one[0]["segmentation_loss"], abs=1e-4)


def test_sharded_weights_give_the_losses_of_whole_ones(launches, tmp_path):
    """Two processes that hold half of each weight; a run that is continued; all weights in what is saved."""
    changes = ("num_steps=4", "evaluate_every=4", "image_share=0.3")
    config = EXAMPLES / "recipes" / "fsdp.yaml"
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    launches.run(whole, *changes, processes=2)
    launches.run(sharded, *changes, config=config)
    expected, losses = launches.losses(whole), launches.losses(sharded)
    assert losses.keys() == expected.keys() == {1, 2, 3, 4}
    for step in expected:
        assert losses[step] == pytest.approx(expected[step], rel=1e-4)
    weights = sharded / "checkpoints" / "step-2" / "pytorch_model_fsdp_0"
    shards = [path.stat().st_size for path in weights.glob("*.distcp")]
    assert len(shards) == 2 and min(shards) > 0.3 * sum(shards)
    of_whole, of_sharded = (load_file(out / "final" / "model.safetensors") for out in (whole, sharded))
    assert {name: value.shape for name, value in of_sharded.items()} == {
        name: value.shape for name, value in of_whole.items()
    }
    differences = torch.cat([(of_sharded[name].float() - of_whole[name].float()).flatten() for name in of_whole])
    assert differences.abs().mean() < 1e-4

    shutil.rmtree(sharded / "checkpoints" / "step-4")
    shutil.rmtree(sharded / "final")
    launches.run(sharded, *changes, config=config)
    assert launches.losses(sharded) == losses
    again = load_file(sharded / "final" / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in of_sharded.items())


def test_a_frozen_segmenter_is_asked_once_and_stays(recipe_path, trajtok, tmp_path):
    frozen = ("frozen=[video_model.trajtok.segmenter.]", "num_steps=3", "checkpoint_every=3")
    assert main(["--recipe", str(recipe_path), "--out", str(tmp_path / "run"), *frozen]) == 0
    (features,) = (tmp_path / "run" / "clips").glob("features-*/features.npy")
    assert np.load(features).shape == (6, 3, 8, 8, 32)
    model = TrajViT2Model.from_pretrained(tmp_path / "run" / "final")
    before = TrajTokModel.from_pretrained(trajtok).segmenter.state_dict()
    after = model.video_model.trajtok.segmenter.state_dict()
    assert all(torch.allclose(after[name], before[name], atol=1e-3) for name in before)  # saved in half precision
    with torch.no_grad():
        clips = ClipCache(
            open_clips(load_recipe(TrajViT2Recipe, recipe_path).train, 32),
            tmp_path / "run" / "clips",
            num_frames=3,
            size_px=32,
        )
        view = CaptionViews(clips, load_recipe(TrajViT2Recipe, recipe_path))[0]
        direct = TrajTokModel.from_pretrained(trajtok)(view["pixel_values_videos"][None])
    stored = torch.from_numpy(np.load(features)[view["clip"]][[0, 2]].astype(np.float32))
    torch.testing.assert_close(stored.flatten(0, 2), direct.patch_features[0], atol=1e-2, rtol=1e-2)
    processor = TrajViT2Processor.from_pretrained(tmp_path / "run" / "final")
    assert processor.video_processor.num_frames == 2 and processor.tokenizer.model_max_length == 60
    words = processor.tokenizer.tokenize("two objects: a red star moves left")
    assert "[UNK]" not in words and len(words) < 20


def test_the_same_captions_give_the_same_vocabulary():
    captions = [{"captions": ["A zebra, a zebra and an okapi.", "The okapi sleeps."]}] * 2
    first, again = (learn_tokenizer(captions, 100, 20) for _ in range(2))
    assert first.get_vocab() == again.get_vocab() and len(first) == 100
    assert first.tokenize("a zebra, an emu") == ["a", "zebra", ",", "an", "e", "##m", "##u"]
    assert first.model_max_length == 20
    with pytest.raises(ValueError, match="expected more than the 77 letters"):
        learn_tokenizer(captions, 77, 20)


def test_views_tell_the_truth(recipe_path, tmp_path):
    recipe = load_recipe(TrajViT2Recipe, recipe_path, ["altered_captions=2", "altered_names=2", "image_share=0.5"])
    clips = ClipCache(open_clips(recipe.train, 32), tmp_path / "clips", num_frames=3, size_px=32)
    views = CaptionViews(clips, recipe)
    lengths = set()
    for number in range(len(views)):
        view, again = views[number], views[number]
        assert view["caption"] == again["caption"] and torch.equal(view["ids"], again["ids"])
        names = {one["id"]: f"{one['colour']} {one['shape']}" for one in clips.metadata(view["clip"])["objects"]}
        assert all(names[key] in text and (view["ids"] == key).any() for key, text in view["named"])
        assert view["caption"] not in view["altered"]
        assert len(view["misnamed"]) == 2 * len(view["named"])
        assert not set(view["misnamed"][:2]) & {view["named"][0][1]}
        lengths.add((len(view["ids"]), len(view["altered"])))
    assert lengths == {(1, 0), (2, 2)}  # images tell no motion, so nothing is altered


def test_batches_keep_texts_and_objects_together(recipe_path, tmp_path):
    assert main(["--recipe", str(recipe_path), "--out", str(tmp_path / "run"), "num_steps=1"]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "tokenizer")
    recipe = load_recipe(TrajViT2Recipe, recipe_path, ["altered_names=1"])
    clips = ClipCache(open_clips(recipe.train, 32), tmp_path / "run" / "clips", num_frames=3, size_px=32)
    views = [CaptionViews(clips, recipe)[number] for number in range(3)]
    batch = CaptionCollator(tokenizer, 60, segmentation=True)(views)
    assert len(batch["input_ids"]) == 6 and batch["pixel_values_videos"].shape == (3, 2, 3, 32, 32)
    assert tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True).startswith(
        views[0]["caption"][:3].lower()
    )
    named = [pair for view in views for pair in view["named"]]
    assert batch["named_id"].tolist() == [key for key, _ in named]
    assert batch["named_clip"].tolist() == [row for row, view in enumerate(views) for _ in view["named"]]
    texts = [text for _, text in named] + [text for view in views for text in view["misnamed"]]
    assert len(batch["named_input_ids"]) == len(batch["named_text"]) == 2 * len(named)
    assert len(set(batch["named_text"].tolist())) == len(set(texts))


def test_the_trajectory_of_an_object_is_the_one_that_covers_it():
    ids = torch.tensor([[0, 0, 2, 2, 2, -1]]).expand(2, -1)
    masks = torch.tensor([[1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).bool()
    best, iou = trajectories_of_objects(ids, masks, 4)
    assert best.tolist() == [0, 2] and iou.tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("frozen=[no.such.part]", "no parameter begins with 'no.such.part'"),
        ("batch_size=4.5", "expected a value of type int"),
        ("lerning_rate=1.0", "did you mean `learning_rate`"),
    ],
)
def test_a_bad_recipe_is_refused(recipe_path, tmp_path, capsys, change, message):
    assert main(["--recipe", str(recipe_path), "--out", str(tmp_path / "run"), change]) == 1
    assert message in capsys.readouterr().err
