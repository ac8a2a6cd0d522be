"""What is read of a model folder before transformers is let at it, and what is refused there.

Transformers is asked for safetensors, for no code of the folder's own, and for no network. Some ways around
that stand in the folder's own JSON, and are closed here: an index of shards may name pickled files or files
elsewhere, a configuration may name an attention or experts kernel that would be downloaded and run, an
adapter leads to another model.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from babygpt.errors import ModelError
from babygpt.untrusted import read_json, shown

__all__ = ["read_config_json", "require_safetensors"]

_INDEX = "model.safetensors.index.json"
_LARGEST_INDEX = 256_000_000  # bytes; a thousand experts in a hundred layers have 20 MB
_OWN_EXPERTS = (
    None,
    "eager",
    "batched_mm",
    "grouped_mm",
)  # the others of transformers are downloaded kernels

logger = logging.getLogger(__name__)


def read_config_json(folder: Path, name: str) -> dict[str, Any]:
    """The values in a folder's config.json, of an architecture that transformers has built in.

    Args:
        folder: where it lies.
        name: what the user called it, for messages.

    Raises:
        ModelError: it is missing, unreadable, of an unknown architecture, quantised, or asks for code that is
        not installed.
    """
    try:
        values = read_json(folder / "config.json")
    except FileNotFoundError:
        inside = any((folder / "checkpoints").glob("*/config.json"))
        raise ModelError(
            "the folder holds no config.json",
            where=name,
            hint="Give one of its checkpoints/*" if inside else "Give the folder of a Hugging Face model",
        ) from None
    except (OSError, ValueError) as error:
        what = f"config.json cannot be read ({shown(error, 200)})"
        raise ModelError(what, where=name, hint="The folder is damaged") from error
    if not isinstance(values, dict):
        raise ModelError("config.json holds no object", where=name, hint="The folder is damaged")
    kind, own_code = values.get("model_type"), "auto_map" in values
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        shown_kind = shown(kind, 80)
        raise ModelError(
            f"its architecture ({shown_kind}) is code in the repository, and no code from a checkpoint is ever run"
            if own_code
            else f"the installed transformers does not know its architecture ({shown_kind})",
            where=name,
            hint="Choose a model that transformers has built in"
            + ("" if own_code else ", or upgrade transformers"),
        )
    if own_code:
        logger.warning("%s: its own code is not run; transformers' own %s is used", name, kind)
    if values.get("quantization_config"):
        raise ModelError(
            "the weights are quantised and cannot be trained",
            where=name,
            hint="Give the model it was quantised from",
        )
    experts = [values.get(k) for k in ("experts_implementation", "_experts_implementation")]
    if any(e not in _OWN_EXPERTS for e in experts):
        what = (
            f"config.json asks for the experts kernel {shown(experts, 80)}, which would be downloaded and run"
        )
        raise ModelError(what, where=name, hint="Remove the field from config.json")
    weights = values.get("transformers_weights")
    if weights is not None and not _is_shard(weights):
        what = f"config.json names the weights {shown(repr(weights), 80)}, which is no safetensors file of the folder"
        raise ModelError(what, where=name, hint="Remove the field from config.json")
    return values


def _is_shard(file: Any) -> bool:
    """Whether this is the name, and only the name, of a safetensors file."""
    return (
        isinstance(file, str)
        and file == Path(file).name
        and file.endswith(".safetensors")
        and "\\" not in file
        and "\n" not in file
        and shown(file) == file
        and len(file) <= 255
    )


def require_safetensors(folder: Path, name: str) -> None:
    """Refuses weights in any form but safetensors inside the folder.

    Args:
        folder: where they lie.
        name: what the user called it, for messages.

    Raises:
        ModelError: there are none, they are pickled, they are an adapter's, or an index names something else.
    """
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            "it is an adapter to another model",
            where=name,
            hint="Merge it into that model and save the result",
        )
    if not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth"))
        what = "its weights are pickled, and no pickle is ever loaded" if pickled else "it holds no weights"
        raise ModelError(what, where=name, hint="Give a model with model.safetensors")
    if (folder / "model.safetensors").exists() or not (folder / _INDEX).exists():
        return
    try:
        shards = set(read_json(folder / _INDEX, _LARGEST_INDEX)["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{_INDEX} cannot be read ({shown(error, 200)})"
        raise ModelError(what, where=name, hint="The folder is damaged") from error
    for shard in sorted(shards, key=str):
        if not _is_shard(shard):
            what = f"{_INDEX} names {shown(repr(shard), 80)}, which is no safetensors file of the folder"
            raise ModelError(what, where=name, hint="Give a model with model.safetensors")
        if not (folder / shard).is_file():
            raise ModelError(f"{shard} is missing", where=name, hint="The folder is incomplete")
