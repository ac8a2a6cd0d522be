"""The verb eval against the model's own loss, token by token."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from babygpt import DataRecipe, EvalSettings, evaluate, fields
from babygpt.computer import detect
from babygpt.data import changes
from babygpt.data.store import prepare
from babygpt.errors import CheckpointError, DataError, MachineError, ModelError
from babygpt.files import publish_folder
from babygpt.machine import MachineRequest

TEXT = "".join(f"Line {n} says that {n % 7} follows {(n + 3) % 7}.\n" for n in range(40))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_text(TEXT)
    return path


def by_hand(folder: Path, block: int) -> tuple[float, int]:
    """Every token but the first, each predicted from its own window; windows overlap by one token."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [*tokenizer(TEXT)["input_ids"], tokenizer.eos_token_id]
    total = 0.0
    for start in range(0, len(ids) - 1, block - 1):
        window = torch.tensor([ids[start : start + block]])
        with torch.no_grad():
            logp = torch.log_softmax(model(window, use_cache=False).logits[0, :-1].double(), -1)
        total -= float(logp.gather(1, window[0, 1:, None]).sum())
    return total, len(ids) - 1


@pytest.mark.parametrize("block", [32, 100])
def test_it_is_the_models_own_loss_over_every_token(tiny_gpt2: Path, text: Path, block: int) -> None:
    done = evaluate(EvalSettings(str(tiny_gpt2), DataRecipe(path=(str(text),), block=block)))
    total, targets = by_hand(tiny_gpt2, block)
    assert done.targets == targets
    assert done.loss == pytest.approx(total / targets, rel=1e-6)
    assert done.perplexity == pytest.approx(math.exp(total / targets), rel=1e-5)
    # A byte a token here; the end of the text is a target and no byte.
    assert done.bits_per_byte == pytest.approx(total / math.log(2) / len(TEXT.encode()), rel=1e-3)


def test_text_shorter_than_a_window_is_read_whole(tiny_gpt2: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("A few words.\n")
    done = evaluate(EvalSettings(str(tiny_gpt2), DataRecipe(path=(str(path),))))
    assert done.targets == len("A few words.\n")  # a byte a token: all but the first, and the end of the text
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny_gpt2),
        AutoTokenizer.from_pretrained(tiny_gpt2),
    )
    ids = torch.tensor([[*tokenizer("A few words.\n")["input_ids"], tokenizer.eos_token_id]])
    with torch.no_grad():
        assert done.loss == pytest.approx(float(model(ids, labels=ids).loss), rel=1e-5)


def test_a_model_that_does_not_say_its_text_needs_one(tiny_gpt2: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Give --data\.path"):
        evaluate(EvalSettings(str(tiny_gpt2)))


def test_a_runs_own_text_is_found_from_any_folder_and_refused_where_it_was_changed(
    tiny_gpt2: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = DataRecipe(path=(text.name,), block=32)
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    changes.remember(run, prepare(recipe, model_name=str(tiny_gpt2)))

    def fill(folder: Path) -> None:
        shutil.copytree(tiny_gpt2, folder, dirs_exist_ok=True)

    facts = {"step": 1, "data": fields.plain(recipe)}
    checkpoint = publish_folder(run / "checkpoints", "step-000001", fill, facts)
    here = evaluate(EvalSettings(str(checkpoint)))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    there = evaluate(EvalSettings("../runs/one/checkpoints/step-000001"))
    assert (there.loss, there.targets) == (here.loss, here.targets)
    text.write_text(text.read_text(encoding="utf-8") + "and more", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"the data are not those the run was begun with: .* was changed.*what was"
    ):
        evaluate(EvalSettings("../runs/one/checkpoints/step-000001"))


def test_what_is_no_model_says_so_before_its_text_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        evaluate(EvalSettings(str(tmp_path / "nowhere")))
    checkpoint = tmp_path / "run" / "checkpoints" / "last"
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds no config\.json.*Give one of its checkpoints"):
        evaluate(EvalSettings(str(tmp_path / "run")))


def test_a_device_that_is_not_there_is_named(tiny_gpt2: Path, text: Path) -> None:
    missing = next(kind for kind in ("mps", "cuda") if kind not in detect().devices)
    settings = EvalSettings(str(tiny_gpt2), DataRecipe(path=(str(text),)), MachineRequest(device=missing))
    with pytest.raises(MachineError, match=f"this computer has no {missing}"):
        evaluate(settings)


def test_lines_and_values(tiny_gpt2: Path, text: Path) -> None:
    done = evaluate(EvalSettings(str(tiny_gpt2), DataRecipe(path=(str(text),), block=64)))
    assert set(done.to_dict()) == {"checkpoint", "data", "targets", "loss", "perplexity", "bits_per_byte"}
    assert len({line.index("  ", 14) for line in done.lines()}) == 1, "the table lines up"
