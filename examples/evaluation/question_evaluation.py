"""Judge a TrajVLM on the questions of worlds: the answer in words, compared with the true one.

In:   a model, its processor, clips of worlds (ClipRecord with their questions)
Out:  one dict of scores
To:   train_trajvlm.py, finetune_trajvlm_lora.py, question_run (what counts as the same answer)
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm
from trajectory_data import ClipRecord
from worlds import questions_of

from modeling_trajtok import TrajVLMForConditionalGeneration, TrajVLMProcessor

from .video_prompts import encode_video, generate_answers, video_prompts

MAX_ANSWER_TOKENS = 24


def normalised(answer: str) -> str:
    """What two answers have in common that count as the same: case, spaces and a final full stop do not matter."""
    return " ".join(answer.lower().split()).rstrip(" .")


def answer_questions(
    model: TrajVLMForConditionalGeneration,
    processor: TrajVLMProcessor,
    video: np.ndarray,
    questions: Sequence[str],
    max_new_tokens: int = MAX_ANSWER_TOKENS,
) -> list[str]:
    """Answer questions about one video, which is encoded once.

    Args:
        model: to ask.
        processor: of the model.
        video: (T, H_px, W_px, 3) frames, all of which are shown.
        questions: each asked on its own.
        max_new_tokens: of an answer.
    """
    encoded = encode_video(model, processor, video, do_sample_frames=False)
    return generate_answers(model, processor, video_prompts(processor, encoded, questions), max_new_tokens)


def evaluate_questions(
    model: TrajVLMForConditionalGeneration,
    processor: TrajVLMProcessor,
    clips: Sequence[ClipRecord],
    *,
    num_frames: int,
    extra_types: Sequence[str] = (),
) -> dict[str, float]:
    """Exact match of generated answers on clips of worlds, with questions of ``extra_types`` (see `questions_of`).

    Returns:
        exact_match: the mean over types of questions; exact_match/TYPE of each; majority/TYPE: that of the most
        frequent answer to questions of the type; questions and clips: how many there were.
    """
    was_training = model.training
    model.eval()
    scores = AnswerScores()
    for index in tqdm(range(len(clips)), desc="held-out clips", leave=False):
        clip = clips[index]
        questions = questions_of(clip.metadata, extra_types)
        if not questions:
            continue
        frames = clip.frames_uint8
        chosen = np.linspace(0, len(frames) - 1, num_frames).round().astype(int)
        scores.add(
            questions, answer_questions(model, processor, frames[chosen], [one["question"] for one in questions])
        )
    model.train(was_training)
    return {**scores.summary(), "clips": float(len(clips))}


class AnswerScores:
    """Counts right answers by type of question."""

    def __init__(self):
        self._right, self._truth = defaultdict(list), defaultdict(list)

    def add(self, questions: Sequence[dict], answers: Sequence[str]) -> None:
        """Count answers to questions with their ``type`` and true ``answer``."""
        for question, answer in zip(questions, answers, strict=True):
            self._right[question["type"]].append(normalised(answer) == normalised(question["answer"]))
            self._truth[question["type"]].append(question["answer"])

    def summary(self) -> dict[str, float]:
        """exact_match, exact_match/TYPE and majority/TYPE, see `evaluate_questions`; questions: how many."""
        right, truth = self._right, self._truth
        kinds = sorted(right)
        return {
            "exact_match": float(np.mean([np.mean(right[kind]) for kind in kinds])),
            **{f"exact_match/{kind}": float(np.mean(right[kind])) for kind in kinds},
            **{f"majority/{kind}": Counter(truth[kind]).most_common(1)[0][1] / len(truth[kind]) for kind in kinds},
            "questions": float(sum(map(len, right.values()))),
        }
