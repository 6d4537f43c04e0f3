"""Retrieval and classification scores on tables that are small enough to be checked by eye."""

import numpy as np
import pytest
from evaluation.retrieval_metrics import (
    classification_scores,
    ranks_of_matches,
    recall_at,
    retrieval_scores,
    top_k_accuracy,
)


def test_a_rank_is_one_more_than_the_number_of_better_ones():
    similarity = np.array([[9.0, 1.0, 2.0], [5.0, 4.0, 6.0], [3.0, 2.0, 1.0]])
    assert ranks_of_matches(similarity, np.eye(3, dtype=bool)).tolist() == [1, 3, 3]


def test_equal_similarities_are_worse_places():
    similarity = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.5, 0.5]])
    assert ranks_of_matches(similarity, np.eye(3, dtype=bool)).tolist() == [2, 3, 2]


def test_a_model_that_says_the_same_of_everything_scores_nothing():
    scores = retrieval_scores(np.zeros((20, 20)), np.arange(20))
    assert scores["text_to_video_r10"] == 0.0
    assert scores["video_to_text_median_rank"] == 20.0


def test_other_matches_of_a_row_do_not_push_its_best_match_back():
    similarity = np.array([[3.0, 5.0, 4.0]])
    assert ranks_of_matches(similarity, np.array([[True, False, True]])).tolist() == [2]


def test_recall_and_median_of_known_ranks():
    assert recall_at(np.array([1, 2, 5, 10, 11])) == {"r1": 0.2, "r5": 0.6, "r10": 0.8, "median_rank": 5.0}
    assert recall_at(np.array([1, 2]))["median_rank"] == 1.5


def test_several_captions_per_video_in_both_directions():
    # Texts 0 and 1 tell of video 0, text 2 of video 1.
    similarity = np.array([[0.9, 0.1], [0.2, 0.3], [0.8, 0.7]])
    scores = retrieval_scores(similarity, np.array([0, 0, 1]))
    assert scores["text_to_video_r1"] == pytest.approx(1 / 3)  # ranks 1, 2, 2
    assert scores["text_to_video_median_rank"] == 2.0
    assert scores["video_to_text_r1"] == 1.0  # video 0: its text 0 is the best; video 1: 0.7 before 0.3 and 0.1
    assert scores["video_to_text_median_rank"] == 1.0


def test_directions_are_not_swapped():
    # Both texts choose video 0; each video chooses its own text.
    similarity = np.array([[0.9, 0.2], [0.8, 0.7]])
    scores = retrieval_scores(similarity, np.array([0, 1]))
    assert (scores["text_to_video_r1"], scores["video_to_text_r1"]) == (0.5, 1.0)


def test_what_is_not_finite_is_no_perfect_score():
    with pytest.raises(ValueError, match="not finite"):
        retrieval_scores(np.full((2, 2), np.nan), np.arange(2))


def test_a_video_without_a_text_and_a_text_without_a_video_are_errors():
    with pytest.raises(ValueError, match=r"Videos \[1\] have no text"):
        retrieval_scores(np.eye(2), np.array([0, 0]))
    with pytest.raises(ValueError, match=r"Rows \[2\] .* no match"):
        retrieval_scores(np.eye(3)[:, :2], np.array([0, 1, 5]))


def test_top_k_of_a_table():
    logits = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0]])
    labels = np.array([0, 1, 2])
    assert [top_k_accuracy(logits, labels, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_classification_scores_of_a_table():
    similarity = np.zeros((4, 7))
    similarity[0, 0] = 1.0  # class 0, right
    similarity[1, 6] = 1.0  # class 0, taken for 6; its own score ties with five others: place 7
    similarity[2, [2, 3]] = 0.5, 0.9  # class 2, second place
    similarity[3, [2, 3]] = 0.5, 0.9
    scores = classification_scores(similarity, np.array([0, 0, 2, 2]), 7)
    assert (scores["top1"], scores["top5"]) == (0.25, 0.75)
    assert scores["mean_class_accuracy"] == 0.25
    assert scores["per_class"] == {
        0: {"count": 2, "top1": 0.5, "top5": 0.5, "taken_for": 6},
        2: {"count": 2, "top1": 0.0, "top5": 1.0, "taken_for": 3},
    }


def test_mean_over_classes_gives_rare_classes_their_weight():
    scores = classification_scores(np.eye(2)[[0, 0, 0, 0]], np.array([0, 0, 0, 1]), 2)
    assert (scores["top1"], scores["mean_class_accuracy"]) == (0.75, 0.5)


@pytest.mark.parametrize(
    ("similarity", "labels"), [(np.eye(2), [0, 2]), (np.eye(2), [-1, 0]), (np.eye(3), [0, 1]), (np.zeros((0, 2)), [])]
)
def test_labels_that_do_not_fit_are_errors(similarity, labels):
    with pytest.raises(ValueError, match="expected"):
        classification_scores(similarity, np.array(labels, dtype=int), 2)
