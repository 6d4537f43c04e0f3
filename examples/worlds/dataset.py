"""Worlds as a streaming Hugging Face data set; nothing is written to disk.

In:  seed, WorldConfig, a range of indices.
Out: datasets.IterableDataset of examples: frames, trajectory ids, attributes, captions, questions.
Split into shards, so that DataLoader workers and `datasets.distributed.split_dataset_by_node` divide the indices.
"""

from collections.abc import Iterator
from itertools import count, pairwise

from datasets import Array3D, Array4D, Features, IterableDataset, List, Value

from .render import render_world
from .world import WorldConfig

# Divisible by most numbers of processes, so that each gets whole shards and none renders worlds it would skip.
_SHARDS = 96


def worlds_dataset(
    seed: int, config: WorldConfig | None = None, start: int = 0, num_worlds: int | None = None
) -> IterableDataset:
    """A stream of the worlds `start`, `start + 1`, ...; every index is rendered by exactly one worker.

    Args:
        seed: Seed of the data set.
        config: Settings; None means `WorldConfig()`.
        start: First index. Give training and held-out data different seeds or disjoint ranges.
        num_worlds: How many worlds; None = an endless stream, in which each worker keeps to its own shard
            (every 96th index), so that no index comes twice.

    Returns:
        A stream with the columns of `World.to_record` and "frames" (T, H_px, W_px, 3) uint8 and "trajectory_ids"
        (T, H_px, W_px) int16, both numpy arrays. (`with_format("torch")` makes them int64 tensors.)

    Raises:
        ValueError: start is negative or num_worlds is not positive.
    """
    if start < 0 or (num_worlds is not None and num_worlds < 1):
        raise ValueError(f"expected start >= 0 and num_worlds >= 1 or None, got {start} and {num_worlds}.")
    config = config or WorldConfig()
    return IterableDataset.from_generator(
        _generate,
        features=_features(config),
        gen_kwargs={"seed": seed, "config": config, "shards": _shards(start, num_worlds)},
    )


def _shards(start: int, num_worlds: int | None) -> list[tuple[int, int | None, int]]:
    """Shards as (first, stop, step): neighbouring indices when finite, every 96th index when endless."""
    if num_worlds is None:
        return [(start + shard, None, _SHARDS) for shard in range(_SHARDS)]
    number = min(_SHARDS, num_worlds)
    borders = [start + num_worlds * shard // number for shard in range(number + 1)]
    return [(first, stop, 1) for first, stop in pairwise(borders)]


def _generate(seed: int, config: WorldConfig, shards: list[tuple[int, int | None, int]]) -> Iterator[dict]:
    for first, stop, step in shards:
        for index in count(first, step) if stop is None else range(first, stop, step):
            world = render_world(seed, index, config)
            record = world.to_record()
            del record["config"]
            yield {**record, "frames": world.frames_uint8, "trajectory_ids": world.trajectory_ids}


def _features(config: WorldConfig) -> Features:
    frames, height, width = config.num_frames, config.height, config.width
    text, number, share = Value("string"), Value("int64"), Value("float64")
    return Features(
        {
            "seed": number,
            "index": number,
            "frames": Array4D(shape=(frames, height, width, 3), dtype="uint8"),
            "trajectory_ids": Array3D(shape=(frames, height, width), dtype="int16"),
            "camera": text,
            "camera_path": List(List(share)),
            "background": text,
            "objects": List(
                {
                    "id": number,
                    "shape": text,
                    "colour": text,
                    "material": text,
                    "size": share,
                    "motion": text,
                    "second_motion": text,
                    "start_frame": number,
                    "enters_frame": Value("bool"),
                    "leaves_frame": Value("bool"),
                    "visible_fraction": List(share),
                    "occluded_by": List(number),
                    "centres": List(List(share)),
                }
            ),
            "events": List({"frame": number, "object_id": number, "event": text}),
            "captions": List(text),
            "questions": List({"type": text, "question": text, "answer": text, "choices": List(text)}),
        }
    )
