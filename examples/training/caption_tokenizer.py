"""A WordPiece vocabulary learnt from captions.

In:   the metadata of clips: captions; of worlds also the objects
Out:  a `BertTokenizer`
To:   train_trajvit2.py
"""

from collections.abc import Iterable, Iterator

from transformers import BertTokenizer
from worlds import COLOURS, MATERIALS, OBJECT_MOTIONS, SHAPES, summary_caption

from .caption_views import world_objects

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def learn_tokenizer(metadata: Iterable[dict], vocabulary_size: int, max_length: int) -> BertTokenizer:
    """Learn at most ``vocabulary_size`` lower-cased WordPieces.

    Every character that occurs becomes a piece of its own, so words that were never seen can still be written.
    """
    blank = BertTokenizer(vocab={token: number for number, token in enumerate(SPECIAL_TOKENS)})
    tokenizer = blank.train_new_from_iterator(_texts(metadata), vocab_size=vocabulary_size)
    tokenizer.model_max_length = max_length
    return tokenizer


def _texts(metadata: Iterable[dict]) -> Iterator[list[str]]:
    yield [" ".join((*COLOURS, *SHAPES, *MATERIALS, *OBJECT_MOTIONS)), "abcdefghijklmnopqrstuvwxyz 0123456789"]
    for values in metadata:
        captions = values.get("captions") or [values["caption"]]
        objects = world_objects(values)
        yield [*captions, *([summary_caption(objects)] if objects else [])]
