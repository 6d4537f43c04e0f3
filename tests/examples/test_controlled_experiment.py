"""The controlled experiment: equal terms for all systems, scores that mean what they say, nothing computed twice."""

import copy
import json
from itertools import pairwise

import controlled_experiment
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from controlled_experiment import main
from evaluation.measuring import flops_of
from experiment import assignment, scores, systems
from experiment.costs import training_flops
from experiment.report import comparison_table
from experiment.scores import (
    QUESTIONS,
    Seen,
    caption_scores,
    false_summaries,
    majority_scores,
    probe_scores,
    see,
)
from experiment.systems import (
    SYSTEMS,
    VARIATIONS,
    Shared,
    Sizes,
    build_system,
    build_variation,
    num_trained,
    trajectory_tower,
)
from experiment.worlds_mix import MIXED, CachedRecords, MixedWorlds, worlds_of
from rivals.blocks import Attention, PatchEmbedding, TowerConfig
from torch import nn
from training.clip_cache import ClipCache
from training.contrastive_training import ContrastiveTraining
from training.frozen_features import FrozenFeatures
from training.pixels import normalise, pixels_of
from worlds import WorldConfig, render_world, summary_caption

from modeling_trajtok import TrajTokModel, TrajViT2Model

SIZES = Sizes(width=48, num_layers=2, num_heads=3, size_px=32, num_frames=2)


@pytest.fixture
def segmenter(tiny_config) -> TrajTokModel:
    tiny_config.num_trajectories = 12
    tiny_config.track_embedding = True
    torch.manual_seed(0)
    return TrajTokModel(tiny_config).eval()


@pytest.fixture
def shared(segmenter, save_trajvit2, tmp_path) -> Shared:
    words = ["red", "object", "the", "moves", "left", "a", "two", ":", ","]
    save_trajvit2(tmp_path / "trajvit2", words, 32)
    return Shared(SIZES, segmenter, TrajViT2Model.from_pretrained(tmp_path / "trajvit2"))


# --- systems ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYSTEMS)
def test_systems_have_as_many_trained_weights_and_see_the_same_features(name, segmenter, shared):
    model = build_system(name, shared)
    goal = num_trained(build_system("trajvit2", shared).video_model)
    block = num_trained(build_system("vit3d", shared).video_model.blocks[0])
    # Whole blocks can be added, so nobody is further away than half a block; the oracle only lacks the segmenter.
    assert abs(num_trained(model.video_model) - goal) <= block / 2
    if name in ("trajvit2", "given-trajectories"):
        encoder = trajectory_tower(model).trajtok.segmenter.patch_encoder
        frozen = list(trajectory_tower(model).trajtok.segmenter.parameters())
    else:
        encoder = model.video_model.embedding.patch_encoder
        frozen = list(encoder.parameters())
    assert not any(parameter.requires_grad for parameter in frozen)
    frames = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encoder(frames), segmenter.segmenter.patch_encoder(frames))
    again = build_system(name, shared)
    other = build_system(name, shared, seed=1)
    assert all(torch.equal(one, same) for one, same in zip(model.parameters(), again.parameters(), strict=True))
    assert not torch.equal(model.video_projection.weight, other.video_projection.weight)
    words, known = model.text_model.state_dict(), shared.texts.text_model.state_dict()
    assert all(torch.equal(words[key], known[key]) for key in known)
    assert all(parameter.requires_grad for parameter in model.text_model.parameters())


