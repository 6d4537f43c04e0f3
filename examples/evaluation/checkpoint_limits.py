"""What a checkpoint does not know, so that nobody takes its answer for more than it is.

In:   the record of a checkpoint (see provenance); its tokenizer and a text
Out:  a sentence on what the weights have seen; the words of the text that the tokenizer does not know as a whole
To:   video_labels, demo.py, app.py, search_videos.py
"""

import re
from typing import Any

# The hashes of their weights: a shipped checkpoint is known wherever it lies.
SHIPPED = {
    "901bcf814b570905684de6eccfc389b99ba7c2583c005f0330b970d24477ea18": "trajtok-tiny",
    "1506e8d301b3e6730a6d1fd5498bc7a9bdad54ae0f9f161c769282507562bd05": "trajvit2-tiny",
    "5260ddda22c1df2ed9ee188842548edf2509791888c82bf63ad49decf5659e97": "trajvlm-tiny",
}
WORLDS_ONLY_NOTE = (
    "The shipped tiny weights have seen generated worlds only, the moving shapes of examples/make_worlds.py. On any "
    "other video their trajectories are coarse, and their labels, answers and search results mean nothing."
)
# Of false captions in their training: learnt, though they are read in pieces.
READ_IN_PIECES = ("one", "five", "six", "object")


def knows_worlds_only(*records: dict) -> bool:
    """Whether one of the checkpoints of these records is a shipped one."""
    return any(record["sha256"]["model.safetensors"] in SHIPPED for record in records)


def unknown_words(tokenizer: Any, text: str) -> list[str]:
    """The words of a text, each once, that are no token of their own: they are read in pieces, or not at all."""
    found = []
    for word in re.findall(r"\w+", text):
        # A space before it, as within a sentence: some vocabularies tell the beginning of a word by it.
        pieces = tokenizer.tokenize(f" {word}")
        whole = len(pieces) == 1 and pieces[0] != tokenizer.unk_token
        if not (whole or word.lower() in READ_IN_PIECES or word in found):
            found.append(word)
    return found
