"""The page: what each of its functions gives, what it says when something is wrong, and all of it in a browser."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import app
import av
import gradio as gr
import numpy as np
import pytest
import torch
from evaluation import video_labels
from evaluation.checkpoint_limits import WORLDS_ONLY_NOTE
from evaluation.question_evaluation import answer_questions
from evaluation.video_labels import NONE_FITS
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from worlds import WorldConfig, render_world, summary_caption

from modeling_trajtok import TrajTokModel, TrajTokVideoProcessor, TrajVLMForConditionalGeneration, TrajVLMProcessor
from modeling_trajtok.processors import VideoTimeoutError
from modeling_trajtok.processors.trajectory_drawing import write_video

REPOSITORY = Path(__file__).resolve().parents[2]
WORDS = ["a", "two", "objects", "red", "blue", "star", "moves", "left", "right"]
WAIT_S = 90


@pytest.fixture
def folders(tmp_path, tiny_config, save_trajvit2, vlm_config, vlm_tokenizer):
    """The three checkpoints, small and untrained, by the name of their option."""
    torch.manual_seed(0)
    found = {name: tmp_path / name for name in ("trajtok", "trajvit2", "trajvlm")}
    TrajTokModel(tiny_config).save_pretrained(found["trajtok"])
    TrajTokVideoProcessor(size={"height": 64, "width": 64}).save_pretrained(found["trajtok"])
    save_trajvit2(found["trajvit2"], WORDS, 64)
    TrajVLMForConditionalGeneration(vlm_config).save_pretrained(found["trajvlm"])
    TrajVLMProcessor.from_model_config(vlm_config, vlm_tokenizer, num_frames=4).save_pretrained(found["trajvlm"])
    return {name: str(folder) for name, folder in found.items()}


@pytest.fixture
def page(folders):
    return app.VideoPage(app.load_checkpoints(**folders))


@pytest.fixture
def clip(tmp_path):
    """A video of 24 frames, 48 x 80 px, 12 per second."""
    path = tmp_path / "my clip.mp4"
    config = WorldConfig(num_frames=24, height=48, width=80, photographs=False)
    write_video(path, render_world(0, 0, config).frames_uint8, fps=12)
    return str(path)


@pytest.fixture
def unreadable(tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"this is no video" * 100)
    return str(path)


def shown_video(page, path):
    """What the page keeps once the video is shown."""
    _, (_, _, video, _, _) = page.show(path)
    return video


def test_a_video_becomes_an_overlay_that_browsers_play_and_figures(page, clip):
    steps = page.show(clip)
    assert next(steps) == app.EMPTY
    overlay, figures, video, conversation, scores = next(steps)
    with av.open(overlay) as file:
        [stream] = file.streams.video
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.frames) == (80, 48, app.NUM_FRAMES)
    names, _, values = figures.splitlines()
    assert names == "| frames | patches | trajectories | tokens | seconds |"
    frames, patches, trajectories, tokens, seconds = (
        float(value.replace(",", "")) for value in values.strip("| ").split(" | ")
    )
    assert frames == 16 and patches > tokens >= trajectories > 0 and seconds > 0
    assert video.name == "my clip.mp4" and video.frames_uint8.shape == (16, 48, 80, 3)
    assert conversation == [] and scores == ""
    assert list(steps) == [] and not Path(overlay).exists()  # the page has its copy by then


def test_large_frames_are_kept_small_in_their_shape():
    frames = np.zeros((2, 720, 1280, 3), dtype=np.uint8)
    assert app.shrink(frames).shape == (2, 360, 640, 3)
    assert app.shrink(frames[:, :100, :200]).shape == (2, 100, 200, 3)


def test_each_world_is_another_one_with_its_true_caption_first(page):
    worlds, other_worlds = page.make_world(0), page.make_world(1)
    path, captions, next_index = next(worlds)
    other_path, other_captions, _ = next(other_worlds)
    assert next_index == 1 and Path(path).read_bytes() != Path(other_path).read_bytes()
    world = render_world(app.WORLD_SEED, 0, app.WORLD_CONFIG)
    assert captions.splitlines()[0] == summary_caption(world.objects) != other_captions.splitlines()[0]
    assert len(captions.splitlines()) > 2


def rows_of(table):
    """(label, cosine) of each row."""
    return re.findall(r"<tr.*?><td>(.*?)</td><td>.*?</td><td>(.*?)</td></tr>", table)


def test_labels_are_scored_once_each_by_their_cosines(page, clip):
    video = shown_video(page, clip)
    table = page.score(" a red star \n\na blue star\na red star\n", video)
    found = page.checkpoints.labeller.label(video.frames_uint8, ["a red star", "a blue star"])
    assert rows_of(table) == [(entry["label"], f"{entry['cosine']:.2f}") for entry in found.cosines]
    assert "It is no probability" in table and "%" not in re.sub(r'style=".*?"', "", table)
    [(label, _)] = rows_of(page.score("a <b>red</b> star", video))
    assert label == "a &lt;b&gt;red&lt;/b&gt; star"


def test_labels_that_do_not_fit_and_unknown_words_are_told(page, clip, monkeypatch):
    video, labeller = shown_video(page, clip), page.checkpoints.labeller
    labeller.worlds_only = True
    table = page.score("a red star\na dog", video)
    assert len(rows_of(table)) == 1 and '<tr class="weak">' in table
    assert f"<b>{NONE_FITS}</b>" in table
    assert "Not scored: a dog. The checkpoint never read: dog." in table
    monkeypatch.setattr(video_labels, "SHIPPED_FITS_FROM", -1.0)
    table = page.score("a red star", video)
    assert '<tr class="fits">' in table and "<b>a red star</b>" in table


def test_answers_of_the_shipped_weights_about_other_videos_are_called_guesses(page, clip):
    question = "what is the zebra ?"
    for worlds_only, steps, is_guess in (
        (False, page.show, False),
        (True, page.show, True),
        (True, page.show_world, False),
    ):
        page.checkpoints.answers_worlds_only = worlds_only
        _, (_, _, video, _, _) = steps(clip)
        _, [_, answer], _ = page.ask(question, [], video)
        assert answer["content"].endswith(app.GUESSED) == is_guess
        assert "has no token for: zebra" in answer["content"]


def test_the_page_says_what_the_shipped_checkpoints_know(folders):
    def notes(checkpoints):
        parts = app.VideoPage(checkpoints).build().config["components"]
        return [part["props"]["value"] for part in parts if part["props"].get("elem_id") == "limits"]

    nowhere = str(Path(folders["trajtok"]) / "nowhere")
    shipped = str(REPOSITORY / "checkpoints" / "trajtok-tiny")
    assert notes(app.load_checkpoints(shipped, nowhere, nowhere)) == [f"**{WORLDS_ONLY_NOTE}**"]
    shipped = str(REPOSITORY / "checkpoints" / "trajvlm-tiny")
    found = app.load_checkpoints(folders["trajtok"], nowhere, shipped)
    assert notes(found) == [f"**{WORLDS_ONLY_NOTE}**"] and found.answers_worlds_only
    assert notes(app.load_checkpoints(**folders)) == []


@pytest.mark.parametrize("act", ["make_world", "show", "show_world", "score", "ask"])
def test_an_error_that_nobody_foresaw_is_a_message_and_a_traceback(page, clip, monkeypatch, caplog, act):
    video = shown_video(page, clip)

    def fail(*_arguments, **_options):
        raise KeyError("secret")

    broken = {"make_world": "write_world", "show": "read_frames", "show_world": "read_frames", "ask": "encode_video"}
    if act == "score":
        monkeypatch.setattr(page.checkpoints.labeller, "label", fail)
    else:
        monkeypatch.setattr(app, broken[act], fail)
    calls = {
        "make_world": lambda: list(page.make_world(0)),
        "score": lambda: page.score("a red star", video),
        "ask": lambda: page.ask("how many ?", [], video),
    }
    with pytest.raises(gr.Error, match=r"did not expect: KeyError\. Its console has the details") as caught:
        calls.get(act, lambda: list(getattr(page, act)(clip)))()
    assert not caught.value.print_exception and "secret" not in str(caught.value)
    [record] = caplog.records
    assert record.levelname == "ERROR" and "KeyError: 'secret'" in caplog.text and "Traceback" in caplog.text


def test_several_questions_encode_the_video_once(page, clip, monkeypatch):
    model, processor = page.checkpoints.trajvlm
    video, calls = shown_video(page, clip), []
    encode = type(model.model)._encode_chunks
    monkeypatch.setattr(
        type(model.model), "_encode_chunks", lambda self, *inputs: calls.append(1) or encode(self, *inputs)
    )
    asked = ["how many objects ?", "what is the colour of 2 ?"]
    emptied, conversation, video = page.ask(asked[0], [], video)
    num_calls = len(calls)
    _, conversation, video = page.ask(asked[1], conversation, video)
    assert emptied == "" and num_calls > 0 and len(calls) == num_calls
    assert [turn["role"] for turn in conversation] == ["user", "assistant"] * 2
    assert [turn["content"] for turn in conversation[::2]] == asked
    four_frames = video.frames_uint8[[0, 5, 10, 15]]
    expected = [answer or "(no words)" for answer in answer_questions(model, processor, four_frames, asked)]
    assert [turn["content"] for turn in conversation[1::2]] == expected


def test_errors_say_what_was_expected_what_came_and_what_to_do(page, clip, unreadable, monkeypatch):
    steps = page.show(unreadable)
    assert next(steps) == app.EMPTY
    with pytest.raises(gr.Error, match=r"^'?broken\.mp4: .*convert it: ffmpeg"):
        next(steps)
    video = shown_video(page, clip)
    with pytest.raises(gr.Error, match="question is empty, expected some words"):
        page.ask("  ", [], video)
    with pytest.raises(gr.Error, match="at most 256"):
        page.ask("what " * 300, [], video)
    with pytest.raises(gr.Error, match="Got no label, expected at least one"):
        page.score(" \n", video)
    for act in (page.score, lambda *given: page.ask(given[0], [], given[1])):
        with pytest.raises(gr.Error, match="There is no video yet"):
            act("a", None)

    def late(*_args):
        raise VideoTimeoutError("late")

    monkeypatch.setattr(app, "read_frames", late)
    with pytest.raises(gr.Error, match=r"my clip\.mp4: reading 16 frames took too long\. Cut it"):
        list(page.show(clip))


def test_what_is_missing_is_named_and_the_rest_works(folders, clip, tmp_path, capsys):
    nowhere, broken = str(tmp_path / "nowhere"), tmp_path / "broken"
    broken.mkdir()
    checkpoints = app.load_checkpoints(folders["trajtok"], str(broken), nowhere)
    assert checkpoints.labeller is None and checkpoints.trajvlm is None
    assert f"No TrajVLM checkpoint: the folder {nowhere} does not exist." in checkpoints.missing["trajvlm"]
    assert "--trajvlm" in checkpoints.missing["trajvlm"]
    assert f"No TrajViT2 checkpoint: {broken} cannot be read." in checkpoints.missing["labeller"]
    page = app.VideoPage(checkpoints)
    components = {part["props"].get("elem_id"): part["props"] for part in page.build().config["components"]}
    assert components["question"]["placeholder"] == checkpoints.missing["trajvlm"]
    assert not components["question"]["interactive"] and not components["score"]["interactive"]
    assert shown_video(page, clip) is not None

    assert app.main(["--trajtok", nowhere]) == 1
    assert f"error: {nowhere}: no TrajTok checkpoint can be read; pass --trajtok FOLDER." in capsys.readouterr().err


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path):
    """Debian's chromium, without a window; in CI it must be there."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        message = "There is no chromium with its driver here: apt-get install chromium chromium-driver"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    options = ChromeOptions()
    options.binary_location = programs[0]
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1280,1400"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    driver = Chrome(options=options, service=Service(programs[1]))
    driver.set_page_load_timeout(WAIT_S)
    yield driver
    driver.quit()


