"""A run's metrics sent to the tools that people watch runs with, through Lightning's loggers.

`metrics.jsonl` stays the truth: each of its lines is sent when it is written, under the same names and steps; what is
no number is left out. Each tool has a thread, so that none holds a run up (Weights & Biases takes a millisecond a line,
a server of MLflow an answer), and one that fails gets no more, and the run goes on. What a run needs to go on in the
same place of each tool, an id, stands in `loggers.json`; keys and passwords stay where the tool looks for them.
"""

from __future__ import annotations

import contextvars
import json
import math
import os
import queue
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from babygpt import fields
from babygpt.errors import InputError, Stopped
from babygpt.files import write_json_atomic
from babygpt.recipe import Recipe, to_dict
from babygpt.training.callbacks import RunFiles
from babygpt.untrusted import read_json, redacted

__all__ = ["IDS", "Loggers", "TrackioLogger"]

IDS = "loggers.json"
_PROJECT = "babygpt"
_ID = r"[\w.-]{1,200}"
_MOST_WAITING = 100_000
_FINISH_SECONDS = 60.0  # for the last lines, of all tools together
_STOP_SECONDS = 5.0  # the same when a signal ends the run: whoever sent it may not wait for long
# Nothing of this computer beside the metrics: the arguments of the command may hold secrets of addresses.
_WANDB = {"console": "off", "disable_code": True, "disable_git": True, "x_disable_meta": True, "silent": True}


