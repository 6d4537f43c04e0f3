"""Contrastive loss: does every video find its texts among all, and every text its videos?

In:   embeddings of videos (B, E) and texts (N, E), of length 1; which belong together
Out:  scalar loss
From: modeling_trajvit2     To: training
Official: criterions.py (``get_contrastive_loss``)
"""

import torch
import torch.distributed as dist
from torch import Tensor

NO_VIDEO = -1


class GatherRows(torch.autograd.Function):
    """Rows of all processes; each process gets back the sum of what all of them have to say of its rows.

    `torch.distributed.nn.functional.all_gather` scrambles gradients that arrive transposed on the gloo backend, as
    those of the second factor of a matrix product do.
    """

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        """(n, ...) -> (processes * n, ...), in the order of the ranks."""
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        """The gradient of this process's rows, summed over the processes."""
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather_processes(values: Tensor) -> Tensor:
    """The rows (n, ...) of all processes, n the same in each; alone, the rows as they are."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values
    return GatherRows.apply(values)


def cross_entropy_of_matches(similarity: Tensor, matches: Tensor) -> Tensor:
    """Mean over the rows that have a match of the cross-entropy with a uniform choice among the matches.

    Args:
        similarity: (n, m) logits.
        matches: (n, m) boolean.
    """
    num_matches = matches.sum(dim=1)
    losses = -(similarity.log_softmax(dim=1) * matches).sum(dim=1) / num_matches.clamp(min=1)
    return losses.sum() / (num_matches > 0).sum().clamp(min=1)


def contrastive_loss(
    video_embeds: Tensor,
    text_embeds: Tensor,
    temperature: Tensor,
    video_idx: Tensor | None = None,
    text_idx: Tensor | None = None,
    over_processes: bool = False,
) -> Tensor:
    """Symmetric InfoNCE.

    Args:
        video_embeds: (B, E).
        text_embeds: (N, E), N >= B.
        temperature: what the cosines are divided by.
        video_idx: (B,) what each video shows, not negative; None: each something else.
        text_idx: (N,) what each text tells; a text matches all videos of the same number. Texts of -1 match none:
            they are there to be told apart. None: text i tells what video i shows, texts from B on match none.
        over_processes: compare with the videos and texts of all processes, each of which must hold as many. The mean
            of the processes' losses and gradients is then that of one process with all of them.
    """
    batch, num_texts = video_embeds.shape[0], text_embeds.shape[0]
    if video_idx is None:
        rank = dist.get_rank() if over_processes and dist.is_available() and dist.is_initialized() else 0
        video_idx = torch.arange(rank * batch, (rank + 1) * batch, device=video_embeds.device)
    if text_idx is None:
        text_idx = torch.cat((video_idx, video_idx.new_full((num_texts - batch,), NO_VIDEO)))
    all_videos, all_texts, all_video_idx, all_text_idx = video_embeds, text_embeds, video_idx, text_idx
    if over_processes:
        all_videos, all_texts = gather_processes(video_embeds), gather_processes(text_embeds)
        all_video_idx, all_text_idx = gather_processes(video_idx), gather_processes(text_idx)
    of_videos = cross_entropy_of_matches(
        video_embeds @ all_texts.t() / temperature, video_idx.unsqueeze(1) == all_text_idx
    )
    of_texts = cross_entropy_of_matches(
        text_embeds @ all_videos.t() / temperature, text_idx.unsqueeze(1) == all_video_idx
    )
    return (of_videos + of_texts) / 2
