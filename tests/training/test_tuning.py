"""Compiled blocks and the collector at rest, in real fits: the same losses, and everything set back at the end."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import pytest
import torch

from babygpt import BabyGPT, LLMDataModule
from babygpt.model.blocks import find_blocks
from fits import trainer_of

Make = Callable[..., Any]

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


class Watch(L.Callback):
    """What holds while a step runs."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.fail_at, self.collector, self.graphs_at = fail_at, set[bool](), list[int]()
        self.graphs: list[Any] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.collector.add(gc.isenabled())
        self.graphs_at.append(len(self.graphs))
        if trainer.global_step == self.fail_at:
            raise KeyError("on purpose")


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Notes the graphs that are captured; a back end that compiles nothing runs them."""
    found, real = Watch(), torch.compile

    def keep(graph: Any, inputs: Any) -> Any:
        found.graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: real(function, **kwargs, backend=keep))
    torch._dynamo.reset()
    yield found
    torch._dynamo.reset()


def _trained(data: LLMDataModule, module: BabyGPT, *callbacks: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
    trainer_of(max_steps=4, callbacks=list(callbacks), **kwargs).fit(module, datamodule=data)
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def _is_as_before(module: BabyGPT) -> bool:
    blocks = find_blocks(module.model).values()
    compiled = any(block._compiled_call_impl is not None for block in blocks)
    return gc.isenabled() and not compiled and not torch.are_deterministic_algorithms_enabled()


def test_nothing_is_compiled_after_the_first_step(make_data: Make, make_module: Make, watch: Watch) -> None:
    """Four steps with a validation of another batch size after each, and dropout, which draws as without."""
    plain = _trained(make_data(4), make_module(dropout=0.1), limit_val_batches=2, val_check_interval=1)
    module = make_module(dropout=0.1, compile=True)
    assert not watch.graphs
    compiled = _trained(make_data(4), module, watch, limit_val_batches=2, val_check_interval=1)
    assert watch.graphs_at == [2] * 4, "the line that tries the compiler, and one block for all"
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    assert _is_as_before(module)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("frozen", [0, 1], ids=["", "by-the-caller"])
def test_the_collector_rests_between_intervals(
    make_data: Make, make_module: Make, monkeypatch: pytest.MonkeyPatch, fails: bool, frozen: int
) -> None:
    """What a caller froze stays so: there is one place for what is frozen, and no thawing of a part."""
    watch, module, put_away = Watch(2 if fails else None), make_module(), list[str]()
    for name in ("freeze", "unfreeze"):
        monkeypatch.setattr(gc, name, lambda name=name: put_away.append(name))
    monkeypatch.setattr(gc, "get_freeze_count", lambda: frozen)
    try:
        _trained(make_data(4), module, watch)
        assert not fails
    except KeyError:
        assert fails
    assert watch.collector == {False}
    assert put_away == ([] if frozen else ["freeze", "unfreeze"])
    assert _is_as_before(module)


def test_what_lives_on_is_walked_over_once_a_second(
    make_data: Make, make_module: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight steps of 0.3 s, an interval every two; a cycle of the first step is gone at the interval's end."""
    walks: list[tuple[int, ...]] = []
    gone: list[int] = []
    clock, real = [0.0], gc.collect
    monkeypatch.setattr("babygpt.training.tuning.time.monotonic", lambda: clock[0])

    class Steps(L.Callback):
        def on_train_start(self, trainer: Any, *_: Any) -> None:
            def collect(*generation: int) -> int:
                walks.append((trainer.global_step, *generation))
                return real(*generation)

            monkeypatch.setattr(gc, "collect", collect)

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            clock[0] += 0.3
            if trainer.global_step == 1:
                cycle = torch.nn.Identity()
                cycle.itself = [cycle]
                weakref.finalize(cycle, lambda: gone.append(trainer.global_step))

    trainer_of(max_steps=8, log_every_n_steps=2, callbacks=[Steps()]).fit(
        make_module(), datamodule=make_data(4)
    )
    assert walks[-4:] == [(2, 0), (4,), (6, 0), (8,)]
    assert gone == [2]


def test_a_trainer_that_logs_nothing_trains(make_data: Make, make_module: Make) -> None:
    """Lightning takes 0 for never."""
    module = make_module()
    trainer_of(max_steps=4, log_every_n_steps=0).fit(module, datamodule=make_data(4))
    assert module.trainer.global_step == 4


def test_where_nothing_is_compiled_kernels_are_as_without(
    make_data: Make, make_module: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A model with an operation that has no deterministic kernel trains all the same."""
    seen = set[bool]()

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no compiler")

    class Modes(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            seen.add(torch.are_deterministic_algorithms_enabled())

    monkeypatch.setattr(torch, "compile", refuse)
    module = make_module(compile=True)
    _trained(make_data(4), module, Modes())
    assert "not compiled, going on without" in caplog.text
    assert seen == {False}
    assert _is_as_before(module)


def test_whoever_has_it_off_keeps_it_off(make_data: Make, make_module: Make) -> None:
    gc.disable()
    try:
        _trained(make_data(4), make_module())
        assert not gc.isenabled()
    finally:
        gc.enable()
