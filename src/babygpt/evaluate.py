"""The verb `eval`: a checkpoint and text in, validation loss, perplexity and bits per byte out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from babygpt import fields
from babygpt.computer import detect
from babygpt.data import changes
from babygpt.data.cache import default_cache
from babygpt.data.module import LLMDataModule
from babygpt.data.opening import corpora_among
from babygpt.disk import expanded
from babygpt.errors import CheckpointError, DataError
from babygpt.files import read_manifest
from babygpt.hub import fetch, looks_like_path
from babygpt.model.attention import model_inputs
from babygpt.model.folder import read_config_json
from babygpt.model.load import load_model
from babygpt.model.loss import count_targets, find_head, sum_nll
from babygpt.recipe import DataRecipe
from babygpt.settings import EvalSettings
from babygpt.untrusted import redacted

__all__ = ["EvalResult", "evaluate", "summed_loss"]

_BATCH = 8


@dataclass(frozen=True)
class EvalResult:
    """What a model makes of a text.

    Args:
        checkpoint: the model folder or hub name.
        data: what was read.
        targets: tokens predicted.
        loss: nats for each target token.
        perplexity: exp of the loss.
        bits_per_byte: of the text's UTF-8 bytes.
    """

    checkpoint: str
    data: str
    targets: int
    loss: float
    perplexity: float
    bits_per_byte: float

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        rows = [
            ("checkpoint", self.checkpoint),
            ("data", self.data),
            ("targets", f"{self.targets:,} tokens"),
            ("loss", f"{self.loss:.4f}"),
            ("perplexity", f"{self.perplexity:,.2f}"),
            ("bits per byte", f"{self.bits_per_byte:.3f}"),
        ]
        return [f"{name:>14}  {value}" for name, value in rows]


@torch.no_grad()
def summed_loss(model: Any, data: LLMDataModule, device: torch.device) -> tuple[float, int]:
    """Total loss in nats and target tokens over a data module's validation windows.

    Args:
        model: in eval mode, on the device.
        data: set up.
        device: where batches go.
    """
    head = find_head(model)
    total, targets = 0.0, 0
    for batch in data.val_dataloader():
        moved = {k: v.to(device) for k, v in batch.items()}
        inputs = model_inputs(moved, isolated="position_ids" in moved)
        total += float(sum_nll(model, inputs, moved["labels"], head))
        targets += int(count_targets(moved["labels"]))
    return total, targets


def evaluate(settings: EvalSettings) -> EvalResult:
    """Evaluates on given text, or on the validation text of the run that made the checkpoint.

    Of a corpus, which is split already, the held-out part is read.

    Raises:
        CheckpointError: no text is given and the checkpoint does not say what it was validated on.
        DataError: no text is given, and the run's own is gone or was changed.
        DataError, ModelError: the data or the model cannot be used.
    """
    recipe = _data_recipe(settings)
    data = LLMDataModule(
        settings.checkpoint,
        _BATCH,
        path=recipe.path,
        weights=recipe.weights,
        field=recipe.field,
        val_path=recipe.val_path,
        val_fraction=recipe.val_fraction,
        tokenizer="auto",
        block=recipe.block,
        packing=recipe.packing,
        too_long=recipe.too_long,
        train_on_prompts=recipe.train_on_prompts,
        val_batches=None,
        cache_gb=settings.machine.most_cached,
    )
    data.setup("validate")
    device = torch.device(detect().device_for(settings.machine.device))
    model = load_model(settings.checkpoint, packing=recipe.packing)
    network: Any = model.train(False)
    network.to(device)
    total, targets = summed_loss(model, data, device)
    loss = total / max(1, targets)
    return EvalResult(
        checkpoint=settings.checkpoint,
        data=redacted(", ".join(recipe.val_path or recipe.path))
        + ("" if recipe.val_path else " (held-out part)"),
        targets=targets,
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        bits_per_byte=loss / math.log(2) / data.bytes_per_target,
    )


def _data_recipe(settings: EvalSettings) -> DataRecipe:
    given = settings.data
    if given.path:
        if any(corpora_among(given.path, default_cache())):
            return given  # its own held-out part
        return replace(given, val_path=given.val_path or given.path)
    folder = expanded(settings.checkpoint)
    if folder.exists() or looks_like_path(settings.checkpoint):
        read_config_json(fetch(settings.checkpoint, what="model"), settings.checkpoint)
    facts = read_manifest(folder).facts if (folder / "manifest.json").is_file() else {}
    if not facts.get("data"):
        raise CheckpointError(
            "does not say what text it was validated on", where=settings.checkpoint, hint="Give --data.path"
        )
    stored: DataRecipe = fields.build(DataRecipe, facts["data"], str(folder))
    place = folder.resolve().parent
    if place.name == "checkpoints" and (place.parent / changes.NAME).is_file():
        try:
            stored = changes.unchanged(place.parent, stored, stored, ())  # where the same data lie now
        except DataError as error:
            hint = "Put them back; --data.path reads the whole of a text, also what was trained on"
            raise DataError(error.what, where=error.where, hint=hint) from None
    return replace(stored, tokenizer="auto")
