"""A page in the browser: drop a video, see its trajectories, ask questions about it, see which texts describe it.

What you will see: the video on the left, the same with every trajectory in its colour on the right; below, how many
patches became how many tokens; labels and their cosines, by TrajViT2; a conversation about the video, by TrajVLM.
"Generated world" shows a new moving-object world each time, with a true caption and false ones as labels. The shipped
checkpoints have seen such worlds only, which the page says, and where it matters says again. An error is a message on
the page; one that nobody foresaw is also on the console, with its traceback.

    python examples/app.py                                  # prints the address of the page
    python examples/app.py --trajvlm FOLDER --port 7861
    python examples/app.py --share                          # an address that others can open for a week

In:   checkpoints (folders or names on the Hub); videos of any length and size
Out:  a page. Videos go through temporary files, which are deleted after a day
Needs: `pip install -e ".[app]"`. Takes seconds per clip. Without TrajViT2 or TrajVLM the page says which is missing
and where it was looked for; the rest works.

As a Hugging Face Space: this repository, `README.md` opening with the lines `---`, `sdk: gradio`,
`sdk_version: 6.31.0`, `python_version: "3.11"`, `app_file: examples/app.py`, `---`, and beside it a `requirements.txt`
of one line, `trajtok[app] @ git+ADDRESS_OF_THIS_REPOSITORY`: a Space installs before it sees the other files.
"""

import argparse
import functools
import html
import inspect
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from demo import (
    REPOSITORY,
    complain,
    count_tokens,
    explain,
    group_patches,
    load_checkpoint,
    read_frames,
    write_overlay,
    write_world,
)
from evaluation.checkpoint_limits import WORLDS_ONLY_NOTE, knows_worlds_only, unknown_words
from evaluation.provenance import checkpoint_record
from evaluation.question_evaluation import MAX_ANSWER_TOKENS
from evaluation.video_labels import VideoLabeller, VideoLabels
from evaluation.video_prompts import EncodedVideo, encode_video, generate_answers, video_prompts
from PIL import Image
from worlds import OBJECT_MOTIONS, WorldConfig

from modeling_trajtok import (
    TrajTokModel,
    TrajTokVideoProcessor,
    TrajVLMForConditionalGeneration,
    TrajVLMProcessor,
)
from modeling_trajtok.processors import DecodedVideo, VideoTimeoutError

NUM_FRAMES = 16
SIZE = {"shortest_edge": 128}
MIN_AREA_FRACTION = 0.002
LONGEST_SIDE_PX = 640  # of the pictures on the page, which a session keeps in memory
WORLD_SEED = 2026
WORLD_CONFIG = WorldConfig.named("eventful", num_frames=32, height=256, width=256, fps=16.0)
EXAMPLE_QUESTIONS = ("How many different objects are seen?", "How many objects move left?")
DEFAULT_LABELS = tuple(f"Two objects: the largest, a red star, {motion}." for motion in OBJECT_MOTIONS[:6])
GUESSED = "(These weights have seen generated worlds only. About any other video this is a guess.)"
DAY_S = 24 * 60 * 60
EMPTY = (None, "", None, [], "")  # overlay, figures, `ShownVideo`, conversation, scores
PROGRESS = gr.Progress()
THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["system-ui", "sans-serif"])
# A trimmed video would be shown without its trajectories.
CSS = """
.gradio-container {max-width: 1200px !important; margin: auto}
#source [aria-label="Trim video to selection"] {display: none}
#scores td {padding: 2px 8px}
#scores .bar {width: 160px; height: 12px; background: #ddd}
#scores .bar div {height: 12px; background: #0072b2}
#scores .weak .bar div {background: #a0a0a0}
"""
LOG = logging.getLogger("trajtok.app")


