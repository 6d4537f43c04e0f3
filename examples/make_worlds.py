"""Render moving-object worlds to files: videos with exact ground truth, to train on or to look at.

What you will see: a progress bar, then a folder with a video and its masks per world. Run it again to continue where
it was stopped.

    python examples/make_worlds.py --out data/worlds --num-worlds 100 --seed 0

Needs: ``pip install -e ".[train]"``, nothing to download. About 20 worlds (8 frames at 128 px) per second on one core.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from storage import folder_lock, one_line, remove_parts
from tqdm import tqdm
from trajectory_data import ClipRecord, write_clip
from trajectory_data.clip_dataset import WRITABLE_LAYOUTS
from trajectory_data.clip_files import read_json, write_json
from worlds import DIFFICULTIES, WorldConfig, render_world


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--num-worlds", type=int, required=True, help="worlds 0 to this number are rendered")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data set")
    parser.add_argument("--layout", choices=WRITABLE_LAYOUTS, default="worlds", help="how the files are laid out")
    parser.add_argument("--difficulty", choices=DIFFICULTIES, default="default")
    parser.add_argument("--num-frames", type=int, default=8, help="frames per world")
    parser.add_argument("--size", type=int, default=128, help="height and width in pixels, even")
    settings = parser.parse_args(arguments)
    try:
        with folder_lock(settings.out):
            remove_parts(settings.out)
            render(settings)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {one_line(error)}\n")
        return 1
    return 0


def render(settings: argparse.Namespace) -> None:
    """Render the worlds that are not there.

    Raises:
        ValueError: the folder holds worlds of other settings.
        OSError: the disk is full.
    """
    config = WorldConfig.named(
        settings.difficulty, num_frames=settings.num_frames, height=settings.size, width=settings.size
    )
    chosen = {key: value for key, value in vars(settings).items() if key not in {"out", "num_worlds"}}
    settings_path = settings.out / "make_worlds.json"
    if settings_path.is_file() and read_json(settings_path, "the settings") != chosen:
        raise ValueError(
            f"{settings.out} holds worlds of other settings, see {settings_path}. Choose another folder for {chosen}."
        )
    write_json(settings_path, chosen)

    for index in tqdm(range(settings.num_worlds), desc=f"worlds into {settings.out}", unit="world"):
        name = f"world_{settings.seed}_{index:06d}"
        if (settings.out / f"{name}.mp4").exists():  # the video is written last
            continue
        world = render_world(settings.seed, index, config)
        times_s = np.arange(len(world.frames_uint8)) / config.fps
        record = ClipRecord(name, world.frames_uint8, world.trajectory_ids, times_s, world.to_record())
        write_clip(record, settings.out, settings.layout)


if __name__ == "__main__":
    sys.exit(main())
