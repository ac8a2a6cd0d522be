"""The verb train: the run folder, exactness and going on, through the command's own door."""

from __future__ import annotations

import errno
import importlib
import json
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from architectures import loss_alone, own_loss, plain, save_tiny
from babygpt import BabyGPT, LLMDataModule, TrainSettings
from babygpt.checkpoints import discover
from babygpt.errors import CheckpointError
from babygpt.model.load import load_config
from babygpt.recipe import read_recipe
from command import Command, Seen
from fits import PRESET, by_hand, weights_equal, worst

STEPS = 12


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capfd)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty documents and uneven pairs of prompt and completion."""
    folder = tmp_path_factory.mktemp("text")
    docs = [
        f"Document {n}. " + " ".join(f"word{(n * k) % 17} is {k}" for k in range(1, 4 + n % 9))
        for n in range(40)
    ]
    (folder / "docs.jsonl").write_text("".join(json.dumps({"text": d}) + "\n" for d in docs))
    pairs = [
        {"prompt": f"Question {n}: {'why ' * (n % 5)}", "completion": "because " * (1 + 3 * (n % 7))}
        for n in range(40)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    return folder


def args_for(data: Path, out: Path, **more: Any) -> list[str]:
    """A small run; keyword `optim__lr=1` is `--optim.lr 1`."""
    fields: dict[str, Any] = {
        "model.name": "preset:gpt2-1m",
        "data.path": data,
        "data.block": 32,
        "data.tokenizer": "train:300",
        "data.global_batch_size": 4,
        "data.val_fraction": 0.2,
        "budget.steps": STEPS,
        "machine.precision": "32-true",
        "machine.device": "cpu",
        "machine.micro_batch": 2,
        "out": out,
    }
    fields |= {name.replace("__", "."): value for name, value in more.items()}
    return [
        "train",
        *(part for name, value in fields.items() if value is not None for part in (f"--{name}", str(value))),
    ]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_folder_holds_what_it_should(command: Command, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    seen = command(*args_for(text / "docs.jsonl", out), "--json")
    assert seen.code == 0, seen.err
    result = json.loads(seen.out)
    assert result["steps"] == STEPS
    assert result["val_perplexity"] < result["first_perplexity"] / 2
    recipe = read_recipe(out / "recipe.yaml")
    assert recipe.budget.steps == STEPS
    assert "auto" not in (out / "recipe.yaml").read_text().replace("attention: auto", "").replace(
        "field: auto", ""
    )
    assert "auto" not in json.dumps(json.loads((out / "machine.json").read_text())["plan"]).replace(
        '"strategy": "auto"', ""
    )
    metrics = lines_of(out / "metrics.jsonl")
    steps = [m["step"] for m in metrics if "train_loss" in m]
    assert steps == list(range(1, STEPS + 1))
    validated = [m["step"] for m in metrics if "val_loss" in m]
    assert validated[0] == 0
    assert validated[-1] == STEPS
    assert [s["step"] for s in lines_of(out / "samples.jsonl")] == validated
    names = sorted(p.name for p in (out / "checkpoints").iterdir())
    assert len([n for n in names if n.startswith("step-")]) == 2
    assert len([n for n in names if n.startswith("babygpt-")]) == 1
    assert "last" in names
    assert not [n for n in names if n.startswith(".")]
    assert "scratch" in seen.err


def test_a_run_folder_that_is_removed_meanwhile_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb, out = importlib.import_module("babygpt.train"), tmp_path / "run"

    def lost(*_: Any, **__: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(out / "metrics.jsonl"))

    monkeypatch.setattr(verb, "_first", lambda *_: SimpleNamespace(out=out))
    monkeypatch.setattr(verb, "_fit", lost)
    with pytest.raises(CheckpointError, match="run: the run folder was removed while it was trained in"):
        verb.train(TrainSettings(out=str(out)))
    out.mkdir()
    (out / "recipe.yaml").touch()
    with pytest.raises(FileNotFoundError):
        verb.train(TrainSettings(out=str(out)))


@pytest.mark.parametrize("lr", [1e-3, 0.3], ids=["best is the last", "best is an earlier one"])
def test_the_best_checkpoint_is_a_plain_model_with_the_same_bits(
    command: Command, text: Path, tmp_path: Path, lr: float
) -> None:
    args = args_for(text / "docs.jsonl", tmp_path / "run", optim__lr=lr, schedule__name="constant")
    seen = command(*args, keep_validated=True)
    assert seen.code == 0, seen.err
    assert seen.module is not None
    (best,) = (tmp_path / "run" / "checkpoints").glob("babygpt-*")
    losses = {
        m["step"]: m["val_loss"] for m in lines_of(tmp_path / "run" / "metrics.jsonl") if m.get("val_loss")
    }
    del losses[0]  # untrained weights are no checkpoint
    step = min(losses, key=lambda s: losses[s])
    assert (step == STEPS) == (lr < 0.1)
    assert best.name == f"babygpt-{losses[step]:.2f}"
    for folder, at in ((best, step), (tmp_path / "run" / "checkpoints" / "last", STEPS)):
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = tokenizer("Document 3. word3 is", return_tensors="pt")["input_ids"]
        seen.module.model.load_state_dict(seen.validated[at])
        with torch.no_grad():
            assert torch.equal(model(ids).logits, seen.module.model.eval()(ids).logits)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "gpt_neox", "gemma2"])
def test_the_loss_of_a_step_is_the_models_own(
    command: Command, text: Path, tmp_path: Path, tiny_gpt2: Path, kind: str
) -> None:
    """Four micro-batches of two against the Hugging Face model's loss on all eight windows at once."""
    folder = save_tiny(kind, tiny_gpt2, tmp_path / kind)
    more = {
        "model__name": folder,
        "data__tokenizer": "auto",
        "data__global_batch_size": 8,
        "budget__steps": 1,
    }
    seen = command(*args_for(text / "pairs.jsonl", tmp_path / "run", data__packing="padded", **more))
    assert "% padding; " in seen.err
    assert seen.code == 0, seen.err
    data = LLMDataModule(
        str(folder), 8, path=str(text / "pairs.jsonl"), block=32, packing="padded", val_fraction=0.2
    )
    data.setup()
    (step,) = [m for m in lines_of(tmp_path / "run" / "metrics.jsonl") if "train_loss" in m]
    assert step["train_loss"] == pytest.approx(own_loss(plain(folder), data.micro_batch(0)), rel=1e-6)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "gpt_neox"])
