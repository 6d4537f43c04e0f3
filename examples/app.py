"""A page in the browser: drop a video, see its trajectories, ask questions about it, see which texts describe it.

What you will see: the video on the left, the same with every trajectory in its colour on the right; below, how many
patches became how many tokens; labels with a bar each, by TrajViT2; a conversation about the video, by TrajVLM.
"Generated world" shows a new moving-object world each time, with a true caption and false ones as labels.

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
    DEFAULT_LABELS,
    REPOSITORY,
    complain,
    count_tokens,
    explain,
    group_patches,
    load_checkpoint,
    read_classifier,
    read_frames,
    write_overlay,
    write_world,
)
from evaluation.question_evaluation import MAX_ANSWER_TOKENS
from evaluation.video_prompts import EncodedVideo, encode_video, generate_answers, video_prompts
from PIL import Image
from worlds import WorldConfig

from modeling_trajtok import (
    TrajTokModel,
    TrajTokVideoProcessor,
    TrajVLMForConditionalGeneration,
    TrajVLMProcessor,
    ZeroShotVideoClassificationPipeline,
)
from modeling_trajtok.processors import DecodedVideo, VideoTimeoutError

NUM_FRAMES = 16
SIZE = {"shortest_edge": 128}
MIN_AREA_FRACTION = 0.002
LONGEST_SIDE_PX = 640  # of the pictures on the page, which a session keeps in memory
WORLD_SEED = 2026
WORLD_CONFIG = WorldConfig.named("eventful", num_frames=32, height=256, width=256, fps=16.0)
EXAMPLE_QUESTIONS = ("How many different objects are seen?", "How many objects move left?")
DAY_S = 24 * 60 * 60
EMPTY = (None, "", None, [], None)  # overlay, figures, `ShownVideo`, conversation, scores
PROGRESS = gr.Progress()
THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["system-ui", "sans-serif"])
# A trimmed video would be shown without its trajectories.
CSS = """
.gradio-container {max-width: 1200px !important; margin: auto}
#source [aria-label="Trim video to selection"] {display: none}
"""


@dataclass
class Checkpoints:
    """Everything that is loaded at the start.

    Attributes:
        trajtok: model and processor.
        classifier: the zero-shot pipeline, or None.
        trajvlm: model and processor, or None.
        missing: for "classifier" and "trajvlm", if they are None, what to tell the user.
    """

    trajtok: tuple[TrajTokModel, TrajTokVideoProcessor]
    classifier: ZeroShotVideoClassificationPipeline | None = None
    trajvlm: tuple[TrajVLMForConditionalGeneration, TrajVLMProcessor] | None = None
    missing: dict[str, str] = field(default_factory=dict)


@dataclass
class ShownVideo:
    """What a session keeps of its video.

    Attributes:
        name: of the file.
        frames_uint8: (T, H_px, W_px, 3).
        encoded: what TrajVLM makes of it, since the first question.
    """

    name: str
    frames_uint8: np.ndarray
    encoded: EncodedVideo | None = None


def load_trajvlm(name: str) -> tuple[TrajVLMForConditionalGeneration, TrajVLMProcessor]:
    """Model and processor of a folder or a name on the Hub."""
    model = TrajVLMForConditionalGeneration.from_pretrained(name).eval()
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), TrajVLMProcessor.from_pretrained(name)


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
    model, processor, _record = load_checkpoint(trajtok, "--trajtok")
    classifier, no_classifier = load_optional(
        lambda name: read_classifier(name)[0], trajvit2, "TrajViT2", "--trajvit2"
    )
    answerer, no_answerer = load_optional(load_trajvlm, trajvlm, "TrajVLM", "--trajvlm")
    return Checkpoints((model, processor), classifier, answerer, {"classifier": no_classifier, "trajvlm": no_answerer})


def tell(message: str) -> gr.Error:
    """An error for the user, not for the log."""
    return gr.Error(message, duration=20, print_exception=False)


@contextmanager
def told(path: str = "") -> Iterator[None]:
    """Errors of reading and computing become messages on the page."""
    name = Path(path).name
    try:
        yield
    except VideoTimeoutError as error:
        advice = "Cut it or make it smaller: ffmpeg -i OLD -t 60 -vf scale=-2:480 NEW.mp4"
        raise tell(f"{name}: reading {NUM_FRAMES} frames took too long. {advice}") from error
    except (ValueError, OSError, RuntimeError, MemoryError) as error:  # also too large for memory
        raise tell(explain(error, path).replace(path, name)) from error


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


class VideoPage:
    """The page, and what happens when somebody does something on it."""

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints

    def make_world(self, index: int, progress: gr.Progress = PROGRESS) -> Iterator[tuple[str, str, int]]:
        """Render the world of this index: its file, captions (the first is true), the next index."""
        progress(0.2, desc="generating a world")
        with tempfile.TemporaryDirectory() as folder, told():
            path, captions = write_world(Path(folder), WORLD_SEED, index, WORLD_CONFIG)
            yield path, "\n".join(captions), index + 1  # goes on when the page has its copy of the file

    def show(self, path: str, progress: gr.Progress = PROGRESS) -> Iterator[tuple]:
        """Draw the trajectories of a video.

        Yields:
            Overlay, figures, `ShownVideo`, conversation and label scores: first empty, as nothing of the video before
            may stay, then of this video.
        """
        yield EMPTY
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, told(path):
            progress(0.1, desc="reading the video")
            video = read_frames(path, NUM_FRAMES, self.checkpoints.trajtok[1].decode_timeout_s)
            video.frames_uint8 = shrink(video.frames_uint8)
            overlay = Path(folder) / "overlay.mp4"
            figures = self._draw(video, overlay, progress)
            figures["seconds"] = f"{time.perf_counter() - started:.1f}"
            yield str(overlay), table(figures), ShownVideo(Path(path).name, video.frames_uint8), [], None

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

    def score(self, labels: str, video: ShownVideo | None, progress: gr.Progress = PROGRESS) -> dict[str, float]:
        """How well each label, one a line, describes the video."""
        self._require(video)
        texts = list(dict.fromkeys(line.strip() for line in labels.splitlines() if line.strip()))
        if len(texts) < 2:
            came = f"only {texts[0]!r}" if texts else "no label"
            raise tell(f"Got {came}, expected at least two labels, one a line. Write what the video may show.")
        progress(0.5, desc="scoring labels")
        with told():
            scores = self.checkpoints.classifier(video.frames_uint8, candidate_labels=texts, hypothesis_template="{}")
        return {entry["label"]: entry["score"] for entry in scores}

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
        with told():
            if video.encoded is None:
                progress(0.2, desc="watching the video")
                frames_uint8 = self._frames_for_trajvlm(video)
                video.encoded = encode_video(model, processor, frames_uint8, do_sample_frames=False)
            progress(0.6, desc="answering")
            prompts = video_prompts(processor, video.encoded, [question])
            [answer] = generate_answers(model, processor, prompts, MAX_ANSWER_TOKENS)
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer or "(no words)"}]
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
            generated = world.click(self.make_world, index, [source, labels, index]).success(self.show, source, shown)
            source.clear(lambda: EMPTY, None, shown)
            if self.checkpoints.classifier:
                for event in (dropped, generated):
                    event.success(self.score, [labels, video], scores)
                score_button.click(self.score, [labels, video], scores)
        return page

    def _build_labels(self) -> tuple[gr.Textbox, gr.Label, gr.Button]:
        gr.Markdown("## Which text describes it?\n" + self.checkpoints.missing.get("classifier", ""))
        usable = self.checkpoints.classifier is not None
        labels = gr.Textbox(
            "\n".join(DEFAULT_LABELS[:6]),
            label="Labels",
            info="One a line. Of a generated world, the first is true.",
            lines=6,
            max_lines=12,
            interactive=usable,
            elem_id="labels",
        )
        button = gr.Button("Score labels", interactive=usable, elem_id="score")
        scores = gr.Label(label="Scores", show_heading=False, visible=usable, elem_id="scores")
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
    page.launch(server_port=arguments.port, share=arguments.share, theme=THEME, css=CSS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
