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
from babygpt.errors import NotFiniteError
from babygpt.labs.framework import Claim, Measured, Outcome, Setting
from babygpt.training.fit import Fitted

__all__ = [
    "OF_SEARCH",
    "POSITIONS",
    "Search",
    "Trial",
    "curves_of",
    "last_loss",
    "measured",
    "search",
    "trial",
    "within",
]

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
        chosen = {"steps": s.steps, "precision": s.precision, **options}
        every = max(1, chosen["steps"] // s.validations)
        return fit(self.module, self.data, **{"validate_every": every, **chosen})


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


@dataclass(frozen=True)
class Search:
    """What came of each rate of a setting.

    Args:
        rates: that were tried, rising.
        losses: the validation loss at the end of each, nats a token; infinite where the training diverged.
        fits: of each; None where it diverged.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    fits: tuple[Fitted | None, ...]

    @property
    def best(self) -> int:
        """The place of the least loss."""
        return min(range(len(self.losses)), key=self.losses.__getitem__)

    @property
    def outcomes(self) -> dict[str, float]:
        """The least loss, whether its rate is the first or last of all, and how many rates diverged.

        A rate beside one that diverged is at no end: that one was tried, and is worse.
        """
        diverged = sum(map(math.isinf, self.losses))
        if diverged == len(self.losses):
            return {"val_loss": math.nan, "at_end": math.nan, "diverged": float(diverged)}
        at_end = self.best in (0, len(self.losses) - 1)
        return {"val_loss": self.losses[self.best], "at_end": float(at_end), "diverged": float(diverged)}


# What a lab that searches says of its search.
OF_SEARCH = (
    Outcome(
        "at_end", "1 where the best rate is the lowest or highest tried, so that a better may lie beyond"
    ),
    Outcome("diverged", "rates whose training ended in no number; they are no best"),
)


def within(arm: str) -> Claim:
    """That the best rate of an arm is at no end of those tried."""
    return Claim(f"{arm}: the best rate lies between others that were tried", "at_end", arm, None, 0.0, 0.0)


def search(setting: Setting) -> Search:
    """Trains once at each rate of a setting; one at which it breaks down is one of infinite loss."""
    fits = [_fitted(each) for each in setting.searched()]
    losses = [math.inf if each is None else each.validations[-1]["val_loss"] for each in fits]
    losses = [loss if math.isfinite(loss) else math.inf for loss in losses]
    kept = [None if math.isinf(loss) else each for loss, each in zip(losses, fits, strict=True)]
    return Search(setting.rates, tuple(losses), tuple(kept))


def _fitted(setting: Setting) -> Fitted | None:
    with trial(setting) as made:
        try:
            return made.fit()
        except NotFiniteError:
            return None


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
