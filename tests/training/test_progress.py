"""What a run shows while it trains, on a terminal and elsewhere."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from babygpt.health import Finding
from babygpt.terminal import stays_in_place
from babygpt.training.progress import ProgressView


def trainer_at(step: int, **more: Any) -> Any:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    values = {"is_global_zero": True, "sanity_checking": False, "world_size": 1, "precision": "32-true"}
    return SimpleNamespace(**{**values, "global_step": step, "strategy": strategy, **more})


class Files:
    """What a view takes of a run's files."""

    def __init__(self, last_record: dict[str, Any] | None = None, validations: Any = ()) -> None:
        self.last_record, self.validations = last_record or {}, validations
        self.listeners: list[Any] = []

    def tell(self, listener: Any) -> None:
        self.listeners.append(listener)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def view_on(
    files: Any,
    *,
    terminal: bool,
    total: int = 10,
    found: tuple[Finding, ...] = (),
    flops: float | None = None,
    measured: Any = lambda peak: None,
) -> tuple[ProgressView, io.StringIO]:
    out = Screen() if terminal else io.StringIO()
    console = Console(
        file=out, force_terminal=terminal, width=100, height=40, color_system=None, legacy_windows=False
    )
    health: Any = SimpleNamespace(found=found)
    return ProgressView(
        total, console, files, health, None if flops is None else lambda: flops, measured
    ), out


def test_colours_asked_for_make_no_terminal_of_a_pipe() -> None:
    assert not stays_in_place(Console(file=io.StringIO(), force_terminal=True))
    assert stays_in_place(Console(file=Screen(), force_terminal=True, legacy_windows=False))
    assert not stays_in_place(Console(file=Screen(), force_terminal=False))


def test_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("babygpt.training.progress.time.monotonic", lambda: clock[0])
    record = {"train_loss": 3.25, "tokens_per_second": 1234.5}
    validated = {"step": 2, "val_loss": 2.0, "val_perplexity": 7.389, "val_bits_per_byte": 1.25}
    files = Files(record, [validated])
    view, out = view_on(files, terminal=False)
    view.on_train_start(trainer_at(0), None)
    for step in range(1, 5):
        clock[0] += 6.0
        view.on_train_batch_end(trainer_at(step), None, None, None, 0)
        if step == 2:
            view.on_validation_end(trainer_at(2), None)
    view.sample(2, "def ", "f[x](y):\n    pass")
    view.on_train_end(trainer_at(4), None)
    assert out.getvalue().splitlines() == [
        "step       1/10  loss 3.250  1,234 tok/s  0:54 left",
        "validation at step       2: loss 2.0000  perplexity 7.39  bits per byte 1.250",
        "step       3/10  loss 3.250  val ppl 7.4  1,234 tok/s  0:42 left",
        "sample at step       2:  def f[x](y):⏎     pass",
    ]


def test_a_loss_that_is_no_number_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files({"train_loss": float("nan"), "tokens_per_second": None})
    view, out = view_on(files, terminal=False)
    view.on_train_start(trainer_at(0), None)
    view.on_train_batch_end(trainer_at(1), None, None, None, 0)
    assert "loss not finite" in out.getvalue()


def test_the_view_of_a_terminal_shows_every_number_and_ends_even_after_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("babygpt.training.progress.matrix_peak", lambda device, precision: 2e9)
    monkeypatch.setattr("babygpt.training.progress.peak_memory_bytes", lambda device: 3 * 2**30)
    monkeypatch.setattr("babygpt.training.progress.memory_total", lambda: 8 * 2**30)
    record = {"train_loss": 3.25, "tokens_per_second": 99.0, "lr": 3e-4, "grad_norm": 1.25, "targets": 50}
    files = Files(record, [{"step": 4, "val_loss": 2.0, "val_perplexity": 7.389, "val_bits_per_byte": 1.0}])
    finding = Finding("rate_too_high", "it has risen", "Lower it")
    view, out = view_on(files, terminal=True, found=(finding,), flops=1e8)
    view.on_train_start(trainer_at(4), None)
    view.on_validation_end(trainer_at(4), None)
    for listener in files.listeners:
        listener([{**record, "train_loss": 4.0}, {**record, "targets": 150}])
    view.on_train_batch_end(trainer_at(7), None, None, None, 0)
    view.on_exception(trainer_at(7), None, RuntimeError())
    view.on_exception(trainer_at(7), None, RuntimeError())
    text = out.getvalue()
    for shown in (
        "step 7/10", "70%", "0:00 left", "loss 3.250", "validation 2.000 (perplexity 7.39)", "lr 3.00e-04",
        "gradient norm 1.25", "99 tokens/s", "memory 3.0 of 8.0 GiB", "rate too high: it has risen",
        # 99 targets a second of 100 a step are 0.99 steps a second, of a hundred million operations each
        "5% of 2 GFLOP/s (measured)",
        "4.000 ", "3.250 ", "⠉",
    ):  # fmt: skip
        assert shown in text, shown
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor is there again"


