"""Trajectory tokens as data: videos are tokenized once, and models train and answer from what is on disk.

The rooms, in the order in which a video passes through them:
    video_lists.py   which videos there are: a folder, a manifest, a `datasets` data set
    tokenizing.py    a batch of clips through any model of this package -> a row per clip
    shards.py        rows into Parquet files that are whole or not there; what they were made with; reading them again
"""

from .shards import TokenShards, checkpoint_identity, collate_tokens, open_tokens, video_features
from .tokenizing import tokenize
from .video_lists import list_videos

__all__ = [
    "TokenShards",
    "checkpoint_identity",
    "collate_tokens",
    "list_videos",
    "open_tokens",
    "tokenize",
    "video_features",
]
