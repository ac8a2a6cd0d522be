"""The size that a run takes which names none: what is timed, what is said, and that it ends as a plain recipe."""

from __future__ import annotations

import importlib
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from babygpt import planner, timing
from babygpt.cli import main
from babygpt.data.module import LLMDataModule
from babygpt.machine import MachineFacts
from babygpt.model.load import load_config
from babygpt.recipe import Budget, Recipe, read_recipe
from babygpt.scaling import LAW, Size, best_size
from babygpt.training import dial
from babygpt.training.dial import Pace, pace_of, search

SIZES = [Size(f"{n}", n, 6 * n) for n in (10**5, 3 * 10**5, 10**6, 3 * 10**6, 10**7, 3 * 10**7, 10**8)]


@pytest.mark.parametrize(("overhead", "rate"), [(0.0, 1e9), (1e-4, 1e11), (1e-5, 1e13)])
@pytest.mark.parametrize("seconds", [30.0, 600.0, 1e5])
def test_the_search_finds_what_timing_everything_would(overhead: float, rate: float, seconds: float) -> None:
    """To the 2 % that the dial promises, also where small models are held up by something else than operations."""
    timed: list[str] = []

    def true_pace(size: Size) -> Pace:
        return Pace(overhead + size.flops_per_token / rate, 0.001)

    def time_it(size: Size) -> Pace:
        timed.append(size.name)
        return true_pace(size)

    found = search(SIZES, time_it, lambda pace: seconds / pace.token, 10**12)
    best = best_size(SIZES, lambda size: seconds / true_pace(size).token, 10**12)
    assert found.size.name in timed, "what is taken was timed"
    assert len(timed) == len(set(timed)), "nothing is timed twice"
    assert found.loss <= 1.02 * best.loss


def test_between_timed_sizes_and_beyond() -> None:
    timed = {600: Pace(1.0, 10.0), 60_000: Pace(10.0, 1000.0)}
    assert pace_of(Size("", 1000, 6000), timed) == Pace(
        pytest.approx(1 + 9 * 54 / 594), pytest.approx(10 + 990 * 54 / 594)
    )
    assert pace_of(Size("", 100, 600), timed) == timed[600]
    assert pace_of(Size("", 10_000, 60_000), timed) == Pace(pytest.approx(10.0), pytest.approx(1000.0))
    assert pace_of(Size("", 50, 300), timed) == Pace(0.5, 5.0)
    # Ten times the seconds for a hundred times the operations: 2 ** 0.5 for twice as many.
    assert pace_of(Size("", 20_000, 120_000), timed) == Pace(
        pytest.approx(14.142, abs=1e-3), pytest.approx(1414.2, abs=0.1)
    )
    alone = {600: Pace(1.0, 10.0)}
    assert pace_of(Size("", 100, 600), alone) == alone[600]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"{n} bottles of beer on the wall, {n} bottles of beer." for n in range(2000)))
    return path


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that take no time."""
    monkeypatch.setattr(dial, "_SHAPES", ((32, 1), (64, 1), (96, 1)))


def planned(text: Path, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    asked = ["plan", "--data.path", str(text), "--data.tokenizer", "train:300", "--data.block", "32"]
    assert main([*asked, "--data.global_batch_size", "4", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("short")
def test_a_budget_in_operations(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its steps are those whose operations fit into it, of a model that is named."""
    told = planned(text, capsys, "--budget.flops", "1e11")
    assert told["model"] in ("preset:llama-32x1", "preset:llama-64x1", "preset:llama-96x1")
    assert told["reasons"][0].startswith(
        f"model: {told['model']} by the scaling law: 1e+11 operations train it on"
    )
    step = told["flops_per_token"] * 4 * 32
    assert told["steps"] == int(1e11 / step)
    assert told["flops"] <= 1e11 < told["flops"] + step
    assert "no loss is foretold" in told["expected"]
    assert "data.path" in told["expected"]


