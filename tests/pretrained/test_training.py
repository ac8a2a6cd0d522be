"""Fine-tuning a real pretrained model: it starts where a pretrained model should, learns, and reloads to the bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from test_smollm2 import PROSE

pytestmark = pytest.mark.pretrained

SMALL = ("--data.block", "128", "--data.global_batch_size", "4", "--machine.micro_batch", "2")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def tuned(babygpt: Any, smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten steps on English prose: the manual's topics that come with Python."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    done = babygpt(
        *("train", "--model.name", smollm2, "--data.path", "builtin:prose", *SMALL, "--budget.steps", "10"),
        *("--optim.lr", "5e-5", "--validate.batches", "8", "--machine.precision", "32-true", "--out", out),
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "pretrained ones do" in done.stderr
    return out


def test_it_starts_as_a_pretrained_model_and_ten_steps_lower_the_loss(tuned: Path) -> None:
    validations = [m for m in lines_of(tuned / "metrics.jsonl") if "val_loss" in m]
    assert validations[0]["step"] == 0
    assert 3 < validations[0]["val_perplexity"] < 50
    assert validations[-1]["step"] == 10
    assert validations[-1]["val_loss"] < validations[0]["val_loss"] - 0.05


def test_prose_nobody_has_read_is_in_the_range_of_a_pretrained_model(
    babygpt: Any, smollm2: Path, tmp_path: Path
) -> None:
    (tmp_path / "prose.txt").write_text(PROSE)
    done = babygpt("eval", smollm2, "--data.path", tmp_path / "prose.txt", "--json", timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 12 < json.loads(done.stdout)["perplexity"] < 25


def test_the_checkpoint_reloads_to_the_bit_and_generates(babygpt: Any, tuned: Path) -> None:
    folder = tuned / "checkpoints" / "step-000010"
    once, twice = (AutoModelForCausalLM.from_pretrained(folder).eval() for _ in range(2))
    ids = AutoTokenizer.from_pretrained(folder)("The old bridge", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = once(ids).logits
        assert torch.equal(logits, twice(ids).logits)
    from babygpt import BabyGPT

    module = BabyGPT(str(folder)).eval()
    with torch.no_grad():
        assert torch.equal(logits, module(ids).logits)
    done = babygpt(
        "generate",
        folder,
        "--prompt",
        "The capital of France is",
        "--temperature",
        "0",
        "--json",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Paris" in json.loads(done.stdout)["text"]


def test_a_checkpoint_of_ours_is_a_model_to_start_from(babygpt: Any, tuned: Path, tmp_path: Path) -> None:
    ended = [m for m in lines_of(tuned / "metrics.jsonl") if "val_loss" in m][-1]["val_loss"]
    done = babygpt(
        *(
            "train",
            "--model.name",
            tuned / "checkpoints" / "step-000010",
            "--data.path",
            "builtin:prose",
            *SMALL,
        ),
        *(
            "--budget.steps",
            "1",
            "--validate.batches",
            "8",
            "--machine.precision",
            "32-true",
            "--out",
            tmp_path / "run",
        ),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert lines_of(tmp_path / "run" / "metrics.jsonl")[0]["val_loss"] == pytest.approx(ended, abs=1e-5)


def test_chat_trains_on_the_assistants_words_only(smollm2: Path, tmp_path: Path) -> None:
    from babygpt import LLMDataModule

    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Say {n}."},
                {"role": "assistant", "content": f"Here is {n}."},
            ]
        }
        for n in range(40)
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = LLMDataModule(str(smollm2), 4, path=str(tmp_path / "chat.jsonl"), block=128, packing="isolated")
    data.setup()
    batch = data.micro_batch(0)
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        said = data.tokenizer.decode(ids[labels != -100])
        turns = [turn for turn in said.split("<|im_end|>") if turn]
        assert turns
        assert all(turn.startswith("Here is ") and turn.endswith(".") for turn in turns), said


def test_the_example_script_fine_tunes_it(smollm2: Path, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "examples" / "train.py"
    (tmp_path / "prose.txt").write_text(PROSE * 6)
    args = [
        "--model",
        str(smollm2),
        "--data",
        str(tmp_path / "prose.txt"),
        "--block",
        "64",
        "--batch-size",
        "2",
    ]
    done = subprocess.run(
        [sys.executable, str(script), *args, "--epochs", "1", "--batches", "4", "--lr", "5e-5"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (best,) = [p for p in (tmp_path / "checkpoints").iterdir() if p.name.startswith("babygpt-")]
    assert AutoModelForCausalLM.from_pretrained(best).num_parameters() == 134_515_008
