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

    Raises:
        ValueError: for a similarity that is not finite (NaN would come first), or a row without a match.
    """
    if not np.isfinite(similarity).all():
        raise ValueError("Some similarities are not finite, expected numbers. Are the embeddings sound?")
    if not matches.any(axis=1).all():
        raise ValueError(
            f"Rows {np.flatnonzero(~matches.any(axis=1))[:5].tolist()} of the similarity have no match, expected one "
            "or more in each."
        )
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


def classification_scores(similarity: np.ndarray, labels: np.ndarray, num_classes: int) -> dict:
    """Top-1 and top-5 accuracy, over all rows and of each class; classes that are equally similar count as wrong.

    Args:
        similarity: (N, classes).
        labels: (N,) number of the right class.
        num_classes: how many classes.

    Returns:
        top1, top5: share of rows whose class is the first, among the first five.
        mean_class_accuracy: mean of the top-1 of the classes that have rows.
        per_class: number of a class -> count, top1, top5, and taken_for, the wrong class that came first most often
        (None if none did). Classes without rows are left out.
    """
    if similarity.shape != (len(labels), num_classes) or len(labels) == 0:
        raise ValueError(
            f"similarity is {similarity.shape}, expected ({len(labels)}, {num_classes}) and a row or more."
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"Labels are {labels.min()}..{labels.max()}, expected 0..{num_classes - 1}.")
    right = labels[:, None] == np.arange(num_classes)
    ranks = ranks_of_matches(similarity, right)
    rivals = np.where(right, -np.inf, similarity).argmax(axis=1)
    per_class = {}
    for number in np.unique(labels).tolist():
        rows = labels == number
        wrong = np.bincount(rivals[rows & (ranks > 1)], minlength=num_classes)
        per_class[number] = {
            "count": int(rows.sum()),
            "top1": float((ranks[rows] <= 1).mean()),
            "top5": float((ranks[rows] <= 5).mean()),
            "taken_for": int(wrong.argmax()) if wrong.any() else None,
        }
    return {
        "top1": float((ranks <= 1).mean()),
        "top5": float((ranks <= 5).mean()),
        "mean_class_accuracy": float(np.mean([scores["top1"] for scores in per_class.values()])),
        "per_class": per_class,
    }
