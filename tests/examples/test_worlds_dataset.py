"""The stream gives every world exactly once, however it is divided."""

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from worlds import WorldConfig, render_world, worlds_dataset

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = WorldConfig(num_frames=2, height=32, width=32, max_objects=2)


# In a process of its own: workers are forked, and a test process that has run decoders and models has threads.
READ_WITH_WORKERS = """
import json, sys
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader
from worlds import WorldConfig, worlds_dataset

config = WorldConfig(num_frames=2, height=32, width=32, max_objects=2)
seen = []
for rank in range(2):
    node = split_dataset_by_node(worlds_dataset(0, config, 10, int(sys.argv[1])), rank, 2)
    seen.append([int(example["index"]) for example in DataLoader(node, batch_size=None, num_workers=2)])
print(json.dumps(seen))
"""


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
    command = [sys.executable, "-c", READ_WITH_WORKERS, str(num_worlds)]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=120, check=True)
    seen = json.loads(done.stdout)
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
