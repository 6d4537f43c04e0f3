"""The experiment with connectors: equal terms for all, and results that are there again after a restart."""

import json

import connector_experiment
import numpy as np
import pytest
import torch
from connector_experiment import CachedCollator, CachedConversations, ConnectorRecipe, main
from training.connectors import MeanPoolingConnector, TrajectoryConnector
from training.patch_cache import PatchCache

from modeling_trajtok import TrajTokSegmenterModel, TrajVLMForConditionalGeneration, TrajVLMProcessor
from modeling_trajtok.grid_ops import GridSize

GRID = GridSize(4, 6, 6)


@pytest.fixture
def base(vlm_config, vlm_tokenizer, tmp_path):
    """A TrajVLM and a segmenter on disk, as arguments."""
    torch.manual_seed(0)
    vlm_config.text_config.max_position_embeddings = 512
    TrajVLMForConditionalGeneration(vlm_config).save_pretrained(tmp_path / "trajvlm")
    processor = TrajVLMProcessor.from_model_config(vlm_config, vlm_tokenizer, num_frames=4)
    processor.save_pretrained(tmp_path / "trajvlm")
    TrajTokSegmenterModel(vlm_config.trajtok_config).save_pretrained(tmp_path / "trajtok")
    return ["--model", str(tmp_path / "trajvlm"), "--trajtok", str(tmp_path / "trajtok")]


def test_table_plot_and_record(base, tmp_path, capsys, monkeypatch):
    sizes = ["--frames", "2", "4", "--seeds", "2", "--steps", "2", "--clips", "5", "--held-out-clips", "2"]
    sizes += ["--size-px", "48", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main([*base, *sizes]) == 0
    table = capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "connectors.json").read_text())
    assert record["settings"]["model"] == "trajvlm" and str(tmp_path) not in json.dumps(record)
    found = [(one["connector"], one["frames"], one["seed"], one["visual_tokens"]) for one in record["results"]]
    tokens = {"trajectories": 6, "pooling": 32, "pooling x4": 128}
    assert found == [(kind, t, seed, n) for t in (2, 4) for seed in (0, 1) for kind, n in tokens.items()]
    scores = [one["scores"] for one in record["results"]]
    assert len({one["questions"] for one in scores[:6]}) == 1 and scores[0]["questions"] > 5
    rows = [line for line in table.splitlines() if line.startswith("| trajectories | ") and " | 6 | " in line]
    assert len(rows) == 2 and f"| {50 * (scores[0]['exact_match'] + scores[3]['exact_match']):.1f} ± " in rows[0]
    majority = [100 * share for name, share in scores[0].items() if name.startswith("majority/")]
    assert f"| most frequent answer |  |  | 2 | {sum(majority) / len(majority):.1f} |" in table
    assert (tmp_path / "out" / "connectors.png").stat().st_size > 5000

    monkeypatch.setattr(connector_experiment, "run_training", lambda *args, **kwargs: pytest.fail("trained again"))
    assert main([*base, *sizes]) == 0
    assert json.loads((tmp_path / "out" / "connectors.json").read_text())["results"] == record["results"]
    with pytest.raises(pytest.fail.Exception, match="trained again"):  # other settings are another experiment
        main([*base, *sizes, "--steps", "3"])


def test_a_missing_checkpoint_is_one_line(base, tmp_path, capsys):
    assert main([*base, "--model", str(tmp_path / "nothing"), "--runs", str(tmp_path / "runs")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_cells_are_means_of_their_patches(vlm_config):
    vlm_config.vision_config.hidden_size = 8
    connector = MeanPoolingConnector(vlm_config, (2, 3, 3))
    connector.projector = torch.nn.Identity()
    features = torch.randn(2, GRID.num_patches, 8)
    tokens = connector(features, None, None, GRID).view(2, 2, 3, 3, 8)
    maps = features.view(2, 4, 6, 6, 8)
    torch.testing.assert_close(tokens[1, 1, 2, 0], maps[1, 2:4, 4:6, 0:2].mean(dim=(0, 1, 2)))
    assert connector.num_tokens == 18


def test_trajectories_read_their_own_patches(vlm_config):
    vlm_config.vision_config.hidden_size = 8
    connector = TrajectoryConnector(vlm_config).eval()
    features, queries = torch.randn(1, GRID.num_patches, 8), torch.randn(1, 6, vlm_config.trajtok_config.hidden_size)
    ids = torch.randint(0, 5, (1, GRID.num_patches))
    changed = features + (ids == 2).unsqueeze(-1) * torch.randn_like(features)
    changed[:, -2:] = features[:, -2:]  # the last two patches are read by all
    with torch.no_grad():
        before, after = (connector(one, ids, queries, GRID) for one in (features, changed))
    moved = (before - after).abs().amax(dim=-1)[0] > 1e-6
    assert moved.tolist() == [False, False, True, False, False, False]


def test_conversations_show_the_video_first_and_teach_the_answers(base, vlm_config, vlm_tokenizer, tmp_path):
    segmenter = TrajTokSegmenterModel.from_pretrained(base[3])
    cache = PatchCache(tmp_path / "cache", 1, GRID, segmenter)
    asked = [
        {"type": kind, "question": "how many objects ?", "answer": word} for kind, word in (("a", "two"), ("b", "red"))
    ]
    (tmp_path / "cache" / "000000.json").write_text(json.dumps(asked))
    cache.features[:] = np.arange(cache.features.size).reshape(cache.features.shape) % 97
    views = CachedConversations(cache, ConnectorRecipe(num_steps=1, batch_size=2))
    processor = TrajVLMProcessor.from_pretrained(base[1])
    batch = CachedCollator(processor, num_tokens=7)([views[0], views[1]])
    assert batch["patch_features"].shape == (2, GRID.num_patches, segmenter.config.hidden_size)
    assert (batch["input_ids"] == processor.video_token_id).sum(dim=1).tolist() == [7, 7]
    for row, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        learnt = vlm_tokenizer.decode(labels[labels >= 0])
        assert sorted(learnt.split()) == ["<|im_end|>", "<|im_end|>", "red", "two"]
        text = vlm_tokenizer.decode(row)
        assert text.index("<|video_pad|>") < text.index("how") and text.count("how many objects") == 2