class TrackioLogger(Logger):
    """Trackio as a logger of Lightning, which has none for it.

    Args:
        project, name: where the run goes; a name that is there already is gone on with.
    """

    def __init__(self, project: str, name: str) -> None:
        super().__init__()
        import trackio

        def begin() -> Any:
            return trackio.init(
                project=project, name=name, resume="allow", auto_log_gpu=False, auto_log_cpu=False
            )

        # In a context of its own it is nobody's current run, which Trackio would end once more at the exit.
        with redirect_stdout(sys.stderr):  # standard output belongs to --json
            self._run: Any = contextvars.copy_context().run(begin)
        self._project, self._name = project, name

    @property
    def name(self) -> str:
        """The project."""
        return self._project

    @property
    def version(self) -> str:
        """The run."""
        return self._name

    def log_hyperparams(self, params: dict[str, Any], *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Puts them into the run's configuration."""
        self._run.config.update(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Sends a line."""
        self._run.log(dict(metrics), step=step)

    def finalize(self, status: str) -> None:
        """Sends what is left."""
        del status
        self._run.finish()


class Loggers(L.Callback):
    """Sends what a run's files hold to the tools that were asked for, from the first rank.

    Args:
        names: of the tools.
        out: the run folder.
        recipe: of the run.
        done: optimiser steps completed before this process.
        say: tells the user.
        under_way: whether the run began in this process, and only goes back: a tool that cannot be started ends no
            such run, and is left out.

    Raises:
        InputError: one of them cannot be started.
    """

    def __init__(
        self,
        names: Sequence[str],
        out: Path,
        recipe: Recipe,
        done: int,
        say: Callable[[str], None],
        *,
        under_way: bool = False,
    ) -> None:
        self._senders: list[_Sender] = []
        opened: dict[str, Logger] = {}
        ids = _ids(out)
        for name in names:
            try:
                opened[name] = _START[name](out, ids, done)
                if name not in ids:
                    opened[name].log_hyperparams(_plain(recipe))
            except Exception as error:
                opened.pop(name, None)
                if under_way:
                    say(f"log: {name} could not be started again ({_words(error)}) and gets no more")
                    continue
                self._finish("failed", _FINISH_SECONDS)
                raise InputError(
                    f"{name} could not be started ({_words(error)})",
                    where="log",
                    hint=f"Mend that, or leave it out, and go on with babygpt train --resume {out}",
                ) from error
            ids.setdefault(name, str(opened[name].version))
            self._senders.append(_Sender(name, opened[name], say))
        if opened:
            write_json_atomic(out / IDS, ids)
            say(f"log: {', '.join(map(_where, opened.items()))}")

    def listen(self, files: RunFiles) -> None:
        """Is told of each line from now on."""
        for sender in self._senders:
            files.tell(sender.send)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sends what is left."""
        del trainer, pl_module
        self._finish("success", _FINISH_SECONDS)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Sends what is left, in seconds when a signal ends the run; a second Ctrl-C waits for nothing."""
        del trainer, pl_module
        stopped = isinstance(exception, Stopped)
        self._finish("failed", _STOP_SECONDS if stopped else _FINISH_SECONDS, wait=not _at_once(exception))

    def _finish(self, status: str, seconds: float, *, wait: bool = True) -> None:
        senders, self._senders = self._senders, []
        for sender in senders:
            sender.end(status)
        until = time.monotonic() + seconds
        # Standard output belongs to --json. It is turned away here and not in a thread, which may never turn it back.
        with redirect_stdout(sys.stderr):
            for sender in senders if wait else ():
                sender.wait(until, seconds)


def _at_once(exception: BaseException) -> bool:
    return isinstance(exception, Stopped) and exception.at_once


class _Sender:
    """A tool and the thread that feeds it; it is no more than `_MOST_WAITING` lines behind."""

    def __init__(self, name: str, logger: Logger, say: Callable[[str], None]) -> None:
        self._name, self._logger, self._say = name, logger, say
        self._waiting: queue.Queue[dict[str, Any] | str] = queue.Queue()
        self._ended = False  # failed, or given up
        self._thread = threading.Thread(target=self._work, name=f"log-{name}", daemon=True)
        self._thread.start()

    def send(self, lines: Sequence[dict[str, Any]]) -> None:
        if self._ended:
            return
        if self._waiting.qsize() > _MOST_WAITING:
            self._give_up(f"is {self._waiting.qsize():,} lines behind")
            return
        for line in lines:
            self._waiting.put(line)

    def end(self, status: str) -> None:
        """There are no more lines."""
        self._waiting.put(status)

    def wait(self, until: float, seconds: float) -> None:
        """Until everything is sent, or that time of the monotonic clock, which is so many seconds away at first."""
        if self._ended:
            return
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._give_up(f"takes longer than {seconds:.0f} s for the last lines")

    def _work(self) -> None:
        try:
            while not isinstance(line := self._waiting.get(), str):
                if self._ended:
                    return
                self._logger.log_metrics(_numbers(line), step=line["step"])
            self._logger.finalize(line)
            if isinstance(self._logger, WandbLogger):
                self._logger.experiment.finish(exit_code=0 if line == "success" else 1)
        except Exception as error:
            self._give_up(f"has failed ({_words(error)})")

    def _give_up(self, why: str) -> None:
        if self._ended:  # what hung may fail later on; nobody waits for it any more
            return
        self._ended = True
        self._say(f"log: {self._name} {why} and gets no more; metrics.jsonl holds everything")


# -- the tools -----------------------------------------------------------------------------------------------


def _tensorboard(out: Path, ids: Mapping[str, str], done: int) -> Logger:
    # What a killed process wrote past its checkpoint is hidden by the steps that are trained again.
    purge = done + 1 if "tensorboard" in ids else None
    logger = TensorBoardLogger(out, name="", version="tensorboard", default_hp_metric=False, purge_step=purge)
    _ = logger.experiment
    return logger


def _wandb(out: Path, ids: Mapping[str, str], done: int) -> Logger:
    del done
    project, run = os.environ.get("WANDB_PROJECT", _PROJECT), ids.get("wandb", uuid.uuid4().hex[:16])
    logger = WandbLogger(name=_name(out), save_dir=out, id=run, project=project, settings=_WANDB)
    _ = logger.experiment
    return logger


def _mlflow(out: Path, ids: Mapping[str, str], done: int) -> Logger:
    del done
    logger = MLFlowLogger(
        os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT),
        run_name=_name(out),
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{out.resolve() / 'mlflow.db'}"),
        run_id=ids.get("mlflow"),
    )
    _ = logger.experiment
    return logger


def _trackio(out: Path, ids: Mapping[str, str], done: int) -> Logger:
    del done
    project = os.environ.get("TRACKIO_PROJECT", _PROJECT)
    return TrackioLogger(project, ids.get("trackio", f"{_name(out)}-{uuid.uuid4().hex[:8]}"))


_START: dict[str, Callable[[Path, Mapping[str, str], int], Logger]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}


def _name(out: Path) -> str:
    """The folder's name, as every tool can take it."""
    return re.sub(r"[^\w.-]+", "-", out.resolve().name)[:100]


def _where(opened: tuple[str, Logger]) -> str:
    name, logger = opened
    return f"tensorboard --logdir {logger.log_dir}" if isinstance(logger, TensorBoardLogger) else name


# -- what is sent --------------------------------------------------------------------------------------------


def _ids(out: Path) -> dict[str, str]:
    """The runs that were begun in each tool."""
    if not (out / IDS).is_file():
        return {}
    try:
        ids = {str(name): str(run) for name, run in dict(read_json(out / IDS)).items()}
        if not all(re.fullmatch(_ID, run) for run in ids.values()):
            raise ValueError("a name in it is none that was given here")
        return ids
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"cannot be read ({error})",
            where=str(out / IDS),
            hint="Delete it to begin new runs in these tools",
        ) from error


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """What of a line can be drawn: all but its step, its windows and what is no finite number."""
    values = {k: v for k, v in line.items() if k != "step" and isinstance(v, bool | int | float)}
    return {k: float(v) for k, v in values.items() if math.isfinite(v)}


def _plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe by its dotted names, without what may be secret in addresses."""
    return {name: _unsecret(value) for name, value in fields.flatten(to_dict(recipe)).items()}


def _unsecret(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return json.dumps([_unsecret(v) for v in value])
    return redacted(value) if isinstance(value, str) else value


def _words(error: Exception) -> str:
    """An exception on one line, without what may be secret in addresses."""
    text = next(iter(str(error).strip().splitlines()), "")
    return redacted(f"{type(error).__name__}: {text}"[:300])
