"""The stream gives every world exactly once, however it is divided."""

from itertools import islice

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader
from worlds import WorldConfig, render_world, worlds_dataset

SMALL = WorldConfig(num_frames=2, height=32, width=32, max_objects=2)


def _indices(stream, num_workers: int) -> list[int]:
    loader = DataLoader(stream, batch_size=None, num_workers=num_workers)
    return [int(example["index"]) for example in loader]


def test_examples_are_the_worlds_in_order():
    examples = list(worlds_dataset(3, SMALL, start=5, num_worlds=4))
    assert [example["index"] for example in examples] == [5, 6, 7, 8]
    world = render_world(3, 6, SMALL)
    assert examples[1]["frames"].dtype == np.uint8
    assert examples[1]["trajectory_ids"].dtype == np.int16
    np.testing.assert_array_equal(examples[1]["frames"], world.frames_uint8)
    np.testing.assert_array_equal(examples[1]["trajectory_ids"], world.trajectory_ids)
    record = world.to_record()
    for column in ("objects", "captions", "questions", "events", "camera", "camera_path"):
        assert examples[1][column] == record[column]


@pytest.mark.parametrize("num_worlds", [8, 101])
def test_two_nodes_with_two_workers_give_every_index_once(num_worlds):
    nodes = [split_dataset_by_node(worlds_dataset(0, SMALL, 10, num_worlds), rank, 2) for rank in range(2)]
    seen = [_indices(node, num_workers=2) for node in nodes]
    assert sorted(seen[0] + seen[1]) == list(range(10, 10 + num_worlds))
    assert min(len(part) for part in seen) >= num_worlds // 2 - 5


def test_endless_stream_never_repeats_an_index():
    stream = worlds_dataset(0, SMALL)
    seen = []
    for rank in range(3):
        seen += [example["index"] for example in islice(split_dataset_by_node(stream, rank, 3), 5)]
    assert len(set(seen)) == 15


def test_wrong_range_is_refused():
    with pytest.raises(ValueError, match="num_worlds"):
        worlds_dataset(0, num_worlds=0)
