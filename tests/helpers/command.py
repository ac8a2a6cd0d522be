"""The command in this process, with a look inside: gradients, data order, and signals at chosen steps."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from babygpt import BabyGPT
from babygpt.cli import main
from babygpt.training import callbacks

start = importlib.import_module("babygpt.training.start")


def with_short_samples(patch: pytest.MonkeyPatch) -> None:
    """Samples of four tokens: writing longer ones takes a third of a run of a few steps."""
    write = callbacks.continue_text

    def few(*args: Any, **kwargs: Any) -> str:
        return write(*args, **{**kwargs, "max_new_tokens": 4})

    patch.setattr(callbacks, "continue_text", few)


@dataclass
class Seen:
    """What a run did.

    Attributes:
        code: the exit code.
        out, err: what it printed.
        module: the trained module, if it came to that.
        gradients: of the steps asked for, by completed steps.
        order: token ids of each micro-batch.
        validated: the weights of each validation, by completed steps, where asked for.
    """

    code: int = -1
    out: str = ""
    err: str = ""
    module: BabyGPT | None = None
    gradients: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    order: list[list[list[int]]] = field(default_factory=list)
    validated: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)


class Command:
    """Runs command lines in this process.

    Args:
        monkeypatch: puts the looking glass in.
        capfd: reads what is printed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(
        self,
        *args: str | Path,
        gradients_of: Collection[int] = (),
        signal_at: int = -1,
        signum: int = signal.SIGTERM,
        initial: dict[str, torch.Tensor] | None = None,
        keep_validated: bool = False,
    ) -> Seen:
        seen = Seen()
        build = start.build_module

        def watched(*a: Any, **k: Any) -> BabyGPT:
            module = build(*a, **k)
            if initial is not None:
                module.model.load_state_dict(initial)
            seen.module = module
            step_of = lambda: module.trainer.global_step  # noqa: E731
            training_step = module.training_step

            def training(batch: Any, batch_idx: int) -> Any:
                seen.order.append(batch["input_ids"].tolist())
                return training_step(batch, batch_idx)

            def before_update(optimizer: Any) -> None:
                if (step := step_of()) in gradients_of:
                    named = module.model.named_parameters()
                    seen.gradients[step] = {
                        n: p.grad.detach().clone() for n, p in named if p.grad is not None
                    }
                if step_of() == signal_at:
                    os.kill(os.getpid(), signum)

            validation_start = module.on_validation_epoch_start

            def before_validation() -> None:
                validation_start()
                if keep_validated:
                    held = module.model.state_dict()
                    seen.validated[step_of()] = {k: v.detach().clone() for k, v in held.items()}

            module.on_validation_epoch_start = before_validation  # type: ignore[method-assign]
            module.training_step = training  # type: ignore[method-assign]
            module.on_before_optimizer_step = before_update  # type: ignore[method-assign]
            return module

        with self._monkeypatch.context() as patch:
            patch.setattr(start, "build_module", watched)
            with_short_samples(patch)
            self._capfd.readouterr()
            seen.code = main([str(a) for a in args])
            seen.out, seen.err = self._capfd.readouterr()
        return seen
