"""Plans: arithmetic redone by hand, and the very fields that a run would begin with."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from babygpt import planner, timing
from babygpt.cli import main
from babygpt.errors import MachineError, RecipeError
from babygpt.machine_settings import PlanSettings
from babygpt.machines import ASSUMED_SHARE, MACHINES, PlanMachine
from babygpt.plan import plan
from babygpt.recipe import Budget, DataRecipe, ModelRecipe
from babygpt.timing import StepTime


@pytest.fixture
def settings(tmp_path: Path, tiny_gpt2: Path) -> PlanSettings:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Document {n} tells of {n * n} things." for n in range(100)))
    data = DataRecipe(path=(str(text),), block=32, global_batch_size=8)
    return PlanSettings(model=ModelRecipe(name=str(tiny_gpt2)), data=data, budget=Budget(steps=50))


def test_here_the_time_is_measured(settings: PlanSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "measure_step", lambda *args: StepTime(0.5, 0.1))
    found = plan(replace(settings, price_per_hour=7.2, watts=100.0))
    # By hand: 2 layers of 12 * 32^2 + 13 * 32, two tables, the last norm; the head is the table.
    parameters = 2 * (12 * 32**2 + 13 * 32) + (257 + 128) * 32 + 2 * 32
    assert found.parameters == parameters
    assert found.is_measured
    assert found.fits
    assert found.alternatives[0].bytes == found.memory.total
    assert (found.steps, found.tokens) == (50, 50 * 8 * 32)
    assert found.seconds == 25.0
    assert found.tokens_per_second == 8 * 32 / 0.5
    # 50 steps are validated before the first, then every 7 and at the end; samples and saves cost nothing here.
    held_out = (found.time.whole - 25) / 9
    assert held_out / 0.1 == pytest.approx(round(held_out / 0.1))
    assert (found.time.training, found.time.validations, found.time.saving) == (25.0, 9, 0.0)
    assert found.price == pytest.approx(7.2 * found.time.whole / 3600)
    assert found.kilowatt_hours == pytest.approx(0.1 * found.time.whole / 3600)
    assert found.checkpoint_bytes == 12 * parameters
    assert found.memory.weights == 4 * parameters
    assert found.flops == found.flops_per_token * found.tokens
    assert found.assumptions == ()
    assert not any("does not fit" in line for line in found.lines())


def test_minutes_run_from_when_the_command_began_as_a_runs_do(
    settings: PlanSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "measure_step", lambda *args: StepTime(0.5, 0.1))
    minutes = replace(settings, budget=Budget(minutes=10))
    at_once = plan(minutes).steps
    late = plan(replace(minutes, begun=time.monotonic() - 300)).steps
    assert late / at_once == pytest.approx(0.5, abs=0.05)  # the call itself takes seconds, of 600
    elsewhere = replace(minutes, machine=PlanMachine(preset="l4x1"))
    assert plan(elsewhere).steps == plan(replace(elsewhere, begun=time.monotonic() - 300)).steps


def test_a_real_measurement(settings: PlanSettings) -> None:
    found = plan(settings)
    assert 0 < found.step_seconds < 60
    assert found.seconds == pytest.approx(50 * found.step_seconds)


def test_elsewhere_it_is_arithmetic(settings: PlanSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "measure_step", None)  # nothing is run
    found = plan(replace(settings, machine=PlanMachine(preset="h100x8"), price_per_hour=20.0))
    assert not found.is_measured
    assert found.plan.device == "cuda"
    assert found.plan.devices == 8
    assert found.plan.precision == "bf16-mixed"
    assert found.plan.micro_batch == 1
    # 8 GPUs of 989.4 TFLOP/s at the assumed share.
    step = found.flops_per_token * 8 * 32 / (8 * 989.4e12 * ASSUMED_SHARE)
    assert found.step_seconds == pytest.approx(step)
    assert found.kilowatt_hours == pytest.approx(8 * 0.7 * found.time.whole / 3600)
    assert found.time.training == pytest.approx(50 * step)
    assert (found.memory.process, found.memory.saving) == (0, 0)
    assert found.memory_available == 80 * 10**9
    assert "989 TFLOP/s" in found.assumptions[0]
    assert any("assumed" in line for line in found.lines())


def test_half_of_the_gpus_take_twice_the_time(settings: PlanSettings) -> None:
    whole, half = (
        plan(replace(settings, machine=PlanMachine(preset="h100x8", devices=devices))) for devices in (8, 4)
    )
    assert half.step_seconds == pytest.approx(2 * whole.step_seconds)
    assert half.kilowatt_hours == pytest.approx(whole.kilowatt_hours)
    assert half.plan.devices == 4


def test_a_gpu_without_bf16(settings: PlanSettings) -> None:
    found = plan(replace(settings, machine=PlanMachine(preset="t4x1")))
    assert found.plan.precision == "16-mixed"


def test_what_does_not_fit_is_shown_beside_what_would(
    settings: PlanSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = MACHINES["l4x1"]
    whole = plan(replace(settings, machine=PlanMachine(preset="l4x1")))
    room = int((whole.memory.total - 1) / planner.SHARE_OF_MEMORY)
    monkeypatch.setitem(MACHINES, "tiny", replace(small, gpu=replace(small.gpu, memory=room)))
    asked = PlanMachine(preset="tiny", micro_batch=8, activation_checkpointing=False)
    found = plan(replace(settings, machine=asked))
    assert not found.fits
    sizes = [(each.micro_batch, each.activation_checkpointing) for each in found.alternatives]
    assert sizes == [(n, c) for c in (False, True) for n in (8, 4, 2, 1)]
    assert [each.fits for each in found.alternatives][:2] == [False, True]
    table = [line for line in found.lines() if line.endswith("  fits")]
    assert len(table) == sum(each.fits for each in found.alternatives)


@pytest.mark.parametrize(
    ("micro_batch", "message"),
    [
        (8, "machine.micro_batch: memory ran out while steps of .* with micro-batch 8 of 32 tokens were timed .*"
            " Plan with --machine.micro_batch 4; a run would go on with that"),
        (1, "with micro-batch 1 of 32 .* Plan with --machine.activation_checkpointing true"),
    ],
)  # fmt: skip
def test_steps_that_do_not_fit_are_named(
    settings: PlanSettings, monkeypatch: pytest.MonkeyPatch, micro_batch: int, message: str
) -> None:
    def full(*args: object) -> StepTime:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(timing, "measure_step", full)
    with pytest.raises(MachineError, match=message) as raised:
        plan(replace(settings, machine=PlanMachine(micro_batch=micro_batch)))
    assert raised.value.exit_code == 2


def test_an_unknown_machine() -> None:
    with pytest.raises(MachineError, match="Did you mean h100x8"):
        PlanMachine(preset="h100x9")
    with pytest.raises(MachineError, match="There are t4x1"):
        PlanMachine(preset="abacus")
    with pytest.raises(MachineError, match="only the GPUs of a preset"):
        PlanMachine(preset="h100x8", device="cpu")


@pytest.mark.parametrize("name", ["price_per_hour", "watts"])
def test_numbers_out_of_range(name: str) -> None:
    with pytest.raises(RecipeError, match=name):
        PlanSettings(**{name: 0.0})  # type: ignore[arg-type]


def test_the_command(
    settings: PlanSettings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "measure_step", lambda *args: StepTime(0.5, 0.1))
    words = ["--data.path", *settings.data.path, "--model.name", settings.model.name, "--data.block", "32"]
    assert main(["plan", *words, "--budget.steps", "2", "--machine.micro_batch", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 2
    assert found["plan"]["micro_batch"] == 2
    tensors = {"weights", "gradients", "optimizer", "activations", "logits", "workspace"}
    assert found["memory"].keys() == tensors | {"saving", "process", "gaps"}
    assert found["time"].keys() == {"training", "validating", "validations", "saving"}
    assert not Path("runs").exists()
