"""How the processes of a run were started, read from the environment: who is the first, how many there are, and where.

    torchrun, and what sets its variables   RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT
    srun                                    SLURM_PROCID and others; of one task it starts a process like any other
    by hand on several computers            NODE_RANK MASTER_ADDR MASTER_PORT, and machine.nodes in the command
    nobody                                  the process is the first, and starts one for each further device

The first process decides, speaks and writes; the others do the same run.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from babygpt.errors import MachineError
from babygpt.machine import MachineRequest

__all__ = ["AT_LAUNCHERS_STORE", "Launch", "is_first_here", "is_first_process", "launched", "leave_reason"]

# Tells torch's process group, too, to meet at torchrun's store.
AT_LAUNCHERS_STORE = "TORCHELASTIC_USE_AGENT_STORE"
_HERE = "127.0.0.1"
# Below those that systems give out by themselves; jobs of the same hour lie next to one another.
_FIRST_PORT, _PORTS = 15_000, 10_000


@dataclass(frozen=True)
class Launch:
    """A process among those of a run.

    Args:
        by: what started all processes of the run; empty where each computer's first process starts the others.
        rank: 0 for the first; only that of the computer's own processes where they start one another.
        local_rank: number among the processes of this computer.
        node: number of this computer.
        devices: processes of each computer; None leaves that to the plan.
        nodes: computers; None likewise.
        host: where the first process runs; None if that is not told.
        port: where it listens; None likewise.
        restart: how often the launcher has started the processes again.
        restarts: how often it does at most.
        has_store: whether it has a key-value store to meet at.
    """

    by: str = ""
    rank: int = 0
    local_rank: int = 0
    node: int = 0
    devices: int | None = None
    nodes: int | None = None
    host: str | None = None
    port: int | None = None
    restart: int = 0
    restarts: int = 0
    has_store: bool = False

    @property
    def is_first(self) -> bool:
        """Whether it is the one that decides, speaks and writes."""
        return self.rank == 0

    @property
    def is_child(self) -> bool:
        """Whether its computer's first process started it, for a further device."""
        return not self.by and self.local_rank > 0

    @property
    def world(self) -> int:
        """Processes that were started at once; 1 where they start one another."""
        return (self.devices or 1) * (self.nodes or 1)

    def asked(self, request: MachineRequest) -> MachineRequest:
        """The request with the numbers of processes and computers that were started.

        Raises:
            MachineError: others are asked for.
        """
        if not self.by:
            return replace(request, nodes=1 if request.nodes == "auto" else request.nodes)
        devices, nodes = self.devices or 1, self.nodes or 1
        for name, started in (("devices", devices), ("nodes", nodes)):
            value = getattr(request, name)
            if value not in ("auto", started):
                raise MachineError(
                    f"{value} asked for, but {self.describe()}",
                    where=f"machine.{name}",
                    hint=f"Leave machine.{name} out, which takes what was started, or start others",
                )
        return replace(request, devices=devices, nodes=nodes)

    def describe(self) -> str:
        """For people: what was started."""
        devices, nodes = self.devices or 1, self.nodes or 1
        processes = "1 process" if devices == 1 else f"{devices} processes"
        return (
            f"{self.by} started {processes} on {'1 computer' if nodes == 1 else f'each of {nodes} computers'}"
        )

    def variables(self) -> dict[str, str]:
        """The same for torch.distributed and Lightning, whatever started the processes."""
        values = {
            "RANK": self.rank,
            "WORLD_SIZE": self.world,
            "LOCAL_RANK": self.local_rank,
            "LOCAL_WORLD_SIZE": self.devices,
            "NODE_RANK": self.node,
            "MASTER_ADDR": self.host,
            "MASTER_PORT": self.port,
        }
        return {name: str(value) for name, value in values.items() if self.by and value is not None}


def is_first_process(environ: Mapping[str, str] | None = None) -> bool:
    """Whether this process speaks for all that do the same run; what says more goes before what says less."""
    environ = os.environ if environ is None else environ
    if "RANK" in environ:
        names: tuple[str, ...] = ("RANK",)
    elif "LOCAL_RANK" in environ or "NODE_RANK" in environ:
        names = ("LOCAL_RANK", "NODE_RANK")
    else:
        names = ("SLURM_PROCID",)
    return all(environ.get(name, "0") == "0" for name in names)


def is_first_here(environ: Mapping[str, str] | None = None) -> bool:
    """Whether this process is the first on its computer, whose files may be others than the first process's."""
    environ = os.environ if environ is None else environ
    return environ.get("LOCAL_RANK", "0" if "RANK" in environ else environ.get("SLURM_LOCALID", "0")) == "0"


def leave_reason(reason: str, environ: Mapping[str, str] | None = None) -> None:
    """Tells torchrun why this process ends; it says so below everything else, as the root cause."""
    environ = os.environ if environ is None else environ
    if path := environ.get("TORCHELASTIC_ERROR_FILE"):
        with suppress(OSError):
            # The form of its own ErrorHandler.
            extra = {"py_callstack": reason, "timestamp": str(int(time.time()))}
            Path(path).write_text(json.dumps({"message": {"message": reason, "extraInfo": extra}}), "utf-8")