@dataclass
class Checkpoints:
    """Everything that is loaded at the start.

    Attributes:
        trajtok: model and processor.
        labeller: compares videos with texts, or None.
        trajvlm: model and processor, or None.
        missing: for "labeller" and "trajvlm", if they are None, what to tell the user.
        worlds_only: one of them has seen generated worlds only.
        answers_worlds_only: TrajVLM has.
    """

    trajtok: tuple[TrajTokModel, TrajTokVideoProcessor]
    labeller: VideoLabeller | None = None
    trajvlm: tuple[TrajVLMForConditionalGeneration, TrajVLMProcessor] | None = None
    missing: dict[str, str] = field(default_factory=dict)
    worlds_only: bool = False
    answers_worlds_only: bool = False


@dataclass
class ShownVideo:
    """What a session keeps of its video.

    Attributes:
        name: of the file.
        frames_uint8: (T, H_px, W_px, 3).
        generated: it is a world that the app made.
        encoded: what TrajVLM makes of it, since the first question.
    """

    name: str
    frames_uint8: np.ndarray
    generated: bool = False
    encoded: EncodedVideo | None = None


def load_trajvlm(name: str) -> tuple[TrajVLMForConditionalGeneration, TrajVLMProcessor, dict]:
    """Model, processor and record of a folder or a name on the Hub."""
    model = TrajVLMForConditionalGeneration.from_pretrained(name).eval()
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model, TrajVLMProcessor.from_pretrained(name), checkpoint_record(name)


def load_optional(load: Callable[[str], Any], name: str, kind: str, option: str) -> tuple[Any, str]:
    """What `load` makes of a checkpoint, or None and why it is missing."""
    folder = Path(name)
    shown = os.path.relpath(folder) if folder.is_absolute() and folder.is_relative_to(Path.cwd()) else name
    reason = f"the folder {shown} does not exist."
    if folder.is_dir() or not folder.is_absolute():  # what is no folder may be a name on the Hub
        try:
            return load(name), ""
        except (ValueError, OSError, RuntimeError) as error:
            reason = f"{shown} cannot be read. {explain(error, shown)}"
    return None, f"No {kind} checkpoint: {reason} Start the app with {option} and a folder that has one."


def load_checkpoints(trajtok: str, trajvit2: str, trajvlm: str) -> Checkpoints:
    """Load what there is.

    Raises:
        ValueError: if the TrajTok checkpoint cannot be read.
    """
    model, processor, record = load_checkpoint(trajtok, "--trajtok")
    labeller, no_labeller = load_optional(VideoLabeller, trajvit2, "TrajViT2", "--trajvit2")
    answerer, no_answerer = load_optional(load_trajvlm, trajvlm, "TrajVLM", "--trajvlm")
    records = [record, *([labeller.record] if labeller else []), *([answerer[2]] if answerer else [])]
    return Checkpoints(
        (model, processor),
        labeller,
        answerer[:2] if answerer else None,
        {"labeller": no_labeller, "trajvlm": no_answerer},
        knows_worlds_only(*records),
        bool(answerer) and knows_worlds_only(answerer[2]),
    )


def tell(message: str) -> gr.Error:
    """An error for the user, not for the log."""
    return gr.Error(message, duration=20, print_exception=False)


@contextmanager
def told(path: str = "") -> Iterator[None]:
    """Every error becomes a message on the page; one that nobody foresaw is logged with its traceback."""
    name = Path(path).name
    try:
        yield
    except gr.Error:
        raise
    except VideoTimeoutError as error:
        advice = "Cut it or make it smaller: ffmpeg -i OLD -t 60 -vf scale=-2:480 NEW.mp4"
        raise tell(f"{name}: reading {NUM_FRAMES} frames took too long. {advice}") from error
    except (ValueError, OSError, RuntimeError, MemoryError) as error:  # also too large for memory
        if isinstance(error, RuntimeError):
            LOG.exception("An error of a library")
        raise tell(explain(error, path).replace(path, name)) from error
    except Exception as error:
        LOG.exception("An error that the app did not expect")
        raise tell(
            f"The app failed in a way that it did not expect: {type(error).__name__}. Its console has the details. "
            "Try again, or with another video."
        ) from error


