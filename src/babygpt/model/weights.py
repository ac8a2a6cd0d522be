"""A model's weights in a Hugging Face folder and back, bit for bit.

`save_pretrained` and `from_pretrained` know each architecture's file names, converted names and tied weights,
and do the work. They were not made for exactness, though: on the way back they cast floating tensors to one
dtype, leave some entries out, and tie by declaration only. `comes_back` finds the entries this would change;
the caller keeps those beside the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from babygpt.errors import CheckpointError, InputError
from babygpt.model.folder import read_config_json, require_safetensors
from babygpt.state import is_storable
from babygpt.untrusted import shown

__all__ = ["PREFIX", "comes_back", "describe", "load_weights", "save_weights", "split_state_dict"]

PREFIX = "model."


def split_state_dict(
    state_dict: Mapping[str, Any], model: PreTrainedModel
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model's weights under its own names, and the other entries under theirs."""
    weights = {k.removeprefix(PREFIX): v for k, v in state_dict.items() if k.startswith(PREFIX)}
    rest = {k: v for k, v in state_dict.items() if not k.startswith(PREFIX)}
    strange = sorted(weights.keys() ^ model.state_dict().keys())
    if strange:
        raise CheckpointError(
            f"the state_dict is not this model's: {strange[0]!r} is in only one of them",
            hint=f"The module's model must be its attribute {PREFIX[:-1]!r}, its parameters not renamed",
        )
    return weights, rest


def describe(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Each tensor's dtype and shape, as JSON values; None for what is no tensor."""
    return {
        key: [str(value.dtype).removeprefix("torch."), list(value.shape)]
        if isinstance(value, torch.Tensor)
        else None
        for key, value in weights.items()
    }


def comes_back(key: str, weights: Mapping[str, Any], model: PreTrainedModel) -> bool:
    """Whether `load_weights` returns this entry of the weights bit for bit."""
    value = weights[key]
    if not isinstance(value, torch.Tensor) or not is_storable(value):
        return False
    if value.is_floating_point() and value.dtype != model.dtype:
        return False
    if key in (model._keys_to_ignore_on_save or ()):
        return False
    if value.dtype in (torch.float16, torch.bfloat16) and any(part in key for part in _loaded_in_fp32(model)):
        return False
    return _same(weights.get(_tied(model).get(key, key)), value)


def save_weights(folder: Path, weights: Mapping[str, Any], model: PreTrainedModel) -> None:
    """Writes config, generation config and `model.safetensors`, each weight once."""
    storable = {k: v for k, v in weights.items() if isinstance(v, torch.Tensor) and is_storable(v)}
    with _no_progress_bars():
        model.save_pretrained(folder, state_dict=_untangle(storable, model))


def load_weights(folder: Path) -> dict[str, Any]:
    """The model's state dict, on the CPU; no network, no pickle, no code from the folder.

    Raises:
        CheckpointError: the model cannot be loaded, or a weight is missing, unknown or of another shape.
    """
    try:
        read_config_json(folder, folder.name)
        require_safetensors(folder, folder.name)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with _no_progress_bars():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,  # else the attention that config.json names would go before the one given
                dtype="auto",
                attn_implementation="eager",  # not one that the folder names: it could be a download
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # a dozen kinds, by what is missing or malformed
        reason = error.what if isinstance(error, InputError) else shown(error, 300)
        raise CheckpointError(f"the model cannot be loaded ({reason})", where=str(folder)) from error
    model, report = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(kind):
            names = ", ".join(str(key) for key in sorted(report[kind])[:3])
            raise CheckpointError(f"the model has {kind.replace('_', ' ')}: {names}", where=str(folder))
    return dict(model.state_dict())


# -- inside ----------------------------------------------------------------------------------------


def _untangle(weights: dict[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Leaves memory shared only where the model declares weights tied: nothing else is tied on loading."""
    tied, seen = _tied(model), set()
    for key, tensor in weights.items():
        if key in tied and _same(weights.get(tied[key]), tensor):
            weights[key] = weights[tied[key]]
            continue
        pointer = (tensor.device, tensor.untyped_storage().data_ptr())
        if pointer in seen and tensor.numel():
            weights[key] = tensor.clone()
        seen.add(pointer)
    return weights


def _tied(model: PreTrainedModel) -> dict[str, str]:
    return dict(getattr(model, "all_tied_weights_keys", None) or {})


def _loaded_in_fp32(model: PreTrainedModel) -> set[str]:
    """Parts of names whose weights some architectures load in fp32, whatever dtype they were saved in."""
    kinds = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
    return {part for kind in kinds for part in getattr(model, kind, None) or ()}


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor) or one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.data_ptr() == other.data_ptr() and one.stride() == other.stride() and one.device == other.device:
        return True  # the same memory, whatever is in it: torch.equal finds NaN unequal
    return torch.equal(one, other)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Transformers would draw one for every save and load, over the run's own."""
    on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if on:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
