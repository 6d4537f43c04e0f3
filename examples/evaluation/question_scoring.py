"""How questions about videos are put to a model, what its reply says, and what that is worth.

In:   VideoQuestion; replies of a model
Out:  prompts, chosen answers, scores over all questions and for each category
To:   question_run, evaluate_videoqa.py
"""

import re
from collections.abc import Sequence

from .question_evaluation import normalised
from .question_files import LETTERS, VideoQuestion

# What is compared: the letters of the choices, which the prompt lists, or their words.
ANSWERS = ("letters", "text")


def prompt_text(question: VideoQuestion, answers: str) -> str:
    """What the user says: the question; with letters as answers, its choices in lines "A. ..." and what to do."""
    if not question.choices or answers == "text":
        return question.question
    listed = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False)]
    return "\n".join((question.question, *listed, "Answer with the letter of the right choice."))


def possible_answers(question: VideoQuestion, answers: str) -> tuple[str, ...]:
    """The answers whose likelihoods are compared."""
    return tuple(LETTERS[: len(question.choices)]) if answers == "letters" else question.choices


def chosen_letter(reply: str, choices: Sequence[str]) -> int | None:
    """Which choice a generated reply means; None if it does not say so.

    The first rule that finds one counts:

    1. the reply is a letter, whatever marks are around it: "B", "b.", "(B)", "**B**";
    2. it begins with a capital letter and a mark after it: "B. the dog", "(B) the dog", "B: the dog";
    3. it is the words of a choice, as `normalised` compares them: "the dog";
    4. it names one capital letter, and no other, in brackets or after "answer", "option" or "choice": "The answer is
       B", "It must be (B), because ...". An "A" before a word is an article and counts as nothing.

    Letters beyond the choices are no letters.
    """
    letters = LETTERS[: len(choices)]
    bare = re.sub(r"[\W_]", "", reply).upper()
    if len(bare) == 1 and bare in letters:
        return letters.index(bare)
    start = re.match(rf"[\W_]*([{letters}])[\s*_]*[.:)\]]", reply)
    if start:
        return letters.index(start[1])
    same = chosen_text(reply, choices)
    if same is not None:
        return same
    named = re.findall(
        rf"\(([{letters}])\)|\b(?i:answer|option|choice)\b(?:\s+(?i:is))?\s*:?[\s*_\"'(]*([{letters}])\b(?!(?<=A)\s+[a-z])",
        reply,
    )
    found = {first or second for first, second in named}
    return letters.index(found.pop()) if len(found) == 1 else None


def chosen_text(reply: str, choices: Sequence[str]) -> int | None:
    """Which choice a reply repeats, as `normalised` compares them; None if none, or if several read the same."""
    same = [number for number, choice in enumerate(choices) if normalised(choice) == normalised(reply)]
    return same[0] if len(same) == 1 else None


def is_right(question: VideoQuestion, prediction: int | str | None) -> bool:
    """Whether a prediction, the number of a choice or words, is the answer."""
    if isinstance(question.answer, str) and isinstance(prediction, str):
        return normalised(prediction) == normalised(question.answer)
    return prediction == question.answer


def question_scores(questions: Sequence[VideoQuestion], predictions: Sequence[int | str | None]) -> dict:
    """Scores of predictions.

    Args:
        questions: at least one.
        predictions: of each, the number of a choice or words; None = the reply could not be read, which is wrong.

    Returns:
        accuracy, chance (None with an open-ended question), unparsable (shares) and questions (a number), and the
        same under per_category, sorted, for each category; a question counts in all of its categories.
    """
    rows = list(zip(questions, predictions, strict=True))
    names = sorted({name for question in questions for name in question.categories})
    return {
        **_shares(rows),
        "per_category": {
            name: _shares([(question, found) for question, found in rows if name in question.categories])
            for name in names
        },
    }


def _shares(rows: Sequence[tuple[VideoQuestion, int | str | None]]) -> dict:
    chances = [1 / len(question.choices) if question.choices else None for question, _ in rows]
    return {
        "questions": len(rows),
        "accuracy": sum(is_right(question, found) for question, found in rows) / len(rows),
        "chance": None if None in chances else sum(chances) / len(rows),
        "unparsable": sum(found is None for _, found in rows) / len(rows),
    }
