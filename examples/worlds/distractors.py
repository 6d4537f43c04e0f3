"""Captions that are wrong about a world: the true caption with one thing changed.

In:  a world's objects.
Out: sentences in the grammar of `language.make_captions`, each false for the world.
To: contrastive training, zero-shot evaluation.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .language import largest_object, motions_caption, object_caption, summary_caption
from .motion import OBJECT_MOTIONS
from .shapes import SHAPES
from .textures import COLOURS
from .world import WorldObject

ATTRIBUTES = ("count", "colour", "shape", "motion")
VALUES = {"colour": tuple(COLOURS), "shape": tuple(SHAPES), "motion": OBJECT_MOTIONS}


def summary_distractors(rng: np.random.Generator, objects: Sequence[WorldObject], count: int) -> list[str]:
    """Distinct false versions of `language.summary_caption`, wrong in one to four of `ATTRIBUTES`."""
    true, found = summary_caption(objects), []
    while len(found) < count:
        wrong = [name for name in ATTRIBUTES if rng.random() < 0.5]
        caption = summary_caption(objects, **{name: _other(rng, objects, name) for name in wrong})
        if caption != true and caption not in found:
            found.append(caption)
    return found


def altered_summaries(
    rng: np.random.Generator, objects: Sequence[WorldObject], count: int, names: Sequence[str] = ATTRIBUTES
) -> list[str]:
    """``count`` false versions of `language.summary_caption`, each wrong in one attribute of ``names``, in turn."""
    found, start = [], int(rng.integers(len(names)))
    largest = largest_object(objects)
    true = {"count": len(objects), **{name: getattr(largest, name) for name in VALUES}}
    for position in range(count):
        name = names[(start + position) % len(names)]
        wrong = _other(rng, objects, name)
        while wrong == true[name]:
            wrong = _other(rng, objects, name)
        found.append(summary_caption(objects, **{name: wrong}))
    return found


def altered_names(rng: np.random.Generator, one: WorldObject, count: int, with_motion: bool) -> list[str]:
    """``count`` texts that are false of an object: another shape, colour or (``with_motion``) motion, in turn.

    The true text would be `language.object_caption`, or without the motion the object's name.
    """
    names = ("shape", "motion", "colour") if with_motion else ("shape", "colour")
    texts = []
    for position in range(count):
        name = names[position % len(names)]
        wrong = replace(
            one, **{name: str(rng.choice([value for value in VALUES[name] if value != getattr(one, name)]))}
        )
        texts.append(object_caption(wrong) if with_motion else wrong.name)
    return texts


def motion_distractors(rng: np.random.Generator, objects: Sequence[WorldObject], count: int) -> list[str]:
    """Distinct captions of the same objects, every one of which moves otherwise than it does."""
    found = []
    while len(found) < count:
        caption = motions_caption([_moving_otherwise(rng, one) for one in objects])
        if caption not in found:
            found.append(caption)
    return found


def altered_caption(rng: np.random.Generator, objects: Sequence[WorldObject]) -> str:
    """`language.motions_caption` with another colour, shape or motion of one object, or without one."""
    objects = list(objects)
    position = int(rng.integers(len(objects)))
    kind = ATTRIBUTES[rng.integers(len(ATTRIBUTES))]
    if kind == "count" and len(objects) > 1:
        del objects[position]
    elif kind == "motion" or kind == "count":
        objects[position] = _moving_otherwise(rng, objects[position])
    else:
        taken = {one.name for one in objects}
        changed = objects[position]
        while changed.name in taken:
            changed = replace(objects[position], **{kind: str(rng.choice(VALUES[kind]))})
        objects[position] = changed
    return motions_caption(objects)


def _moving_otherwise(rng: np.random.Generator, one: WorldObject) -> WorldObject:
    others = [motion for motion in OBJECT_MOTIONS if motion not in (one.motion, one.second_motion)]
    return replace(one, motion=str(rng.choice(others)), second_motion="", enters_frame=False, leaves_frame=False)


def _other(rng: np.random.Generator, objects: Sequence[WorldObject], name: str):
    if name == "count":
        return int(rng.choice([number for number in range(1, 7) if number != len(objects)]))
    return str(rng.choice(VALUES[name]))
