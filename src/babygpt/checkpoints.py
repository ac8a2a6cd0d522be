"""Checkpoints: a Hugging Face model folder with what resuming needs beside it. No Lightning here.

    step-000120/
      config.json model.safetensors tokenizer.json generation_config.json   as `save_pretrained` writes them
      README.md                         the model card
      training/optimizer.safetensors    every tensor of the training state but the model's weights
      training/state.json               the rest of it, and the dtypes and shapes of the weights
      manifest.json                     sizes, checksums and facts; written last

1. `publish` writes one, whole or not at all.
2. `load_state` gives the same state back, tensor for tensor.
3. `discover`, `newest` and `best` read what is on the disk.
4. `keep` deletes what is superseded, after the new has been read back whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from babygpt import card
from babygpt.computer import installed_versions
from babygpt.errors import CheckpointError, InputError
from babygpt.files import (
    check_name,
    ensure_space,
    free_name,
    publish_folder,
    read_manifest,
    remove_folder,
    remove_partials,
    set_aside,
    verify_folder,
    write_json_atomic,
    write_text_atomic,
)
from babygpt.model.weights import PREFIX, describe, load_weights, save_weights
from babygpt.recipe import Recipe
from babygpt.run_folder import Found, best, checkpoint_at, checkpoint_folders, discover
from babygpt.staging import STATE_FORMAT, Staged, stage
from babygpt.state import bytes_of, decode
from babygpt.tokenizer_names import loader_of
from babygpt.untrusted import parse_json, shown

__all__ = [
    "LAST",
    "Found",
    "best",
    "best_name",
    "copy_checkpoint",
    "discover",
    "keep",
    "link_last",
    "load_state",
    "newest",
    "publish",
    "publish_staged",
    "resolve",
    "step_name",
]

_TENSORS, _STATE = "training/optimizer.safetensors", "training/state.json"
LAST = "last"

Say = Callable[[str], None]


def step_name(step: int) -> str:
    """The name of a checkpoint kept for being new."""
    return f"step-{step:06d}"


def best_name(val_loss: float) -> str:
    """The name of a checkpoint kept for its validation loss."""
    return f"babygpt-{val_loss:.2f}"


# -- writing ---------------------------------------------------------------------------------------


def publish(
    parent: Path,
    name: str,
    *,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    state: Mapping[str, Any],
    facts: Mapping[str, Any],
    replace: bool = False,
) -> Path:
    """Writes a checkpoint.

    Args:
        parent: the folder of checkpoints; made if missing.
        name: of the checkpoint; when taken, `-v1`, ... is appended.
        model: whose `save_pretrained` writes the weights.
        tokenizer: written beside it, if given.
        state: a Lightning checkpoint; its `state_dict` names the weights `model.*`. It is left unchanged.
        facts: for the manifest: `step`, `val_loss` (or None), `data_fingerprint`, ...; versions are added.
        replace: take the place of what has the name.

    Returns:
        The checkpoint's path.

    Raises:
        SpaceError: less than twice the checkpoint's size is free, or the disk filled up.
        InputError: the name is none, or the parent cannot be written to.
        CheckpointError: the state is not this model's.
        TypeError: the state holds something that has no exact form; the message gives its path.
    """
    staged = stage(model=model, tokenizer=tokenizer, state=state, facts=facts)
    return publish_staged(parent, name, staged, replace=replace)


def publish_staged(
    parent: Path, name: str, staged: Staged, *, replace: bool = False, recipe: Recipe | None = None
) -> Path:
    """Writes what was staged; arguments, result and errors as of `publish`.

    Args:
        recipe: of the run, for the model card.
    """
    facts = {**staged.facts, "versions": installed_versions()}
    ensure_space(parent, 2 * (bytes_of(staged.weights) + bytes_of(staged.tensors)), f"the checkpoint {name}")

    def fill(folder: Path) -> None:
        save_weights(folder, staged.weights, staged.model)
        if staged.tokenizer is not None:
            staged.tokenizer.save_pretrained(folder)
        (folder / card.NAME).write_text(_card(staged, facts, recipe, folder), encoding="utf-8", newline="\n")
        (folder / "training").mkdir()
        save_file(dict(staged.tensors), folder / _TENSORS)
        write_json_atomic(folder / _STATE, staged.document)

    return publish_folder(parent, name, fill, facts, replace=replace)


def _card(staged: Staged, facts: Mapping[str, Any], recipe: Recipe | None, folder: Path) -> str:
    config = staged.model.config
    return card.model_card(
        facts,
        model_type=str(config.model_type),
        parameters=sum(p.numel() for p in staged.model.parameters()),
        positions=getattr(config, "max_position_embeddings", None),
        recipe=recipe,
        tokenizer=loader_of(folder),
    )


def copy_checkpoint(source: Path, name: str) -> Path:
    """Publishes a checkpoint once more beside itself; its tensors take no second room where hard links work.

    Raises:
        CheckpointError: the source is damaged.
    """
    manifest = read_manifest(source)

    def fill(folder: Path) -> None:
        for relative in manifest.files:
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix == ".safetensors":
                with suppress(OSError, NotImplementedError):
                    os.link(source / relative, target)
                    continue
            shutil.copyfile(source / relative, target)

    return publish_folder(source.parent, name, fill, manifest.facts, expected=manifest.files)


# -- reading ---------------------------------------------------------------------------------------


def load_state(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """Reads back the state that `publish` was given.

    Args:
        folder: a checkpoint, or the `last` beside it.
        verify: compare every byte with the manifest first.

    Returns:
        An equal state: every tensor bit for bit in its dtype, on the CPU, numbers exact.

    Raises:
        CheckpointError: the checkpoint is damaged, or holds a model only.
    """
    folder = resolve(folder)
    if (folder / "config.json").is_file() and not (folder / _STATE).is_file():
        raise CheckpointError(
            "is a model, and has nothing to resume from",
            where=str(folder),
            hint="Start a new run from it by giving it as model.name",
        )
    if verify:
        verify_folder(folder)
    try:
        document = parse_json((folder / _STATE).read_bytes())
        if document["format"] != STATE_FORMAT:
            what = f"{_STATE} has format {document['format']!r}, and this version reads {STATE_FORMAT}"
            raise CheckpointError(what, where=str(folder), hint="Use the version of BabyGPT that wrote it")
        state = decode(document["state"], _read_tensors(folder / _TENSORS))
        extra, described = dict(state["state_dict"]), dict(document["weights"])
        _check_kinds(state)
    except CheckpointError as error:
        raise CheckpointError(error.what, where=str(folder), hint=error.hint) from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = shown(f"{type(error).__name__}: {error}", 300)
        raise CheckpointError(f"the training state cannot be read ({reason})", where=str(folder)) from error
    weights = load_weights(folder)
    for key, expected in described.items():
        weights[key] = extra.get(PREFIX + key, weights.get(key))
        if describe(weights)[key] != expected:
            raise CheckpointError(f"the weight {key} is not as it was saved, {expected}", where=str(folder))
    state["state_dict"] = {PREFIX + key: weights[key] for key in described} | extra
    return dict(state)


def resolve(path: Path) -> Path:
    """The folder a path stands for: itself, or the one that a one-line file `last` names.

    Of a checkpoint whose replacement was interrupted, it is the one before, wherever that is now.
    """
    if not os.path.lexists(path):
        return set_aside(path.parent).get(path, path)
    if path.is_file() and path.stat().st_size < 512:
        with suppress(UnicodeDecodeError, OSError, InputError):
            lines = path.read_text(encoding="utf-8").splitlines()
            target = path.parent / check_name(Path(lines[0]).name) if len(lines) == 1 else path
            return target if target.is_dir() else path
    return path


def newest(parent: Path, say: Say) -> Path | None:
    """The newest checkpoint that is whole and can be resumed from, or None.

    Args:
        parent: the folder of checkpoints; it may be missing.
        say: is told of each folder that is passed over, and why.
    """
    if parent.is_dir():
        for path in sorted(parent.iterdir()):
            if path.is_symlink() and path.is_dir() and path.name[0] != "." and path.name != LAST:
                say(f"{path.name} is passed over: it is a link")
    for path in checkpoint_folders(parent):
        try:
            checkpoint_at(path)
        except CheckpointError as error:
            say(f"{path.name} is passed over: {error}")
    for checkpoint in discover(parent):
        try:
            if _STATE not in verify_folder(checkpoint.path).files:
                raise CheckpointError("has nothing to resume from", where=str(checkpoint.path))
        except CheckpointError as error:
            say(f"{checkpoint.path.name} is passed over: {error}")
        else:
            return checkpoint.path
    return None


# -- keeping ---------------------------------------------------------------------------------------


def keep(parent: Path, *, newest: int = 2, say: Say) -> None:
    """Deletes the `step-*` beyond the newest ones and the `babygpt-*` that are not the best.

    Nothing goes before what supersedes it has been read back whole: the newest `step-*`, or the best. To be
    called by the only process that writes here: it also clears up what a killed one left half-written.

    Args:
        parent: the folder of checkpoints.
        newest: how many `step-*` stay; at least one always does.
        say: is told of damage found, and of what could not be deleted.
    """
    remove_partials(parent)
    steps = [f for f in discover(parent) if f.path.name.startswith("step-")]
    while len(steps) > max(newest, 1) and not _is_whole(steps[0], say):
        steps.pop(0)
    top = best(parent)
    doomed = steps[max(newest, 1) :]
    if top is not None:
        worse = [f for f in discover(parent) if f.path.name.startswith("babygpt-") and f.path != top.path]
        doomed += worse if worse and _is_whole(top, say) else []
    for checkpoint in doomed:
        try:
            remove_folder(checkpoint.path)
        except OSError as error:
            say(f"{checkpoint.path.name} cannot be deleted ({error})")


def link_last(parent: Path, target: Path) -> None:
    """Points `last` at a checkpoint beside it: a relative link, or a one-line file where links fail."""
    last, fresh = parent / LAST, parent / f".partial-{LAST}-{os.getpid()}"
    if last.is_dir() and not last.is_symlink():  # a copying tool has followed the link
        last.rename(free_name(parent / f"{LAST}-v1"))
    try:
        fresh.unlink(missing_ok=True)
        os.symlink(target.name, fresh, target_is_directory=True)
        os.replace(fresh, last)
    except (OSError, NotImplementedError):
        write_text_atomic(last, target.name + "\n")


# -- inside ----------------------------------------------------------------------------------------


_KINDS = {"loops": dict, "callbacks": dict, "optimizer_states": list, "lr_schedulers": list}


def _check_kinds(state: Mapping[str, Any]) -> None:
    """Refuses a state whose parts are not what Lightning restores; what is inside them it checks itself."""
    for name in ("global_step", "epoch"):
        if type(state.get(name, 0)) is not int or not 0 <= state.get(name, 0) < 2**63:
            raise CheckpointError(f"the training state's {name} is no number of steps")
    for name, kind in _KINDS.items():
        if not isinstance(state.get(name, kind()), kind):
            raise CheckpointError(f"the training state's {name} is no {kind.__name__}")


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt", device="cpu") as file:
        # Copies: views of the file would tie the optimiser to it for as long as it lives.
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def _is_whole(checkpoint: Found, say: Say) -> bool:
    try:
        verify_folder(checkpoint.path)
    except CheckpointError as error:
        say(f"{checkpoint.path.name} is damaged, so that older ones are kept: {error}")
        return False
    return True
