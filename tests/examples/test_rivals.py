"""The towers that trajectory tokens are compared with: each has the property that defines it."""

import copy

import pytest
import torch
from rivals import RIVALS, build_rival
from rivals.blocks import Attention, PatchEmbedding, TowerConfig
from rivals.dense_vit import DenseTower
from rivals.run_length import RunLengthTower, changed_patches, run_lengths
from rivals.token_learner import TokenLearner, TokenLearnerTower
from rivals.token_merging import TokenMergingTower, merge_similar
from training.contrastive_training import ContrastiveTraining

from modeling_trajtok import TrajViT2Config

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
SIZES = {"width": 48, "num_layers": 3, "num_heads": 4, "mlp_ratio": 2, "size_px": 32, "num_frames": 4}


@pytest.fixture
def clips() -> torch.Tensor:
    return torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def tower_of(kind, **settings):
    torch.manual_seed(0)
    return kind(TowerConfig(**SIZES), **settings).eval()


# --- patches ---------------------------------------------------------------------------------------------------------


def test_every_patch_is_a_token_of_its_place(clips):
    torch.manual_seed(0)
    embedding = PatchEmbedding(TowerConfig(**{**SIZES, "tubelet": 2}))
    patches = embedding(clips)
    assert patches.shape == (2, 2, 4, 4, 48)
    changed = clips.clone()
    changed[0, 3, :, 8:16, 24:32] += 1.0
    difference = (embedding(changed) - patches).abs().amax(dim=-1)
    assert difference.nonzero().tolist() == [[0, 1, 1, 3]]
    torch.testing.assert_close(embedding(clips[:, :3]), embedding(clips[:, [0, 1, 2, 2]]))  # filled up
    assert embedding(torch.randn(1, 6, 3, 48, 16)).shape == (1, 3, 6, 2, 48)  # positions are resized


@pytest.mark.parametrize(("frames", "tokens"), [(4, 64), (8, 128)])
def test_vit3d_attends_to_all_patches(frames, tokens):
    tower = tower_of(DenseTower)
    clips = torch.randn(1, frames, 3, 32, 32, requires_grad=True)
    output = tower(clips)
    assert output.last_hidden_state.shape == (1, 1 + tokens, 48)
    output.pooler_output[0, 0].backward()
    assert (clips.grad.abs().flatten(3).amax(dim=(2, 3)) > 0).all()


# --- ToMe ------------------------------------------------------------------------------------------------------------


def test_merging_conserves_sizes_and_sums():
    generator = torch.Generator().manual_seed(0)
    tokens, metric = torch.randn(2, 11, 6, generator=generator), torch.randn(2, 11, 3, generator=generator)
    sizes = torch.randint(1, 5, (2, 11), generator=generator).float()
    merged, found = merge_similar(tokens, sizes, metric, 3)
    assert merged.shape == (2, 8, 6)
    torch.testing.assert_close(found.sum(dim=1), sizes.sum(dim=1))
    torch.testing.assert_close((merged * found[..., None]).sum(dim=1), (tokens * sizes[..., None]).sum(dim=1))
    torch.testing.assert_close(merged[:, 0], tokens[:, 0])  # CLS is first and alone
    assert torch.equal(found[:, 0], sizes[:, 0])
    assert merge_similar(tokens, sizes, metric, 0)[0] is tokens
    assert merge_similar(tokens, sizes, metric, 99)[0].shape[1] == 6  # half of them at most


def test_the_most_similar_are_merged():
    """Places 2 and 5 are the same; the tokens are dealt 0 2 4 6 | 1 3 5."""
    metric = torch.eye(7).unsqueeze(0)
    metric[0, 5] = metric[0, 2] + 0.01
    tokens = torch.arange(7.0).view(1, 7, 1)
    merged, sizes = merge_similar(tokens, torch.ones(1, 7), metric, 1)
    assert merged[0, :, 0].tolist() == [0, 4, 6, 1, 3, 3.5]
    assert sizes[0].tolist() == [1, 1, 1, 1, 1, 2]


def test_proportional_attention_is_exact():
    """Equal tokens merged and counted by their size give what they gave apart."""
    torch.manual_seed(0)
    attention = Attention(12, 3)
    tokens = torch.randn(1, 5, 12)
    apart = torch.cat((tokens, tokens[:, 3:4], tokens[:, 3:4], tokens[:, 1:2]), dim=1)
    sizes = torch.tensor([[1.0, 2.0, 1.0, 3.0, 1.0]])
    expected, _ = attention(apart)
    found, _ = attention(tokens, sizes.log())
    torch.testing.assert_close(found, expected[:, :5], **CLOSE)


def test_tome_keeps_the_share_of_tokens_that_it_should(clips):
    tower = tower_of(TokenMergingTower, merged_share=0.75)
    states = tower(clips).last_hidden_state
    assert states.shape[1] == 65 - 3 * round(0.75 * 64 / 3)
    dense = tower_of(DenseTower)
    none = tower_of(TokenMergingTower, merged_share=0.0)
    none.load_state_dict(dense.state_dict())
    torch.testing.assert_close(none(clips).last_hidden_state, dense(clips).last_hidden_state, **CLOSE)