def test_it_is_drawn_by_time_and_not_by_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, drawn = [0.0], list[int]()
    monkeypatch.setattr("babygpt.training.progress.time.monotonic", lambda: clock[0])
    view, _ = view_on(Files(), terminal=True, total=10_000)
    view.on_train_start(trainer_at(0), None)

    def draw(step: int) -> None:
        drawn.append(step)
        clock[0] += 0.02  # what it takes

    monkeypatch.setattr(view, "_draw", draw)
    for step in range(1, 1001):
        clock[0] += 0.01
        view.on_train_batch_end(trainer_at(step), None, None, None, 0)
    assert len(drawn) in (5, 6), "ten seconds of steps, and a hundred times 0.02 between two draws"
    view.on_train_end(trainer_at(1000), None)


def test_what_a_narrower_terminal_has_broken_goes_first() -> None:
    """The cursor goes up by as many rows as the lines drawn before take on the terminal as it is now."""
    files = Files({"train_loss": 1.0, "tokens_per_second": 1.0, "lr": 0.1, "grad_norm": 1.0})
    view, out = view_on(files, terminal=True)
    console = view._console
    console.width = 80
    view.on_train_start(trainer_at(0), None)

    def draw(width: int) -> str:
        out.seek(0)
        out.truncate()
        console.width, view._draw_at = width, 0.0
        view.on_train_batch_end(trainer_at(1), None, None, None, 0)
        return out.getvalue()

    drawn = re.sub("\x1b\\[[0-9?]*[A-Za-z]", "", draw(80)).strip("\r\n").split("\n")
    assert max(map(len, drawn)) > 50
    for width in (45, 17):
        again = draw(width)
        rows = sum(-(-len(line.rstrip("\r")) // width) for line in drawn)
        assert again.count("\x1b[1A") == rows - 1
        drawn = re.sub("\x1b\\[[0-9?]*[A-Za-z]", "", again).strip("\r\n").split("\n")
    assert draw(80).count("\x1b[1A") == len(drawn) - 1, "a wider one leaves them as they are"
    view.on_train_end(trainer_at(2), None)


def test_a_terminal_that_moves_no_cursor_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    view, out = view_on(Files({"train_loss": 1.0, "tokens_per_second": 5.0}), terminal=True)
    view.on_train_start(trainer_at(0), None)
    view.on_train_batch_end(trainer_at(1), None, None, None, 0)
    assert "\x1b" not in out.getvalue()
    assert "step       1/10  loss 1.000  5 tok/s" in out.getvalue()


def test_other_ranks_show_nothing() -> None:
    files = Files({"train_loss": 1.0, "tokens_per_second": 1.0})
    view, out = view_on(files, terminal=True)
    view.on_train_start(trainer_at(0, is_global_zero=False), None)
    view.on_train_batch_end(trainer_at(1, is_global_zero=False), None, None, None, 0)
    view.on_validation_end(trainer_at(1, is_global_zero=False), None)
    assert out.getvalue() == ""


def test_a_sample_moves_no_cursor() -> None:
    view, out = view_on(Files(), terminal=False)
    view.sample(3, "\x1b[31mred", " and\nmore")
    printed = out.getvalue()
    assert "\x1b" not in printed
    assert "red and⏎ more" in printed


@pytest.mark.parametrize(
    ("flops", "done", "measured"), [(1e12, 0, [6e9]), (1e12, 1, []), (1e11, 0, []), (None, 0, [])]
)
def test_the_peak_is_measured_for_a_run_that_is_worth_it(
    monkeypatch: pytest.MonkeyPatch, flops: float | None, done: int, measured: list[float]
) -> None:
    monkeypatch.setattr("babygpt.training.progress.matrix_peak", lambda device, precision: 2e9)
    told: list[float] = []
    view, _ = view_on(Files(), terminal=False, total=10, flops=flops, measured=told.append)
    view.on_train_start(trainer_at(done, world_size=3), None)
    assert told == measured
