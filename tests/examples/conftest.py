"""Fixtures that several scripts' tests share: a small TrajViT2 on disk, launches of training scripts."""

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from transformers import BertTokenizer

from modeling_trajtok import TrajTokVideoProcessor, TrajViT2Config, TrajViT2Model, TrajViT2Processor

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@pytest.fixture
def save_trajvit2(tiny_config):
    """save_trajvit2(folder, words, size_px) -> the folder, with a model that knows these words, and its processor."""

    def save(folder, words, size_px, seed=0, **tokenizer_settings):
        torch.manual_seed(seed)
        vocabulary = {word: number for number, word in enumerate((*SPECIAL_TOKENS, *words))}
        sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        config = TrajViT2Config(
            trajtok_config=tiny_config,
            transformer_config={"hidden_size": tiny_config.encoder_output_size, **sizes},
            text_config={"model_type": "bert", "hidden_size": 32, "vocab_size": len(vocabulary), **sizes},
            projection_dim=16,
            num_frames=3,
            initializer_range=0.5,
        )
        TrajViT2Model(config).save_pretrained(folder)
        video_processor = TrajTokVideoProcessor(size={"height": size_px, "width": size_px})
        tokenizer = BertTokenizer(vocab=vocabulary, **tokenizer_settings)
        TrajViT2Processor(video_processor, tokenizer).save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def held_picture(tmp_path):
    """A Matroska file of 12 pictures, number n of grey 20 n: six in half a second, six more from second 5 on."""
    times_ms = [*range(0, 600, 100), *range(5000, 5600, 100)]
    path = tmp_path / "held.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"bf": "0", "crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return SimpleNamespace(path=path, times_s=np.array(times_ms) / 1000)


class TrainingLaunches:
    """Launches of a training script with a recipe, in processes of their own, on CPUs."""

    def __init__(self, script: str, recipe: Path):
        self.script, self.recipe = EXAMPLES / script, recipe
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}

    def command(self, out: Path, *changes: str, processes: int = 1, config: Path | None = None) -> list[str]:
        launcher = ["accelerate.commands.launch", "--cpu", "--num_processes", "1"]
        if config:
            launcher = ["accelerate.commands.launch", "--config_file", str(config), "--main_process_port", "0"]
        elif processes > 1:  # with --cpu, `accelerate launch` starts one process, whatever --num_processes says
            launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        return [sys.executable, "-m", *launcher, str(self.script), "--recipe", self.recipe, "--out", out, *changes]

    def run(self, out: Path, *changes: str, **launch) -> None:
        """Run to the end."""
        command = self.command(out, *changes, **launch)
        finished = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=300)
        assert finished.returncode == 0, finished.stderr[-3000:]

    def kill(self, out: Path, *changes: str) -> None:
        """Kill the run as soon as its checkpoint of step 2 is there."""
        process = subprocess.Popen(
            self.command(out, *changes),
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 240
        while not (out / "checkpoints" / "step-2").exists():
            assert process.poll() is None and time.monotonic() < deadline, "the run ended before its first checkpoint"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / "final").exists()

    @staticmethod
    def log(out: Path) -> list[dict[str, float]]:
        """What was logged of each step."""
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return [line for line in lines if "loss" in line]

    def losses(self, out: Path) -> dict[int, float]:
        return {line["step"]: line["loss"] for line in self.log(out)}


@pytest.fixture
def training_launches():
    """training_launches(script, recipe) -> `TrainingLaunches`."""
    return TrainingLaunches
