"""Figures of several runs as text: means with deviations, Markdown tables.

In:   values of runs
Out:  strings
To:   experiments that compare systems over seeds
"""

from collections.abc import Sequence

import numpy as np


def sample_deviation(values: Sequence) -> np.ndarray:
    """Standard deviation of a sample along the first axis; 0 if there is one value only."""
    return np.std(values, axis=0, ddof=min(1, len(values) - 1))


def spread(shares: Sequence[float]) -> str:
    """Mean and, of several, the standard deviation of a sample, in per cent: "20.0 ± 14.1"."""
    mean = f"{100 * np.mean(shares):.1f}"
    return f"{mean} ± {100 * sample_deviation(shares):.1f}" if len(shares) > 1 else mean


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of as many cells as there are titles, the first column to the left, the others to the right."""
    lines = [f"| {' | '.join(titles)} |", f"|---|{'---:|' * (len(titles) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