def test_packed_documents_have_the_loss_they_have_alone(
    command: Command, text: Path, tmp_path: Path, tiny_gpt2: Path, kind: str
) -> None:
    folder = save_tiny(kind, tiny_gpt2, tmp_path / kind)
    fields = {
        "model__name": folder,
        "data__tokenizer": "auto",
        "data__packing": "isolated",
        "data__block": 256,
        "data__val_fraction": 0.35,
    }
    seen = command(*args_for(text / "docs.jsonl", tmp_path / "run", budget__steps=1, **fields))
    assert seen.code == 0, seen.err
    data = LLMDataModule(
        str(folder), 4, path=str(text / "docs.jsonl"), block=256, packing="isolated", val_fraction=0.35
    )
    val = data.prepared.val
    documents = [torch.from_numpy(val.document(n).astype("int64")) for n in range(len(val))]
    assert len(documents) > 4
    assert max(map(len, documents)) <= 256
    first = lines_of(tmp_path / "run" / "metrics.jsonl")[0]
    assert first["step"] == 0
    assert first["val_loss"] == pytest.approx(loss_alone(plain(folder), documents), rel=1e-6)


@pytest.mark.parametrize(
    ("precision", "dtype", "bound"), [("64-true", torch.float64, 1e-10), ("32-true", torch.float32, 1e-5)]
)
@pytest.mark.parametrize("micro", [1, 2, 4, 8])
def test_gradient_is_that_of_the_whole_step(
    command: Command,
    text: Path,
    tmp_path: Path,
    micro: int,
    precision: str,
    dtype: torch.dtype,
    bound: float,
) -> None:
    """Of the first and last of an epoch, against one by hand; at a rate of 1e-30 both are at the initial weights."""
    data = LLMDataModule(
        PRESET,
        8,
        path=str(text / "pairs.jsonl"),
        block=32,
        tokenizer="train:300",
        packing="padded",
        val_fraction=0.35,
        global_batch_size=8,
    )
    data.setup()
    last = data.steps_per_epoch - 1
    first_windows, last_windows = (len(data.plan.order.windows_of(step)) for step in (0, last))
    assert last_windows < first_windows == 8, "an epoch's last step is a partial one"
    args = args_for(
        text / "pairs.jsonl",
        tmp_path / "run",
        machine__precision=precision,
        machine__micro_batch=micro,
        data__packing="padded",
        data__global_batch_size=8,
        budget__steps=last + 1,
        data__val_fraction=0.35,
        validate__every_steps=100,
        optim__lr=1e-30,
        optim__grad_clip=0,
    )
    seen = command(*args, gradients_of=(0, last))
    assert seen.code == 0, seen.err
    for step in (0, last):
        fresh = BabyGPT(PRESET, vocab_size=len(data.tokenizer))
        assert worst(seen.gradients[step], by_hand(fresh, data, step, dtype)) <= bound


