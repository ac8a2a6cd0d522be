"""Keeps attention causal-fast when unpacked, and isolated when packed.

A transformers model sees packed documents only from position ids that start anew, and only without an
attention mask and without a cache. Unpacked, a mask of ones would keep it off the causal kernels. Not every
attention isolates: some models do so only in their eager attention, some never, which `packing_leak`
measures.

Whether documents are packed transformers finds out by reading a number off the device in every forward pass, which
waits for all that the device has yet to do. Where it is known that they are not, it is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, masking_utils
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import is_flash_attn_2_available  # type: ignore[attr-defined]

from babygpt.errors import ModelError

__all__ = ["known_packing", "model_inputs", "packing_leak", "resolve_attention"]

# Their packed documents are isolated by eager attention only.
_EAGER_WHEN_ISOLATED = frozenset({"gemma2", "gptj", "gpt_neo"})
_PROBE_SEED = 20_250_101


def resolve_attention(config: PreTrainedConfig, packing: str, requested: str) -> str:
    """The attention implementation to load a model with.

    Args:
        config: of the model.
        packing: `stream`, `isolated` or `padded`.
        requested: `auto`, `sdpa`, `eager` or `flash_attention_2`; all but `auto` are honoured or refused.

    Returns:
        A value for `attn_implementation`.

    Raises:
        ModelError: the model has not what was asked, or its library is not installed.
    """
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    sdpa = bool(getattr(model_class, "_supports_sdpa", False))
    if requested == "auto":
        eager = packing == "isolated" and config.model_type in _EAGER_WHEN_ISOLATED
        return "sdpa" if sdpa and not eager else "eager"
    if requested == "sdpa" and not sdpa:
        raise _unsupported(model_class, requested, "eager")
    if requested == "flash_attention_2":
        # Models with a list of their own kernels, and machines without the library, would have them
        # downloaded as code.
        own_kernels = getattr(model_class, "_compatible_flash_implementations", None)
        if not getattr(model_class, "_supports_flash_attn", False) or own_kernels:
            raise _unsupported(model_class, requested, "sdpa" if sdpa else "eager")
        if not is_flash_attn_2_available():
            raise ModelError(
                "flash_attention_2 needs the flash-attn package and a GPU that it supports",
                where="model.attention",
                hint="Install it, or leave model.attention at auto: sdpa has flash kernels of its own",
            )
    return requested


def _unsupported(model_class: Any, requested: str, instead: str) -> ModelError:
    return ModelError(
        f"{model_class.__name__} has no {requested} attention",
        where="model.attention",
        hint=f"Leave it at auto, or give {instead}",
    )


def model_inputs(batch: dict[str, torch.Tensor], *, isolated: bool) -> dict[str, Any]:
    """What of a batch goes to the model's forward; labels never do.

    Args:
        batch: int64 [micro_batch, block] tensors of `LLMDataModule`.
        isolated: position ids and no mask, since a mask would switch the isolation off.

    Returns:
        `input_ids` with `position_ids`, or with `attention_mask` unless that is known to be all ones. A mask
        is looked into on the CPU only: reading one on a device would wait for it.
    """
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "use_cache": False}
    if isolated:
        inputs["position_ids"] = batch["position_ids"]
        return inputs
    if "position_ids" in batch:
        inputs["position_ids"] = batch["position_ids"]
    mask = batch.get("attention_mask")
    if mask is not None and not (mask.device.type == "cpu" and bool(mask.all())):
        inputs["attention_mask"] = mask
    return inputs


_unpacked: ContextVar[bool] = ContextVar("unpacked", default=False)
# Absent from versions that do not ask.
_packed_of: Any = getattr(masking_utils, "find_packed_sequence_indices", None)


def _packed_unless_known(position_ids: torch.Tensor) -> torch.Tensor | None:
    if not torch.compiler.is_compiling() and _unpacked.get():
        return None
    found: torch.Tensor | None = _packed_of(position_ids)
    return found


@contextmanager
def known_packing(inputs: dict[str, Any]) -> Iterator[None]:
    """A forward pass in which transformers does not look for packed documents, if `model_inputs` gives no positions.

    The model then counts them itself, and none starts anew. Holds in this context alone; everywhere else, other
    threads included, transformers looks as ever.
    """
    if "position_ids" in inputs or _packed_of is None:
        yield
        return
    masking_utils.find_packed_sequence_indices = _packed_unless_known
    token = _unpacked.set(True)
    try:
        yield
    finally:
        _unpacked.reset(token)


@torch.no_grad()
def packing_leak(model: PreTrainedModel, vocab_size: int) -> float:
    """How far one packed document's tokens move the next one's logits.

    Two documents of 8 tokens share a window; the first is replaced, everything else kept. The process's
    random numbers and the model's mode are left as they were.

    Args:
        model: on any device.
        vocab_size: ids are drawn below it; at least 2.

    Returns:
        The largest absolute difference of document 2's logits: 0 or rounding where documents are isolated.
    """
    length, device = 8, next(model.parameters()).device
    generator = torch.Generator().manual_seed(_PROBE_SEED)
    ids = torch.randint(vocab_size, (1, 2 * length), generator=generator)
    changed = ids.clone()
    # A shift by 1 to vocab_size - 1 changes every token of document 1.
    changed[:, :length] += torch.randint(1, vocab_size, (1, length), generator=generator)
    changed %= vocab_size
    positions = torch.arange(length).repeat(2)[None]
    was_training = model.training
    model.eval()  # type: ignore[no-untyped-call]
    try:
        logits = [
            model(
                **model_inputs(
                    {"input_ids": i.to(device), "position_ids": positions.to(device)}, isolated=True
                )
            ).logits
            for i in (ids, changed)
        ]
    except TypeError:
        # Its forward takes no position ids, hence it cannot tell documents apart.
        return float("inf")
    finally:
        model.train(was_training)
    return float((logits[0] - logits[1])[:, length:].abs().max())
