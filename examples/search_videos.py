"""Find the moments of your videos that a text describes, and see which trajectory answers it.

What you will see: a progress bar while new videos are indexed, for each text a table of the best clips (file, seconds,
cosine of clip and text), and two files:

    out/search.png     the best clips, the trajectory that answers the text outlined, all else dimmed
    out/search.json    the same as data, with the cosine of every trajectory, and what it was made with

    python examples/search_videos.py my_videos "a red ball rolls left"
    python examples/search_videos.py my_videos "a red star" "a blue ring grows" --top 3 --out out/stars.png

In:   a folder of videos and GIFs (folders within it too), a TrajViT2 checkpoint, texts
Out:  the table, the picture, the data; and the index in FOLDER/.trajtok_index, from which the next search begins

Every video is cut into windows of a few seconds, each of which is a clip. Only new and changed videos are embedded,
and indexing can be stopped at any time: what was finished stays. Videos that cannot be read are listed and left alone
until they change. Several searches may share an index: one brings it up to date while the others wait. Words that the
checkpoint reads in pieces only are named; the shipped checkpoint knows the words of generated worlds and no others.
Needs: the package. Takes seconds per minute of video when indexing, then seconds per search.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from evaluation.checkpoint_limits import WORLDS_ONLY_NOTE, knows_worlds_only, unknown_words
from evaluation.provenance import versions
from search.answer_sheet import Answer, answer_sheet
from search.clip_embedding import ClipEmbedder
from search.video_index import FileState, VideoIndex, WindowRow, find_videos
from search.video_windows import VideoWindow, read_windows
from storage import folder_lock, one_line, write_text, write_whole
from tqdm import tqdm

from modeling_trajtok.processors import decode_video

CHECKPOINT = Path(__file__).resolve().parents[1] / "checkpoints" / "trajvit2-tiny"
INDEX_FOLDER = ".trajtok_index"


def index_videos(index: VideoIndex, folder: Path, embedder: ClipEmbedder, window_seconds: float) -> dict:
    """Bring the index up to date with the folder.

    Returns:
        How many videos were "embedded", "known" and "dropped", and those that failed: {path: why}, for good
        ("unreadable") or just now, to be tried again ("failed").
    """
    update = index.plan(find_videos(folder))
    failed = {}
    with tqdm(update.to_embed, desc="indexing", unit="video", disable=not update.to_embed) as progress:
        for state in progress:
            progress.set_postfix_str(state.path[-40:])
            try:
                rows = embed_video(folder / state.path, embedder, window_seconds)
            except (OSError, RuntimeError, MemoryError) as error:  # of this machine now, not of the file
                failed[state.path] = one_line(error)
            except ValueError as error:
                index.add(FileState(state.path, state.size_bytes, state.mtime_ns, one_line(error)), [])
            else:
                index.add(state, rows)
    unreadable = {state.path: state.error for state in index.unreadable()}
    embedded = [state for state in update.to_embed if state.path not in failed and state.path not in unreadable]
    return {
        "embedded": len(embedded),
        "known": len(update.known),
        "dropped": len(update.dropped),
        "unreadable": unreadable,
        "failed": failed,
    }


def embed_video(path: Path, embedder: ClipEmbedder, window_seconds: float) -> list[WindowRow]:
    """The rows of one video."""
    rows = []
    frames = (embedder.num_frames, embedder.strategy)
    windows_s = read_windows(path, window_seconds, *frames, timeout_s=embedder.timeout_s)
    for windows in windows_s:
        for window, embedded in zip(windows, embedder.embed_windows(windows), strict=True):
            rows.append(WindowRow(window.start_s, window.end_s, window.frame_indices, **vars(embedded)))
    return rows


def best_clips(index: VideoIndex, text_embeds: np.ndarray, top: int) -> list[list[tuple[float, WindowRow]]]:
    """For each text (N, E) its best windows with their cosines, best first."""
    places, embeddings = index.windows()
    if not places:
        return [[] for _ in text_embeds]
    found = []
    for cosines in text_embeds @ embeddings.T:
        order = np.argsort(-cosines, kind="stable")[:top]
        found.append([(float(cosines[number]), index.row(*places[number])) for number in order])
    return found


def answer(folder: Path, embedder: ClipEmbedder, text_embed: np.ndarray, score: float, row: WindowRow):
    """One best clip as an entry of the data, and as a row of the picture."""
    video = decode_video(folder / row.path, lambda _timeline: row.frame_indices, timeout_s=embedder.timeout_s)
    window = VideoWindow(row.start_s, row.end_s, video.frames_uint8, video.frame_indices, video.frame_times_s)
    tracks = embedder.trajectories(window)
    cosines = row.trajectory_embeddings @ text_embed
    order = np.argsort(-cosines, kind="stable")
    # At full resolution a trajectory may lose the few pixels that it had.
    seen = [number for number in order if row.trajectory_ids[number] in tracks.ids]
    chosen = int(row.trajectory_ids[seen[0]]) if seen else -1
    entry = {
        "file": row.path,
        "start_s": round(row.start_s, 3),
        "end_s": round(row.end_s, 3),
        "score": score,
        "frame_indices": row.frame_indices.tolist(),
        "answering_trajectory": chosen,
        "trajectories": [{"id": int(row.trajectory_ids[n]), "score": float(cosines[n])} for n in order],
    }
    lines = [row.path, f"{row.start_s:.1f} - {row.end_s:.1f} s", f"clip {score:.3f}"]
    if seen:
        lines.append(f"trajectory {chosen}: {cosines[seen[0]]:.3f}")
    return entry, Answer(lines, window.frames_uint8, tracks, chosen)


def print_table(heading: str, entries: list[dict]) -> None:
    """The best clips of one text, numbers to the right."""
    lines = [("rank", "start_s", "end_s", "score", "file")]
    for entry in entries:
        numbers = f"{entry['start_s']:.1f}", f"{entry['end_s']:.1f}", f"{entry['score']:.3f}"
        lines.append((str(entry["rank"]), *numbers, _printable(entry["file"])))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"\n{_printable(heading)}")
    for *numbers, file in lines:
        print(*(number.rjust(width) for number, width in zip(numbers, widths, strict=False)), file, sep="  ")


def search(arguments: argparse.Namespace) -> None:
    """Index, search, print and write."""
    _check(arguments)
    find_videos(arguments.folder)  # before a model is loaded
    embedder = ClipEmbedder(arguments.model)
    settings = {"window_seconds": arguments.window_seconds, **embedder.settings}
    place = arguments.index or arguments.folder / INDEX_FOLDER
    checkpoint = embedder.record["sha256"]
    text_embeds = embedder.embed_texts(arguments.texts)
    with folder_lock(place, wait=True):
        index = VideoIndex(place, arguments.folder, checkpoint, settings, arguments.rebuild)
        state = index_videos(index, arguments.folder, embedder, arguments.window_seconds)
        found_by_text = best_clips(index, text_embeds, arguments.top)
    bad = {**state["unreadable"], **state["failed"]}
    for path, reason in sorted(bad.items()):
        print(f"skipped: {_printable(reason if path in reason else f'{path}: {reason}')}", file=sys.stderr)
    counts = {"embedded": state["embedded"], "not changed": state["known"], "gone": state["dropped"]}
    print("Videos: " + ", ".join(f"{count} {what}" for what, count in {**counts, "skipped": len(bad)}.items()) + ".")

    queries, pictures = [], []
    for text, text_embed, found in zip(arguments.texts, text_embeds, found_by_text, strict=True):
        if not found:
            raise ValueError(f"{arguments.folder}: none of its {len(bad)} videos can be read, see above.")
        answers = [answer(arguments.folder, embedder, text_embed, score, row) for score, row in found]
        entries = [{"rank": rank, **entry} for rank, (entry, _) in enumerate(answers, start=1)]
        for entry, (_, picture) in zip(entries, answers, strict=True):
            picture.lines = [f"{entry['rank']}.  {picture.lines[0]}", *picture.lines[1:]]
        unknown = unknown_words(embedder.processor.tokenizer, text)
        queries.append({"text": text, "unknown_words": unknown, "results": entries})
        heading = f'"{text}"' + (f" - unknown to the checkpoint: {', '.join(unknown)}" if unknown else "")
        pictures.append((heading, [picture for _, picture in answers]))
        print_table(heading, entries)
        if unknown:
            words = _printable(", ".join(unknown))
            print(
                f'warning: "{_printable(text)}": the checkpoint has no token for {words}. It reads such words in '
                "pieces or not at all, so the result may have nothing to do with them.",
                file=sys.stderr,
            )

    sheet = answer_sheet(pictures)
    write_whole(arguments.out, lambda part: sheet.save(part, format="PNG"))
    record = {
        "folder": str(arguments.folder),
        "index": str(place),
        "checkpoint": embedder.record,
        "settings": settings,
        "versions": versions(),
        "videos": state,
        "queries": queries,
    }
    write_text(arguments.out.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    print(f"\nThe clips are in {arguments.out}, all numbers in {arguments.out.with_suffix('.json')}.")
    if knows_worlds_only(embedder.record):
        print(WORLDS_ONLY_NOTE)


def _check(arguments: argparse.Namespace) -> None:
    if not all(text.strip() for text in arguments.texts):
        raise ValueError('A text is empty, expected what to look for, such as "a red ball rolls left".')
    if arguments.window_seconds <= 0 or arguments.top < 1:
        raise ValueError(
            f"Got --window-seconds {arguments.window_seconds:g} and --top {arguments.top}, expected both above 0."
        )
    if arguments.out.suffix.lower() != ".png":
        raise ValueError(f"--out is {arguments.out}, expected a name that ends in .png.")


def _printable(text: str) -> str:
    """File names may hold bytes that are no text."""
    return text.encode("utf-8", "replace").decode("utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="videos, in folders within it too")
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="what to look for")
    parser.add_argument("--model", default=str(CHECKPOINT), help="TrajViT2 checkpoint: folder or Hub name")
    parser.add_argument("--top", type=int, default=5, help="clips per text")
    parser.add_argument("--window-seconds", type=float, default=4.0, help="length of a clip")
    parser.add_argument("--out", type=Path, default=Path("out/search.png"), help="picture; its data goes beside it")
    parser.add_argument("--index", type=Path, help=f"folder of the index (default: FOLDER/{INDEX_FOLDER})")
    parser.add_argument("--rebuild", action="store_true", help="embed all videos anew")
    arguments = parser.parse_args(argv)
    try:
        search(arguments)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        print(f"error: {_printable(one_line(error))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