def test_validation_loss_and_order_do_not_depend_on_the_plan(
    command: Command, text: Path, tmp_path: Path
) -> None:
    losses, orders = [], []
    for micro, workers in ((1, 0), (3, 2), (8, 0)):
        out = tmp_path / f"run-{micro}"
        seen = command(
            *args_for(
                text / "docs.jsonl",
                out,
                budget__steps=4,
                data__global_batch_size=8,
                machine__micro_batch=micro,
                machine__workers=workers,
            )
        )
        assert seen.code == 0, seen.err
        losses.append(lines_of(out / "metrics.jsonl")[0]["val_loss"])
        rows = [row for micro_batch in seen.order for row in micro_batch if len(set(row)) > 1]
        orders.append(rows)
    assert max(losses) - min(losses) <= 1e-6
    assert orders[0] == orders[1] == orders[2]


# -- going on --------------------------------------------------------------------------------------------------------


@pytest.fixture
def whole(command: Command, text: Path, tmp_path: Path) -> tuple[Seen, dict[str, Any]]:
    """A run that nothing stopped, with dropout, whose random numbers are to be the same; and its own arguments."""
    more = {"model__dropout": 0.1}
    seen = command(*args_for(text / "docs.jsonl", tmp_path / "whole", **more))
    assert seen.code == 0, seen.err
    return seen, more


def test_stopped_twice_in_mid_epoch_and_copied_it_ends_with_the_same_bits(
    command: Command, text: Path, tmp_path: Path, whole: tuple[Seen, dict[str, Any]]
) -> None:
    reference, more = whole
    out = tmp_path / "run"
    first = command(*args_for(text / "docs.jsonl", out, **more), signal_at=2)
    assert first.code == 143, first.err
    assert discover(out / "checkpoints")[0].step == 3
    second = command("train", "--resume", out, signal_at=6, signum=signal.SIGINT)
    assert second.code == 130, second.err
    assert "plan: as before" in second.err
    copy = tmp_path / "copy"
    shutil.copytree(out, copy, symlinks=True)
    shutil.rmtree(out)
    last = command("train", "--resume", copy)
    assert last.code == 0, last.err
    assert weights_equal(reference.module.model, last.module.model)  # type: ignore[union-attr]
    assert first.order + second.order + last.order == reference.order
    steps = [m["step"] for m in lines_of(copy / "metrics.jsonl") if "train_loss" in m]
    assert steps == list(range(1, STEPS + 1))
    theirs = [m for m in lines_of(tmp_path / "whole" / "metrics.jsonl") if "val_loss" in m]
    ours = [m for m in lines_of(copy / "metrics.jsonl") if "val_loss" in m]
    assert ours == theirs


