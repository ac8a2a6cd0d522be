"""The files a run writes."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from babygpt.health import curves_of
from babygpt.run_folder import step_in, whole_lines
from babygpt.training.callbacks import RunFiles, Sampler, cut_after
from babygpt.training.meter import StepMeter


class Module:
    """A module of which only the meter is real."""

    def __init__(self, **attributes: Any) -> None:
        self.meter, self.device = StepMeter(), torch.device("cpu")
        self.trainer: Any = SimpleNamespace(is_global_zero=True)
        self.__dict__.update(attributes)

    def did(self, step: int, nll: float = 6.0, targets: int = 3) -> None:
        self.meter.add(torch.tensor(nll))
        self.meter.set_grad_norm(torch.tensor(1.0))
        self.meter.finish_step(step, targets, 1e-3)

    def flush(self) -> None:
        self.meter.flush(lambda sums: sums)


def trainer_at(step: int, **more: Any) -> Any:
    metrics = {
        "val_loss": torch.tensor(2.0),
        "val_perplexity": torch.tensor(7.389),
        "train_loss": torch.tensor(9.0),
    }
    values = {
        "global_step": step,
        "is_global_zero": True,
        "sanity_checking": False,
        "callback_metrics": metrics,
    }
    return SimpleNamespace(**{**values, **more})


@pytest.fixture
def module() -> Any:
    return Module()


@pytest.fixture
def files(tmp_path: Path, module: Any) -> RunFiles:
    made = RunFiles(tmp_path)
    made.setup(trainer_at(0), module, "fit")
    return made


# -- cutting -------------------------------------------------------------------------------------------------


def test_lines_past_the_checkpoint_go(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "val_loss": 1.5}\n{"step": 3}\n{"step": 2}\n')
    cut_after(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2, "val_loss": 1.5}\n{"step": 2}\n'
    cut_after(path, -1)
    assert path.read_text() == ""


@pytest.mark.parametrize("torn", ['{"ste', '{"step": 1', "[]", '"text"', "{}", "[" * 100_000])
def test_a_torn_line_goes(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{torn}')
    cut_after(path, 5)
    assert path.read_text() == '{"step": 1}\n'


def test_a_character_cut_in_two_and_other_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    whole = json.dumps({"step": 1, "text": "a\u2028b\x85c é"}, ensure_ascii=False).encode() + b"\n"
    path.write_bytes(whole + '{"step": 1, "text": "é'.encode()[:-1])
    cut_after(path, 5)
    assert path.read_bytes() == whole


def test_no_file_is_nothing_to_cut(tmp_path: Path) -> None:
    cut_after(tmp_path / "metrics.jsonl", 5)
    assert list(tmp_path.iterdir()) == []


# -- metrics -------------------------------------------------------------------------------------------------


def test_a_line_for_each_step_and_validation_in_order(tmp_path: Path, files: RunFiles, module: Any) -> None:
    heard: list[dict[str, Any]] = []
    files.tell(heard.extend)
    module.did(1)
    module.did(2)
    files.on_train_batch_end(trainer_at(2), module, None, None, 0)
    assert not (tmp_path / "metrics.jsonl").exists(), "nothing is read off the device between intervals"
    files.on_validation_end(trainer_at(2), module)
    module.did(3)
    files.on_validation_end(trainer_at(3, sanity_checking=True), module)
    module.flush()
    files.flush()
    lines = list(whole_lines(tmp_path / "metrics.jsonl"))
    assert [line["step"] for line in lines] == [1, 2, 2, 3]
    assert lines[2] == {"step": 2, "tokens": 6, "val_loss": 2.0, "val_perplexity": pytest.approx(7.389)}
    assert [line.get("train_loss") for line in lines] == [2.0, 2.0, None, 2.0]
    assert ["peak_memory_bytes" in line for line in lines] == [False, True, False, True], "once an interval"
    assert 2**20 < lines[1]["peak_memory_bytes"] <= lines[3]["peak_memory_bytes"]
    assert files.last_record["step"] == 3
    assert heard == lines


def test_a_step_passed_over_names_its_windows(tmp_path: Path, files: RunFiles, module: Any) -> None:
    module.trainer.datamodule = SimpleNamespace(windows_of=lambda step: torch.tensor([4, 2]) + step)
    module.did(1)
    module.meter.skip_step()
    module.did(2, nll=float("nan"))
    module.flush()
    files.flush()
    sound, passed_over = list(whole_lines(tmp_path / "metrics.jsonl"))
    assert not {"skipped", "windows"} & set(sound)
    assert (passed_over["skipped"], passed_over["windows"]) == (True, [5, 3])
    assert passed_over["train_loss"] is None


def test_other_ranks_write_nothing(tmp_path: Path, files: RunFiles, module: Any) -> None:
    module.trainer.is_global_zero = False
    module.did(1)
    files.on_validation_end(trainer_at(1, is_global_zero=False), module)
    files.flush()
    assert list(tmp_path.iterdir()) == []
    assert files.last_record["step"] == 1


# -- samples -------------------------------------------------------------------------------------------------


def test_a_sample_at_each_validation(tmp_path: Path, tiny_gpt2: Path, files: RunFiles) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2).train()
    shown: list[Any] = []
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    sampler = Sampler(tmp_path, tokenizer, "def ", lambda *a: shown.append(a))
    holder: Any = Module(model=model)
    for step in (0, 5):
        sampler.on_validation_end(trainer_at(step), holder)
    sampler.on_validation_end(trainer_at(6, sanity_checking=True), holder)
    sampler.on_validation_end(trainer_at(7, is_global_zero=False), holder)
    lines = list(whole_lines(tmp_path / "samples.jsonl"))
    assert [(line["step"], line["prompt"]) for line in lines] == [(0, "def "), (5, "def ")]
    assert lines[0]["text"] == lines[1]["text"] == sampler.latest, "the same weights write the same text"
    assert shown == [(line["step"], line["prompt"], line["text"]) for line in lines]
    assert model.training


# -- a run that goes on --------------------------------------------------------------------------------------


def cut_in_memory(content: bytes, step: int) -> bytes:
    """What `cut_after` leaves, by its definition."""
    return b"".join(line + b"\n" for line in content.split(b"\n") if step_in(line) <= step)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b'{"step": 1}\n{"step": 2}\n{"step": 3}\n',
        b'{"step": 1}\n{"step": 2}',
        b'{"step": 1}\n{"step": 3}\n{"ste',
        b'{"step": 3}\n{"step": 1}\n\xff torn \xc3\n{"step": 2}\r\n\n{"step": 4}\n{"step": 0}',
        b"".join(b'{"step": %d, "text": "%s"}\n' % (n % 5, b"x" * 40_000) for n in range(100)),
    ],
)
@pytest.mark.parametrize("step", [-1, 2, 9])
def test_lines_after_a_step_are_dropped(tmp_path: Path, content: bytes, step: int) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    before = path.stat()
    cut_after(path, step)
    assert path.read_bytes() == cut_in_memory(content, step)
    if content == cut_in_memory(content, step):
        assert path.stat().st_ino == before.st_ino, "nothing was written"


def test_what_a_long_run_did_is_read_as_a_stream(tmp_path: Path) -> None:
    """24 bytes a step are kept, twice while a curve becomes an array; the lines themselves take 600 each."""
    path, steps = tmp_path / "metrics.jsonl", 20_000
    line = '{"step": %d, "train_loss": 3.25, "lr": 0.001, "grad_norm": 1.5, "tokens_per_second": 1000.0}\n'
    path.write_text("".join(line % n for n in range(1, steps + 11)))
    tracemalloc.start()
    try:
        cut_after(path, steps)
        curves = curves_of(whole_lines(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert curves.steps[-1] == len(curves.steps) == steps
    assert peak < 2**20 + 60 * steps
