"""What can be said and asked about a world.

In:  its objects, its camera, its events.
Out: captions (sentences) and questions with multiple-choice answers.
Every statement follows from ground truth; a question is only asked when exactly one of its choices is right.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from .motion import DIRECTIONS, OBJECT_MOTIONS, TRANSLATIONS
from .shapes import SHAPES
from .textures import COLOURS
from .world import WorldObject

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_BACKGROUND_PHRASES = {
    "gradient": "a smooth gradient",
    "clouds": "a cloudy texture",
    "stripes": "a striped background",
    "checkerboard": "a checkerboard",
    "mosaic": "a mosaic",
    "photograph": "a photograph",
}
_ORIGINS = {"moves left": "the right", "moves right": "the left", "moves up": "below", "moves down": "above"}
_LIKENESSES = {
    "red": "a tomato",
    "orange": "a carrot",
    "yellow": "a lemon",
    "green": "grass",
    "cyan": "a lagoon",
    "blue": "the sky",
    "purple": "a plum",
    "pink": "a flamingo",
    "white": "snow",
    "black": "coal",
}
_QUARTERS = ("top left", "top right", "bottom left", "bottom right")
_CLEARLY_OFF_CENTRE = 0.06  # of the picture's side: nearer to a midline, nobody is asked on which side of it
_SECOND_PHRASES = {
    "spins clockwise": "spinning clockwise",
    "spins counter-clockwise": "spinning counter-clockwise",
    "grows": "growing",
    "shrinks": "shrinking",
}


def describe_events(objects: list[WorldObject]) -> list[dict]:
    """Entering, leaving and late starts in order of time: {"frame", "object_id", "event"}.

    The frame of "enters" is the first in which the object is seen, that of "leaves" the first in which it is gone.
    """
    events = []
    for one in objects:
        seen = np.flatnonzero(one.visible_fraction)
        if one.enters_frame:
            events.append({"frame": int(seen[0]), "object_id": one.id, "event": "enters"})
        elif one.start_frame is not None and one.start_frame > max(1, len(one.visible_fraction) / 5):
            events.append({"frame": one.start_frame, "object_id": one.id, "event": "starts to move"})
        if one.leaves_frame:
            events.append({"frame": int(seen[-1]) + 1, "object_id": one.id, "event": "leaves"})
    return sorted(events, key=lambda event: (event["frame"], event["object_id"]))


def make_captions(objects: list[WorldObject], camera: str, background: str, events: list[dict]) -> list[str]:
    """Captions of growing length; the last names every object with its material and motion."""
    if not objects:
        return [f"An empty scene over {_BACKGROUND_PHRASES[background]}."]
    count = _count_phrase(len(objects))
    names = _join([_with_article(one.name) for one in objects])
    full = _join([f"{_with_article(f'{one.material} {one.name}')} {_motion_phrase(one)}" for one in objects])
    largest = largest_object(objects)
    camera_sentence = "The camera is static." if camera == "static" else f"The camera {camera}."
    captions = [
        f"{_capital(_with_article(largest.name))} {_motion_phrase(largest)}.",
        f"{_capital(count)} over {_BACKGROUND_PHRASES[background]}.",
        f"{_capital(count)}: {names}.",
        motions_caption(objects),
    ]
    by_id = {one.id: one for one in objects}
    if events:
        happened = _join([f"the {by_id[event['object_id']].name} {event['event']}" for event in events], ", then ")
        captions.append(f"{_capital(happened)}.")
    captions.append(f"{_capital(count)} over {_BACKGROUND_PHRASES[background]}: {full}. {camera_sentence}")
    return captions


def motions_caption(objects: Sequence[WorldObject]) -> str:
    """Every object and what it does."""
    return f"{_capital(_join([object_caption(one) for one in objects]))}."


def object_caption(one: WorldObject) -> str:
    """One object and what it does, no sentence: "a red star moves left while spinning clockwise"."""
    return f"{_with_article(one.name)} {_motion_phrase(one)}"


def summary_caption(
    objects: Sequence[WorldObject],
    *,
    count: int | None = None,
    colour: str | None = None,
    shape: str | None = None,
    motion: str | None = None,
) -> str:
    """How many objects there are, what the largest is and does ("Three objects: the largest, a red star, grows.").

    Args:
        objects: Of one world, at least one.
        count: Instead of the true number of objects.
        colour: Instead of the largest one's.
        shape: Instead of the largest one's.
        motion: Instead of the largest one's main motion.
    """
    largest = largest_object(objects)
    name = f"{colour or largest.colour} {shape or largest.shape}"
    number = _count_phrase(len(objects) if count is None else count)
    return f"{_capital(number)}: the largest, {_with_article(name)}, {motion or largest.motion}."


def largest_object(objects: Sequence[WorldObject]) -> WorldObject:
    """The object that the summary names."""
    return max(objects, key=lambda one: one.size * max(one.visible_fraction))


def _count_phrase(count: int) -> str:
    return f"{_number(count)} object{'s' if count != 1 else ''}"


def make_questions(
    rng: np.random.Generator, objects: list[WorldObject], events: list[dict], num_frames: int
) -> list[dict]:
    """Questions of type count, colour, shape, direction, order_of_events and occlusion, as far as the world allows."""
    questions = _count_questions(rng, objects)
    shapes, colours = [one.shape for one in objects], [one.colour for one in objects]
    for one in objects:
        if shapes.count(one.shape) == 1:
            choices = _choices(rng, one.colour, COLOURS)
            questions.append(_question("colour", f"What colour is the {one.shape}?", one.colour, choices))
        if colours.count(one.colour) == 1:
            choices = _choices(rng, one.shape, SHAPES)
            questions.append(_question("shape", f"What shape is the {one.colour} object?", one.shape, choices))
        if one.motion in TRANSLATIONS:
            direction = one.motion.removeprefix("moves ")
            asked = f"In which direction does the {one.name} move?"
            questions.append(_question("direction", asked, direction, list(DIRECTIONS)))
    questions += _order_questions(rng, objects, events, gap=max(1, num_frames // 4))
    return questions + _occlusion_questions(rng, objects)


def _count_questions(rng, objects) -> list[dict]:
    direction = list(DIRECTIONS)[rng.integers(4)]
    moving = sum(one.motion == f"moves {direction}" for one in objects)
    questions = []
    asked = {"How many different objects are seen?": len(objects), f"How many objects move {direction}?": moving}
    for question, count in asked.items():
        lowest = max(0, count - int(rng.integers(4)))
        choices = [str(number) for number in range(lowest, lowest + 4)]
        questions.append(_question("count", question, str(count), choices))
    return questions


def _order_questions(rng, objects, events, gap: int) -> list[dict]:
    """Ask which of two events of different objects came first when at least `gap` frames lie between them."""
    names = {one.id: one.name for one in objects}
    questions = []
    for position, first in enumerate(events):
        for second in events[position + 1 :]:
            if first["object_id"] == second["object_id"] or second["frame"] - first["frame"] < gap:
                continue
            choices = [f"the {names[event['object_id']]} {event['event']}" for event in (first, second)]
            answer = choices[0]
            if rng.random() < 0.5:
                choices.reverse()
            asked = f"What happens first: {choices[0]}, or {choices[1]}?"
            questions.append(_question("order_of_events", asked, answer, choices))
    return questions


def _occlusion_questions(rng, objects) -> list[dict]:
    names = {one.id: one.name for one in objects}
    questions = []
    for one in objects:
        clear = all(share > 0.97 or share == 0 for share in one.visible_fraction)
        if one.occluded_by or clear:
            asked = f"Is the {one.name} partly hidden by another object at some time?"
            questions.append(_question("occlusion", asked, "yes" if one.occluded_by else "no", ["yes", "no"]))
        behind = [f"the {name}" for number, name in names.items() if number > one.id]
        if len(one.occluded_by) == 1 and behind:
            answer = f"the {names[one.occluded_by[0]]}"
            choices = _choices(rng, answer, behind)
            questions.append(_question("occlusion", f"What hides a part of the {one.name}?", answer, choices))
    return questions


def questions_of(record: dict, extra_types: Sequence[str] = ()) -> list[dict]:
    """The questions in what is known of a clip (`World.to_record`), if any, and those of further types.

    Args:
        record: of a world, or of any clip.
        extra_types: "motion" asks what each object does, in the words of captions; "place" in which quarter of the
            picture each is in the first and in the last frame, where that is clear; "origin" from which side those
            that move come; "likeness" what else has their colour, in words that captions do not use.

    Raises:
        ValueError: for another type.
    """
    unknown = set(extra_types) - set(_EXTRA_QUESTIONS)
    if unknown:
        raise ValueError(
            f"There are no questions of type {', '.join(sorted(unknown))}, expected {', '.join(_EXTRA_QUESTIONS)}."
        )
    objects = [WorldObject(**one) for one in record.get("objects", [])]
    rng = np.random.default_rng([record.get("seed", 0), record.get("index", 0)])
    questions = list(record.get("questions", []))
    for kind in extra_types:
        pairs_of, answers = _EXTRA_QUESTIONS[kind]
        questions += [_question(kind, asked, one, _choices(rng, one, answers)) for asked, one in pairs_of(objects)]
    return questions


def _motion_questions(objects: Sequence[WorldObject]) -> Iterator[tuple[str, str]]:
    for one in objects:
        yield f"What does the {one.name} do?", one.motion


def _place_questions(objects: Sequence[WorldObject]) -> Iterator[tuple[str, str]]:
    for one in (one for one in objects if one.centres):
        for frame, when in ((0, "at first"), (-1, "at last")):
            x, y = one.centres[frame]
            if one.visible_fraction[frame] < 0.5 or min(abs(x - 0.5), abs(y - 0.5)) < _CLEARLY_OFF_CENTRE:
                continue
            answer = f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"
            yield f"Where is the {one.name} {when}?", answer


def _origin_questions(objects: Sequence[WorldObject]) -> Iterator[tuple[str, str]]:
    for one in objects:
        if one.motion in _ORIGINS:
            yield f"From which side does the {one.name} come?", _ORIGINS[one.motion]


def _likeness_questions(objects: Sequence[WorldObject]) -> Iterator[tuple[str, str]]:
    shapes = [one.shape for one in objects]
    for one in objects:
        if shapes.count(one.shape) == 1:
            yield f"What has the colour of the {one.shape}?", _LIKENESSES[one.colour]


# Of each further type: its questions and their answers, and all answers there are.
_EXTRA_QUESTIONS = {
    "motion": (_motion_questions, OBJECT_MOTIONS),
    "place": (_place_questions, _QUARTERS),
    "origin": (_origin_questions, tuple(_ORIGINS.values())),
    "likeness": (_likeness_questions, tuple(_LIKENESSES.values())),
}


def _question(kind: str, question: str, answer: str, choices: list[str]) -> dict:
    return {"type": kind, "question": question, "answer": answer, "choices": choices}


def _choices(rng: np.random.Generator, answer: str, wrong, count: int = 4) -> list[str]:
    """The answer among up to `count - 1` wrong ones, shuffled."""
    wrong = [other for other in wrong if other != answer]
    picked = [wrong[position] for position in rng.permutation(len(wrong))[: count - 1]]
    choices = [answer, *picked]
    return [choices[position] for position in rng.permutation(len(choices))]


def _motion_phrase(one: WorldObject) -> str:
    phrase = one.motion
    if one.second_motion:
        phrase += f" while {_SECOND_PHRASES[one.second_motion]}"
    if one.enters_frame and one.leaves_frame:
        return f"{phrase}, entering and leaving the picture"
    if one.enters_frame:
        return f"{phrase}, entering the picture"
    if one.leaves_frame:
        return f"{phrase}, leaving the picture"
    return phrase


def _join(parts: list[str], separator: str | None = None) -> str:
    if separator is not None or len(parts) < 2:
        return (separator or "").join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _number(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