def test_stopped_at_an_epochs_end_twice(command: Command, text: Path, tmp_path: Path) -> None:
    more = {
        "budget__steps": None,
        "budget__epochs": 3,
        "data__global_batch_size": 16,
        "machine__micro_batch": 8,
    }
    reference = command(*args_for(text / "docs.jsonl", tmp_path / "whole", **more))
    assert reference.code == 0, reference.err
    epoch = (read_recipe(tmp_path / "whole" / "recipe.yaml").budget.steps or 0) // 3
    assert epoch >= 2
    out = tmp_path / "run"
    assert command(*args_for(text / "docs.jsonl", out, **more), signal_at=epoch - 1).code == 143
    assert command("train", "--resume", out, signal_at=2 * epoch - 1).code == 143
    last = command("train", "--resume", out)
    assert last.code == 0, last.err
    assert weights_equal(reference.module.model, last.module.model)  # type: ignore[union-attr]


def test_a_finished_run_says_so_and_changes_nothing(command: Command, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert command(*args_for(text / "docs.jsonl", out, budget__steps=2)).code == 0
    before = {p: p.stat().st_mtime_ns for p in [out, *out.rglob("*")]}
    seen = command("train", "--resume", out)
    assert seen.code == 0
    assert "finished" in seen.out
    assert {p: p.stat().st_mtime_ns for p in [out, *out.rglob("*")]} == before
    (finished,) = [m for m in lines_of(out / "metrics.jsonl") if m.get("val_loss") and m["step"] == 2]
    reported = json.loads(command("train", "--resume", out, "--json").out)
    for name in ("val_loss", "val_perplexity", "val_bits_per_byte"):
        assert reported[name] == finished[name]


def test_a_run_that_reached_no_checkpoint_begins_again(command: Command, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    whole = command(*args_for(text / "docs.jsonl", tmp_path / "whole", budget__steps=3))
    assert command(*args_for(text / "docs.jsonl", out, budget__steps=3), signal_at=0).code == 143
    shutil.rmtree(out / "checkpoints")
    seen = command("train", "--resume", out)
    assert seen.code == 0, seen.err
    assert "no checkpoint was reached" in seen.err
    assert weights_equal(whole.module.model, seen.module.model)  # type: ignore[union-attr]


def test_a_plan_that_changes_on_the_way_says_so(command: Command, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert command(*args_for(text / "docs.jsonl", out, budget__steps=4), signal_at=0).code == 143
    asked = command("train", "--resume", out, "--machine.micro_batch", 4, signal_at=2)
    assert asked.code == 143, asked.err
    assert "micro_batch 4, before 2" in asked.err
    machine = json.loads((out / "machine.json").read_text())
    machine["facts"]["threads"] += 1
    (out / "machine.json").write_text(json.dumps(machine))
    elsewhere = command("train", "--resume", out)
    assert elsewhere.code == 0, elsewhere.err
    assert f"{machine['facts']['threads']} threads" in elsewhere.err
    assert "plan: as before" not in elsewhere.err


def test_a_finished_run_goes_on_to_a_longer_budget_with_the_bits_of_a_long_one(
    command: Command, text: Path, tmp_path: Path
) -> None:
    more = {"schedule__name": "constant", "schedule__warmup": 2, "validate__every_steps": 100}
    whole = command(*args_for(text / "docs.jsonl", tmp_path / "whole", budget__steps=9, **more))
    out = tmp_path / "run"
    assert command(*args_for(text / "docs.jsonl", out, budget__steps=5, **more)).code == 0
    longer = command("train", "--resume", out, "--budget.steps", 9)
    assert longer.code == 0, longer.err
    assert weights_equal(whole.module.model, longer.module.model)  # type: ignore[union-attr]
    assert read_recipe(out / "recipe.yaml").budget.steps == 9
    steps = [m["step"] for m in lines_of(out / "metrics.jsonl") if "train_loss" in m]
    assert steps == list(range(1, 10))


def test_weights_changed_on_the_way_are_gone_through_again_from_an_earlier_checkpoint(
    command: Command, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    more = {
        "schedule__name": "constant",
        "schedule__warmup": 2,
        "validate__every_steps": 2,
        "checkpoint__keep": 9,
    }
    asked = args_for(None, out, data__path=None, budget__steps=4, **more)  # type: ignore[arg-type]
    paths = ["--data.path", text / "docs.jsonl", text / "pairs.jsonl", "--data.weights", 0.75, 0.25]
    begun = command(*asked, *paths)
    assert begun.code == 0, begun.err
    assert "mixture: docs.jsonl 75 %, pairs.jsonl 25 % of the windows" in begun.err
    asked_now = ["train", "--resume", out, "--budget.steps", 6, "--checkpoint.keep", 9]
    refused = command(*asked_now, "--data.weights", 1)
    assert refused.code == 2
    assert "1 weight for 2 paths" in refused.err
    finished = command("train", "--resume", out, "--data.weights", 0.25, 0.75)
    assert finished.code == 2
    assert "the run is finished: no step is left for other weights" in finished.err
    assert command("train", "--resume", out, "--data.weights", 0.75, 0.25).code == 0, (
        "the same weights are none"
    )
    changed = command(*asked_now, "--data.weights", 0.25, 0.75)
    assert changed.code == 0, changed.err
    assert "mixture: from the next step on docs.jsonl 25 %, pairs.jsonl 75 %" in changed.err
    assert json.loads((out / "weights.json").read_text()) == [{"step": 4, "weights": [0.25, 0.75]}]
    assert read_recipe(out / "recipe.yaml").data.weights == (0.75, 0.25)
    for checkpoint in discover(out / "checkpoints"):
        if checkpoint.step > 2:
            shutil.rmtree(checkpoint.path)
    again = command("train", "--resume", out, "--json")
    assert again.code == 0, again.err
    assert weights_equal(changed.module.model, again.module.model)  # type: ignore[union-attr]
    result = json.loads(again.out)
    assert set(result["val_losses"]) == {"docs.jsonl", "pairs.jsonl"}
    validations = [m for m in lines_of(out / "metrics.jsonl") if "val_loss" in m]
    assert [m["step"] for m in validations] == [0, 2, 4, 6]
    for name, loss in result["val_losses"].items():
        assert validations[-1][f"val_loss/{name}"] == loss


def test_a_longer_budget_that_would_have_changed_the_steps_done_is_refused(
    command: Command, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert command(*args_for(text / "docs.jsonl", out, budget__steps=4)).code == 0
    before = (out / "recipe.yaml").read_bytes()
    for asked, said in (
        ("--budget.steps", "schedule.name: linear"),
        ("--budget.minutes", "budget.minutes: "),
    ):
        seen = command("train", "--resume", out, asked, 9)
        assert seen.code == 2
        assert said in seen.err
    assert (out / "recipe.yaml").read_bytes() == before
    assert command("train", "--resume", out, "--budget.steps", 4).code == 0, "the same budget is none"


@pytest.mark.parametrize(("fails", "saved"), [((2, 1), 2), ((0, 0), None)])
def test_memory_that_runs_out_in_mid_accumulation_halves_the_micro_batch(
    command: Command,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: tuple[int, int],
    saved: int | None,
) -> None:
    more = {"machine__precision": "64-true", "budget__steps": 5, "validate__every_steps": 100}
    by_hand = tmp_path / "by-hand"
    if saved is None:
        whole = command(*args_for(text / "docs.jsonl", by_hand, machine__micro_batch=1, **more))
    else:
        assert command(*args_for(text / "docs.jsonl", by_hand, **more), signal_at=saved - 1).code == 143
        whole = command("train", "--resume", by_hand, "--machine.micro_batch", 1)
    forward = BabyGPT.training_step

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        size, step = len(batch["input_ids"]), self.trainer.global_step
        if size > 1 and (step, batch_idx % self.trainer.accumulate_grad_batches) >= fails:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return forward(self, batch, batch_idx)

    monkeypatch.setattr(BabyGPT, "training_step", training_step)
    out = tmp_path / "run"
    seen = command(*args_for(text / "docs.jsonl", out, **more))
    assert seen.code == 0, seen.err
    assert "memory: it ran out (CUDA out of memory" in seen.err
    assert "going on with micro-batch 1, the same 4 a step" in seen.err
    assert json.loads((out / "machine.json").read_text())["plan"]["micro_batch"] == 1
    assert ((out / "checkpoints" / "step-000002").is_dir()) == (saved == 2), (
        "the steps that were done are kept"
    )
    assert [m["step"] for m in lines_of(out / "metrics.jsonl") if "train_loss" in m] == [1, 2, 3, 4, 5]
    assert weights_equal(whole.module.model, seen.module.model)  # type: ignore[union-attr]


def test_memory_that_one_sequence_does_not_fit_into_ends_with_advice(
    command: Command, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(BabyGPT, "training_step", training_step)
    seen = command(*args_for(text / "docs.jsonl", tmp_path / "run"))
    assert seen.code == 2
    assert "Give a smaller data.block or model" in seen.err
    assert "Traceback" not in seen.err


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit is set by what is in use")
def test_memory_that_really_runs_out(text: Path, tmp_path: Path) -> None:
    """A process that may take 400 MB more than it has by then: 64 windows at once need more, few do not."""
    (tmp_path / "long.txt").write_text(
        "".join(f"Line {n} says that {n % 7} follows.\n" for n in range(4_000))
    )
    args = args_for(
        tmp_path / "long.txt",
        tmp_path / "run",
        data__tokenizer="train:8192",
        data__block=256,
        data__global_batch_size=64,
        machine__micro_batch=64,
        budget__steps=1,
        validate__batches=1,
    )
    code = """
        import resource, sys
        import torch, lightning, transformers
        from babygpt.training import start
        from babygpt.cli import main
        begin = start.build_module

        def limited(*args, **kwargs):
            module = begin(*args, **kwargs)
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000, resource.RLIM_INFINITY))
            return module

        start.build_module = limited
        sys.exit(main(sys.argv[1:]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "memory: it ran out" in done.stderr
    plan = json.loads((tmp_path / "run" / "machine.json").read_text())["plan"]
    assert plan["micro_batch"] < 64
    assert [m["step"] for m in lines_of(tmp_path / "run" / "metrics.jsonl") if "train_loss" in m] == [1]


@pytest.mark.parametrize("on_spike", ["rollback", "go_on"])
def test_a_spike_is_marked_and_gone_back_on(
    command: Command, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_spike: str
) -> None:
    """One step's data make a loss five times as high; going back leaves them out."""
    more = {
        "budget__steps": 52,
        "machine__micro_batch": 4,
        "validate__every_steps": 100,
        "optim__on_spike": on_spike,
        "model__dropout": 0.1,
    }
    sum_nll = BabyGPT.sum_nll

    def leaps(self: Any, batch: Any) -> Any:
        nll = sum_nll(self, batch)
        bad = self.trainer.training and self._data.data_step(self.trainer.global_step) == 43
        return nll * 5 if bad else nll

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(BabyGPT, "sum_nll", leaps)
        seen = command(*args_for(text / "docs.jsonl", out, **more), "--checkpoint.every_steps", "6")
    assert seen.code == 0, seen.err
    lines = [m for m in lines_of(out / "metrics.jsonl") if "train_loss" in m]
    assert [m["step"] for m in lines] == list(range(1, 53))
    spikes = [m for m in lines if m.get("spike")]
    assert "step 44: loss" in seen.err
    if on_spike == "go_on":
        assert [m["step"] for m in spikes] == [44]
        assert len(spikes[0]["windows"]) == 4
        assert not (out / "rollbacks.json").exists()
        return
    assert spikes == []
    assert json.loads((out / "rollbacks.json").read_text()) == [{"spike": 44, "seen": 45, "to": 42}]
    assert "going back to step 42" in seen.err
    # By hand: a run that never leapt, stopped at step 42, and told to leave the same data out.
    by_hand = tmp_path / "by-hand"
    assert command(*args_for(text / "docs.jsonl", by_hand, **more), signal_at=41).code == 143
    shutil.copy(out / "rollbacks.json", by_hand)
    resumed = command("train", "--resume", by_hand)
    assert resumed.code == 0, resumed.err
    assert weights_equal(resumed.module.model, seen.module.model)  # type: ignore[union-attr]


def test_a_new_run_from_a_checkpoint_starts_at_its_loss(command: Command, text: Path, tmp_path: Path) -> None:
    first = command(*args_for(text / "docs.jsonl", tmp_path / "first"))
    assert first.code == 0
    folder = tmp_path / "first" / "checkpoints" / "last"
    more = {"model__name": folder, "data__tokenizer": None, "budget__steps": 1}
    second = command(*args_for(text / "docs.jsonl", tmp_path / "second", **more))
    assert second.code == 0, second.err
    ended = [m for m in lines_of(tmp_path / "first" / "metrics.jsonl") if "val_loss" in m][-1]["val_loss"]
    began = lines_of(tmp_path / "second" / "metrics.jsonl")[0]["val_loss"]
    assert began == pytest.approx(ended, abs=1e-6)
    assert (tmp_path / "second" / "recipe.yaml").exists()


def test_minutes_become_steps(
    command: Command, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timing the steps leaves the weights as they were: the run equals one given those steps."""
    # Three seconds would be gone before the first step where the machine is busy.
    for module in ("babygpt.cli", "babygpt.training.start"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=lambda: 0.0))
    out = tmp_path / "run"
    seen = command(*args_for(text / "docs.jsonl", out, budget__steps=None, budget__minutes=0.05))
    assert seen.code == 0, seen.err
    steps = read_recipe(out / "recipe.yaml").budget.steps
    assert steps
    again = command(*args_for(text / "docs.jsonl", tmp_path / "again", budget__steps=steps))
    assert weights_equal(seen.module.model, again.module.model)  # type: ignore[union-attr]


def test_a_recipe_alone_reproduces_the_run(command: Command, text: Path, tmp_path: Path) -> None:
    first = command(*args_for(text / "docs.jsonl", tmp_path / "first", budget__steps=4))
    plan = ("--machine.micro_batch", 2, "--machine.precision", "32-true")
    again = command(
        "train", "--config", tmp_path / "first" / "recipe.yaml", "--out", tmp_path / "again", *plan
    )
    assert again.code == 0, again.err
    assert weights_equal(first.module.model, again.module.model)  # type: ignore[union-attr]
    assert (tmp_path / "first" / "recipe.yaml").read_text() == (
        tmp_path / "again" / "recipe.yaml"
    ).read_text()


# -- numbers that go wrong -----------------------------------------------------------------------------------------


def test_a_run_of_gradients_that_are_no_numbers_ends_with_advice(
    command: Command, text: Path, tmp_path: Path
) -> None:
    """A rate of 1e30 leaves weights behind after which nothing is finite."""
    out = tmp_path / "run"
    seen = command(*args_for(text / "docs.jsonl", out, optim__lr=1e30, schedule__name="constant"))
    assert seen.code == 1
    assert "Traceback" not in seen.err
    assert "was not finite in the 10 steps up to 11" in seen.err
    assert "optim.lr" in seen.err
    steps = [m for m in lines_of(out / "metrics.jsonl") if m.get("skipped")]
    assert [m["step"] for m in steps] == list(range(2, 12))
    assert all(len(m["windows"]) == 4 for m in steps)


# -- what a run says of its speed --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "has_head", "share", "spared"),
    [("cpu", True, 0.25, 0.75), ("cpu", True, 0.9, 0), ("cuda", True, 0.25, 0), ("cpu", False, 0.25, 0)],
)
def test_operations_that_the_head_passes_over_are_not_counted(
    device: str, has_head: bool, share: float, spared: float
) -> None:
    """6 for each of its weights and each token without a target."""
    config = load_config("preset:llama-64x2", vocab_size=1000)
    run: Any = SimpleNamespace(
        recipe=SimpleNamespace(data=SimpleNamespace(block=128, global_batch_size=4)),
        plan=SimpleNamespace(device=device),
    )
    data: Any = SimpleNamespace(block=128, plan=SimpleNamespace(counted_share=share))
    module: Any = SimpleNamespace(has_head=has_head, model=SimpleNamespace(config=config))
    flops_of = importlib.import_module("babygpt.train")._step_flops
    every = flops_of(run, data, SimpleNamespace(has_head=False, model=module.model))
    assert every - flops_of(run, data, module) == 6 * 1000 * 64 * 128 * 4 * spared
