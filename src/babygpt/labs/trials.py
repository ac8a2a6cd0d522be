"""What the labs' runs share: a setting to a model and data of the public classes, and their fit to numbers.

The model is a GPT-2 of the setting's shape with random weights that its seed decides, written as a Hugging Face
folder and loaded from there like anybody's. The token store is made once for all runs of a lab and found in the
cache after that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from babygpt import BabyGPT, LLMDataModule, fit
from babygpt.labs.framework import Measured, Setting
from babygpt.training.fit import Fitted

__all__ = ["POSITIONS", "Trial", "curves_of", "last_loss", "measured", "trial"]

_HEAD_WIDTH = 32
POSITIONS = 512
_INITIAL = 0.5
_LAST_SHARE = 0.1


@dataclass(frozen=True)
class Trial:
    """A setting made ready to train.

    Args:
        setting: what it is made from.
        module: the model with its optimiser.
        data: the data module.
        folder: of the model; gone once the trial is over.
    """

    setting: Setting
    module: BabyGPT
    data: LLMDataModule
    folder: Path

    def fit(self, **options: Any) -> Fitted:
        """Trains as the setting says, and as `babygpt.fit` takes it."""
        s = self.setting
        return fit(self.module, self.data, **{"steps": s.steps, "precision": s.precision, **options})


@contextmanager
def trial(
    setting: Setting,
    kind: type[BabyGPT] = BabyGPT,
    *,
    data: Mapping[str, Any] | None = None,
    **options: Any,
) -> Iterator[Trial]:
    """Model and data of a setting.

    Args:
        setting: of the run.
        kind: `BabyGPT`, or a subclass that breaks a rule.
        data: of `LLMDataModule`, over what the setting says.
        options: of `BabyGPT`, likewise.
    """
    with TemporaryDirectory(prefix="babygpt-lab-") as place:
        folder = Path(place)
        _write_model(setting, folder)
        micro = setting.micro_batch or setting.batch
        of_data: dict[str, Any] = {
            "path": setting.text,
            "val_fraction": setting.val_fraction,
            "tokenizer": f"train:{setting.vocab}",
            "block": setting.block,
            "packing": setting.packing,
            "global_batch_size": setting.batch,
            "seed": setting.seed,
            **(data or {}),
        }
        of_module: dict[str, Any] = {
            "lr": setting.lr,
            "optimizer": setting.optimizer,
            "weight_decay": setting.weight_decay,
            "schedule": setting.schedule,
            "warmup": setting.warmup,
            "final": setting.final,
            "activation_checkpointing": setting.activation_checkpointing,
            "seed": setting.seed,
            **options,
        }
        name = str(folder)
        yield Trial(setting, kind(name, **of_module), LLMDataModule(name, micro, **of_data), folder)


def _write_model(setting: Setting, folder: Path) -> None:
    """A GPT-2 whose weights are a function of the setting's shape and seed."""
    config = GPT2Config(
        vocab_size=setting.vocab,
        n_positions=POSITIONS,
        n_embd=setting.width,
        n_layer=setting.layers,
        n_head=setting.width // _HEAD_WIDTH,
        # 0.02 is right for a width of 600; at 64 it leaves the blocks so small that hundreds of steps learn no context.
        initializer_range=_INITIAL / math.sqrt(setting.width),
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.seed)
        GPT2LMHeadModel(config).save_pretrained(folder)


def last_loss(fitted: Fitted) -> float:
    """The training loss of the last tenth of the steps, nats for each target token."""
    steps = fitted.steps[-max(1, math.ceil(_LAST_SHARE * len(fitted.steps))) :]
    total = sum(s["train_loss"] * s["targets"] for s in steps)
    return float(total / sum(s["targets"] for s in steps))


def curves_of(fitted: Fitted, *names: str) -> dict[str, list[tuple[float, float]]]:
    """Curves of a fit: of each step `train_loss` or whatever stands in its record, of the validations all others."""
    found = {}
    for name in names or ("train_loss", "val_loss"):
        lines = fitted.steps if name in fitted.steps[0] else fitted.validations
        found[name] = [(float(line["step"]), float(line[name])) for line in lines]
    return found


def measured(fitted: Fitted, **outcomes: float) -> Measured:
    """The losses of a fit with their curves, and whatever else was measured."""
    losses = {"val_loss": fitted.validations[-1]["val_loss"], "train_loss": last_loss(fitted)}
    return Measured({**losses, **outcomes}, curves_of(fitted))
