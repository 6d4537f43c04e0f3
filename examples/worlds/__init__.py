"""Moving-object worlds: a generator of small videos whose ground truth is known exactly.

In: a seed and an index. Out: frames, trajectory ids per pixel, attributes, captions, questions.

The rooms, in the order in which a world passes through them:
    world.py     what a world is: WorldConfig, World, WorldObject
    shapes.py    outlines as signed distance fields
    textures.py  colours, materials, backgrounds, photographs
    motion.py    camera paths and object paths
    render.py    pixels and trajectory ids (render_world)
    language.py  captions and questions
    distractors.py  captions that are wrong about a world
    dataset.py   the streaming Hugging Face data set (worlds_dataset)
"""

from .dataset import worlds_dataset
from .distractors import altered_caption, altered_names, altered_summaries, motion_distractors, summary_distractors
from .language import motions_caption, object_caption, questions_of, summary_caption
from .motion import CAMERA_MOTIONS, OBJECT_MOTIONS
from .render import render_world
from .shapes import SHAPES
from .textures import BACKGROUNDS, COLOURS, MATERIALS, PHOTOGRAPHS
from .world import DIFFICULTIES, World, WorldConfig, WorldObject

__all__ = [
    "BACKGROUNDS",
    "CAMERA_MOTIONS",
    "COLOURS",
    "DIFFICULTIES",
    "MATERIALS",
    "OBJECT_MOTIONS",
    "PHOTOGRAPHS",
    "SHAPES",
    "World",
    "WorldConfig",
    "WorldObject",
    "altered_caption",
    "altered_names",
    "altered_summaries",
    "motion_distractors",
    "motions_caption",
    "object_caption",
    "questions_of",
    "render_world",
    "summary_caption",
    "summary_distractors",
    "worlds_dataset",
]