# The app, with an error in it that it does not foresee: videos of this name.
FLAWED_APP = """
import sys
import app
read_frames = app.read_frames
def read(path, *settings):
    if path.endswith("strange.mp4"):
        raise KeyError("secret")
    return read_frames(path, *settings)
app.read_frames = read
sys.exit(app.main())
"""


@pytest.fixture
def address(folders, tmp_path):
    """The app in a process of its own, on a free port; it writes into app.log."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [part for name, folder in folders.items() for part in (f"--{name}", folder)]
    log = tmp_path / "app.log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GRADIO_TEMP_DIR": str(tmp_path / "gradio")}
    environment["PYTHONPATH"] = str(REPOSITORY / "examples")
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", FLAWED_APP, "--port", str(port), *arguments],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: url in log.read_text() or process.poll() is not None, "the app starts")
        assert process.poll() is None, log.read_text()
        yield url
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        process.kill()
        process.wait()


def wait_for(condition, what):
    """The first true value of `condition()`."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    pytest.fail(f"waited {WAIT_S} s in vain until {what}")


class Visitor:
    """Somebody at the page."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get(address)
        wait_for(lambda: self.find("#world"), "the page is there")

    def find(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return "\n".join(
            self.browser.execute_script(
                "return [...document.querySelectorAll(arguments[0])].map(part => part.innerText)", selector
            )
        )

    def overlay(self):
        """(address, width, height, seconds) of the overlay once it can be played, else None."""
        return self.browser.execute_script(
            "const video = document.querySelector('#overlay video');"
            "return video && video.readyState > 1 && video.duration > 0 && video.videoWidth > 0"
            " ? [video.currentSrc, video.videoWidth, video.videoHeight, video.duration] : null"
        )

    def num_events(self):
        """How often the page has asked the app to do something."""
        return self.browser.execute_script(
            "return performance.getEntriesByType('resource').filter(one => one.name.includes('queue/join')).length"
        )

    def upload(self, path):
        self.browser.execute_script("document.querySelector('#source input[type=file]')?.removeAttribute('hidden')")
        self.find("#source input[type=file]")[0].send_keys(path)

    def answers(self):
        """The answers so far, in the order of the questions; none while one is awaited."""
        pending = self.find("#conversation .pending")
        return [] if pending else [part.text for part in self.find("#conversation .bot.message")]

    def ask(self, question):
        """The answer to a question that is typed into the box."""
        [box] = self.find("#question textarea")
        wait_for(lambda: not box.get_attribute("value"), "the box is empty")
        num_answers = len(self.answers())
        box.send_keys(question, Keys.ENTER)
        wait_for(lambda: question in self.text("#conversation .user.message"), "the question is shown")
        return wait_for(lambda: self.answers()[num_answers:], "there is an answer")[0]

    def clear(self):
        """Take the video away."""
        self.find("#source [aria-label=Clear]")[0].click()
        wait_for(lambda: not self.find("#overlay video") and self.find("#source input[type=file]"), "all is cleared")


def test_a_visitor_sees_trajectories_scores_and_answers(browser, address, clip, unreadable, tmp_path):
    visitor = Visitor(browser, address)
    visitor.find("#world")[0].click()
    world, *size, seconds = wait_for(visitor.overlay, "the overlay of the world plays")
    assert size == [256, 256] and 1 < seconds < 4
    assert re.search(r"trajectories.*\d", visitor.text("#figures"), re.DOTALL)
    captions = visitor.find("#labels textarea")[0].get_attribute("value").splitlines()
    wait_for(lambda: all(caption in visitor.text("#scores") for caption in captions), "every caption has a score")
    assert "It is no probability" in visitor.text("#scores") and "%" not in visitor.text("#scores")
    assert visitor.num_events() == 3  # the world, its trajectories, its scores

    visitor.clear()
    visitor.upload(clip)
    mine, *size, seconds = wait_for(visitor.overlay, "the overlay of the clip plays")
    assert mine != world and size == [80, 48] and 1 < seconds < 3

    for number, question in enumerate(("how many objects ?", "what is the colour of 2 ?"), start=1):
        assert visitor.ask(question).strip()
        assert len(visitor.answers()) == number
    browser.save_screenshot(str(tmp_path / "page.png"))

    visitor.clear()
    visitor.upload(unreadable)
    # The player may complain first.
    wait_for(lambda: re.search(r"broken\.mp4.*ffmpeg", visitor.text(".toast-body"), re.DOTALL), "there is a message")
    assert not visitor.find("#overlay video")

    visitor.clear()
    strange = Path(clip).rename(tmp_path / "strange.mp4")
    visitor.upload(str(strange))
    wait_for(lambda: "did not expect: KeyError" in visitor.text(".toast-body"), "there is a message")
    assert "secret" not in visitor.text("body")
    assert "KeyError: 'secret'" in (tmp_path / "app.log").read_text()
