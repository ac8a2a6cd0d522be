"""A signal is a flag; the handlers of before come back."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from babygpt.errors import Stopped
from babygpt.training.guards import SignalGuard

ALONE: Any = SimpleNamespace(world_size=1)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_only_raises_a_flag(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    guard = SignalGuard()
    with guard.installed():
        guard.raise_if_asked()
        assert guard.stop_asked(ALONE) == 0
        os.kill(os.getpid(), signum)
        assert guard.stop_asked(ALONE) == signum
        with pytest.raises(Stopped) as caught:
            guard.raise_if_asked()
        assert caught.value.signum == signum
    assert signal.getsignal(signum) is before


def test_a_second_ctrl_c_stops_at_once() -> None:
    guard = SignalGuard()
    with guard.installed():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_put_in_since_are_taken_over_again() -> None:
    guard = SignalGuard()
    with guard.installed():
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN
        )  # as Lightning does between our start and the first step
        guard.on_train_start(ALONE, ALONE)
        os.kill(os.getpid(), signal.SIGTERM)
        assert guard.stop_asked(ALONE) == signal.SIGTERM


def test_ranks_stop_for_the_same_signal() -> None:
    reduced: list[Any] = []

    def most(flag: Any, reduce_op: str) -> Any:
        reduced.append(reduce_op)
        return flag.new_tensor(15.0)

    strategy = SimpleNamespace(root_device="cpu", reduce=most)
    trainer: Any = SimpleNamespace(world_size=2, strategy=strategy)
    assert SignalGuard().stop_asked(trainer) == 15
    assert reduced == ["max"]


def test_outside_the_main_thread_it_does_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []

    def work() -> None:
        with SignalGuard().installed():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