def test_patches_of_an_encoder_are_cells_of_its_features(segmenter):
    encoder = segmenter.segmenter.patch_encoder.requires_grad_(False)
    embedding = PatchEmbedding(TowerConfig(width=5, size_px=32, num_frames=2), encoder)
    nn.init.zeros_(embedding.time)
    nn.init.zeros_(embedding.space)
    clips = torch.randn(2, 2, 3, 32, 32)
    features = encoder(clips.flatten(0, 1)).view(2, 2, 8, 8, -1)
    cell = features[1, 0, 2:4, 4:6].permute(2, 0, 1).unsqueeze(1)  # 8 px are two of the encoder's patches
    expected = (embedding.projection.weight * cell).sum(dim=(1, 2, 3, 4)) + embedding.projection.bias
    torch.testing.assert_close(embedding(clips)[1, 0, 1, 2], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="patch_px is 6, expected a multiple of the encoder's 4"):
        PatchEmbedding(TowerConfig(patch_px=6), encoder)


def test_variations_differ_in_what_trains_the_segmenter(segmenter, shared):
    clips, labels = torch.randn(2, 2, 3, 32, 32), torch.randint(0, 3, (2, 2, 32, 32))
    texts = torch.randint(5, 9, (2, 4))
    found = {}
    for name, variation in VARIATIONS.items():
        model = build_variation(variation, shared, seed=0)
        labelled = {"trajectory_labels": labels} if variation.segmentation else {}
        output = model(clips, texts, return_loss=True, **labelled)
        if variation.segmentation:
            assert output.segmentation_loss > 0
        output.contrastive_loss.backward()
        own = trajectory_tower(model).trajtok.segmenter.trajectory_head
        found[name] = any(one.grad is not None and one.grad.abs().sum() > 0 for one in own.parameters())
        config = trajectory_tower(model).trajtok.config
        assert config.max_tokens_per_trajectory == {"L = 2": 2, "L = 4": 4}.get(name, 1)
        assert config.encoder_queries == {
            "queries from latents": "latents", "queries from soft means": "mean"
        }.get(name, "latents_and_mean")  # fmt: skip
        assert config.track_embedding == (name != "no path in tokens")
        assert config.outline_embedding == (name != "no silhouette in tokens")
    assert {name for name, reached in found.items() if reached} == {"task's gradient", "both"}


def encode(model, logits, clips):
    """Tokens of a model whose segmenter gives these logits."""
    model.segmenter.assignment_logits = lambda features, queries: logits
    with torch.no_grad():
        return model(clips).trajectory_embeds


def test_soft_and_hard_assignment(tiny_config):
    tiny_config.encoder_queries, tiny_config.num_trajectories = "latents_and_mean", 12
    segmenter = TrajTokModel(tiny_config).eval()
    clips = torch.randn(2, 2, 3, 32, 32)
    ids = torch.randint(0, 12, (2, 2 * 8 * 8))
    certain = 200.0 * F.one_hot(ids, 12)
    unsure = torch.where(certain > 0, certain / 50, torch.randn_like(certain).clamp(max=1))
    models = {name: copy.deepcopy(segmenter) for name in ("mixed", "soft", "hard")}
    assignment.assign_softly(models["soft"])
    assignment.assign_hard(models["hard"])
    tokens = {name: encode(model, certain, clips) for name, model in models.items()}
    for name in ("soft", "hard"):  # whoever is certain assigns hard
        torch.testing.assert_close(tokens[name], tokens["mixed"], atol=1e-4, rtol=1e-4)
    hard = encode(models["hard"], unsure, clips)
    torch.testing.assert_close(hard, tokens["hard"], atol=1e-4, rtol=1e-4)
    mixed, soft = encode(models["mixed"], unsure, clips), encode(models["soft"], unsure, clips)
    for one, other in ((mixed, hard), (soft, hard), (soft, mixed)):
        assert (one - other).abs().max() > 1e-2


def test_soft_assignment_reads_no_padding(segmenter):
    clips, frame_valid = torch.randn(1, 3, 3, 32, 32), torch.tensor([[True, True, False]])
    assignment.assign_softly(segmenter)
    with torch.no_grad():
        padded = segmenter(clips, frame_valid=frame_valid).trajectory_embeds
        alone = segmenter(clips[:, :2]).trajectory_embeds
    torch.testing.assert_close(padded, alone, atol=1e-4, rtol=1e-4)