def telling(act: Callable) -> Callable:
    """What somebody does on the page, within `told`; messages name the video by its file's name alone.

    Args:
        act: a method of the page; if its first argument is called ``path``, it is that of the video.
    """
    names_path = list(inspect.signature(act).parameters)[1] == "path"

    @functools.wraps(act)
    def steps(self, first, *others, **named):
        with told(first if names_path and isinstance(first, str) else ""):
            yield from act(self, first, *others, **named)

    @functools.wraps(act)
    def at_once(self, first, *others, **named):
        with told():
            return act(self, first, *others, **named)

    return steps if inspect.isgeneratorfunction(act) else at_once


def shrink(frames_uint8: np.ndarray) -> np.ndarray:
    """The frames (T, H_px, W_px, 3), the longer side at most `LONGEST_SIDE_PX`."""
    height, width = frames_uint8.shape[1:3]
    scale = LONGEST_SIDE_PX / max(height, width)
    if scale >= 1:
        return frames_uint8
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in frames_uint8])


def table(figures: dict[str, str]) -> str:
    """One row of figures as Markdown."""
    rows = (figures, [":-:"] * len(figures), figures.values())
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def label_table(labels: VideoLabels) -> str:
    """A row of HTML for each label, with its cosine; then what that means."""
    rows = []
    for entry in labels.cosines:
        weak = labels.fits_from is not None and entry["cosine"] < labels.fits_from
        filled = round(100 * max(entry["cosine"], 0.0))
        bar = f'<div class="bar"><div style="width: {filled}%"></div></div>'
        rows.append(
            f'<tr class="{"weak" if weak else "fits"}"><td>{html.escape(entry["label"])}</td>'
            f"<td>{bar}</td><td>{entry['cosine']:.2f}</td></tr>"
        )
    notes = ["Cosine with the video. It is no probability."]
    if labels.fits_from is not None:
        notes.append(f"From {labels.fits_from:g} on a label fits. Here: <b>{html.escape(labels.answer)}</b>")
    for one in labels.not_scored:
        words = html.escape(", ".join(one["unknown_words"]))
        notes.append(f"Not scored: {html.escape(one['label'])}. The checkpoint never read: {words}.")
    return f"<table>{''.join(rows)}</table>" + "".join(f"<p>{note}</p>" for note in notes)


