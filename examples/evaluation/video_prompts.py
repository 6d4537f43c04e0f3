"""Prompts about videos for a TrajVLM: a video is encoded once, however many questions are asked about it.

In:   a model, its processor, a video, questions
Out:  VideoPrompt; generated answers, or log-likelihoods of given ones, in batches with padding on the left
To:   question_evaluation, question_run
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeling_trajtok import TrajVLMForConditionalGeneration, TrajVLMProcessor
from modeling_trajtok.outputs_trajtok import TrajVLMFeatures


@dataclass(frozen=True)
class EncodedVideo:
    """A video that questions can be asked about.

    Attributes:
        input_ids: what stands for it in a prompt: a placeholder for each of its tokens, with times between them if
            the processor writes any.
        embeds: (n, d) its trajectory tokens.
    """

    input_ids: tuple[int, ...]
    embeds: Tensor


@dataclass(frozen=True)
class VideoPrompt:
    """A question, ready for the model.

    Attributes:
        text: the conversation up to where the answer begins, with one placeholder for the video.
        input_ids: the same as tokens, with a placeholder for each of the video's tokens.
        video_embeds: (n, d) trajectory tokens; prompts about one video share them.
    """

    text: str
    input_ids: tuple[int, ...]
    video_embeds: Tensor


def _tokens(processor: TrajVLMProcessor, text: str) -> list[int]:
    return processor.tokenizer(text, add_special_tokens=_adds_special_tokens(processor, text))["input_ids"]


def _adds_special_tokens(processor: TrajVLMProcessor, text: str) -> bool:
    """False for templates that write the first token themselves, as in `apply_chat_template`."""
    first = processor.tokenizer.bos_token
    return first is None or not text.startswith(first)


@torch.no_grad()
def encode_video(
    model: TrajVLMForConditionalGeneration, processor: TrajVLMProcessor, video: Any, **settings
) -> EncodedVideo:
    """Make the trajectory tokens of a video, to be asked about as often as one likes.

    Args:
        model: that will answer.
        processor: of the model.
        video: a file, or (T, H_px, W_px, 3) frames.
        **settings: of the processor, such as ``num_frames``.

    Raises:
        VideoDecodeError: the video cannot be read.
        ValueError: a video that does not fit the language model.
    """
    [text] = _texts(processor, ["?"])
    row, special = _tokens(processor, text), _adds_special_tokens(processor, text)
    inputs = processor(text=[text], videos=[video], return_tensors="pt", add_special_tokens=special, **settings)
    if "mm_encoder_outputs" in inputs:
        features = inputs["mm_encoder_outputs"]["video"]
    else:
        pixels, valid = (inputs[name].to(model.device) for name in ("pixel_values_videos", "frame_valid"))
        features = model.get_video_features(pixels, valid)
    # What stands for the video in this prompt stands for it in all others.
    whole, place = inputs["input_ids"][0].tolist(), row.index(processor.video_token_id)
    return EncodedVideo(tuple(whole[place : len(whole) - (len(row) - place - 1)]), features.pooler_output[0])


def video_prompts(processor: TrajVLMProcessor, video: EncodedVideo, questions: Sequence[str]) -> list[VideoPrompt]:
    """Write a prompt for each question about a video.

    Raises:
        ValueError: for a question that holds the placeholder of a video.
    """
    prompts = []
    for question, text in zip(questions, _texts(processor, questions), strict=True):
        row = _tokens(processor, text)
        if row.count(processor.video_token_id) != 1:
            raise ValueError(
                f"The question {question!r} gives a prompt with {row.count(processor.video_token_id)} placeholders of "
                f"videos, expected one. Take {processor.video_token!r} out of the question."
            )
        place = row.index(processor.video_token_id)
        prompts.append(VideoPrompt(text, (*row[:place], *video.input_ids, *row[place + 1 :]), video.embeds))
    return prompts


def _texts(processor: TrajVLMProcessor, questions: Sequence[str]) -> list[str]:
    conversations = [
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}]
        for question in questions
    ]
    return processor.apply_chat_template(conversations, add_generation_prompt=True)


def _batch(
    model: TrajVLMForConditionalGeneration,
    processor: TrajVLMProcessor,
    rows: Sequence[Sequence[int]],
    videos: Sequence[Tensor],
) -> dict[str, Any]:
    """The model's inputs for rows of tokens, padded on the left."""
    padded = processor.tokenizer.pad({"input_ids": [list(row) for row in rows]}, padding_side="left")
    inputs = {name: torch.tensor(padded[name], device=model.device) for name in ("input_ids", "attention_mask")}
    return {**inputs, "mm_encoder_outputs": {"video": TrajVLMFeatures(pooler_output=list(videos))}}


