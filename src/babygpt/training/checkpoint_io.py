"""Lightning's CheckpointIO over `babygpt.checkpoints`: checkpoints become folders that Hugging Face loads.

Give it to the trainer as a plugin: `L.Trainer(plugins=[FolderCheckpointIO()])`. Lightning's `ModelCheckpoint`
then works as always, except that each path it chooses, `.ckpt` included, is a folder, and
`trainer.fit(ckpt_path=folder)` resumes from it. `load_from_checkpoint` does not pass through here: use the
folder as `model_name`.
"""

from __future__ import annotations

import copy
import os
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from babygpt.checkpoints import load_state, publish_staged, resolve
from babygpt.errors import CheckpointError
from babygpt.files import MANIFEST, remove_folder
from babygpt.recipe import Recipe, without_secrets
from babygpt.staging import Staged, stage
from babygpt.training.writer import BackgroundWriter

__all__ = ["PAYLOAD", "FolderCheckpointIO", "HFPayload"]

PAYLOAD = "babygpt_payload"


@dataclass
class HFPayload:
    """What a module's `on_save_checkpoint` puts under `PAYLOAD`: what the folder is made of beside the state.

    Args:
        model: whose weights are in the checkpoint's `state_dict` as `model.*`.
        tokenizer: saved beside it, if given.
        facts: for the manifest.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    facts: dict[str, Any]

    @classmethod
    def of(cls, module: Any, data: Any) -> HFPayload:
        """Of a `BabyGPT` in a trainer, and its `LLMDataModule`, if it has one."""
        val_loss = module.trainer.callback_metrics.get("val_loss")
        facts = {
            "step": module.trainer.global_step,
            "tokens": module.meter.tokens,
            "model": module.hparams["model_name"],
            "val_loss": None if val_loss is None else float(val_loss),
            "data_fingerprint": None if data is None else data.identity()["data_fingerprint"],
            "data": None if data is None else asdict(without_secrets(data.recipe)),
            "rollbacks": 0 if data is None else data.rollbacks,
        }
        return cls(module.model, None if data is None else data.tokenizer, facts)


class FolderCheckpointIO(CheckpointIO):
    """Saves, loads and removes checkpoint folders for a Lightning trainer.

    Args:
        writer: writes while training goes on: `save_checkpoint` then only copies the state and returns, and whoever
            gives the writer asks it how that went. None writes before it returns.
        recipe: of the run, for the model cards; None where there is none.
    """

    def __init__(self, writer: BackgroundWriter | None = None, recipe: Recipe | None = None) -> None:
        self._writer, self._recipe = writer, recipe
        self._tokenizers: dict[int, PreTrainedTokenizerBase] = {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Publishes the checkpoint under the path; what had the path before is replaced by a rename.

        Raises:
            CheckpointError: the module has given no model, or the path is no local one.
            SpaceError: the disk is full.
            TypeError: the state holds something that has no exact form, or storage options are given.
        """
        if storage_options is not None:
            raise TypeError("FolderCheckpointIO takes no storage_options: it writes local folders only")
        target = _local(path)
        state = dict(checkpoint)
        payload = state.pop(PAYLOAD, None)
        if not isinstance(payload, HFPayload):
            raise CheckpointError(
                "the module gives no Hugging Face model to save",
                where=str(target),
                hint=f"Train BabyGPT, or set checkpoint[{PAYLOAD!r}] in on_save_checkpoint",
            )
        writer = self._writer
        staged = stage(
            model=payload.model,
            tokenizer=payload.tokenizer if writer is None else self._own(payload.tokenizer),
            state=state,
            facts=payload.facts,
            copy=writer is not None,
        )
        if writer is None:
            self._publish(target, staged)
        else:
            writer.submit(lambda: self._publish(target, staged))

    def _publish(self, target: Path, staged: Staged) -> None:
        publish_staged(target.parent, target.name, staged, replace=True, recipe=self._recipe)

    def _own(self, tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase | None:
        """A copy of the tokenizer, made once: one that is being saved cannot encode in another thread."""
        if tokenizer is None:
            return None
        if id(tokenizer) not in self._tokenizers:
            self._tokenizers = {id(tokenizer): copy.deepcopy(tokenizer)}
        return self._tokenizers[id(tokenizer)]

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: torch.device | str | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Reads a folder, every byte of it verified.

        Args:
            path: of the folder, or of the `last` beside it.
            map_location: a device for all tensors; the CPU if not given.
            weights_only: without meaning here, where no pickle is read.

        Raises:
            CheckpointError: the folder is damaged, or none of ours.
        """
        del weights_only
        folder = resolve(_local(path))
        if folder.is_file():
            raise CheckpointError(
                "is a file, and FolderCheckpointIO reads folders",
                where=str(folder),
                hint="Lightning's own .ckpt files are resumed by a trainer without this plugin",
            )
        state = load_state(folder)
        return state if map_location is None else _moved(state, torch.device(map_location))

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Deletes a checkpoint; of a link, only the link. A folder without a manifest is left alone."""
        target = _local(path)
        if not os.path.lexists(target):
            return
        if target.is_dir() and not target.is_symlink() and not (target / MANIFEST).is_file():
            warnings.warn(f"{target} has no {MANIFEST}: it is not deleted", stacklevel=2)
            return
        remove_folder(target)


def _local(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path)
    if "://" in text:
        raise CheckpointError("is no local path", where=text, hint="Save to a local or mounted folder")
    return Path(text)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(inner, device) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(inner, device) for inner in value)
    return value
