"""Trajectory tokens as data: videos are tokenized once, and models train and answer from what is on disk.

The rooms, in the order in which a video passes through them:
    video_lists.py   which videos there are, and what is told of them: a folder, a manifest, a `datasets` data set
    clip_reading.py  the clips of a video as a model reads them: all of it, or windows
    token_makers.py  which part of a model makes tokens, and how it is known again
    tokenizing.py    a batch of clips through any model of this package -> a row per clip
    shards.py        rows into Parquet files that are whole or not there; what they were made with; reading them again
"""

from .clip_reading import Clip, ClipReader
from .shards import TokenShards, collate_tokens, open_tokens, video_features
from .token_makers import load_model, maker_identity, token_maker
from .tokenizing import TokenRow, tokenize
from .video_lists import list_videos

__all__ = [
    "Clip",
    "ClipReader",
    "TokenRow",
    "TokenShards",
    "collate_tokens",
    "list_videos",
    "load_model",
    "maker_identity",
    "open_tokens",
    "token_maker",
    "tokenize",
    "video_features",
]
