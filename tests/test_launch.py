"""How processes were started, from the variables that torchrun, srun and Lightning set."""

from __future__ import annotations

import pytest

from babygpt.errors import MachineError
from babygpt.launch import Launch, is_first_here, is_first_process, launched
from babygpt.machine import MachineRequest

MEET = {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29500"}


def torchrun(rank: int, world: int, each: int, **more: str) -> dict[str, str]:
    """As torchrun sets them for `world` processes, `each` on a computer."""
    return {
        **MEET,
        "TORCHELASTIC_RUN_ID": "none",
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank % each),
        "LOCAL_WORLD_SIZE": str(each),
        "GROUP_RANK": str(rank // each),
        **more,
    }


def srun(node: int, local: int, nodes: int, each: int, hosts: str, **more: str) -> dict[str, str]:
    """As srun sets them for a step of job 1234567."""
    return {
        "SLURM_JOB_ID": "1234567",
        "SLURM_STEP_ID": "2",
        "SLURM_PROCID": str(node * each + local),
        "SLURM_LOCALID": str(local),
        "SLURM_NODEID": str(node),
        "SLURM_STEP_NUM_TASKS": str(nodes * each),
        "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_STEP_TASKS_PER_NODE": f"{each}(x{nodes})" if nodes > 1 else str(each),
        "SLURM_STEP_NODELIST": hosts,
        **more,
    }


def test_nobody_started_it() -> None:
    found = launched({})
    assert found == Launch()
    assert (found.is_first, found.is_child, found.world, found.variables()) == (True, False, 1, {})
    assert found.asked(MachineRequest(devices=3)) == MachineRequest(devices=3, nodes=1)


def test_torchrun_on_two_computers() -> None:
    places = [launched(torchrun(rank, 6, 3)) for rank in range(6)]
    assert [(p.rank, p.node, p.local_rank) for p in places] == [(r, r // 3, r % 3) for r in range(6)]
    assert [p.is_first for p in places] == [True] + 5 * [False]
    assert not any(p.is_child for p in places)
    asked = places[4].asked(MachineRequest())
    assert (asked.devices, asked.nodes, places[4].world) == (3, 2, 6)
    assert places[4].variables() == {
        **MEET,
        **{"RANK": "4", "WORLD_SIZE": "6", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3", "NODE_RANK": "1"},
    }
    assert launched(places[4].variables()) == Launch(
        **{**vars(places[4]), "by": "the launcher (RANK is set)"}
    )


def test_torchrun_says_how_often_it_has_started_the_processes_again() -> None:
    first = launched(torchrun(0, 2, 2))
    again = launched(torchrun(0, 2, 2, TORCHELASTIC_RESTART_COUNT="1", TORCHELASTIC_MAX_RESTARTS="3"))
    shared = launched(torchrun(0, 2, 2, TORCHELASTIC_USE_AGENT_STORE="True"))
    assert (first.restart, first.restarts) == (0, 0)
    assert (again.restart, again.restarts) == (1, 3)
    assert (shared.has_store, again.has_store) == (True, False)


def test_rank_alone_means_one_process_a_computer() -> None:
    found = launched({**MEET, "RANK": "2", "WORLD_SIZE": "4"})
    assert (found.devices, found.nodes, found.node, found.local_rank) == (1, 4, 2, 0)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("gpu[07-09,12]", "gpu07"), ("gpu3", "gpu3"), ("a1,b[2-3]", "a1"), ("rack-2-[11,14]", "rack-2-11")],
)
def test_srun_on_several_computers(hosts: str, first: str) -> None:
    found = launched(srun(1, 1, 4, 2, hosts))
    assert (found.by, found.rank, found.devices, found.nodes) == ("srun", 3, 2, 4)
    assert found.host == first
    # All processes come to the same port, and another job of the computer to another.
    assert found.port == launched(srun(0, 0, 4, 2, hosts)).port
    assert found.port != launched(srun(0, 0, 4, 2, hosts, SLURM_JOB_ID="1234568")).port
    assert 15_000 <= (found.port or 0) < 25_000


def test_srun_numbers_tasks_in_turns_and_we_do_not() -> None:
    in_turns = srun(1, 0, 2, 2, "n[1-2]") | {"SLURM_PROCID": "1"}
    assert launched(in_turns).rank == 2
    assert [launched(srun(0, local, 1, 2, "n1")).host for local in (0, 1)] == 2 * ["127.0.0.1"]


def test_one_task_and_an_interactive_shell_start_others_by_themselves() -> None:
    for variables in (
        srun(0, 0, 1, 1, "n1"),
        srun(0, 0, 1, 4, "n1", SLURM_JOB_NAME="bash"),
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},  # of a batch script
    ):
        assert launched(variables) == Launch()


def test_torchrun_inside_srun_goes_by_torchrun() -> None:
    """It gives ranks in its own order: the first process may be on SLURM's second computer."""
    variables = srun(1, 0, 2, 1, "n[1-2]") | torchrun(0, 4, 2)
    assert launched(variables).by == "torchrun"
    assert is_first_process(variables)
    assert not is_first_process(srun(0, 0, 2, 1, "n[1-2]") | torchrun(2, 4, 2))


def test_those_that_lightning_starts() -> None:
    child = launched({**MEET, "LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"})
    assert (child.is_child, child.is_first) == (True, False)
    other = launched({**MEET, "NODE_RANK": "1"})
    assert (other.is_child, other.is_first) == (False, False)
    assert other.asked(MachineRequest(nodes=2)).nodes == 2


def test_the_first_on_each_computer() -> None:
    assert [is_first_here(torchrun(rank, 4, 2)) for rank in range(4)] == [True, False, True, False]
    assert [is_first_here(srun(1, local, 2, 2, "n[1-2]")) for local in (0, 1)] == [True, False]
    assert is_first_here({})
    assert is_first_here({"RANK": "3"})


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (torchrun(1, 3, 2), "do not fit together"),
        (torchrun(1, 4, 2, LOCAL_RANK="0"), "do not fit together"),
        (torchrun(4, 4, 2), "do not fit together"),
        ({"RANK": "1", "WORLD_SIZE": "4"}, "without MASTER_ADDR and MASTER_PORT"),
        ({"RANK": "one", "WORLD_SIZE": "4"}, "RANK=one is no number"),
        ({"RANK": "1", **MEET}, "WORLD_SIZE is not set"),
        ({**MEET, "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, "LOCAL_WORLD_SIZE is not set"),
        (srun(0, 0, 2, 2, "n[1-2]", SLURM_STEP_TASKS_PER_NODE="3,1"), "3,1 on each"),
        (srun(0, 0, 2, 2, ""), "on which computers"),
    ],
)
def test_what_contradicts_itself_is_refused(variables: dict[str, str], message: str) -> None:
    with pytest.raises(MachineError, match=message):
        launched(variables)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            MachineRequest(devices=4),
            "machine.devices: 4 asked for, but torchrun started 2 processes on 1 computer",
        ),
        (
            MachineRequest(nodes=2),
            "machine.nodes: 2 asked for, but torchrun started 2 processes on 1 computer",
        ),
    ],
)
def test_other_numbers_than_were_started_are_refused(request_: MachineRequest, message: str) -> None:
    with pytest.raises(MachineError, match=message):
        launched(torchrun(0, 2, 2)).asked(request_)
    assert launched(torchrun(0, 2, 2)).asked(MachineRequest(devices=2)).nodes == 1
