"""A WordPiece vocabulary learnt from what is said about clips.

In:   the metadata of clips: captions, questions, messages; of worlds also the objects
Out:  a `BertTokenizer` for a text tower, or the tokenizer of a language model that talks
To:   train_trajvit2.py, train_trajvlm.py

Whole words by their frequency, and every letter, so that words that were never seen can still be written. The trainer
of the `tokenizers` library is not used because it orders equal frequencies at random, and a run must be repeatable.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from storage import folder_lock, telling_full_disk
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from worlds import COLOURS, MATERIALS, OBJECT_MOTIONS, SHAPES, summary_caption

from .caption_views import world_objects
from .chat_views import CAPTION_REQUESTS, LIST_REQUEST

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CHAT_TOKENS = (
    "<pad>",
    "<unk>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
LEARNT = ".learnt"
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def learn_tokenizer(metadata: Iterable[dict], vocabulary_size: int, max_length: int) -> BertTokenizer:
    """Learn at most ``vocabulary_size`` lower-cased WordPieces; the same captions give the same vocabulary.

    Raises:
        ValueError: if there is no room for letters and a word.
    """
    pieces = _pieces(_texts(metadata), SPECIAL_TOKENS, vocabulary_size)
    return BertTokenizer(vocab=pieces, model_max_length=max_length)


def learn_chat_tokenizer(metadata: Iterable[dict], vocabulary_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """As `learn_tokenizer`, with the special tokens of a conversation in place of a text tower's."""
    pieces = _pieces(_spoken(metadata), CHAT_TOKENS, vocabulary_size)
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(CHAT_TOKENS[2:]),
        model_max_length=max_length,
    )


def kept_tokenizer(folder: Path, learn: Callable[[], PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    """What ``learn`` makes, once for all processes and restarts of a run."""
    with folder_lock(folder, wait=True):
        if not (folder / LEARNT).exists():
            with telling_full_disk(folder):
                learn().save_pretrained(folder)
            (folder / LEARNT).touch()  # a run may be killed while files are half written
        return AutoTokenizer.from_pretrained(folder)


def _pieces(texts: Iterable[str], special: Sequence[str], vocabulary_size: int) -> dict[str, int]:
    """Special tokens, letters and the most frequent words, numbered."""
    letters = [*special, *CHARACTERS, *(f"##{character}" for character in CHARACTERS)]
    if vocabulary_size <= len(letters):
        raise ValueError(f"vocabulary_size={vocabulary_size}, expected more than the {len(letters)} letters.")
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    counts = Counter()
    for text in texts:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    words = sorted((word for word in counts if word not in letters), key=lambda word: (-counts[word], word))
    return {piece: number for number, piece in enumerate([*letters, *words[: vocabulary_size - len(letters)]])}


def _texts(metadata: Iterable[dict]) -> Iterator[str]:
    yield " ".join((*COLOURS, *SHAPES, *MATERIALS, *OBJECT_MOTIONS))
    for values in metadata:
        yield from values.get("captions") or [values["caption"]]
        if objects := world_objects(values):
            yield summary_caption(objects)


def _spoken(metadata: Iterable[dict]) -> Iterator[str]:
    yield " ".join(("user", "assistant", "system", *CAPTION_REQUESTS, LIST_REQUEST))
    yield " ".join((*COLOURS, *SHAPES, *OBJECT_MOTIONS))
    for values in metadata:
        yield from values.get("captions", [])
        yield from (message["content"] for message in values.get("messages", []))
        for question in values.get("questions", []):
            yield from (question["question"], *question["choices"])
