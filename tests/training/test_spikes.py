"""Loss spikes: which losses are some, and what going back does to the checkpoints and is written down."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from babygpt.errors import CheckpointError, SpikeSeen
from babygpt.files import publish_folder
from babygpt.training.spikes import LossWatch, Rollback, read_rollbacks, roll_back, undo


def falling(steps: int, noise: float = 0.05) -> list[float]:
    """A loss as a run has it: it falls fast, then slowly, and trembles."""
    draw = random.Random(0)
    return [9 * math.exp(-step / 40) + 3 + draw.gauss(0, noise) for step in range(steps)]


def test_a_run_that_falls_and_trembles_has_none() -> None:
    watch = LossWatch()
    assert not any(map(watch.see, falling(2000)))


def test_a_leap_is_one_by_the_score_worked_out_by_hand() -> None:
    losses = [3.0 + 0.01 * (n % 5) for n in range(64)]  # median 3.02, median distance 0.01
    border = 3.02 + 8 * max(1.4826 * 0.01, 0.005 * 3.02)
    for loss, spike in ((border - 1e-6, False), (border + 1e-6, True), (math.inf, False), (math.nan, False)):
        assert LossWatch.of(losses).see(loss) == spike


def test_few_losses_tell_nothing_yet() -> None:
    watch = LossWatch()
    assert not any(watch.see(loss) for loss in [3.0] * 31 + [900.0])
    assert watch.see(900.0)


def test_a_new_level_is_got_used_to() -> None:
    watch = LossWatch.of(falling(200)[-64:])
    spikes = [watch.see(6.0) for _ in range(200)]
    assert spikes[0]
    assert not spikes[-1]
    assert sum(spikes) < 64


def test_what_it_has_seen_can_be_carried_over() -> None:
    losses = [*falling(150), 20.0, *falling(160)[150:]]
    whole = LossWatch()
    expected = [whole.see(loss) for loss in losses]
    first = LossWatch()
    told = [first.see(loss) for loss in losses[:120]]
    second = LossWatch.of(list(first.losses))
    assert told + [second.see(loss) for loss in losses[120:]] == expected
    assert sum(expected) == 1


# -- going back ----------------------------------------------------------------------------------------------


def checkpoint(folder: Path, name: str, step: int, rollbacks: int = 0) -> None:
    facts = {"step": step, "rollbacks": rollbacks}
    publish_folder(folder, name, lambda inside: (inside / "x").write_bytes(b"x"), facts)


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_what_lies_after_the_checkpoint_before_the_spike_goes(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for name, step in (("step-000010", 10), ("babygpt-3.00", 20), ("step-000020", 20), ("step-000030", 30)):
        checkpoint(folder, name, step)
    said: list[str] = []
    decided = roll_back(tmp_path, SpikeSeen(28, 33), said.append)
    assert decided == Rollback(spike=28, seen=33, to=20)
    assert read_rollbacks(tmp_path) == [decided]
    assert names(folder) == {"step-000010", "step-000020", "babygpt-3.00"}
    assert "going back to step 20, and on with the data after the 13 steps since" in said[0]
    checkpoint(folder, "step-000030", 30, rollbacks=1)
    again = roll_back(tmp_path, SpikeSeen(31, 40), said.append)
    assert again.to == 30, "what was saved since then is as good as any"
    assert read_rollbacks(tmp_path) == [decided, again]


def test_without_a_checkpoint_it_is_the_beginning(tmp_path: Path) -> None:
    assert roll_back(tmp_path, SpikeSeen(40, 41), lambda _: None).to == 0


def test_a_kill_between_the_decision_and_the_deletion_is_made_good(tmp_path: Path) -> None:
    checkpoint(tmp_path, "step-000020", 20)
    checkpoint(tmp_path, "step-000030", 30)
    checkpoint(tmp_path, "step-000025", 25, rollbacks=1)
    undo(tmp_path, [Rollback(28, 33, 20)])
    assert names(tmp_path) == {"step-000020", "step-000025"}
    undo(tmp_path, [])
    assert names(tmp_path) == {"step-000020", "step-000025"}


@pytest.mark.parametrize(
    "text", ["{", "[1]", '[{"spike": 3}]', '[{"spike": 3, "seen": 5, "to": 4}]', "[" * 10**5]
)
def test_a_file_that_is_none_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "rollbacks.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"rollbacks\.json"):
        read_rollbacks(tmp_path)
