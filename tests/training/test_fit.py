"""`fit` and `validate`: the curves of a module under a plain Trainer."""

from __future__ import annotations

import math
import os
import signal
import sys
import warnings

import lightning as L
import pytest
import torch

from babygpt import BabyGPT, LLMDataModule, fit, validate
from babygpt.errors import Stopped

STEPS = 6


@pytest.fixture(autouse=True)
def _lightning_is_quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield


def pieces(tiny_gpt2, text, kind=BabyGPT, micro=2):
    data = LLMDataModule(str(tiny_gpt2), micro, path=str(text), block=32, global_batch_size=4, seed=1)
    return kind(str(tiny_gpt2), lr=1e-3, seed=1), data


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"the {n}th line of a text. " for n in range(300)))
    return path


def test_it_trains_as_a_trainer_does(tiny_gpt2, text):
    module, data = pieces(tiny_gpt2, text)
    found = fit(module, data, steps=STEPS, validate_every=4)
    other, same = pieces(tiny_gpt2, text)
    L.Trainer(
        accelerator="cpu", max_steps=STEPS, max_epochs=-1, accumulate_grad_batches=2, gradient_clip_val=1.0,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, limit_val_batches=0,
    ).fit(other, datamodule=same)  # fmt: skip
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [s["step"] for s in found.steps] == list(range(1, STEPS + 1))
    assert [v["step"] for v in found.validations] == [0, 4, STEPS]
    assert found.validations[-1]["val_loss"] < found.validations[0]["val_loss"]
    assert found.seconds > 0
    assert found.cpu_seconds > 0


def test_a_validation_is_the_models_own_loss(tiny_gpt2, text):
    module, data = pieces(tiny_gpt2, text, micro=4)
    metrics = validate(module, data)
    data.setup()
    total = count = 0.0
    module.model.eval()
    with torch.no_grad():
        for batch in data.val_dataloader():
            targets = int((batch["labels"][:, 1:] != -100).sum())
            total += float(module.model(**batch).loss) * targets
            count += targets
    assert metrics["val_loss"] == pytest.approx(total / count, rel=1e-6)
    assert metrics["val_perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)


def test_the_probe_sees_the_module_at_every_validation(tiny_gpt2, text):
    module, data = pieces(tiny_gpt2, text)
    seen = []

    def probe(given):
        assert given is module
        seen.append(given.trainer.global_step)
        return {"sum": float(next(given.parameters()).detach().sum())}

    found = fit(module, data, steps=4, probe=probe)
    assert seen == [0, 4]
    assert found.validations[-1]["sum"] == float(next(module.parameters()).detach().sum())


@pytest.mark.skipif(sys.platform == "win32", reason="there a process cannot send itself a SIGTERM")
@pytest.mark.parametrize("at", [0, 1, STEPS])
def test_a_stop_is_no_success(tiny_gpt2, text, at):
    """Lightning raises a SystemExit without a code, which is 0; or, after the last step, nothing."""
    module, data = pieces(tiny_gpt2, text)

    def probe(module):
        if module.trainer.global_step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    with pytest.raises(Stopped, match="stopped by signal 15"):
        fit(module, data, steps=STEPS, validate_every=1, probe=probe)
