"""What the processes of a run tell one another beside torch's process group: which run it is, and its end.

1. They meet at a key-value store (`stores.py`), which torch's process group then shares.
2. The first process begins or resumes the run and tells the folder; the others wait for it, for as long as it takes.
3. Each has its data and model before anyone trains: the group's own timeout does not run while one computer prepares.
4. A process that fails says so there, so that the others end with the same exit code, and one of them gives the reason.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from babygpt.data.remote import STANDARD_INPUT
from babygpt.errors import BabyGPTError, Ended, MachineError, NotFiniteError, SpikeSeen, Stopped, exit_code
from babygpt.launch import Launch
from babygpt.training.guards import SignalGuard
from babygpt.training.restarts import Begun
from babygpt.training.stores import anew, first_store, is_lost_connection, launchers_store, wait_until

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

__all__ = ["Meeting", "Told", "meeting", "told_of"]

_LINGER_SECONDS = 10.0
_LINGER_POLL_SECONDS = 0.05
_LOST = (
    "another process of the run is gone without a word: killed, by the system for want of memory perhaps, or its"
    " computer failed. What was saved is whole, and --resume goes on from it ({error})"
)
# What every process of a run raises at the same step.
_COMMON = (NotFiniteError, SpikeSeen, Stopped)


@dataclass(frozen=True)
class Told:
    """What the first process tells the others.

    Args:
        out: the run folder.
        checkpoint: where the run goes on from; None at its beginning.
        standard_input: what was kept of it.
    """

    out: str
    checkpoint: str | None
    standard_input: str = ""


class Meeting:
    """The processes of a run, seen by one of them.

    Args:
        launch: of this process, kept as an attribute.
        guard: whose signals end the waiting.
        count: processes that wait for one another.
    """

    def __init__(self, launch: Launch, guard: SignalGuard, count: int) -> None:
        self.launch, self._guard, self._count = launch, guard, count
        self._store: Store | None = None
        self._lasting: Store | None = None  # over the starts of a launch
        self._gathered = False
        self._name = secrets.token_hex(8)

    def open(self, host: str, port: int) -> int:
        """Comes to the store; the first process opens it, unless torchrun has.

        Returns:
            The port, where 0 is given for any that is free.

        Raises:
            MachineError: it cannot be reached, or not be opened.
        """
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]

        launch, guard = self.launch, self._guard
        store = launchers_store(launch, guard, host, port)
        if store is None:
            store, port = first_store(launch, guard, host, port)
        else:
            self._lasting = PrefixStore("babygpt/launch", store)
            store = anew(launch, guard, host, self._lasting) if launch.restart else store
        # torchrun's holds more than this.
        self._store = PrefixStore("babygpt", store)
        return port

    def open_here(self) -> None:
        """Opens the store for the processes that this one will start on this computer, and leaves word where."""
        os.environ["MASTER_PORT"] = str(self.open("127.0.0.1", 0))
        os.environ["MASTER_ADDR"] = "127.0.0.1"

    @property
    def is_open(self) -> bool:
        """Whether there is anybody to tell."""
        return self._store is not None

    def keep(self, begun: Begun) -> None:
        """The first process: leaves word of the run that it begins, for another start of the same launch."""
        if self._lasting is not None:
            self._lasting.set("begun", json.dumps(asdict(begun)))

    def kept(self) -> Begun | None:
        """What an earlier start of this launch has begun."""
        if self._lasting is None or not self._lasting.check(["begun"]):
            return None
        return Begun(**json.loads(self._lasting.get("begun")))

    def tell(self, told: Told) -> None:
        """The first process: this is the run."""
        if self._store is not None:
            self._store.set("run", json.dumps(asdict(told)))

    def hear(self) -> Told:
        """A further process: waits until the first one has told.

        Raises:
            Ended: a process of the run has ended instead.
            Stopped: a signal has come.
        """
        store = self._store
        assert store is not None
        self._wait_until(lambda: store.check(["run"]))
        return Told(**json.loads(store.get("run")))

    def gather(self, count: int) -> None:
        """Waits until all processes are as far as this one.

        Args:
            count: of them, which is known for sure only now.

        Raises:
            Ended: one of them has ended instead.
            Stopped: a signal has come.
        """
        store, self._count = self._store, count
        if store is not None and not self._gathered:
            store.add("here", 1)
            self._wait_until(lambda: store.add("here", 0) >= self._count)
        self._gathered = True

    def _wait_until(self, true: Callable[[], bool]) -> None:
        store = self._store
        assert store is not None

        def is_so() -> bool:
            try:
                if true():
                    return True
                if store.check(["ended"]):
                    raise self._ended(json.loads(store.get("ended")))
            except RuntimeError as error:
                raise self._alone(error) from error
            return False

        wait_until(is_so, self._guard)

    # -- the end -----------------------------------------------------------------------------------------------------

    def report(self, error: BaseException) -> None:
        """Tells the others of this process's end.

        Raises:
            Ended: another process gives the reason.
        """
        if self._store is None or isinstance(error, Ended):
            return
        first = self.launch.is_first
        # While all wait for one another the first process speaks for any; while they train each for itself.
        left_to_first = not first and not self._gathered and isinstance(error, BabyGPTError)
        reason = str(error) if isinstance(error, BabyGPTError) else f"{type(error).__name__}: {error}"
        is_lost = self._gathered and is_lost_connection(error)
        if is_lost:
            reason = _LOST.format(error=reason.splitlines()[0][:150])
        value = {
            "name": self._name,
            "code": exit_code(error),
            "reason": f"process {self.launch.rank}: {reason}",
            "is_said": not left_to_first,
        }
        try:
            found = json.loads(self._store.compare_set("ended", "", json.dumps(value)))
        except RuntimeError:
            raise self._alone(error) from error
        if isinstance(error, _COMMON) and self._gathered:
            if not first:
                raise Ended(exit_code(error), reason=reason) from error
        elif found["name"] != self._name:
            raise self._ended(found) from error
        elif left_to_first:
            raise Ended(exit_code(error), reason=str(value["reason"])) from error
        elif is_lost:
            raise Ended(exit_code(error), str(value["reason"])) from error

    def leave(self, *, failed: bool) -> None:
        """The last that a process does; the first waits a while for those that still have to hear from it."""
        if self._store is None:
            return
        with suppress(RuntimeError):
            self._store.add("left", 1)
            # In training they hear of a failure by the end of the process, which is not to be put off.
            if self.launch.is_first and not (failed and self._gathered):
                # No `wait_until`: a signal that ended the run is no reason to leave the others without a word.
                until = time.monotonic() + _LINGER_SECONDS
                while self._store.add("left", 0) < self._count and time.monotonic() < until:
                    time.sleep(_LINGER_POLL_SECONDS)

    def _ended(self, value: dict[str, object]) -> Ended:
        reason = str(value["reason"])
        said = reason if self.launch.is_first and not value["is_said"] else ""
        return Ended(int(str(value["code"])), said, reason)

    def _alone(self, error: BaseException) -> Ended:
        why = str(error).splitlines()[0][:200] if str(error) else ""
        return Ended(
            1,
            f"process {self.launch.rank}: the first process is gone, and this one ends with it"
            f" ({type(error).__name__}: {why})",
        )


@contextmanager
def meeting(launch: Launch, nodes: int, guard: SignalGuard) -> Iterator[Meeting]:
    """The processes of a run, for as long as it lasts.

    Args:
        launch: of this process.
        nodes: computers that are asked for.
        guard: whose signals end the waiting.

    Raises:
        MachineError: they cannot meet.
        Ended: another process has ended, and gives the reason.
    """
    found = Meeting(launch, guard, launch.world if launch.by else nodes)
    if launch.world > 1 or nodes > 1 or not launch.is_first or launch.restarts:
        os.environ.update(launch.variables())
        if launch.host is None or launch.port is None:
            raise MachineError(
                "this process is one of several, and nothing says where they meet",
                where="environment",
                hint="Start them with torchrun or srun, or set MASTER_ADDR, MASTER_PORT and on each computer NODE_RANK;"
                " or unset NODE_RANK and LOCAL_RANK if this one is alone",
            )
        found.open(launch.host, launch.port)
    failed = True
    try:
        yield found
        failed = False
    except BaseException as error:
        found.report(error)
        raise
    finally:
        found.leave(failed=failed)


def told_of(out: object, checkpoint: object) -> Told:
    """What there is to tell of a run, its paths whole."""
    return Told(
        os.path.abspath(str(out)),
        None if checkpoint is None else os.path.abspath(str(checkpoint)),
        os.environ.get(STANDARD_INPUT, ""),
    )
