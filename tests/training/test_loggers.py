"""Metrics sent to other tools: the same names and steps as in the run's file, and nothing that ends a run."""

from __future__ import annotations

import json
import signal
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import Logger

from babygpt import logger_names
from babygpt.cli import main
from babygpt.errors import InputError, RecipeError, Stopped
from babygpt.logger_names import check_installed, check_names
from babygpt.recipe import DataRecipe, Recipe
from babygpt.run_folder import whole_lines
from babygpt.training import loggers
from babygpt.training.loggers import Loggers


class Kept(Logger):
    """A logger that keeps what it is given.

    Attributes:
        sent: (step, values) in order.
        fails: with what, when it is given something.
    """

    name, version = "kept", "run-7"  # type: ignore[assignment]

    def __init__(self, fails: str = "") -> None:
        super().__init__()
        self.fails = fails
        self.sent: list[tuple[int | None, dict[str, float]]] = []
        self.params: dict[str, Any] = {}
        self.status = ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.params = params

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if self.fails:
            raise RuntimeError(self.fails)
        self.sent.append((step, metrics))

    def finalize(self, status: str) -> None:
        self.status = status


class Files:
    def __init__(self) -> None:
        self.listeners: list[Any] = []

    def tell(self, listener: Any) -> None:
        self.listeners.append(listener)


def test_the_names_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    check_names(("tensorboard", "wandb", "mlflow", "trackio"))
    with pytest.raises(RecipeError, match=r"there is no logger 'wand'\. Did you mean wandb"):
        check_names(("wand",))
    with pytest.raises(RecipeError, match="named twice"):
        check_names(("wandb", "wandb"))
    assert logger_names.LOGGERS.keys() == loggers._START.keys()
    monkeypatch.setattr(logger_names, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"wandb is not installed\. Install it with pip install wandb"):
        check_installed(("wandb",))


