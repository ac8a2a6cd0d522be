"""What a process group says when a process is no more, told from what it says of our own faults."""

from __future__ import annotations

import pytest

from babygpt.training.stores import is_lost_connection


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