@torch.no_grad()
def generate_answers(
    model: TrajVLMForConditionalGeneration,
    processor: TrajVLMProcessor,
    prompts: Sequence[VideoPrompt],
    max_new_tokens: int,
) -> list[str]:
    """The most likely word after word, for all prompts at a time."""
    inputs = _batch(model, processor, [prompt.input_ids for prompt in prompts], [one.video_embeds for one in prompts])
    answers = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return processor.batch_decode(answers[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def answer_tokens(processor: TrajVLMProcessor, prompt: VideoPrompt, answer: str) -> tuple[int, ...]:
    """The tokens of an answer where it stands, right after its prompt."""
    return tuple(_tokens(processor, prompt.text + answer)[len(_tokens(processor, prompt.text)) :])


@torch.no_grad()
def answer_log_likelihoods(
    model: TrajVLMForConditionalGeneration,
    processor: TrajVLMProcessor,
    prompts: Sequence[VideoPrompt],
    answers: Sequence[Sequence[str]],
    batch_size: int,
) -> list[list[float]]:
    """How likely given answers are, as the mean of the log-probabilities of an answer's tokens.

    Args:
        model: in evaluation mode.
        processor: of the model.
        prompts: the questions.
        answers: of each question, those to compare.
        batch_size: sequences at a time; answers of one token share the sequence of their prompt.

    Returns:
        A mean log-probability per token (natural logarithm) for each answer.

    Raises:
        ValueError: for answers to one question that are the same tokens, or no tokens.
    """
    wanted = [
        [answer_tokens(processor, prompt, answer) for answer in listed]
        for prompt, listed in zip(prompts, answers, strict=True)
    ]
    for listed, tokens in zip(answers, wanted, strict=True):
        if len(set(tokens)) < len(tokens) or not all(tokens):
            raise ValueError(
                f"The tokenizer tells the answers {', '.join(map(repr, listed))} not apart, expected other tokens for "
                "each. Has its vocabulary their words? Choose another --answers or --scoring."
            )
    sequences: dict[tuple, None] = {}  # in their order, each once
    for number, (prompt, listed) in enumerate(zip(prompts, wanted, strict=True)):
        sequences |= dict.fromkeys((number, prompt.input_ids + tokens[:-1]) for tokens in listed)
    longest = max(len(tokens) for listed in wanted for tokens in listed)
    log_probs: dict[tuple, Tensor] = {}
    waiting = list(sequences)
    for first in range(0, len(waiting), batch_size):
        batch = waiting[first : first + batch_size]
        inputs = _batch(
            model, processor, [row for _, row in batch], [prompts[number].video_embeds for number, _ in batch]
        )
        positions = (inputs["attention_mask"].cumsum(dim=-1) - 1).clamp(min=0)
        logits = model(**inputs, position_ids=positions, logits_to_keep=longest, use_cache=False).logits
        log_probs |= dict(zip(batch, logits.float().log_softmax(dim=-1).cpu(), strict=True))
    return [
        [_mean_log_prob(log_probs[number, prompt.input_ids + tokens[:-1]], tokens) for tokens in listed]
        for number, (prompt, listed) in enumerate(zip(prompts, wanted, strict=True))
    ]


def _mean_log_prob(log_probs: Tensor, tokens: Sequence[int]) -> float:
    """Log-probabilities (n, V) of the last places of a sequence; the last of ``tokens`` follows the last place."""
    return log_probs[-len(tokens) :].gather(1, torch.tensor(tokens)[:, None]).mean().item()
