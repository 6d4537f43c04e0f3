"""Segmentation pretraining through real launches: the same losses after a kill, and with two processes."""

from pathlib import Path

import pytest
import torch
from finetune_trajvlm_lora import TrajVLMLoraRecipe
from storage import folder_lock, folder_locks
from train_trajadapter import TrajAdapterRecipe
from train_trajtok import main
from training.clip_cache import ClipCache, WorldClips
from training.recipe import TrajTokRecipe, TrajViT2Recipe, load_recipe
from training.segmentation_views import SegmentationViews, consecutive
from trajectory_data import ClipRecord
from worlds import WorldConfig

from modeling_trajtok import TrajTokModel, TrajTokVideoProcessor

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RECIPE = """
model:
  backbone_config: {model_type: dinov3_convnext, depths: [1, 1, 1, 1], hidden_sizes: [8, 8, 8, 8]}
  hidden_size: 32
  num_attention_heads: 2
  num_trajectories: 8
  high_res_factor: 2
  initial_logit_scale: 10.0
train: {seed: 1, num_clips: 6, num_frames: 3}
held_out: {seed: 2, num_clips: 2, num_frames: 2}
size_px: 32
num_frames: 2
batch_size: 4
num_steps: 6
warmup_steps: 2
num_workers: 0
checkpoint_every: 2
evaluate_every: 6
"""


@pytest.fixture
def recipe_path(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def launches(training_launches, recipe_path):
    return training_launches("train_trajtok.py", recipe_path)


def test_a_killed_run_continues_as_if_nothing_had_happened(launches, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    launches.run(whole)
    launches.kill(killed)
    launches.run(killed)
    assert launches.losses(killed) == launches.losses(whole)
    assert list(launches.losses(whole)) == [1, 2, 3, 4, 5, 6]
    first, second = (TrajTokModel.from_pretrained(out / "final").state_dict() for out in (whole, killed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert TrajTokVideoProcessor.from_pretrained(whole / "final").size["height"] == 32


def test_two_processes_and_accumulation_give_the_losses_of_one_process(launches, tmp_path):
    launches.run(tmp_path / "one")
    launches.run(tmp_path / "two", "accumulation_steps=2", processes=2)
    one, two = launches.losses(tmp_path / "one"), launches.losses(tmp_path / "two")
    assert one.keys() == two.keys()
    for step in one:
        assert two[step] == pytest.approx(one[step], rel=1e-4)


def test_a_batch_that_cannot_be_shared_is_refused(recipe_path, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    assert main(["--recipe", str(recipe_path), "--out", str(tmp_path / "run"), "accumulation_steps=3"]) == 1
    assert "batch_size=4 cannot be shared" in capsys.readouterr().err


def test_a_second_run_in_the_same_folder_is_refused(recipe_path, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.setattr(folder_locks, "PATIENCE_S", 0.1)
    with folder_lock(tmp_path / "run"):
        assert main(["--recipe", str(recipe_path), "--out", str(tmp_path / "run")]) == 1
    assert f"{tmp_path / 'run'} is in use by another process" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_misspelt_recipe_fields_are_refused_with_a_suggestion(recipe_path):
    with pytest.raises(ValueError, match="did you mean `num_steps`"):
        load_recipe(TrajTokRecipe, recipe_path, ["num_step=3"])
    with pytest.raises(ValueError, match="`batch_size` is 'many', expected a value of type int"):
        load_recipe(TrajTokRecipe, recipe_path, ["batch_size=many"])
    with pytest.raises(ValueError, match="train: there is no field `sead`; did you mean `seed`"):
        load_recipe(TrajTokRecipe, recipe_path, ["train.sead=3"])
    assert load_recipe(TrajTokRecipe, recipe_path, ["learning_rate=1"]).learning_rate == 1.0


def test_shipped_recipes_can_be_read():
    recipes = sorted((EXAMPLES / "recipes").glob("traj*.yaml"))
    assert recipes
    recipe_types = {
        "trajtok": TrajTokRecipe,
        "trajvit2": TrajViT2Recipe,
        "trajvlm": TrajVLMLoraRecipe,
        "trajadapter": TrajAdapterRecipe,
    }
    for path in recipes:
        assert load_recipe(recipe_types[path.stem.partition("_")[0]], path).num_steps > 0


def worlds(number: int) -> WorldClips:
    return WorldClips(3, number, WorldConfig(num_frames=4, height=48, width=48))


def test_views_depend_on_their_number_alone(tmp_path):
    def view(folder: str, order: list[int]):
        clips = ClipCache(worlds(3), tmp_path / folder, num_frames=4, size_px=32)
        views = SegmentationViews(clips, num_views=9, num_frames=2, seed=5)
        return {number: views[number] for number in order}

    forwards, backwards = view("a", [0, 4, 8]), view("b", [8, 4, 0])
    for number in (0, 4, 8):
        for name in forwards[number]:
            assert torch.equal(forwards[number][name], backwards[number][name])
    assert not torch.equal(forwards[0]["pixel_values_videos"], forwards[4]["pixel_values_videos"])


def test_a_view_keeps_pixels_and_labels_together(tmp_path):
    """Paint each pixel by its id: after cropping and mirroring, one colour still means one label."""
    ids = worlds(1)[0].trajectory_ids
    colours = (ids[..., None] * [40, 25, 60] % 256).astype("uint8")
    clip = ClipRecord("painted", colours, ids, [0.0, 0.1, 0.2, 0.3])
    cache = ClipCache([clip], tmp_path, num_frames=4, size_px=48)
    view = SegmentationViews(cache, num_views=1, num_frames=4, seed=1, min_crop=1.0)[0]
    labels, pixels = view["trajectory_labels"], view["pixel_values_videos"].permute(0, 2, 3, 1)
    assert labels.unique().tolist() == list(range(len(labels.unique())))
    for label in labels.unique():
        assert pixels[labels == label].std(dim=0).max() < 1e-4


def test_ids_become_consecutive_and_unknown_ones_are_ignored():
    assert consecutive(torch.tensor([7, -1, 0, 7, 300, -5])).tolist() == [1, -1, 0, 1, 2, -1]


class OneBadClip(list):
    def __getitem__(self, index):
        if index == 1:
            raise ValueError("clip-1.mp4 cannot be read")
        return super().__getitem__(index)


def test_bad_clips_stop_a_run_or_are_counted(tmp_path):
    clips = OneBadClip(worlds(3)[index] for index in range(3))
    with pytest.raises(ValueError, match=r"clip-1\.mp4"):
        ClipCache(clips, tmp_path / "strict", num_frames=4, size_px=32)[1]
    cache = ClipCache(clips, tmp_path / "lenient", num_frames=4, size_px=32, skip_bad=True)
    replaced, next_one = cache[1], cache[2]
    assert (replaced[0] == next_one[0]).all()
    assert cache.num_bad == 1
    assert "clip-1.mp4" in (tmp_path / "lenient" / "bad_clips.jsonl").read_text()


def test_a_cache_of_another_size_is_refused(tmp_path):
    ClipCache(worlds(2), tmp_path, num_frames=4, size_px=32)
    with pytest.raises(ValueError, match="expected"):
        ClipCache(worlds(2), tmp_path, num_frames=4, size_px=48)