def test_a_copy_assigns_softly_by_itself(segmenter):
    assignment.assign_softly(segmenter)
    copied, clips = copy.deepcopy(segmenter), torch.randn(1, 2, 3, 32, 32)
    with torch.no_grad():
        found = copied(clips).trajectory_embeds
        torch.testing.assert_close(found, segmenter(clips).trajectory_embeds)


# --- worlds ----------------------------------------------------------------------------------------------------------


def test_clips_are_of_all_difficulties_in_turn(tmp_path):
    clips = MixedWorlds(7, 3, 48, seed=4)
    for index in (0, 4, 5):
        few = {"max_objects": 6} if index == 5 else {}
        config = WorldConfig.named(MIXED[index % 3], num_frames=3, height=48, width=48, **few)
        np.testing.assert_array_equal(clips[index].frames_uint8, render_world(4, index, config).frames_uint8)
    cache = ClipCache(clips, tmp_path / "clips", num_frames=3, size_px=48)
    records = CachedRecords(cache, 5)
    assert len(records) == 5 and len(CachedRecords(cache, 99)) == 7
    np.testing.assert_array_equal(records[4].trajectory_ids, clips[4].trajectory_ids)
    assert records[4].metadata == json.loads(json.dumps(clips[4].metadata))
    for sequence in (clips, records):
        with pytest.raises(IndexError, match="no clip 9 among"):
            sequence[9]


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen() -> Seen:
    clips = worlds_of("default", 24, 2, 48, seed=3)
    records = [clips[index].metadata for index in range(len(clips))]
    return Seen(torch.randn(24, 8), torch.randn(24, 8), [5] * 24, records)


class NoModel(nn.Module):
    """In the place of a model whose texts are embedded by somebody else."""


def test_who_knows_the_captions_has_all_points(seen, monkeypatch):
    """Each caption is its own direction, and clips lie between their true summary and their true motions."""
    shown = {}

    def embed(model, tokenizer, texts):
        shown.update({text: place for place, text in enumerate(texts)})
        return torch.eye(len(texts)), 0

    monkeypatch.setattr(scores, "embed_captions", embed)
    candidates = scores.candidate_captions
    told = [candidates(np.random.default_rng([0, place]), own) for place, own in enumerate(seen.objects)]
    false = [false_summaries(np.random.default_rng([1, place]), own) for place, own in enumerate(seen.objects)]
    groups = [*told, *(texts for own in false for texts in own.values())]
    texts = list(dict.fromkeys(text for group in groups for text in group))
    embeds = torch.zeros(24, len(texts))
    for row, group in enumerate(told):
        embeds[row, texts.index(group[0])] = embeds[row, texts.index(group[scores.NUM_CANDIDATES])] = 1.0
    known = Seen(embeds, seen.states, seen.num_tokens, seen.records)
    found = caption_scores(NoModel(), None, known)
    assert (found["zero_shot"], found["motion"], found["r1"], found["tokens"]) == (1.0, 1.0, 1.0, 5.0)
    counts = [len(own) for own in seen.objects]
    assert found["by_objects"] == {str(number): (counts.count(number),) * 2 for number in sorted(set(counts))}
    assert found["pairs"] == {"count": 1.0, "colour": 1.0, "shape": 1.0, "motion": 1.0, "mean": 1.0}
    wrong = caption_scores(NoModel(), None, Seen(embeds.roll(1, 0), seen.states, seen.num_tokens, seen.records))
    assert wrong["zero_shot"] < 0.2 and wrong["pairs"]["mean"] < 0.2
    alike = Seen(torch.ones_like(embeds), seen.states, seen.num_tokens, seen.records)
    blind = caption_scores(NoModel(), None, alike)
    assert blind["zero_shot"] == blind["pairs"]["mean"] == 0.0  # all captions alike is no answer
    for row, group in enumerate(false):  # who takes colours for what they are not, and knows all else
        embeds[row] += sum(2.0 * torch.eye(len(texts))[texts.index(text)] for text in set(group["colour"]))
    coloured = caption_scores(NoModel(), None, known)["pairs"]
    assert coloured == {"count": 1.0, "colour": 0.0, "shape": 1.0, "motion": 1.0, "mean": 0.75}


