"""Matching and segmentation losses: what they must give in cases that can be counted by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from modeling_trajtok.losses_trajtok import (
    IGNORE,
    align_logits,
    dice_loss,
    label_masks,
    match_labels,
    patch_label_masks,
    pixel_loss,
    relabel,
    segmentation_loss,
)

SETTINGS = {"matching": "soft", "pixel": "cross_entropy", "pooling": "clip"}


@pytest.fixture
def labels():
    """(2, 40): three labels in the first clip, five in the second, some patches ignored."""
    labels = torch.stack([torch.arange(40) % 3, torch.arange(40) % 5])
    labels[:, ::7] = IGNORE
    return labels


def confident(labels: torch.Tensor, num_trajectories: int, order: torch.Tensor) -> torch.Tensor:
    """Logits that are sure of the labels, label m standing in column ``order[m]``."""
    return 30 * F.one_hot(order[labels.clamp(min=0)], num_trajectories).float()


@pytest.mark.parametrize("cost", ["soft", "iou"])
def test_matching_finds_the_column_of_each_label(labels, cost):
    order = torch.tensor([4, 0, 6, 2, 1, 3, 5])
    matching = match_labels(confident(labels, 7, order), label_masks(labels, 7), cost)
    assert matching[0, :3].tolist() == order[:3].tolist()
    assert matching[1, :5].tolist() == order[:5].tolist()
    assert torch.equal(matching.sort(dim=1).values, torch.arange(7).expand(2, 7))


@pytest.mark.parametrize("pooling", ["clip", "batch"])
@pytest.mark.parametrize("pixel", ["cross_entropy", "focal"])
@pytest.mark.parametrize("cost", ["soft", "iou"])
def test_a_right_answer_costs_nothing_in_any_order(labels, cost, pixel, pooling):
    logits = confident(labels, 7, torch.tensor([4, 0, 6, 2, 1, 3, 5]))
    loss = segmentation_loss(logits, label_masks(labels, 7), matching=cost, pixel=pixel, pooling=pooling)
    assert loss.pixel < 1e-6 and loss.dice < 1e-5


def test_soft_matching_tells_apart_what_wins_no_patch():
    """Column 1 leans to label 1 everywhere it should, but never wins: IoU is blind to it, the soft cost is not."""
    labels = torch.tensor([[0, 0, 0, 1, 1, 1]])
    logits = torch.tensor([[[9.0, 0, 0, 0]] * 3 + [[9.0, 0, 0, 5.0]] * 3])
    assert match_labels(logits, label_masks(labels, 4), "soft")[0, :2].tolist() == [0, 3]


@pytest.mark.parametrize("cost", ["soft", "iou"])
def test_labels_without_patches_take_no_trajectory_from_others(cost):
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(64, 12, 5), torch.randint(0, 3, (64, 12))
    masks = label_masks(labels, 5)
    present = masks.any(dim=1)
    found, told = match_labels(logits, masks, cost), match_labels(logits, masks, cost, label_valid=present)
    assert torch.equal(found[present], told[present])


def test_pixel_loss_is_cross_entropy_when_gamma_is_zero(labels):
    torch.manual_seed(0)
    logits = torch.randn(2, 40, 7)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
    torch.testing.assert_close(pixel_loss(logits, label_masks(labels, 7), pooling="batch", gamma=0.0), expected)
    per_clip = torch.stack([F.cross_entropy(*clip, ignore_index=IGNORE) for clip in zip(logits, labels, strict=True)])
    torch.testing.assert_close(pixel_loss(logits, label_masks(labels, 7), pooling="clip", gamma=0.0), per_clip.mean())


def test_focal_loss_by_hand():
    logits = torch.tensor([[[math.log(3.0), 0.0]]])  # probability 3/4 of the right label
    loss = pixel_loss(logits, label_masks(torch.tensor([[0]]), 2), gamma=2.0)
    assert loss.item() == pytest.approx(-(0.25**2) * math.log(0.75), rel=1e-5)


def test_dice_by_hand():
    """Two labels of one patch each, probabilities 1/2 everywhere: overlap 1/2, covered 1, area 1."""
    logits, labels = torch.zeros(1, 2, 2), torch.tensor([[0, 1]])
    assert dice_loss(logits, label_masks(labels, 2)).item() == pytest.approx(0.5, abs=1e-5)


def test_ignored_patches_do_not_count(labels):
    torch.manual_seed(0)
    logits = torch.randn(2, 40, 7)
    changed = torch.where((labels == IGNORE).unsqueeze(2), torch.randn(2, 40, 7), logits)
    for found, expected in zip(
        segmentation_loss(changed, label_masks(labels, 7), **SETTINGS),
        segmentation_loss(logits, label_masks(labels, 7), **SETTINGS),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


def test_clip_pooling_does_not_depend_on_the_batch(labels):
    torch.manual_seed(0)
    logits = torch.randn(2, 40, 7)
    together = segmentation_loss(logits, label_masks(labels, 7), **SETTINGS)
    alone = [segmentation_loss(logits[i : i + 1], label_masks(labels[i : i + 1], 7), **SETTINGS) for i in range(2)]
    torch.testing.assert_close(together.pixel, (alone[0].pixel + alone[1].pixel) / 2)
    torch.testing.assert_close(together.dice, (alone[0].dice + alone[1].dice) / 2)


@pytest.mark.parametrize("pooling", ["clip", "batch"])
@pytest.mark.parametrize("cost", ["soft", "iou"])
def test_nothing_labelled_costs_nothing_and_has_finite_gradients(cost, pooling):
    logits = torch.randn(2, 10, 4, requires_grad=True)
    labels = torch.full((2, 10), IGNORE)
    loss = segmentation_loss(logits, label_masks(labels, 4), matching=cost, pixel="focal", pooling=pooling)
    (loss.pixel + loss.dice).backward()
    assert loss.pixel == 0 and loss.dice == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_clip_without_labels_does_not_dilute_the_others(labels):
    torch.manual_seed(0)
    logits = torch.randn(2, 40, 7)
    alone = segmentation_loss(logits[:1], label_masks(labels[:1], 7), **SETTINGS)
    labels[1] = IGNORE
    both = segmentation_loss(logits, label_masks(labels, 7), **SETTINGS)
    torch.testing.assert_close(both.pixel, alone.pixel)
    torch.testing.assert_close(both.dice, alone.dice)


def test_as_many_labels_as_trajectories():
    labels = torch.arange(6).unsqueeze(0)
    logits = confident(labels, 6, torch.tensor([3, 1, 5, 0, 2, 4]))
    assert match_labels(logits, label_masks(labels, 6)).tolist() == [[3, 1, 5, 0, 2, 4]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_finite_fp32_losses(labels, dtype):
    logits = (40 * torch.randn(2, 40, 7)).to(dtype)
    loss = segmentation_loss(logits, label_masks(labels, 7), matching="soft", pixel="focal", pooling="clip")
    assert loss.pixel.dtype == loss.dice.dtype == torch.float32
    assert loss.pixel.isfinite() and loss.dice.isfinite()


def test_alignment_moves_columns():
    logits = torch.arange(24.0).view(2, 3, 4)
    matching = torch.tensor([[3, 0, 1, 2], [1, 0, 3, 2]])
    aligned = align_logits(logits, matching)
    assert aligned[0, 0].tolist() == [3, 0, 1, 2]
    assert aligned[1, 2].tolist() == [21, 20, 23, 22]


def test_masks_of_labels():
    masks = label_masks(torch.tensor([[1, IGNORE, 0]]), 3)
    assert masks.tolist() == [[[0, 1, 0], [0, 0, 0], [1, 0, 0]]]


def test_a_patch_has_its_share_of_every_label():
    labels = torch.tensor([[[[0, 0, 1, 1], [0, 2, 1, IGNORE]]]])  # two patches of 2 x 2 pixels
    assert patch_label_masks(labels, (1, 2), 3).tolist() == [[[0.75, 0, 0.25], [0, 0.75, 0]]]
    assert patch_label_masks(labels, (1, 2), 3, "nearest").tolist() == [[[1, 0, 0], [0, 1, 0]]]


@pytest.mark.parametrize("resampling", ["area", "nearest"])
def test_labels_on_the_patch_grid_stay_what_they_are(resampling):
    torch.manual_seed(0)
    labels = torch.randint(-1, 5, (2, 3, 4, 6))
    assert torch.equal(patch_label_masks(labels, (4, 6), 5, resampling), label_masks(labels.flatten(1), 5))


@pytest.mark.parametrize("size_hw", [(5, 7), (3, 2), (12, 13)])
def test_shares_of_a_patch_add_up_on_grids_that_do_not_divide_the_labels(size_hw):
    torch.manual_seed(0)
    masks = patch_label_masks(torch.randint(0, 5, (2, 3, 9, 11)), size_hw, 5)
    assert masks.shape == (2, 3 * size_hw[0] * size_hw[1], 5)
    torch.testing.assert_close(masks.sum(dim=2), torch.ones(masks.shape[:2]))


def test_clips_and_frames_keep_their_own_labels():
    labels = torch.arange(4).view(2, 2, 1, 1).expand(2, 2, 6, 6)
    expected = torch.eye(4).view(2, 2, 1, 4).expand(2, 2, 9, 4).reshape(2, 18, 4)
    assert torch.equal(patch_label_masks(labels, (3, 3), 4), expected)


def test_a_shared_patch_costs_least_when_predicted_by_its_shares():
    masks = torch.tensor([[[0.75, 0.25]]])
    logits = torch.tensor([[[math.log(3.0), 0.0]]], requires_grad=True)
    pixel_loss(logits, masks, gamma=0.0).backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits))


def test_relabel_makes_ids_consecutive_in_each_clip():
    ids = torch.tensor([[[7, 7], [-1, 300]], [[-5, 2], [2, 0]]])
    assert relabel(ids).tolist() == [[[0, 0], [-1, 1]], [[-1, 1], [1, 0]]]
