"""A WordPiece vocabulary learnt from captions.

In:   the metadata of clips: captions; of worlds also the objects
Out:  a `BertTokenizer`
To:   train_trajvit2.py

Whole words by their frequency, and every letter, so that words that were never seen can still be written. The trainer
of the `tokenizers` library is not used because it orders equal frequencies at random, and a run must be repeatable.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from transformers import BertTokenizer
from worlds import COLOURS, MATERIALS, OBJECT_MOTIONS, SHAPES, summary_caption

from .caption_views import world_objects

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def learn_tokenizer(metadata: Iterable[dict], vocabulary_size: int, max_length: int) -> BertTokenizer:
    """Learn at most ``vocabulary_size`` lower-cased WordPieces; the same captions give the same vocabulary.

    Raises:
        ValueError: if there is no room for letters and a word.
    """
    letters = [*SPECIAL_TOKENS, *CHARACTERS, *(f"##{character}" for character in CHARACTERS)]
    if vocabulary_size <= len(letters):
        raise ValueError(f"vocabulary_size={vocabulary_size}, expected more than the {len(letters)} letters.")
    splitter = BertTokenizer(vocab={token: number for number, token in enumerate(letters)}).backend_tokenizer
    counts = Counter()
    for text in _texts(metadata):
        counts.update(
            word for word, _ in splitter.pre_tokenizer.pre_tokenize_str(splitter.normalizer.normalize_str(text))
        )
    words = sorted((word for word in counts if word not in letters), key=lambda word: (-counts[word], word))
    pieces = [*letters, *words[: vocabulary_size - len(letters)]]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return BertTokenizer(vocab=vocabulary, model_max_length=max_length)


def _texts(metadata: Iterable[dict]) -> Iterator[str]:
    yield " ".join((*COLOURS, *SHAPES, *MATERIALS, *OBJECT_MOTIONS))
    for values in metadata:
        yield from values.get("captions") or [values["caption"]]
        if objects := world_objects(values):
            yield summary_caption(objects)
