"""One step of training a TrajVLM: every conversation counts the same, whatever batch it is in.

In:   batches of `ChatCollator`
Out:  losses by name
From: chat_views     To: train_trajvlm.py
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling_trajtok import TrajVLMForConditionalGeneration

from .question_packing import conversation_mask


class AnswerTraining(nn.Module):
    """TrajVLM with the cross-entropy of the answers: a mean over the words of each row, then over rows.

    A row is a conversation, or several about one clip.

    So neither accumulation nor the number of processes changes the loss of a step.
    """

    def __init__(self, model: TrajVLMForConditionalGeneration):
        super().__init__()
        self.model = model

    def forward(self, labels: Tensor, conversations: Tensor | None = None, **inputs: Tensor) -> dict[str, Tensor]:
        """Losses of a batch: "loss" is what is trained; "word_accuracy" tells how many words were the likeliest.

        Args:
            labels: (B, S), -100 where nothing is learnt.
            conversations: (B, S), of rows that hold several conversations (see `pack_conversations`).
            **inputs: of the model.
        """
        if conversations is not None:
            inputs["attention_mask"] = conversation_mask(conversations, torch.float32)
        logits = self.model(**inputs, use_cache=False).logits[:, :-1].float()
        expected = labels[:, 1:]
        learnt = expected != -100
        words = learnt.sum(dim=1).clamp(min=1)
        losses = F.cross_entropy(logits.transpose(1, 2), expected, ignore_index=-100, reduction="none")
        right = (logits.argmax(dim=-1) == expected) & learnt
        return {
            "loss": (losses.sum(dim=1) / words).mean(),
            "word_accuracy": (right.sum(dim=1) / words).mean(),
        }
