"""Retrieval and classification scores: pure functions on similarities.

In:   similarity (N texts, V videos), which video each text tells of
Out:  dicts of scores between 0 and 1, and median ranks from 1
"""

import numpy as np


def ranks_of_matches(similarity: np.ndarray, matches: np.ndarray) -> np.ndarray:
    """The place, from 1, of the best match of each row; equal similarities count as worse places.

    Args:
        similarity: (N, M).
        matches: (N, M) boolean, at least one per row.
    """
    best = np.where(matches, similarity, -np.inf).max(axis=1, keepdims=True)
    return 1 + ((similarity >= best) & ~matches).sum(axis=1)


def recall_at(ranks: np.ndarray, places: tuple[int, ...] = (1, 5, 10)) -> dict[str, float]:
    """Share of ranks within the first 1, 5, 10 places, and the median rank."""
    return {**{f"r{k}": float((ranks <= k).mean()) for k in places}, "median_rank": float(np.median(ranks))}


def retrieval_scores(similarity: np.ndarray, video_of_text: np.ndarray) -> dict[str, float]:
    """Recall at 1, 5, 10 and median rank in both directions.

    A video may have several texts: text to video judges each text, video to text the best place of any of its texts.

    Args:
        similarity: (N texts, V videos).
        video_of_text: (N,) index of each text's video; every video has a text.
    """
    matches = video_of_text[:, None] == np.arange(similarity.shape[1])
    if not matches.any(axis=0).all():
        raise ValueError(
            f"Videos {np.flatnonzero(~matches.any(axis=0))[:5].tolist()} have no text, expected one each."
        )
    forward = recall_at(ranks_of_matches(similarity, matches))
    backward = recall_at(ranks_of_matches(similarity.T, matches.T))
    return {
        **{f"text_to_video_{name}": value for name, value in forward.items()},
        **{f"video_to_text_{name}": value for name, value in backward.items()},
    }


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """Share of rows (N, classes) whose label (N,) is among the k highest."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(axis=1).mean())
