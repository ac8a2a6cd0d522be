"""Waiting for other processes; what a process group says when one is no more, told from what it says of our faults."""

from __future__ import annotations

import itertools
import os
import signal

import pytest

from babygpt.errors import Stopped
from babygpt.training import stores
from babygpt.training.guards import SignalGuard
from babygpt.training.stores import is_lost_connection, wait_until


def test_waiting_ends_when_it_is_so_or_time_is_up_or_a_signal_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_POLL_SECONDS", 0.001)
    guard, asked = SignalGuard(), itertools.count(1)
    with guard.installed():
        assert wait_until(lambda: next(asked) == 5, guard)
        assert next(asked) == 6
        assert not wait_until(lambda: False, guard, 0.01)
        with pytest.raises(Stopped):
            wait_until(lambda: bool(os.kill(os.getpid(), signal.SIGTERM)), guard)


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error [10.0.0.2]:19: Connection reset by peer."), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:19"), True),
        (RuntimeError("Gloo connectFullMesh failed: timed out connecting: SO_ERROR: Connection refused"), True),
        (RuntimeError("ncclRemoteError: a network error or a remote process exited prematurely"), True),
        (RuntimeError("[enforce fail at pair.cc] op.preamble.length <= op.nbytes. 8 vs 4"), False),
        (RuntimeError("Error(s) in loading state_dict"), False),
        (ConnectionResetError("Connection reset by peer"), False),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_process_that_is_gone(error: Exception, is_lost: bool) -> None:
    assert is_lost_connection(error) is is_lost
