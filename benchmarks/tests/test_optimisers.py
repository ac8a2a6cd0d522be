from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import optimisers
import pytest
import torch
from arms import ARMS, CONFIRMED
from paired import interval, table, tokens_to


def test_tokens_to_a_loss_lie_on_the_line_between_validations() -> None:
    points = [(0, 8.0), (100, 6.0), (200, 6.5), (300, 4.0)]
    assert tokens_to(7.0, points) == 50
    assert tokens_to(6.0, points) == 100
    assert tokens_to(5.25, points) == 250
    assert tokens_to(3.9, points) is None


def test_the_interval_is_students_of_the_logs() -> None:
    # By hand: logs -1, 0, 1 have mean 0 and deviation 1; t(0.975, 2) = 4.303.
    mean, low, high = interval([math.exp(-1), 1.0, math.e])
    assert mean == pytest.approx(1)
    assert math.log(high) == pytest.approx(4.303 / math.sqrt(3))
    assert math.log(low) == pytest.approx(-4.303 / math.sqrt(3))


def line(arm: str, seed: int, loss: float, points: list[tuple[int, float]]) -> dict[str, Any]:
    return {
        "arm": arm,
        "size": "1m",
        "corpus": "code",
        "seed": seed,
        "loss": loss,
        "tokens": 100,
        "points": points,
    }


def test_only_pairs_count_and_what_never_arrives_is_said() -> None:
    lines = [
        line("tutorial", 0, 4.0, [(0, 8.0), (100, 4.0)]),
        line("default", 0, 2.0, [(0, 8.0), (100, 0.0)]),
        line("default", 1, 2.0, [(0, 8.0), (100, 0.0)]),
        line("wsd", 0, 5.0, [(0, 8.0), (100, 5.0)]),
    ]
    rows = table(lines, "tutorial").splitlines()
    assert [row.split(" | ")[2] for row in rows[2:]] == ["default", "tutorial", "wsd"]
    assert "| 1 | 2.0000 | +2.0000 | 0.500 |" in rows[2]
    assert "not reached by 1" in rows[4]


def test_a_killed_process_loses_only_the_run_it_was_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def train(run: optimisers.Run) -> dict[str, Any]:
        done.append(run.arm.name)
        return {
            "key": run.key,
            "arm": run.arm.name,
            "size": run.size,
            "corpus": run.corpus,
            "seed": 0,
            "loss": 1.0,
        }

    monkeypatch.setattr(optimisers, "train", train)
    path, runs = tmp_path / "results.jsonl", optimisers.screen(1000)[:3]
    assert optimisers.work_off(runs, path, 1) == 2
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "' + runs[1].key.encode())  # torn in the middle
    assert optimisers.work_off(runs, path, 9) == 0
    assert done == [run.arm.name for run in runs]
    assert [each["key"] for each in optimisers.lines_of(path)] == [run.key for run in runs]
    assert optimisers.work_off(runs, path, 9) == 0
    assert len(done) == 3
    assert json.loads(path.read_bytes().splitlines()[0])["arm"] == runs[0].arm.name


def test_every_run_is_another_and_every_confirmed_arm_is_one() -> None:
    runs = [*optimisers.screen(1000), *optimisers.confirm(1000)]
    assert len({run.key for run in runs}) == len(set(runs))
    assert set(CONFIRMED) <= ARMS.keys()
    assert all(name == arm.name for name, arm in ARMS.items())


def test_cautious_decay_by_hand() -> None:
    start, gradient = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([0.5, 0.5, -0.5, -0.5])
    weight = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([{"params": [weight], "weight_decay": 0.2}], lr=0.1)
    optimisers._decay_cautiously(optimizer)
    weight.grad = gradient.clone()
    optimizer.step()
    # Where gradient and weight agree the step shrinks the weight, and there alone it is decayed.
    decayed = torch.tensor([1.0, 0.0, 0.0, 1.0])
    wanted = start - 0.1 * gradient - 0.1 * 0.2 * start * decayed
    torch.testing.assert_close(weight.detach(), wanted)
