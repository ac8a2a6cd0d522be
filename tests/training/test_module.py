"""BabyGPT as a LightningModule: the tutorial's surface, what it logs, and what it says."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from babygpt import BabyGPT, LLMDataModule
from babygpt.errors import RecipeError
from babygpt.optim.groups import Rule
from fits import trainer_of

Make = Callable[..., Any]


def test_defaults_are_the_tutorials() -> None:
    parameters = inspect.signature(BabyGPT).parameters
    defaults = {name: p.default for name, p in parameters.items()}
    assert defaults["model_name"] == "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T"
    assert defaults["lr"] == 2e-4
    assert (defaults["optimizer"], defaults["schedule"]) == ("adamw", "cosine")
    assert (defaults["betas"], defaults["weight_decay"]) == ((0.9, 0.95), 0.1)
    data = inspect.signature(LLMDataModule).parameters
    assert data["batch_size"].default == 8


def test_hyperparameters_are_saved_as_plain_values(make_module: Make) -> None:
    module = make_module(weight_decay=0.2)
    assert module.hparams["lr"] == 1e-3
    assert module.hparams["weight_decay"] == 0.2
    plain = (str, int, float, bool, tuple, type(None))
    assert all(isinstance(value, plain) for value in module.hparams.values())


def test_forward_passes_through(make_module: Make) -> None:
    module = make_module().eval()
    ids = torch.arange(64).reshape(2, 32)
    mask = torch.ones_like(ids)
    mask[1, 20:] = 0
    with torch.no_grad():
        ours, theirs = module(ids, mask, ids), module.model(input_ids=ids, attention_mask=mask, labels=ids)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.loss, theirs.loss)


def test_what_is_logged(make_data: Make, make_module: Make) -> None:
    data, module = make_data(4), make_module()
    trainer = trainer_of(max_epochs=1, limit_val_batches=1.0, log_every_n_steps=1)
    trainer.fit(module, datamodule=data)
    metrics = trainer.callback_metrics
    assert {"train_loss", "train_loss_step", "train_loss_epoch", "val_loss", "val_perplexity", "lr"} <= set(
        metrics
    )
    assert {"train_loss_step", "val_loss", "val_perplexity"} <= set(trainer.progress_bar_metrics)
    records = module.meter.drain()
    assert len(records) == data.steps_per_epoch
    epoch = sum(r.train_loss * r.targets for r in records) / sum(r.targets for r in records)
    assert float(metrics["train_loss_epoch"]) == pytest.approx(epoch, rel=1e-5)
    assert float(metrics["train_loss_step"]) == pytest.approx(records[-1].train_loss, rel=1e-6)
    loss = float(metrics["val_loss"])
    assert float(metrics["val_perplexity"]) == pytest.approx(math.exp(loss), rel=1e-5)
    bits = loss / math.log(2) / data.bytes_per_target
    assert float(metrics["val_bits_per_byte"]) == pytest.approx(bits, rel=1e-5)


def test_a_run_that_reads_the_meter_logs_validations_alone(make_data: Make, make_module: Make) -> None:
    module = make_module()
    module.logs_steps = False
    trainer = trainer_of(max_steps=4, val_check_interval=2, limit_val_batches=1.0, log_every_n_steps=2)
    trainer.fit(module, datamodule=make_data(4))
    assert set(trainer.callback_metrics) == {"val_loss", "val_perplexity", "val_bits_per_byte"}
    assert [record.step for record in module.meter.drain()] == [1, 2, 3, 4]


def test_it_trains_in_train_mode_also_after_a_validation(make_data: Make, make_module: Make) -> None:
    module = make_module(dropout=0.5)
    modes: list[bool] = []

    class Modes(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            modes.append(all(m.training for m in pl_module.modules()))

    module.eval()
    trainer = trainer_of(callbacks=[Modes()], max_steps=4, limit_val_batches=1.0, val_check_interval=2)
    trainer.validate(module, datamodule=make_data(4), verbose=False)
    trainer.fit(module, datamodule=make_data(4))
    assert modes == [True] * 4


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_fit_lowers_the_loss_and_decays_as_the_table_says(
    make_data: Make, make_module: Make, optimizer: str
) -> None:
    module = make_module(optimizer=optimizer, weight_decay=0.3)
    trainer_of(max_steps=30, log_every_n_steps=1).fit(module, datamodule=make_data(8))
    losses = [r.train_loss for r in module.meter.drain()]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    groups = {g["name"]: g["weight_decay"] for g in module.trainer.optimizers[0].param_groups}
    hidden = {"hidden": 0.3} if optimizer == "muon" else {}
    assert groups == {"biases": 0.0, "norms": 0.0, **hidden, "matrices": 0.3}


def test_a_table_of_ones_own(make_data: Make) -> None:
    everything = (Rule("everything", lambda name, parameter, module: True, decay=True),)
    module = BabyGPT("preset:gpt2-1m", 1e-3, vocab_size=300, rules=everything)
    trainer_of(max_steps=1).fit(module, datamodule=make_data(4))
    (group,) = module.trainer.optimizers[0].param_groups
    assert len(group["params"]) == len(list(module.parameters()))


def test_an_optimiser_that_there_is_not() -> None:
    with pytest.raises(RecipeError, match=r"there is no optimiser 'sgd'\. There are adamw, muon"):
        BabyGPT("preset:gpt2-1m", optimizer="sgd")


def test_the_start_is_put_in_words(make_data: Make, make_module: Make, caplog: Any) -> None:
    with caplog.at_level(logging.INFO, logger="lightning.pytorch.babygpt"):
        trainer_of(limit_val_batches=1.0).validate(make_module(), datamodule=make_data(4), verbose=False)
    (line,) = [r.getMessage() for r in caplog.records if "first validation" in r.getMessage()]
    assert "training from scratch" in line


@pytest.mark.parametrize("on", [True, False])
def test_activation_checkpointing_changes_no_bit(make_data: Make, make_module: Make, on: bool) -> None:
    def trained(checkpointing: Any) -> Any:
        module = make_module(activation_checkpointing=checkpointing, dropout=0.1)
        trainer_of(max_steps=3).fit(module, datamodule=make_data(4))
        return module.state_dict()

    reference, other = trained("auto"), trained(on)
    assert all(torch.equal(reference[k], v) for k, v in other.items())


def test_a_checkpoint_of_a_preset_knows_where_text_ends(
    make_data: Make, make_module: Make, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    data = make_data(4)
    trainer = trainer_of(max_steps=1)
    trainer.fit(make_module(), datamodule=data)
    trainer.save_checkpoint(tmp_path / "saved")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert model.generation_config.eos_token_id == data.tokenizer.eos_token_id