def test_what_is_missing_is_said_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logger_names, "find_spec", lambda name: None)
    assert main(["train", "--out", str(tmp_path / "a"), "--log", "mlflow"]) == 2
    assert "log: mlflow is not installed" in capsys.readouterr().err
    assert main(["train", "--out", str(tmp_path / "a"), "--log", "tensorbord"]) == 2
    assert "Did you mean tensorboard" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_sends_what_it_writes_and_goes_on_in_the_same_place(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("".join(f"Number {n % 7} is {n % 5}. " for n in range(300)))
    made: list[tuple[Kept, dict[str, str], int]] = []

    def start(out: Path, ids: Any, done: int) -> Logger:
        made.append((Kept(), dict(ids), done))
        return made[-1][0]

    monkeypatch.setitem(loggers._START, "wandb", start)
    monkeypatch.setattr(logger_names, "find_spec", lambda name: object())
    out = tmp_path / "out"
    words = ["train", "--model.name", tiny_gpt2, "--data.path", tmp_path / "text.txt", "--data.block", 16]
    words += ["--data.global_batch_size", 4, "--validate.every_steps", 2, "--schedule.name", "constant"]
    words += ["--budget.steps", 4, "--out", out, "--log", "wandb"]
    assert main(list(map(str, words))) == 0, capsys.readouterr().err
    more = ["train", "--resume", out, "--budget.steps", 6, "--log", "wandb"]
    assert main(list(map(str, more))) == 0, capsys.readouterr().err
    (first, ids, done), (second, ids_then, done_then) = made
    assert (ids, done, ids_then, done_then) == ({}, 0, {"wandb": "run-7"}, 4)
    assert json.loads((out / "loggers.json").read_text()) == {"wandb": "run-7"}
    written = [(line.pop("step"), line) for line in whole_lines(out / "metrics.jsonl")]
    kept = [(step, {k: v for k, v in values.items() if v is not None}) for step, values in written]
    assert [*first.sent, *second.sent] == kept
    assert {"train_loss", "val_loss"} <= {name for _, values in kept for name in values}
    assert first.params["data.block"] == 16
    assert second.params == {}, "those of a run are sent once"
    assert (first.status, second.status) == ("success", "success")


def test_a_tool_that_fails_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, sound = Kept("no answer of https://me:secret@host/?token=1\nand more"), Kept()
    monkeypatch.setitem(loggers._START, "wandb", lambda *_: broken)
    monkeypatch.setitem(loggers._START, "mlflow", lambda *_: sound)
    said: list[str] = []
    sender = Loggers(("wandb", "mlflow"), tmp_path, Recipe(), 0, said.append)
    files = Files()
    sender.listen(files)  # type: ignore[arg-type]
    for step in (1, 2):
        line = {"step": step, "train_loss": float("nan"), "lr": 0.1, "windows": [1], "skipped": True}
        for listener in files.listeners:
            listener([line])
    sender.on_exception(SimpleNamespace(), SimpleNamespace(), RuntimeError())  # type: ignore[arg-type]
    assert sound.sent == [(1, {"lr": 0.1, "skipped": 1.0}), (2, {"lr": 0.1, "skipped": 1.0})]
    failed = [text for text in said if "has failed" in text]
    assert len(failed) == 1
    assert "secret" not in failed[0]
    assert "token" not in failed[0]
    assert (broken.status, sound.status) == ("", "failed")


def test_a_tool_that_hangs_holds_up_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, let_go = Kept(), threading.Event()
    monkeypatch.setattr(hangs, "log_metrics", lambda *_, **__: let_go.wait(20))
    monkeypatch.setitem(loggers._START, "mlflow", lambda *_: hangs)
    monkeypatch.setattr(loggers, "_FINISH_SECONDS", 0.05)
    monkeypatch.setattr(loggers, "_MOST_WAITING", 10)
    for lines, words in ((3, "takes longer than 0 s"), (30, "lines behind")):
        said: list[str] = []
        sender = Loggers(("mlflow",), tmp_path, Recipe(), 0, said.append)
        files = Files()
        sender.listen(files)  # type: ignore[arg-type]
        for step in range(lines):
            files.listeners[0]([{"step": step, "lr": 0.1}])
        sender.on_train_end(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
        told = [text for text in said if "gets no more" in text]
        assert len(told) == 1
        assert words in told[0]
    let_go.set()


def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, let_go: threading.Event, *names: str) -> Any:
    """Loggers of tools that answer nothing, each with a line to send, and what is said of them."""
    for name in names:
        hangs = Kept()
        monkeypatch.setattr(hangs, "log_metrics", lambda *_, **__: let_go.wait(20))
        monkeypatch.setitem(loggers._START, name, lambda *_, hangs=hangs: hangs)
    said: list[str] = []
    sender = Loggers(names, tmp_path, Recipe(), 0, said.append)
    files = Files()
    sender.listen(files)  # type: ignore[arg-type]
    for listener in files.listeners:
        listener([{"step": 1, "lr": 0.1}])
    return sender, said


@pytest.mark.parametrize(
    ("ends", "least", "most"),
    [
        (None, 1.0, 1.9),  # seconds, of both together
        (RuntimeError(), 1.0, 1.9),
        (Stopped(signal.SIGTERM), 0.1, 0.9),
        (Stopped(signal.SIGINT, at_once=True), 0.0, 0.09),
    ],
)
def test_how_long_the_end_of_a_run_waits_for_tools_that_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: Exception | None, least: float, most: float
) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(loggers, "_FINISH_SECONDS", 1.0)
    monkeypatch.setattr(loggers, "_STOP_SECONDS", 0.1)
    sender, _ = hanging(tmp_path, monkeypatch, let_go, "mlflow", "wandb")
    begun = time.monotonic()
    if ends is None:
        sender.on_train_end(SimpleNamespace(), SimpleNamespace())
    else:
        sender.on_exception(SimpleNamespace(), SimpleNamespace(), ends)
    assert least <= time.monotonic() - begun <= most
    let_go.set()


def test_one_that_was_given_up_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    sender, said = hanging(tmp_path, monkeypatch, let_go, "mlflow")
    sender._senders[0]._give_up("is behind")
    begun = time.monotonic()
    sender.on_train_end(SimpleNamespace(), SimpleNamespace())
    assert time.monotonic() - begun < 1
    assert len([text for text in said if "gets no more" in text]) == 1
    let_go.set()


