"""A preset, local folder or hub name to a causal language model, ready to train.

Weights are fp32 masters whatever the checkpoint holds, every dropout is the recipe's, and the model is in
train mode. No pickle is read and no code from a checkpoint runs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging as transformers_logging

from babygpt import hub
from babygpt.errors import ModelError
from babygpt.model.activations import fuse_activations
from babygpt.model.attention import resolve_attention
from babygpt.model.folder import check_sizes, read_config_json, require_safetensors
from babygpt.presets import preset_config
from babygpt.untrusted import shown

__all__ = ["adopt_special_ids", "load_config", "load_model"]

PRESET = "preset:"

_DROPOUT = re.compile(r"dropout|pdrop$")
_NOT_A_DROPOUT = re.compile(r"summary|classifier")
_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

logger = logging.getLogger(__name__)

# These parts of transformers carry no types, or wrong ones.
_auto_model: Any = AutoModelForCausalLM
_causal_classes: Any = MODEL_FOR_CAUSAL_LM_MAPPING
_logging: Any = transformers_logging


def load_model(
    name: str,
    *,
    revision: str | None = None,
    attention: str = "auto",
    packing: str = "stream",
    dropout: float = 0.0,
    vocab_size: int | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """A model with fp32 weights on the CPU, in train mode; global random numbers are left as they were.

    Args:
        name: `preset:NAME` for random weights, a local folder, or a hub name.
        revision: of a hub name.
        attention: `auto`, `sdpa`, `eager` or `flash_attention_2`.
        packing: of the data, for an attention that isolates under `isolated`.
        dropout: for every dropout of the model.
        vocab_size: rows of a preset's embeddings instead of its own; pretrained models keep theirs.
        seed: of a preset's weights.

    Raises:
        ModelError: the model is missing or damaged, needs pickle or code of its own, or is no causal language
        model. RecipeError: an unknown preset.
    """
    folder = None if name.startswith(PRESET) else hub.fetch(name, revision=revision, what="model")
    config = _preset(name, vocab_size) if folder is None else _read_config(folder, name)
    _set_dropout(config, dropout)
    chosen = resolve_attention(config, packing, attention)
    with torch.random.fork_rng(devices=[]), _quiet():
        # Only the CPU's generator: torch.manual_seed would also reach those of devices that are not restored.
        torch.default_generator.manual_seed(seed)
        if folder is None:
            model: PreTrainedModel = _auto_model.from_config(
                config, attn_implementation=chosen, dtype=torch.float32
            )
        else:
            model = _read_weights(folder, name, config, chosen)
    if model.loss_type is None:
        # As transformers itself decides for such class names (GPT-2's), but without its warning.
        model.loss_type = "ForCausalLM"
    fuse_activations(model)
    model.train()
    return model


def load_config(name: str, *, revision: str | None = None, vocab_size: int | None = None) -> PreTrainedConfig:
    """The configuration alone, as `load_model` would use it but for dropout and attention.

    Args:
        name: `preset:NAME`, a local folder, or a hub name.
        revision: of a hub name.
        vocab_size: instead of a preset's own.

    Raises:
        ModelError: as `load_model`.
        RecipeError: an unknown preset.
    """
    if name.startswith(PRESET):
        return _preset(name, vocab_size)
    return _read_config(hub.fetch(name, revision=revision, what="model"), name)


def _preset(name: str, vocab_size: int | None) -> PreTrainedConfig:
    values = dict(preset_config(name.removeprefix(PRESET)))
    if vocab_size is not None:
        values["vocab_size"] = vocab_size
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    for field in _SPECIAL_IDS:
        value = getattr(config, field, None)
        if isinstance(value, int) and value >= config.vocab_size:
            setattr(config, field, None)
    return config


def _read_config(folder: Path, name: str) -> PreTrainedConfig:
    read_config_json(folder, name)
    try:
        with _quiet():
            config: PreTrainedConfig = AutoConfig.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
    except Exception as error:
        # Each configuration checks its own fields, with errors of its own types.
        raise ModelError(f"config.json cannot be used: {_first_line(error)}", where=name) from error
    check_sizes(config, name)
    _require_causal(config, name)
    return config


def _require_causal(config: PreTrainedConfig, name: str) -> None:
    if config.get_text_config() is not config:
        what = f"{config.model_type} is a model of several kinds of input"
        raise ModelError(what, where=name, hint="Give a text-only model")
    causal = _causal_classes[type(config)].__name__ if type(config) in _causal_classes else None
    # A folder that names no class is taken at its type's word.
    architectures = config.architectures or [causal or config.model_type]
    if causal not in architectures:
        what = f"{', '.join(architectures)} is not a causal language model"
        raise ModelError(what, where=name, hint="Give one that predicts next tokens")


def _read_weights(folder: Path, name: str, config: PreTrainedConfig, attention: str) -> PreTrainedModel:
    require_safetensors(folder, name)
    try:
        model, info = _auto_model.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        # Damaged safetensors, shapes that differ, shards that are missing: each raises a type of its own.
        raise ModelError(f"the weights cannot be loaded: {_first_line(error)}", where=name) from error
    broken = sorted(info["missing_keys"]) + sorted(str(k[0]) for k in info["mismatched_keys"])
    if broken:
        raise ModelError(
            f"{len(broken)} weights of the model are not in its files ({', '.join(broken[:3])}"
            f"{', ...' if len(broken) > 3 else ''}) and would start at random",
            where=name,
            hint="The folder is incomplete, or its weights belong to another architecture",
        )
    unexpected = sorted(info["unexpected_keys"])
    if unexpected:
        logger.warning(
            "%s: %d weights are not part of the model: %s",
            name,
            len(unexpected),
            shown(", ".join(unexpected[:3]), 200),
        )
    return model  # type: ignore[no-any-return]


def _set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Sets every dropout field, also of nested configurations; those of classifiers are none of ours."""
    for field, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _set_dropout(value, dropout)
        elif type(value) in (int, float) and _DROPOUT.search(field) and not _NOT_A_DROPOUT.search(field):
            setattr(config, field, float(dropout))


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no reports of transformers: what matters in them is raised or logged here."""
    level, bars = _logging.get_verbosity(), _logging.is_progress_bar_enabled()
    _logging.set_verbosity_error()
    _logging.disable_progress_bar()
    try:
        yield
    finally:
        _logging.set_verbosity(level)
        if bars:
            _logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return shown((str(error).strip() or type(error).__name__).splitlines()[0].rstrip("."), 300)


def adopt_special_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Gives a model that knows no begin and end of text those of its tokenizer, so that its checkpoints stop.

    A padding id is not adopted: as a model is loaded, some would take that row of their embeddings out of training.
    """
    for name in ("bos_token_id", "eos_token_id"):
        value = getattr(tokenizer, name)
        for config in (model.config, model.generation_config):
            if isinstance(value, int) and getattr(config, name, 0) is None:
                setattr(config, name, value)