def test_false_summaries_are_wrong_in_what_they_are_said_to_be(seen):
    for objects in seen.objects:
        true, found = (
            summary_caption(objects).split(": the largest, "),
            false_summaries(np.random.default_rng(0), objects),
        )
        assert {name: len(texts) for name, texts in found.items()} == dict.fromkeys(found, scores.NUM_PAIRS)
        for name, texts in found.items():
            for text in texts:
                count, largest = text.split(": the largest, ")
                assert (count != true[0], largest != true[1]) == (name == "count", name != "count")
        [colour], [shape] = ({text.split()[-1] for text in found[name]} for name in ("colour", "count"))
        assert colour == shape  # both leave the motion, which comes last


def test_probes_read_what_is_in_the_states_and_nothing_else(seen):
    answers = {
        name: [of(record, own) for record, own in zip(seen.records, seen.objects, strict=True)]
        for name, of in QUESTIONS.items()
    }
    columns = [[float(one == other) for one in own] for own in answers.values() for other in sorted(set(own))]
    told = Seen(seen.embeds, torch.tensor(columns).t(), seen.num_tokens, seen.records)
    assert probe_scores(told, told)["mean"] > 0.95
    noise = Seen(seen.embeds, torch.randn(24, 4), seen.num_tokens, seen.records)
    assert probe_scores(noise, noise)["mean"] < 0.75
    majority = majority_scores(seen.records, seen.records)
    assert majority["count"] == max(map(answers["count"].count, answers["count"])) / 24
    assert set(majority) == {*QUESTIONS, "mean"}


def test_seeing_in_batches_is_seeing_alone(segmenter, shared):
    clips = worlds_of("easy", 5, 2, 32, seed=1)
    for name in ("given-trajectories", "rlt"):
        model = build_system(name, shared)
        together, alone = see(model, clips, batch_size=3), see(model, clips, batch_size=1)
        torch.testing.assert_close(together.embeds, alone.embeds, atol=1e-5, rtol=1e-5)
        assert together.num_tokens == alone.num_tokens and model.training
        if name == "given-trajectories":  # the background and the objects that are seen
            present = [len(np.unique(clips[index].trajectory_ids[:, ::4, ::4])) for index in range(5)]
            assert np.abs(np.array(together.num_tokens) - present).max() <= 1


# --- costs -----------------------------------------------------------------------------------------------------------


