"""The example script runs as it stands, and what it saves is a plain model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SCRIPT = Path(__file__).parents[1] / "examples" / "train.py"


def test_the_script_trains_and_keeps_the_best(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("".join(f"Line {n} says that {n % 7} follows {(n + 3) % 7}.\n" for n in range(300)))
    args = ["--model", "preset:gpt2-1m", "--data", str(text), "--block", "64", "--batch-size", "4"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *args, "--epochs", "2", "--lr", "2e-3"],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "val_perplexity" in done.stdout
    assert "training from scratch" in done.stderr
    folders = {p.name for p in (tmp_path / "checkpoints").iterdir()}
    (best,) = [name for name in folders if name.startswith("babygpt-")]
    assert f"{float(best.removeprefix('babygpt-')):.2f}" == best.removeprefix("babygpt-")
    assert best in done.stdout
    assert "last" in folders
    for name in (best, "last"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoints" / name).eval()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "checkpoints" / name)
        ids = tokenizer("Line 5 says that", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            assert torch.isfinite(model(ids).logits).all()