class VideoPage:
    """The page, and what happens when somebody does something on it."""

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints

    @telling
    def make_world(self, index: int, progress: gr.Progress = PROGRESS) -> Iterator[tuple[str, str, int]]:
        """Render the world of this index: its file, captions (the first is true), the next index."""
        progress(0.2, desc="generating a world")
        with tempfile.TemporaryDirectory() as folder:
            path, captions = write_world(Path(folder), WORLD_SEED, index, WORLD_CONFIG)
            yield path, "\n".join(captions), index + 1  # goes on when the page has its copy of the file

    @telling
    def show_world(self, path: str, progress: gr.Progress = PROGRESS) -> Iterator[tuple]:
        """As `show`, for a world that the app made."""
        yield from self._show(path, progress, generated=True)

    @telling
    def show(self, path: str, progress: gr.Progress = PROGRESS) -> Iterator[tuple]:
        """Draw the trajectories of a video.

        Yields:
            Overlay, figures, `ShownVideo`, conversation and label scores: first empty, as nothing of the video before
            may stay, then of this video.
        """
        yield from self._show(path, progress, generated=False)

    def _show(self, path: str, progress: gr.Progress, generated: bool) -> Iterator[tuple]:
        yield EMPTY
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            progress(0.1, desc="reading the video")
            video = read_frames(path, NUM_FRAMES, self.checkpoints.trajtok[1].decode_timeout_s)
            video.frames_uint8 = shrink(video.frames_uint8)
            overlay = Path(folder) / "overlay.mp4"
            figures = self._draw(video, overlay, progress)
            figures["seconds"] = f"{time.perf_counter() - started:.1f}"
            shown = ShownVideo(Path(path).name, video.frames_uint8, generated)
            yield str(overlay), table(figures), shown, [], ""

    @torch.inference_mode()
    def _draw(self, video: DecodedVideo, overlay: Path, progress: gr.Progress) -> dict[str, str]:
        """Write the overlay; returns the figures of the table."""
        model, processor = self.checkpoints.trajtok
        progress(0.3, desc="finding trajectories")
        outputs, tokens = group_patches(video.frames_uint8, model, processor, SIZE)
        progress(0.7, desc="drawing")
        source = {"frames_indices": video.frame_indices, "frame_times_s": video.frame_times_s}
        size_hw = video.frames_uint8.shape[1:3]
        [tracks] = processor.post_process_trajectories(
            outputs, [source], [size_hw], min_area_fraction=MIN_AREA_FRACTION
        )
        write_overlay(overlay, video.frames_uint8, tracks)
        counts = count_tokens(tokens, model.config.num_trajectories)
        return {name: f"{value:,}" for name, value in {"frames": tracks.num_frames, **counts}.items()}

    @telling
    def score(self, labels: str, video: ShownVideo | None, progress: gr.Progress = PROGRESS) -> str:
        """How well each label, one a line, describes the video, as HTML."""
        self._require(video)
        texts = list(dict.fromkeys(line.strip() for line in labels.splitlines() if line.strip()))
        if not texts:
            raise tell("Got no label, expected at least one, one a line. Write what the video may show.")
        progress(0.5, desc="scoring labels")
        return label_table(self.checkpoints.labeller.label(video.frames_uint8, texts))

    @telling
    def ask(
        self, question: str, conversation: list[dict], video: ShownVideo | None, progress: gr.Progress = PROGRESS
    ) -> tuple[str, list[dict], ShownVideo]:
        """Answer a question about the video, which is encoded at the first one.

        Returns:
            An empty question, the conversation with the answer, the video with what TrajVLM made of it.
        """
        self._require(video)
        question = question.strip()
        if not question:
            raise tell(f"The question is empty, expected some words. Ask for example: {EXAMPLE_QUESTIONS[0]}")
        model, processor = self.checkpoints.trajvlm
        if video.encoded is None:
            progress(0.2, desc="watching the video")
            frames_uint8 = self._frames_for_trajvlm(video)
            video.encoded = encode_video(model, processor, frames_uint8, do_sample_frames=False)
        progress(0.6, desc="answering")
        prompts = video_prompts(processor, video.encoded, [question])
        [answer] = generate_answers(model, processor, prompts, MAX_ANSWER_TOKENS)
        notes = [answer or "(no words)"]
        if unknown := unknown_words(processor.tokenizer, question):
            notes.append(f"(Words that the checkpoint has no token for: {', '.join(unknown)}.)")
        if self.checkpoints.answers_worlds_only and not video.generated:
            notes.append(GUESSED)
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": "\n\n".join(notes)}]
        return "", conversation + said, video

    def _frames_for_trajvlm(self, video: ShownVideo) -> np.ndarray:
        """As many frames as TrajVLM was made for, evenly spaced."""
        total = len(video.frames_uint8)
        wanted = min(self.checkpoints.trajvlm[1].video_processor.num_frames or total, total)
        return video.frames_uint8[np.linspace(0, total - 1, wanted).round().astype(int)]

    @staticmethod
    def _require(video: ShownVideo | None) -> None:
        if video is None:
            raise tell(
                "There is no video yet, expected one whose trajectories are shown. Drop one, or press "
                "Generated world, and wait for the picture on the right."
            )

    # --- the page ----------------------------------------------------------------------------------------------------

    def build(self) -> gr.Blocks:
        """Lay the page out and connect it."""
        with gr.Blocks(title="TrajTok", analytics_enabled=False, delete_cache=(DAY_S, DAY_S)) as page:
            gr.Markdown(
                "# TrajTok: what persists in your video\n"
                "Every colour is one *trajectory*: pixels that belong together over space and time. "
                "A video model reads a token for each instead of thousands of patches."
            )
            if self.checkpoints.worlds_only:
                gr.Markdown(f"**{WORLDS_ONLY_NOTE}**", elem_id="limits")
            video, index = gr.State(), gr.State(0)
            with gr.Row():
                with gr.Column():
                    source = gr.Video(label="Video", sources=["upload"], height=360, elem_id="source")
                    world = gr.Button("Generated world", variant="primary", elem_id="world")
                with gr.Column():
                    overlay = gr.Video(
                        label="Trajectories",
                        height=360,
                        autoplay=True,
                        loop=True,
                        interactive=False,
                        elem_id="overlay",
                    )
                    figures = gr.Markdown(elem_id="figures")
            with gr.Row():
                with gr.Column():
                    labels, scores, score_button = self._build_labels()
                with gr.Column():
                    conversation = self._build_conversation(video)

            shown = [overlay, figures, video, conversation, scores]
            # `source.change` would also hear of the generated world, but twice.
            dropped = source.upload(self.show, source, shown)
            generated = world.click(self.make_world, index, [source, labels, index]).success(
                self.show_world, source, shown
            )
            source.clear(lambda: EMPTY, None, shown)
            if self.checkpoints.labeller:
                for event in (dropped, generated):
                    event.success(self.score, [labels, video], scores)
                score_button.click(self.score, [labels, video], scores)
        return page

    def _build_labels(self) -> tuple[gr.Textbox, gr.HTML, gr.Button]:
        gr.Markdown("## Which text describes it?\n" + self.checkpoints.missing.get("labeller", ""))
        usable = self.checkpoints.labeller is not None
        labels = gr.Textbox(
            "\n".join(DEFAULT_LABELS),
            label="Labels",
            info="One a line. Of a generated world, the first is true.",
            lines=6,
            max_lines=12,
            interactive=usable,
            elem_id="labels",
        )
        button = gr.Button("Score labels", interactive=usable, elem_id="score")
        scores = gr.HTML(visible=usable, elem_id="scores")
        return labels, scores, button

    def _build_conversation(self, video: gr.State) -> gr.Chatbot:
        usable, missing = self.checkpoints.trajvlm is not None, self.checkpoints.missing.get("trajvlm", "")
        gr.Markdown("## Ask about it")
        conversation = gr.Chatbot(
            label="Conversation",
            placeholder="Each question is answered on its own.",
            height=300,
            buttons=[],
            visible=usable,
            elem_id="conversation",
        )
        question = gr.Textbox(
            label="Question",
            placeholder=EXAMPLE_QUESTIONS[0] if usable else missing,
            submit_btn=usable,
            interactive=usable,
            elem_id="question",
        )
        if usable:
            gr.Examples(list(EXAMPLE_QUESTIONS), question, label="For example")
            question.submit(self.ask, [question, conversation, video], [question, conversation, video])
        return conversation


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, kind in {"trajtok": "TrajTok", "trajvit2": "TrajViT2", "trajvlm": "TrajVLM"}.items():
        default = str(REPOSITORY / "checkpoints" / f"{option}-tiny")
        parser.add_argument(f"--{option}", default=default, help=f"{kind}: folder or Hub name")
    parser.add_argument("--port", type=int, help="of the page (default: the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="also at a public address, through Gradio's servers")
    arguments = parser.parse_args(argv)
    try:
        checkpoints = load_checkpoints(arguments.trajtok, arguments.trajvit2, arguments.trajvlm)
    except (ValueError, OSError) as error:
        complain(error)
        return 1
    for note in filter(None, checkpoints.missing.values()):
        print(note, file=sys.stderr)
    page = VideoPage(checkpoints).build()
    page.launch(server_port=arguments.port, share=arguments.share, theme=THEME, css=CSS, show_error=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