@pytest.mark.usefixtures("short")
def test_steps_take_the_size_that_their_tokens_are_the_best_use_of(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = planned(text, capsys, "--budget.steps", "3", "--machine.preset", "h100x8")
    assert told["model"] == "preset:llama-32x1", "few tokens are worth no large model"
    assert told["reasons"][0] == "model: preset:llama-32x1 by the scaling law: 384 tokens suit it"


def test_a_range_where_the_law_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told for the default recipe; for another, what is different is named instead."""
    usual = planner.resolve_recipe(Recipe(), model_name="preset:llama-64x2", parameters=625_000, block=128)
    usual = replace(usual, budget=Budget(steps=100))
    store = SimpleNamespace(num_tokens=10**7)
    data: Any = SimpleNamespace(tokenizer=range(8192), prepared=SimpleNamespace(train=store))
    loss = LAW.loss(planner.parameters_of(load_config("preset:llama-64x2")), 100 * 32 * 128)
    low, high = re.match(r"(\S+) to (\S+) bits a byte", dial.expected(usual, data)).groups()  # type: ignore[union-attr]
    assert float(low) == pytest.approx(loss * (1 - LAW.error), abs=0.006)
    assert float(high) == pytest.approx(loss * (1 + LAW.error), abs=0.006)
    store.num_tokens = 10**4
    assert float(dial.expected(usual, data).split()[0]) > float(low), "text that is read again is worth less"
    other = replace(usual, optim=replace(usual.optim, lr=1e-4), seed=5)
    assert dial.expected(other, data).endswith("this one has another optim.lr")
    gpt = replace(usual, model=replace(usual.model, name="preset:gpt2-1m"))
    assert "model.name" in dial.expected(gpt, data)


@pytest.mark.usefixtures("short")
def test_minutes_are_what_the_clock_says(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Looking at the machine, choosing and timing are taken off, preparing data is not; the recipe needs none of it."""
    clock = [0.0]
    still = SimpleNamespace(monotonic=lambda: clock[0], strftime=time.strftime)
    start = importlib.import_module("babygpt.training.start")
    for module in (dial, start, importlib.import_module("babygpt.cli")):
        monkeypatch.setattr(module, "time", still)
    detect, build_data, preparing = start.detect, start.build_data, [100.0]

    def detected() -> MachineFacts:
        clock[0] += 0.5
        return detect()

    def built(*args: Any, **options: Any) -> LLMDataModule:
        clock[0] += preparing.pop() if preparing else 0.0
        return build_data(*args, **options)

    monkeypatch.setattr(start, "detect", detected)
    monkeypatch.setattr(start, "build_data", built)

    def measured(*_: Any) -> timing.StepTime:
        clock[0] += 1.0
        return timing.StepTime(step=0.5, forward=0.0)

    monkeypatch.setattr(timing, "measure_step", measured)
    asked = ["train", "--data.path", str(text), "--data.tokenizer", "train:300", "--data.block", "32"]
    asked += ["--data.global_batch_size", "4", "--validate.batches", "1", "--out", str(tmp_path / "run")]
    assert main([*asked, "--budget.minutes", "0.15", "--machine.device", "cpu"]) == 0
    said = capsys.readouterr().err
    recipe = read_recipe(tmp_path / "run" / "recipe.yaml")
    assert recipe.model.name in said
    assert recipe.model.name.startswith("preset:llama-")
    times = clock[0] - 100
    assert 2.5 <= times <= 4.5, "a size or a few, and the one that was taken once more"
    assert recipe.budget.steps == int((0.97 * 9 - times) / 0.5)
    none = tmp_path / "none"
    assert main([*asked[:-1], str(none), "--budget.minutes", "0.01", "--machine.device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert (
        "model: preset:llama-32x1 by the scaling law: the smallest, since 0.01 minutes are too short" in said
    )
    assert "budget.minutes: 0.01 minutes are too short: a step takes 0.50 s" in said
    assert not none.exists()