def test_a_clip_costs_what_its_own_tokens_cost(shared):
    clips = torch.randn(3, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    clips[1, 1] = clips[1, 0]  # static: half of the tokens
    batch = {
        "input_ids": torch.full((3, 4), 6),
        "attention_mask": torch.ones(3, 4, dtype=torch.long),
        "idx": torch.arange(3),
        "object_ids": torch.zeros(3, 2, 32, 32, dtype=torch.long),
        "pixel_values_videos": clips,
    }
    spent = {}
    for name in ("vit3d", "rlt"):
        module = ContrastiveTraining(build_system(name, shared), 0.0)
        together = flops_of(lambda module=module: module(**batch)["loss"].backward())
        module.zero_grad()
        spent[name] = (training_flops(module, [batch, batch]), together)
        assert all(parameter.grad is None for parameter in module.parameters())
    assert spent["vit3d"][0] == spent["vit3d"][1]  # nothing to pad
    assert 0.6 < spent["rlt"][0] / spent["rlt"][1] < 0.95


def test_attention_is_counted():
    attention = Attention(8, 2)
    tokens = torch.randn(1, 10, 8)
    linear = 2 * 10 * 8 * (3 * 8 + 8)
    for bias in (None, torch.zeros(1, 10)):
        assert flops_of(lambda bias=bias: attention(tokens, bias)) == linear + 2 * 2 * 10 * 10 * 8


def test_cached_features_train_what_pixels_train(shared, tmp_path):
    cache = ClipCache(MixedWorlds(3, 2, 32, seed=1), tmp_path / "clips", num_frames=2, size_px=32)
    features = FrozenFeatures(cache, cache.folder, shared.segmenter)
    features.compute(show_progress=False)
    model = build_system("trajvit2", shared).eval()  # its texts have dropout
    pixels = torch.stack([normalise(pixels_of(cache[index][0])) for index in range(3)])
    cached = torch.stack([features.read(index, np.arange(2))["patch_features"] for index in range(3)])
    texts = {"input_ids": torch.full((3, 4), 6), "attention_mask": torch.ones(3, 4, dtype=torch.long)}
    known = {**texts, "idx": torch.arange(3), "object_ids": torch.zeros(3, 2, 32, 32, dtype=torch.long)}
    training = ContrastiveTraining(model, 0.0)
    expected = training(**known, pixel_values_videos=pixels)["loss"]
    exact = model.video_model.trajtok(pixels).patch_features.view(cached.shape)
    torch.testing.assert_close(training(**known, patch_features=exact)["loss"], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cached.float(), exact, atol=2e-3, rtol=2e-3)  # kept in half precision


# --- the whole -------------------------------------------------------------------------------------------------------


def test_what_is_done_is_not_done_again(segmenter, shared, tmp_path, monkeypatch, capsys):
    segmenter.save_pretrained(tmp_path / "trajtok")
    monkeypatch.setattr(controlled_experiment, "Sizes", lambda: SIZES)
    monkeypatch.setattr(controlled_experiment, "LONGER", (3,))
    few = ["frozen segmenter", "both"]
    chosen = ["--systems", "trajvit2", "given-trajectories", "vit3d", "--seeds", "1", "--budget-tflop", "0.0015"]
    chosen += ["--variations", *few]
    chosen += ["--ablation-steps", "2", "--frames", "2", "--cost-clips", "1", "--clips", "9", "--held-out-clips", "3"]
    chosen += ["--batch-size", "4", "--trajtok", str(tmp_path / "trajtok"), "--texts", str(tmp_path / "trajvit2")]
    chosen += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main([*chosen, "--parts", "flops", "samples", "ablations"]) == 0
    assert main([*chosen, "--parts", "costs", "--systems", "trajvit2"]) == 0
    shown = capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "controlled.json").read_text())
    assert set(record) == {"costs", "flops", "samples", "ablations"}
    assert record["flops"]["settings"]["clips"] == 9 and len(record["flops"]["checkpoints"]) == 2
    assert record["flops"]["settings"]["trajtok"] == "trajtok" and str(tmp_path) not in json.dumps(record)
    results = {part: values["results"] for part, values in record.items()}
    [cost] = results["costs"]
    assert (cost["system"], cost["frames"]) == ("trajvit2", 2) and 0 < cost["gflop"] < 1 and 0 < cost["tokens"] <= 12
    assert [one["system"] for one in results["flops"]] == ["trajvit2", "given-trajectories", "vit3d"]
    for one in results["flops"]:
        assert abs(one["steps"] * one["step_flops"] - 1.5e9) <= one["step_flops"] / 2 and one["steps"] > 1
        assert [line["step"] for line in one["curve"]][-1] == one["steps"] and len(one["curve"]) > 1
        steps = [line["step"] for line in one["curve"]]
        assert all(before < after for before, after in pairwise(steps))
        assert set(one["scores"]["frames"]) == {"2", "3"} and set(one["scores"]["difficulty"]) == set(MIXED)
    fewest = min(one["steps"] for one in results["flops"])
    assert {one["steps"] for one in results["samples"]} == {fewest}
    assert [one["variation"] for one in results["ablations"]] == few
    quality = {one["variation"]: one["segmentation"]["fg_ari"] for one in results["ablations"]}
    assert quality["frozen segmenter"] != quality["both"]
    for table in ("comparison", "costs", "ablations"):
        assert (tmp_path / "out" / f"{table}.md").read_text() in shown
    for picture in ("accuracy_against_flops", "tokens_against_duration", "scenes_flops", "quality_against_accuracy"):
        assert (tmp_path / "out" / f"{picture}.png").stat().st_size > 5000

    for forbidden in ("run_training", "training_flops"):
        monkeypatch.setattr(controlled_experiment, forbidden, lambda *args, **kwargs: pytest.fail("done again"))
    monkeypatch.setattr(controlled_experiment.subprocess, "run", lambda *args, **kwargs: pytest.fail("done again"))
    monkeypatch.setattr(controlled_experiment, "versions", lambda: {"commit": "another"})
    assert main([*chosen, "--parts", "flops", "samples", "ablations"]) == 0
    assert main([*chosen, "--parts", "costs", "--systems", "trajvit2"]) == 0
    again = json.loads((tmp_path / "out" / "controlled.json").read_text())
    assert all(again[part]["results"] == results[part] for part in results)
    with pytest.raises(pytest.fail.Exception, match="done again"):
        main([*chosen, "--parts", "flops", "--budget-tflop", "0.003"])
    assert json.loads((tmp_path / "out" / "controlled.json").read_text())["samples"]["results"] == results["samples"]


