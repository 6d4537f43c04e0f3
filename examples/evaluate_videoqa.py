"""Questions about videos, put to a TrajVLM checkpoint: multiple choice and open-ended, of public benchmarks or yours.

What you will see: a progress bar over the questions, then a table of accuracy, chance and unreadable replies for each
category, and the videos that could not be read. In ``--out``, answers.jsonl has every answer and record.json all that
is needed to get the same numbers again. A run that was stopped goes on where it was.

    python examples/evaluate_videoqa.py MVBench --videos MVBench/video                             # json/*.json
    python examples/evaluate_videoqa.py test-00000-of-00001.parquet --videos VideoMME/data        # Video-MME
    python examples/evaluate_videoqa.py LongVideoBench/lvb_val.json --videos LongVideoBench/videos
    python examples/evaluate_videoqa.py video_info.meta.jsonl --videos LVBench/all_videos
    python examples/evaluate_videoqa.py mine.jsonl --videos clips     # {"video", "question", "answer"[, "choices"]}

Choices are compared by how likely the model finds their letters (``--scoring likelihood``), or the reply is generated
and read (``--scoring generation``; a reply that names no choice is wrong, and counted). ``--answers text`` asks
without listing the choices, and compares their words: by the mean log-likelihood of a token, or the reply must repeat
one. Open-ended questions are generated; the reply must be the answer, but for case, spaces and a final full stop.
Subtitles are not shown. Questions about missing videos are left out: such scores do not compare with published ones.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.benchmark_files import VideoFolder
from evaluation.benchmark_run import add_checkpoint_arguments, run_benchmark
from evaluation.provenance import sha256_of
from evaluation.question_files import LAYOUTS, question_files, read_questions
from evaluation.question_run import SCORING, AnswerFile, QuestionRun, locate
from evaluation.question_scoring import ANSWERS, question_scores


def evaluate(settings: argparse.Namespace) -> dict:
    """Everything between the arguments and the record."""
    if settings.limit is not None and settings.limit < 1:
        raise ValueError(f"limit is {settings.limit}, expected at least 1.")
    questions = read_questions(settings.data, settings.layout)[: settings.limit]
    folder = VideoFolder(settings.videos)
    requests = [locate(folder, question) for question in questions]
    run = QuestionRun(settings)
    answers = run.ask(questions, requests, AnswerFile(settings.out / "answers.jsonl"))
    answered = [(question, row) for question, row in zip(questions, answers.rows, strict=True) if row is not None]
    predictions = [row["prediction"] for _, row in answered]
    scores = question_scores([question for question, _ in answered], predictions)
    counts = {
        "videos_listed": answers.num_videos,
        "videos": answers.num_videos - len(answers.failures),
        "videos_unreadable": len(answers.failures),
        "questions_listed": len(questions),
        "questions": len(answered),
        "questions_left_out": len(questions) - len(answered),
        "questions_resumed": answers.num_resumed,
        "unparsable": predictions.count(None),
    }
    return run.record(
        "video question answering",
        scores,
        counts,
        answers.failures,
        annotations=[{"file": str(file), "sha256": sha256_of(file)} for file in question_files(settings.data)],
        answers_key=run.key,
    )


def _line(name: str, shares: dict) -> str:
    chance = "" if shares["chance"] is None else f"{100 * shares['chance']:.1f}"
    return (
        f"| {name} | {shares['questions']} | {100 * shares['accuracy']:.1f} | {chance} "
        f"| {100 * shares['unparsable']:.1f} |"
    )


def show(record: dict) -> None:
    scores, counts = record["scores"], record["counts"]
    print("| category | questions | accuracy | chance | unparsable |\n|---|---:|---:|---:|---:|")
    for name, shares in scores["per_category"].items():
        print(_line(name, shares))
    print(_line("**all**", scores))
    if counts["questions_left_out"]:
        print(f"\n{counts['questions_left_out']} of {counts['questions_listed']} questions were left out.")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="file of questions, or the folder of MVBench")
    parser.add_argument(
        "--videos", type=Path, required=True, help="folder of the videos, searched with its subfolders"
    )
    parser.add_argument("--layout", default="auto", choices=["auto", *LAYOUTS], help="of the questions")
    parser.add_argument("--scoring", default="likelihood", choices=SCORING, help="how a choice is made")
    parser.add_argument("--answers", default="letters", choices=ANSWERS, help="what is compared, or read in replies")
    parser.add_argument("--limit", type=int, help="only the first so many questions")
    parser.add_argument("--out", type=Path, default=Path("out/videoqa"), help="folder for the answers and the record")
    add_checkpoint_arguments(parser, "trajvlm-tiny", "TrajVLMForConditionalGeneration")
    settings = parser.parse_args(argv)
    return run_benchmark(settings, evaluate, show, settings.out / "record.json")


if __name__ == "__main__":
    sys.exit(main())
