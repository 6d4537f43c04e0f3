"""Judge a TrajVLM on the questions of worlds: the answer in words, compared with the true one.

In:   a model, its processor, clips of worlds (ClipRecord with their questions)
Out:  one dict of scores
To:   train_trajvlm.py, finetune_trajvlm_lora.py
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm
from trajectory_data import ClipRecord

from modeling_trajtok import TrajVLMFeatures, TrajVLMForConditionalGeneration, TrajVLMProcessor

MAX_ANSWER_TOKENS = 24


def normalised(answer: str) -> str:
    """What two answers have in common that count as the same: case, spaces and a final full stop do not matter."""
    return " ".join(answer.lower().split()).rstrip(" .")


@torch.no_grad()
def encode_video(
    model: TrajVLMForConditionalGeneration, processor: TrajVLMProcessor, video: np.ndarray
) -> TrajVLMFeatures:
    """What the model sees in frames (T, H_px, W_px, 3), all of which are shown; for `answer_questions`."""
    inputs = processor.video_processor([video], do_sample_frames=False, return_tensors="pt").to(model.device)
    return model.get_video_features(inputs["pixel_values_videos"], inputs["frame_valid"])


@torch.no_grad()
def answer_questions(
    model: TrajVLMForConditionalGeneration,
    processor: TrajVLMProcessor,
    video: np.ndarray,
    questions: Sequence[str],
    max_new_tokens: int = MAX_ANSWER_TOKENS,
    features: TrajVLMFeatures | None = None,
) -> list[str]:
    """Answer questions about one video, which is encoded once.

    Args:
        model: to ask.
        processor: of the model.
        video: (T, H_px, W_px, 3) frames, all of which are shown.
        questions: each asked on its own.
        max_new_tokens: of an answer.
        features: of the video, if `encode_video` has made them before.
    """
    conversations = [
        [{"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": question}]}]
        for question in questions
    ]
    inputs = processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"do_sample_frames": False},
    ).to(model.device)
    pixels, valid = inputs.pop("pixel_values_videos"), inputs.pop("frame_valid")
    if features is None:
        features = model.get_video_features(pixels[:1], valid[:1])
    shown = TrajVLMFeatures(pooler_output=features.pooler_output * len(questions))  # the one video for each question
    answers = model.generate(
        **inputs, mm_encoder_outputs={"video": shown}, max_new_tokens=max_new_tokens, do_sample=False
    )
    return processor.batch_decode(answers[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def evaluate_questions(
    model: TrajVLMForConditionalGeneration,
    processor: TrajVLMProcessor,
    clips: Sequence[ClipRecord],
    *,
    num_frames: int,
) -> dict[str, float]:
    """Exact match of generated answers on clips of worlds.

    Returns:
        exact_match: the mean over types of questions; exact_match/TYPE of each; majority/TYPE: that of the most
        frequent answer to questions of the type; questions and clips: how many there were.
    """
    was_training = model.training
    model.eval()
    right, truth = defaultdict(list), defaultdict(list)
    for index in tqdm(range(len(clips)), desc="held-out clips", leave=False):
        clip = clips[index]
        questions = clip.metadata["questions"]
        if not questions:
            continue
        frames = clip.frames_uint8
        chosen = np.linspace(0, len(frames) - 1, num_frames).round().astype(int)
        answers = answer_questions(model, processor, frames[chosen], [one["question"] for one in questions])
        for question, answer in zip(questions, answers, strict=True):
            right[question["type"]].append(normalised(answer) == normalised(question["answer"]))
            truth[question["type"]].append(question["answer"])
    model.train(was_training)
    kinds = sorted(right)
    return {
        "exact_match": float(np.mean([np.mean(right[kind]) for kind in kinds])),
        **{f"exact_match/{kind}": float(np.mean(right[kind])) for kind in kinds},
        **{f"majority/{kind}": Counter(truth[kind]).most_common(1)[0][1] / len(truth[kind]) for kind in kinds},
        "questions": float(sum(map(len, right.values()))),
        "clips": float(len(clips)),
    }
