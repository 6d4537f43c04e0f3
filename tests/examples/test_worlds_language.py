"""Captions and answers follow from the ground truth."""

import json
import re

import numpy as np
import pytest
from worlds import OBJECT_MOTIONS, WorldConfig, questions_of, render_world
from worlds.distractors import altered_names, altered_summaries
from worlds.language import describe_events, largest_object, make_questions
from worlds.world import WorldObject

QUARTERS = ("top left", "top right", "bottom left", "bottom right")
TYPES = {"count", "colour", "shape", "direction", "order_of_events", "occlusion"}


@pytest.fixture(scope="module")
def worlds():
    return [render_world(21, index) for index in range(40)]


def _object(number, colour, shape, visible, **changes):
    values = {
        "id": number,
        "shape": shape,
        "colour": colour,
        "material": "plain",
        "size": 0.3,
        "motion": "moves left",
        "second_motion": "",
        "start_frame": 1,
        "enters_frame": visible[0] == 0,
        "leaves_frame": visible[-1] == 0,
        "visible_fraction": visible,
        "occluded_by": [],
    }
    return WorldObject(**{**values, **changes})


def test_every_type_is_asked_and_every_answer_is_a_choice(worlds):
    questions = [question for world in worlds for question in world.questions]
    assert {question["type"] for question in questions} == TYPES
    for question in questions:
        assert question["choices"].count(question["answer"]) == 1
        assert len(set(question["choices"])) == len(question["choices"]) >= 2


def test_answers_do_not_sit_at_one_place(worlds):
    for kind in TYPES:
        places = {q["choices"].index(q["answer"]) for world in worlds for q in world.questions if q["type"] == kind}
        assert len(places) >= 2, kind


def test_count_answers_agree_with_the_ids(worlds):
    for world in worlds:
        answers = {question["question"]: question["answer"] for question in world.questions}
        number = len(np.unique(world.trajectory_ids[world.trajectory_ids > 0]))
        assert answers["How many different objects are seen?"] == str(number)


def test_attribute_answers_name_the_only_such_object(worlds):
    for world in worlds:
        for question in world.questions:
            if question["type"] == "colour":
                shape = question["question"].removeprefix("What colour is the ").removesuffix("?")
                assert [one.colour for one in world.objects if one.shape == shape] == [question["answer"]]
            if question["type"] == "shape":
                colour = question["question"].split()[4]
                assert [one.shape for one in world.objects if one.colour == colour] == [question["answer"]]
            if question["type"] == "direction":
                name = question["question"].removeprefix("In which direction does the ").removesuffix(" move?")
                assert [one.motion for one in world.objects if one.name == name] == [f"moves {question['answer']}"]


def test_order_of_events():
    objects = [
        _object(1, "red", "star", [0, 0, 0, 0, 0, 1, 1, 1]),
        _object(2, "blue", "ring", [1, 1, 0.5, 0, 0, 0, 0, 0]),
        _object(3, "green", "cross", [1] * 8, motion="stays still", start_frame=None),
    ]
    events = describe_events(objects)
    assert [(event["frame"], event["object_id"], event["event"]) for event in events] == [
        (3, 2, "leaves"),
        (5, 1, "enters"),
    ]
    asked = make_questions(np.random.default_rng(0), objects, events, num_frames=8)
    answers = [question["answer"] for question in asked if question["type"] == "order_of_events"]
    assert answers == ["the blue ring leaves"]


def test_events_too_close_in_time_are_not_compared():
    objects = [_object(1, "red", "star", [0] + [1] * 7), _object(2, "blue", "ring", [0, 0] + [1] * 6)]
    asked = make_questions(np.random.default_rng(0), objects, describe_events(objects), num_frames=8)
    assert not [question for question in asked if question["type"] == "order_of_events"]


def test_occlusion_answers():
    objects = [
        _object(1, "red", "star", [1.0] * 8),
        _object(2, "blue", "ring", [1.0, 0.4, 0.4, 1.0, 1.0, 1.0, 1.0, 1.0], occluded_by=[1]),
        _object(3, "green", "cross", [1.0] * 8),
    ]
    asked = [q for q in make_questions(np.random.default_rng(0), objects, [], 8) if q["type"] == "occlusion"]
    answers = {question["question"]: question["answer"] for question in asked}
    assert answers == {
        "Is the red star partly hidden by another object at some time?": "no",
        "Is the blue ring partly hidden by another object at some time?": "yes",
        "Is the green cross partly hidden by another object at some time?": "no",
        "What hides a part of the blue ring?": "the red star",
    }


def test_captions_grow_and_the_last_names_everything(worlds):
    for world in worlds:
        assert len(world.captions) >= 5
        for one in world.objects:
            assert f"{one.material} {one.name} {one.motion}" in world.captions[-1]
        assert world.camera in world.captions[-1]
        assert all(caption[0].isupper() and caption.endswith(".") for caption in world.captions)


