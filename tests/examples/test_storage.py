"""Files are whole or not there, folders have one process at a time, and a full disk is an error that says so."""

import errno
import os
import resource
import signal
import sys
import time

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from evaluation.question_run import AnswerFile
from safetensors.torch import save_file
from storage import (
    FolderInUseError,
    folder_lock,
    folder_locks,
    is_disk_full,
    one_line,
    remove_parts,
    telling_full_disk,
    write_text,
    write_whole,
)
from torch import nn
from training.caption_tokenizer import kept_tokenizer, learn_tokenizer
from training.clip_cache import ClipCache
from training.loop import RunFolder

AGAIN = "there is no room for it. What is finished stays. Free some space and start the same command again"


def in_process(act, largest_file=None):
    """A process of its own that does something, files of at most so many bytes; (its id, where its words come)."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    try:
        act(lambda words: os.write(writing, words.encode()))
    except BaseException as error:  # noqa: BLE001 - the words of any error are what is asked for
        os.write(writing, f"{type(error).__name__}: {one_line(error)}".encode())
    finally:
        os._exit(0)


def words_of(process, reading):
    """All that a process said until its end."""
    with os.fdopen(reading) as file:
        words = file.read()
    os.waitpid(process, 0)
    return words


# --- whole files -----------------------------------------------------------------------------------------------------


def test_a_file_is_whole_or_what_it_was(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old")

    def break_off(part):
        part.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, break_off)
    assert [found.name for found in path.parent.iterdir()] == ["file.txt"] and path.read_text() == "old"
    (path.parent / ".killed.part").touch()
    remove_parts(path.parent)
    assert [found.name for found in path.parent.iterdir()] == ["file.txt"]


def test_others_may_read_a_file_of_any_library(tmp_path):
    (tmp_path / "plain").touch()
    path = tmp_path / "tensors.safetensors"
    write_whole(path, lambda part: save_file({"a": torch.zeros(1)}, part))
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_writers_of_one_file_do_not_meet(tmp_path):
    """Each has written half when the other one begins."""
    path = tmp_path / "file.txt"

    def outer(part):
        part.write_text("outer, ")
        write_text(path, "inner")
        with part.open("a") as file:
            file.write("whole")

    write_whole(path, outer)
    assert path.read_text() == "outer, whole"
    assert [found.name for found in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("kind", ["text", "tensors", "torch", "answers", "clips", "checkpoint", "tokenizer"])
def test_a_full_disk_is_told_whoever_writes(tmp_path, kind):
    """A limit on the size of files stands for the disk."""
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(nn.Linear(64, 64))
    big = torch.zeros(64, 64)

    def act(_say):
        if kind == "text":
            write_text(tmp_path / "file", "x" * 10_000)
        elif kind == "tensors":
            write_whole(tmp_path / "file", lambda part: save_file({"a": big}, part))
        elif kind == "torch":
            write_whole(tmp_path / "file", lambda part: torch.save(big, part))
        elif kind == "answers":
            AnswerFile(tmp_path / "file").add([{"key": "a", "reply": "x" * 10_000}])
        elif kind == "clips":
            ClipCache.array(tmp_path / "file", (4, 8, 32, 32, 3), np.uint8)
        elif kind == "tokenizer":
            kept_tokenizer(tmp_path, lambda: learn_tokenizer([{"captions": ["a red star"]}], 200, 16))
        else:
            RunFolder(tmp_path, accelerator).save(1)

    words = words_of(*in_process(act, largest_file=4096))
    assert words.startswith("OSError: ") and words.endswith(AGAIN)
    assert str(tmp_path) in words
    assert not list(tmp_path.glob("**/*.part"))
    assert model.weight.shape == (64, 64)
    act(None)
    if kind == "answers":
        assert AnswerFile(tmp_path / "file").get("a")["reply"] == "x" * 10_000
    elif kind == "checkpoint":
        assert RunFolder(tmp_path, accelerator).last_step() == 1
        assert not (tmp_path / "checkpoints" / "partial").exists()


def test_only_errors_of_a_full_disk_are_told_so(tmp_path):
    assert is_disk_full(OSError(errno.EDQUOT, "x")) and is_disk_full(RuntimeError("No space left on device"))
    assert not is_disk_full(OSError(errno.ENOENT, "x")) and not is_disk_full(ValueError("wrong"))
    try:
        try:
            raise OSError(errno.ENOSPC, "x")
        except OSError as error:
            raise ValueError("cannot save") from error
    except ValueError as error:
        assert is_disk_full(error)
    with pytest.raises(KeyError, match="other"), telling_full_disk(tmp_path):
        raise KeyError("other")
    assert one_line(KeyError()) == "KeyError" and one_line(ValueError("a\n b")) == "a b"


# --- one process at a time -------------------------------------------------------------------------------------------


def test_a_folder_is_refused_until_its_process_ends_however_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_locks, "PATIENCE_S", 0.1)
    folder = tmp_path / "new"

    def hold(say):
        with folder_lock(folder):
            say("held")
            time.sleep(60)

    for end in (signal.SIGKILL, signal.SIGTERM):
        process, reading = in_process(hold)
        assert os.read(reading, 4) == b"held"
        refused = pytest.raises(FolderInUseError, match=r"is in use by another process\. Wait until it has ended")
        with refused, folder_lock(folder):
            pytest.fail("both are in")
        with folder_lock(folder, held=False):
            pass  # a process whose leader holds it
        os.kill(process, end)
        os.waitpid(process, 0)
        os.close(reading)
        with folder_lock(folder):
            pass


def test_who_waits_gets_the_folder_next(tmp_path, capsys):
    def wait(say):
        with folder_lock(tmp_path, wait=True):
            say("in")

    with folder_lock(tmp_path):
        sys.stdout.flush()
        process, reading = in_process(wait)
        time.sleep(0.3)
        os.set_blocking(reading, False)
        with pytest.raises(BlockingIOError):
            os.read(reading, 2)
        os.set_blocking(reading, True)
    assert words_of(process, reading) == "in"


def test_many_processes_that_open_one_cache_map_the_same_file(tmp_path):
    """All are let go at once, make the array if it is not there, and write a cell of their own."""
    num_processes = 6
    for attempt in range(10):
        path = tmp_path / f"{attempt}" / "array.npy"
        path.parent.mkdir()
        start_reading, start_writing = os.pipe()

        def act(_say, path=path, start=start_reading, close=start_writing):
            os.close(close)
            number = int.from_bytes(os.read(start, 1), "big")
            ClipCache.array(path, (num_processes,), np.uint8)[number] = number + 1

        processes = [in_process(act) for _ in range(num_processes)]
        os.write(start_writing, bytes(range(num_processes)))
        assert [words_of(*process) for process in processes] == [""] * num_processes
        os.close(start_reading)
        os.close(start_writing)
        assert ClipCache.array(path, (num_processes,), np.uint8).tolist() == [1, 2, 3, 4, 5, 6]
        assert sorted(found.name for found in path.parent.iterdir()) == [".lock", "array.npy"]


def test_answers_of_several_processes_are_all_kept(tmp_path):
    path, long = tmp_path / "answers.jsonl", "x" * 30_000  # more than one write of a buffered file
    path.write_text('{"key": "broken off"')

    def add(number):
        def act(_say):
            file = AnswerFile(path)
            for one in range(5):
                file.add([{"key": f"{number}-{one}", "reply": long}] * 2)

        return act

    assert [words_of(*process) for process in [in_process(add(number)) for number in range(4)]] == [""] * 4
    file = AnswerFile(path)
    assert all(file.get(f"{number}-{one}")["reply"] == long for number in range(4) for one in range(5))
    assert len(path.read_text().splitlines()) == 1 + 4 * 5 * 2