def test_standard_output_comes_back_from_a_tool_that_hangs_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    let_go, kept = threading.Event(), Kept()

    def finalize(status: str) -> None:
        print("the tool's own words")
        let_go.wait(20)

    monkeypatch.setattr(kept, "finalize", finalize)
    monkeypatch.setattr(loggers, "_FINISH_SECONDS", 0.2)
    monkeypatch.setitem(loggers._START, "trackio", lambda *_: kept)
    Loggers(("trackio",), tmp_path, Recipe(), 0, lambda text: None).on_train_end(
        SimpleNamespace(),
        SimpleNamespace(),  # type: ignore[arg-type]
    )
    print("{}")
    let_go.set()
    assert capsys.readouterr() == ("{}\n", "the tool's own words\n")


def test_a_run_that_goes_back_does_without_one_that_cannot_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = Kept()

    def refuse(*_: Any) -> Logger:
        raise ValueError("no network")

    monkeypatch.setitem(loggers._START, "wandb", refuse)
    monkeypatch.setitem(loggers._START, "mlflow", lambda *_: sound)
    (tmp_path / "loggers.json").write_text('{"wandb": "a", "mlflow": "run-7"}')
    said: list[str] = []
    sender = Loggers(("wandb", "mlflow"), tmp_path, Recipe(), 4, said.append, under_way=True)
    assert said == [
        "log: wandb could not be started again (ValueError: no network) and gets no more",
        "log: mlflow",
    ]
    sender.on_train_end(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    assert sound.status == "success"
    assert json.loads((tmp_path / "loggers.json").read_text()) == {"wandb": "a", "mlflow": "run-7"}


def test_one_that_cannot_start_is_one_plain_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = Kept()

    def refuse(*_: Any) -> Logger:
        raise ValueError("no key for https://user:secret@host/")

    monkeypatch.setitem(loggers._START, "mlflow", lambda *_: started)
    monkeypatch.setitem(loggers._START, "wandb", refuse)
    with pytest.raises(InputError, match="wandb could not be started") as told:
        Loggers(("mlflow", "wandb"), tmp_path, Recipe(), 0, print)
    assert "secret" not in str(told.value)
    assert started.status == "failed"
    assert not (tmp_path / "loggers.json").exists()


@pytest.mark.parametrize("text", ["[1]", "{", '{"wandb": "../../x"}', '{"wandb": ""}'])
def test_ids_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "loggers.json").write_text(text)
    with pytest.raises(InputError, match=r"loggers\.json: cannot be read"):
        Loggers(("wandb",), tmp_path, Recipe(), 0, print)


def test_secrets_of_addresses_are_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    monkeypatch.setitem(loggers._START, "wandb", lambda *_: kept)
    address = "https://me:secret@example.org/a.txt?token=secret"
    Loggers(("wandb",), tmp_path, replace(Recipe(), data=DataRecipe(path=(address,))), 0, print)
    assert "example.org" in kept.params["data.path"]
    assert "secret" not in json.dumps(kept.params)


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="TensorBoard is not installed")
def test_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def process(done: int, steps: range, loss: float) -> None:
        sender = Loggers(("tensorboard",), tmp_path, Recipe(), done, lambda text: None)
        files = Files()
        sender.listen(files)  # type: ignore[arg-type]
        files.listeners[0]([{"step": n, "train_loss": loss, "val_loss/a": 1.0} for n in steps])
        sender.on_train_end(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]

    process(0, range(1, 9), 2.0)  # killed after step 8, with a checkpoint at step 5
    process(5, range(6, 11), 3.0)
    seen = EventAccumulator(str(tmp_path / "tensorboard"))
    seen.Reload()
    assert sorted(seen.Tags()["scalars"]) == ["train_loss", "val_loss/a"]
    values = [(event.step, event.value) for event in seen.Scalars("train_loss")]
    assert values == [(n, 2.0 if n <= 5 else 3.0) for n in range(1, 11)]