def launched(environ: Mapping[str, str] | None = None) -> Launch:
    """How this process was started.

    Raises:
        MachineError: variables are missing or contradict one another.
    """
    environ = os.environ if environ is None else environ
    if "RANK" in environ:
        return _by_torchrun(environ)
    if "LOCAL_RANK" not in environ and "NODE_RANK" not in environ and _tasks(environ) > 1:
        return _by_srun(environ)
    node, local = (_number(environ, name, 0) for name in ("NODE_RANK", "LOCAL_RANK"))
    host, port = environ.get("MASTER_ADDR"), _number(environ, "MASTER_PORT", 0) or None
    return Launch(rank=node or local, local_rank=local, node=node, host=host, port=port)


def _by_torchrun(environ: Mapping[str, str]) -> Launch:
    by = "torchrun" if "TORCHELASTIC_RUN_ID" in environ else "the launcher (RANK is set)"
    rank, world = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    local = _number(environ, "LOCAL_RANK", 0)
    # One process a computer is what RANK alone means.
    devices = _number(environ, "LOCAL_WORLD_SIZE", *(() if "LOCAL_RANK" in environ and world > 1 else (1,)))
    if rank >= world or devices < 1 or world % devices or rank % devices != local:
        raise MachineError(
            f"RANK={rank}, WORLD_SIZE={world}, LOCAL_RANK={local} and LOCAL_WORLD_SIZE={devices} do not fit together:"
            " every computer has to have the same number of processes, numbered one computer after the other",
            where="environment",
            hint="Start as many processes on each computer; or unset RANK and the others if nothing was launched",
        )
    host, port = environ.get("MASTER_ADDR"), _number(environ, "MASTER_PORT", 0) or None
    if world > 1 and (host is None or port is None):
        raise MachineError(
            f"RANK={rank} and WORLD_SIZE={world} are set without MASTER_ADDR and MASTER_PORT",
            where="environment",
            hint="Set them to an address and a free port of the first process's computer, or unset RANK and WORLD_SIZE",
        )
    restart, restarts = (_number(environ, f"TORCHELASTIC_{n}", 0) for n in ("RESTART_COUNT", "MAX_RESTARTS"))
    has_store = environ.get(AT_LAUNCHERS_STORE) == "True"
    nodes, node = world // devices, rank // devices
    return Launch(by, rank, local, node, devices, nodes, host, port, restart, restarts, has_store)


# -- SLURM -----------------------------------------------------------------------------------------------------------


def _tasks(environ: Mapping[str, str]) -> int:
    """Tasks of the step that this process belongs to; a batch script and an interactive shell are in none."""
    if environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return 1
    return _number(environ, "SLURM_STEP_NUM_TASKS", 1) if "SLURM_PROCID" in environ else 1


def _by_srun(environ: Mapping[str, str]) -> Launch:
    node, local = _number(environ, "SLURM_NODEID"), _number(environ, "SLURM_LOCALID")
    tasks, nodes = _tasks(environ), _number(environ, "SLURM_STEP_NUM_NODES", 1)
    spread = environ.get("SLURM_STEP_TASKS_PER_NODE", str(tasks // nodes))
    if tasks % nodes or re.fullmatch(rf"{tasks // nodes}(\(x{nodes}\))?", spread) is None:
        raise MachineError(
            f"srun started {tasks} tasks on {nodes} computers, {spread} on each",
            where="environment",
            hint="Give --nodes and --ntasks-per-node, so that each computer has as many",
        )
    devices = tasks // nodes
    listed = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    host = environ.get("MASTER_ADDR") or (_HERE if nodes == 1 else _first_host(listed))
    step = environ.get("SLURM_STEP_ID", "0")
    number = _number(environ, "SLURM_JOB_ID", 0) + (int(step) if step.isdecimal() else 0)
    port = _number(environ, "MASTER_PORT", _FIRST_PORT + number % _PORTS)
    # Tasks may be numbered in turns over the computers; here they are one computer after the other.
    return Launch("srun", node * devices + local, local, node, devices, nodes, host, port)


def _first_host(listed: str) -> str:
    """The first of SLURM's list of computers, such as `gpu[07-09,12],login1`."""
    found = re.match(r"([^,\[]+)(?:\[(\w+))?", listed)
    if found is None:
        raise MachineError(
            "srun does not say on which computers it started the tasks",
            where="SLURM_STEP_NODELIST",
            hint="Set MASTER_ADDR to the first one's name",
        )
    return found[1] + (found[2] or "")


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environ.get(name)
    if not value and default is not None:
        return default
    if value is None or not re.fullmatch("[0-9]{1,9}", value):
        raise MachineError(
            f"{name}={value} is no number" if value is not None else f"{name} is not set, and RANK is",
            where="environment",
            hint="Let torchrun or srun set it; or unset RANK, LOCAL_RANK and NODE_RANK if nothing was launched",
        )
    return int(value)