def test_record_survives_json():
    record = render_world(0, 4, WorldConfig(num_frames=4)).to_record()
    assert json.loads(json.dumps(record)) == record
    assert record["config"]["num_frames"] == 4


def test_each_false_summary_is_wrong_in_one_thing(worlds):
    for world in worlds:
        texts = altered_summaries(np.random.default_rng(0), world.objects, 4)
        assert len(set(texts)) == 4
        largest = largest_object(world.objects)
        unchanged = [
            (largest.colour in text, f" {largest.shape}," in text, text.endswith(f", {largest.motion}."))
            for text in texts
        ]
        assert sorted(sum(known) for known in unchanged) == [2, 2, 2, 3], texts  # of the fourth, the number


def test_false_names_are_wrong_in_one_thing(worlds):
    for one in (one for world in worlds for one in world.objects):
        shape, motion, colour = altered_names(np.random.default_rng(0), one, 3, with_motion=True)
        assert f" {one.colour} " in shape and f" {one.shape} " not in shape and one.motion in shape
        assert f" {one.name} " in motion and f" {one.motion}" not in motion
        assert f" {one.shape} " in colour and f" {one.colour} " not in colour and one.motion in colour
        assert altered_names(np.random.default_rng(0), one, 1, with_motion=False)[0].split()[0] == one.colour


def test_motions_are_asked_only_on_request(worlds):
    asked, places = 0, {}
    for world in worlds:
        record = json.loads(json.dumps(world.to_record()))
        assert questions_of(record) == record["questions"]
        further = questions_of(record, ["motion"])[len(world.questions) :]
        for one, question in zip(world.objects, further, strict=True):
            assert question["type"] == "motion" and question["question"] == f"What does the {one.name} do?"
            assert question["answer"] == one.motion
            assert len(set(question["choices"])) == 4 and set(question["choices"]) <= set(OBJECT_MOTIONS)
            places.setdefault(len(world.objects), []).append(question["choices"].index(question["answer"]))
            asked += 1
    assert asked > 100
    assert all(set(own) == {0, 1, 2, 3} for own in places.values() if len(own) > 20)  # nobody can guess the place
    assert questions_of({"messages": []}, ["motion"]) == []
    with pytest.raises(ValueError, match="no questions of type size, expected motion, place, origin, likeness"):
        questions_of({}, ["size"])


def test_where_objects_come_from_is_opposite_to_where_they_move(worlds):
    opposite = {"left": "the right", "right": "the left", "up": "below", "down": "above"}
    asked = 0
    for world in worlds:
        directions = [one["answer"] for one in world.questions if one["type"] == "direction"]
        origins = questions_of(json.loads(json.dumps(world.to_record())), ["origin"])[len(world.questions) :]
        assert [one["answer"] for one in origins] == [opposite[direction] for direction in directions]
        assert all(set(one["choices"]) == set(opposite.values()) for one in origins)
        asked += len(origins)
    assert asked > 30


def test_likenesses_are_asked_like_colours(worlds):
    things = {}
    for world in worlds:
        colours = [one for one in world.questions if one["type"] == "colour"]
        asked = questions_of(json.loads(json.dumps(world.to_record())), ["likeness"])[len(world.questions) :]
        for known, new in zip(colours, asked, strict=True):
            assert new["question"].rpartition(" ")[2] == known["question"].rpartition(" ")[2]
            assert new["answer"] in new["choices"] and len(set(new["choices"])) == 4
            things.setdefault(known["answer"], set()).add(new["answer"])
    assert len(things) == 10 and all(len(own) == 1 for own in things.values())
    assert len(set.union(*things.values())) == 10


def test_places_are_those_of_the_masks(worlds):
    answers = []
    for world in worlds:
        record = json.loads(json.dumps(world.to_record()))
        names = {one.name: one.id for one in world.objects}
        for question in questions_of(record, ["place"])[len(world.questions) :]:
            assert question["type"] == "place" and set(question["choices"]) == set(QUARTERS)
            name, when = re.fullmatch("Where is the (.+) (at first|at last)\\?", question["question"]).groups()
            frame = 0 if when == "at first" else -1
            rows, columns = np.nonzero(world.trajectory_ids[frame] == names[name])
            if world.objects[names[name] - 1].visible_fraction[frame] < 0.97:
                continue  # what is hidden or outside moves the centre of the rest
            height, width = world.trajectory_ids.shape[1:]
            vertical = "top" if rows.mean() < height / 2 else "bottom"
            assert question["answer"] == f"{vertical} {'left' if columns.mean() < width / 2 else 'right'}"
            answers.append(question["answer"])
    assert min(answers.count(quarter) for quarter in QUARTERS) > 10
    both = questions_of(record, ["place", "motion"])[len(world.questions) :]
    assert [one["type"] for one in both] == sorted([one["type"] for one in both], reverse=True)
    for one in record["objects"]:
        del one["centres"]
    assert questions_of(record, ["place"]) == record["questions"]