# --- RLT -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 4, 8])
def test_a_static_video_is_one_frame_of_tokens(frames):
    tower = tower_of(RunLengthTower)
    clip = torch.randn(1, 1, 3, 32, 32).expand(-1, frames, -1, -1, -1)
    output = tower(clip)
    assert output.last_hidden_state.shape[1] == 1 + 16 and output.token_valid.all()
    assert torch.equal(run_lengths(changed_patches(clip, 8, 1, 0.1)), torch.full((1, frames, 4, 4), frames) * (
        torch.arange(frames).view(1, -1, 1, 1) == 0
    ))  # fmt: skip


def test_only_what_changes_is_kept_and_runs_are_counted():
    clip = torch.zeros(1, 5, 3, 16, 16)
    clip[0, 2:, :, :8, 8:] = 1.0  # one patch changes once, before frame 2
    clip[0, 3:, :, 8:, :8] = 0.05  # too little
    changed = changed_patches(clip, 8, 1, 0.1)
    assert changed[0].flatten(1).int().tolist() == [[1, 1, 1, 1], [0] * 4, [0, 1, 0, 0], [0] * 4, [0] * 4]
    lengths = run_lengths(changed)[0].flatten(1).tolist()
    assert lengths == [[5, 2, 5, 5], [0] * 4, [0, 3, 0, 0], [0] * 4, [0] * 4]
    # With tubelets of two frames, the first frame of one is compared with the last of the next.
    assert changed_patches(clip[:, :4], 8, 2, 0.1)[0, 1].int().flatten().tolist() == [0, 1, 0, 0]
    clip[0, 3, :, 8:, 8:] = 1.0
    assert changed_patches(clip[:, :4], 8, 2, 0.1)[0, 1].int().flatten().tolist() == [0, 1, 0, 1]


def test_clips_with_more_and_fewer_tokens_are_as_alone(clips):
    tower = tower_of(RunLengthTower)
    clips[1] = clips[1, :1]
    together = tower(clips)
    assert together.token_valid.sum(dim=1).tolist() == [64, 16]
    for index in range(2):
        alone = tower(clips[index : index + 1])
        torch.testing.assert_close(together.pooler_output[index], alone.pooler_output[0], **CLOSE)


# --- TokenLearner ----------------------------------------------------------------------------------------------------


def test_learnt_tokens_are_means_of_patches(clips):
    torch.manual_seed(0)
    learner = TokenLearner(12, 5)
    patches = torch.randn(3, 20, 12)
    assert learner(patches).shape == (3, 5, 12)
    same = patches[:, :1].expand(-1, 20, -1)
    torch.testing.assert_close(learner(same), same[:, :5], **CLOSE)  # the weights add up to 1
    shuffled = patches[:, torch.randperm(20)]
    torch.testing.assert_close(learner(shuffled), learner(patches), **CLOSE)
    tower = tower_of(TokenLearnerTower, tokens_per_frame=3)
    for frames in (1, 4):
        assert tower(clips[:, :frames]).last_hidden_state.shape[1] == 1 + 3 * frames


# --- all -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tiny_config) -> TrajViT2Config:
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    return TrajViT2Config(
        trajtok_config=copy.deepcopy(tiny_config),
        transformer_config={"hidden_size": 48, **sizes},
        text_config={"model_type": "bert", "hidden_size": 32, "vocab_size": 20, **sizes},
        projection_dim=16,
        num_frames=4,
    )


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_learns_with_the_same_losses(name, config, clips):
    torch.manual_seed(0)
    model = build_rival(name, config)
    training = ContrastiveTraining(model, 0.0)
    texts = {"input_ids": torch.tensor([[2, 5, 3], [2, 6, 3]]), "attention_mask": torch.ones(2, 3, dtype=torch.long)}
    inputs = {"pixel_values_videos": clips}
    if name == "given-trajectories":
        with pytest.raises(ValueError, match="got no trajectory_ids"):
            model.get_video_features(clips)
        ids = torch.randint(0, 3, (2, 4, 32, 32))
        losses = model(**inputs, **texts, trajectory_ids=ids, return_loss=True)
        loss = losses.loss
    else:
        losses = training(**inputs, **texts, idx=torch.arange(2), object_ids=torch.zeros(2, 4, 32, 32).long())
        loss = losses["loss"]
    loss.backward()
    missing = [n for n, p in model.video_model.named_parameters() if p.grad is None and "segmenter" not in n]
    assert not missing
    given = {"trajectory_ids": ids[:1]} if name == "given-trajectories" else {}
    assert model.get_video_features(clips[:1], **given).pooler_output.shape == (1, 16)


def test_what_towers_cannot_read_is_refused(config, clips):
    with pytest.raises(ValueError, match="no rival 'vit4d', expected one of vit3d, tome"):
        build_rival("vit4d", config)
    with pytest.raises(ValueError, match=r"merged_share is 0.8, expected 0 to 0.750 in 3 blocks"):
        tower_of(TokenMergingTower, merged_share=0.8)
    with pytest.raises(ValueError, match="width 50, expected 48"):
        build_rival("vit3d", config, TowerConfig(width=50))
    model = build_rival("vit3d", config)
    padded = torch.tensor([[True] * 4, [True, True, False, False]])
    with pytest.raises(ValueError, match="DenseTower got padded clips"):
        model.get_video_features(clips, padded)
    with pytest.raises(ValueError, match="reads pixel_values_videos and nothing else"):
        model.get_video_features(trajectory_embeds=torch.zeros(1, 2, 48))