def test_tables_show_means_and_deviations():
    def run(zero_shot, probes):
        pairs = {"count": 0.5, "colour": zero_shot, "shape": 0.5, "motion": 0.5, "mean": 0.55}
        worlds = {name: {"zero_shot": zero_shot, "pairs": pairs, "r1": 0.5, "tokens": 7.0} for name in MIXED}
        answers = dict.fromkeys(QUESTIONS, 0.25)
        read = {name: answers | {"mean": probes, "shape": probes / 2} for name in MIXED}
        majority = dict.fromkeys(MIXED, answers | {"mean": 0.25})
        return {
            "system": "rlt", "matched": "flops", "parameters": 1_234_000, "steps": 10, "step_flops": 3e9,
            "held_out_clips": 50,
            "scores": {"difficulty": worlds, "probes": read, "majority": majority},
        }  # fmt: skip

    told = comparison_table([run(0.1, 0.3), run(0.3, 0.4)])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in told.splitlines() if line.startswith("| ")]
    titles, found, chance = rows[:3]
    assert found == ["rlt", "1.23 M", "10", "3", "7", "20.0 ± 14.1", "55.0 ± 0.0", "50.0 ± 0.0", "35.0 ± 7.1"]
    assert titles[5:] == ["zero-shot", "pairs", "R@1", "probes"] and chance[5:] == ["4.2", "50.0", "2.0", "25.0"]
    titles, found, chance = rows[3:6]
    assert dict(zip(titles, found, strict=True))["zero-shot, hard"] == "20.0 ± 14.1"
    assert chance[1:] == ["4.2"] * 3 + ["50.0"] * 3 + ["2.0"] * 3 + ["25.0"] * 3
    titles, found, chance = (dict(zip(rows[6], row, strict=True)) for row in rows[6:])
    assert (found["pairs: colour"], found["probe: shape"], found["probe: count"]) == (
        "20.0 ± 14.1", "17.5 ± 3.5", "25.0 ± 0.0"
    )  # fmt: skip
    assert chance["pairs: colour"] == "50.0" and chance["probe: camera"] == "25.0"


def test_a_missing_checkpoint_is_one_line(tmp_path, capsys):
    assert main(["--trajtok", str(tmp_path / "nothing")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_systems_module_lists_every_rival():
    assert set(SYSTEMS) == set(systems.RIVALS) and SYSTEMS[0] == "trajvit2"
