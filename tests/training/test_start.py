"""How a run that goes on meets its data, through the command's own door."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from babygpt.checkpoints import discover
from babygpt.data.cache import default_cache
from babygpt.data.digests import Index
from babygpt.errors import MachineError, SpaceError
from babygpt.machine import MachinePlan
from babygpt.recipe import DataRecipe, Recipe, read_recipe
from babygpt.settings import TrainSettings
from babygpt.training import start
from babygpt.training.alive import alone_in
from babygpt.training.start import Run, shrink
from command import Command
from sparse import write_sparse_store
from web_server import WebServer

LONG_AGO = 1_600_000_000


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capfd)


@pytest.fixture
def stopped(command: Command, corpus: Path, tmp_path: Path) -> Path:
    """A run stopped after two of its four steps; its text is `data/text.jsonl` beside it."""
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(corpus, folder / "text.jsonl")
    os.utime(folder / "text.jsonl", (LONG_AGO, LONG_AGO))
    out = tmp_path / "run"
    fields: dict[str, Any] = {
        "model.name": "preset:gpt2-1m",
        "data.path": folder,
        "data.block": 32,
        "data.tokenizer": "train:300",
        "data.global_batch_size": 2,
        "budget.steps": 4,
        "machine.device": "cpu",
        "out": out,
    }
    seen = command("train", *(f"--{name}={value}" for name, value in fields.items()), signal_at=1)
    assert seen.code == 143, seen.err
    return out


def words_of_one_step(corpus: Path) -> list[str]:
    """The flags of a run of one step, but for its folder."""
    fields = {
        "model.name": "preset:gpt2-1m",
        "data.path": corpus,
        "data.block": 32,
        "data.tokenizer": "train:300",
        "budget.steps": 1,
        "machine.device": "cpu",
    }
    return [f"--{name}={value}" for name, value in fields.items()]


def snapshot(out: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in [out, *out.rglob("*")]}


def test_a_fetch_that_takes_long_is_told_of_as_it_goes(
    command: Command, corpus: Path, web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BABYGPT_CACHE", str(tmp_path / "cache"))
    web.files["/text.jsonl"] = corpus.read_bytes()
    url, out = web.url("/text.jsonl"), tmp_path / "run"
    fields = {
        "model.name": "preset:gpt2-1m",
        "data.path": url,
        "data.block": 32,
        "data.tokenizer": "train:300",
    }
    fields |= {"data.global_batch_size": 2, "budget.steps": 4, "machine.device": "cpu", "out": out}
    again = f"data: {url}: the server answers 503 (Service Unavailable); trying again"
    split = "documents, chosen by their content"
    web.faults = [503]
    seen = command("train", *(f"--{name}={value}" for name, value in fields.items()), signal_at=1)
    assert seen.code == 143, seen.err
    assert (seen.err.count(again), seen.err.count(split)) == (1, 1)
    assert seen.err.index(again) < seen.err.index("data: reading") < seen.err.index(split)
    assert f"checkpoints: step 2 is saved; go on with babygpt train --resume {out}\n" in seen.err
    shutil.rmtree(tmp_path / "cache")
    web.faults = [503]
    seen = command("train", "--resume", out)  # what was tokenised is gone, and made again
    assert seen.code == 0, seen.err
    assert "resume: going on after step 2 of 4" in seen.err
    assert (seen.err.count(again), seen.err.count(split)) == (1, 1)
    assert seen.err.index(again) < seen.err.index("data: reading") < seen.err.index(split)


def test_a_folder_that_another_run_took_meanwhile_is_left_as_it_is(
    command: Command, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = words_of_one_step(corpus)
    begun = tmp_path / "begun"
    begun.mkdir()
    with alone_in(begun):
        seen = command("train", *words, f"--out={begun}")
    assert seen.code == 2
    assert "another process is training in it" in seen.err
    assert not list(begun.iterdir())

    def taken(folder: Path) -> None:
        folder.mkdir()
        (folder / "recipe.yaml").write_text("another's", encoding="utf-8")

    monkeypatch.setattr(start, "make_folder", taken)
    seen = command("train", *words, f"--out={tmp_path / 'ended'}")
    assert seen.code == 2
    assert "already holds another run" in seen.err
    assert [file.read_text(encoding="utf-8") for file in (tmp_path / "ended").iterdir()] == ["another's"]


def test_room_is_asked_for_as_many_checkpoints_as_are_kept(
    command: Command, corpus: Path, tmp_path: Path
) -> None:
    words = words_of_one_step(corpus)
    seen = command("train", *words, f"--checkpoint.keep={10**9}", f"--out={tmp_path / 'run'}")
    assert seen.code == SpaceError.exit_code
    assert "the checkpoints of this run" in seen.err
    assert not (tmp_path / "run").exists()


def test_changed_data_are_refused_and_nothing_is_written(command: Command, stopped: Path) -> None:
    text = stopped.parent / "data" / "text.jsonl"
    content = text.read_bytes()
    text.write_bytes(content + b'{"text": "one more"}\n')
    (stopped.parent / "data" / "new.txt").write_text("new")
    before = snapshot(stopped.parent)
    seen = command("train", "--resume", stopped)
    assert seen.code == 2
    assert f"{text} was changed ({len(content):,} bytes then, " in seen.err
    assert f"{text.with_name('new.txt')} was added" in seen.err
    assert "Traceback" not in seen.err
    assert snapshot(stopped.parent) == before
    text.with_name("new.txt").unlink()
    text.write_bytes(content)  # now touched, but equal
    seen = command("train", "--resume", stopped)
    assert seen.code == 0, seen.err
    assert discover(stopped / "checkpoints")[0].step == 4


def test_going_on_reads_no_text(command: Command, stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Index, "state", lambda *_: pytest.fail("a file was looked into"))
    seen = command("train", "--resume", stopped)
    assert seen.code == 0, seen.err


def test_moved_data_are_named_and_the_recipe_follows(command: Command, stopped: Path) -> None:
    there = stopped.parent / "elsewhere"
    shutil.move(stopped.parent / "data", there)
    seen = command("train", "--resume", stopped)
    assert seen.code == 2
    assert "data is missing" in seen.err
    assert "--data.path" in seen.err
    seen = command("train", "--resume", stopped, "--data.path", there, signal_at=2)
    assert seen.code == 143, seen.err
    assert read_recipe(stopped / "recipe.yaml").data.path == (str(there),)
    seen = command("train", "--resume", stopped)
    assert seen.code == 0, seen.err
    assert json.loads((stopped / "checkpoints" / "last" / "manifest.json").read_text())["facts"]["data"][
        "path"
    ] == [str(there)]


def test_a_lost_cache_is_made_again(
    command: Command, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BABYGPT_CACHE", str(tmp_path / "another"))
    seen = command("train", "--resume", stopped)
    assert seen.code == 0, seen.err
    key = json.loads((stopped / "data.json").read_text())["store"]
    assert (tmp_path / "another" / "data" / key / "manifest.json").is_file()


def test_a_billion_tokens_take_no_time(
    command: Command, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training store is exchanged for a sparse one. `benchmarks/resume_at_scale.py` measures the same."""
    key = json.loads((stopped / "data.json").read_text())["store"]
    prepared = tmp_path / "cache" / "data" / key
    shutil.copytree(default_cache() / "data" / key, prepared)
    monkeypatch.setenv("BABYGPT_CACHE", str(tmp_path / "cache"))
    fingerprint = json.loads((prepared / "train" / "babygpt.json").read_text())["fingerprint"]
    shutil.rmtree(prepared / "train")
    write_sparse_store(prepared / "train", 10**9, fingerprint=fingerprint)
    store = prepared / "train" / "data-00000-of-00001.arrow"
    assert store.stat().st_size > 2e9
    assert store.stat().st_blocks * 512 < 3e7
    updates: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: updates.append(time.monotonic()))
    begun = time.monotonic()
    seen = command("train", "--resume", stopped)
    hook.remove()
    assert seen.code == 0, seen.err
    assert updates[0] - begun < 10
    assert len(updates) == 2


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (torch.OutOfMemoryError("CUDA out of memory\nMore"), "CUDA out of memory"),
        (MemoryError(), "MemoryError"),
    ],
    ids=repr,
)
def test_several_devices_whose_memory_ran_out_are_told_how_to_go_on_and_nothing_else(
    tmp_path: Path, error: Exception, why: str
) -> None:
    """They would have to agree on a smaller plan."""
    plan = MachinePlan("cuda", "32-true", 4, False, False, 0, 2, 1, "ddp")
    run = Run(tmp_path, Recipe(data=DataRecipe(global_batch_size=16)), plan, TrainSettings(), None)
    told: list[str] = []
    wanted = rf"one of several devices \({why}\)\. Go on with --resume .* --machine.micro_batch 2"
    with pytest.raises(MachineError, match=wanted):
        shrink(run, error, told.append)
    assert told == []
