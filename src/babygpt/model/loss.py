"""Summed next-token loss from hidden states, in bounded memory.

The head's logits are the largest tensor of a step: [tokens, vocabulary], several times over in fp32. Where a
model's logits are nothing but its head applied to its last hidden states (found by a numeric probe, not by a
list of names), the loss takes the hidden states and

* computes the logits in one piece where they fit under a bound, or
* in row chunks that keep only one number a row (the log-normaliser) and are computed again in the backward
  pass: the head's matrix products 4 times instead of 3, the memory of a chunk instead of all rows.

Other models (soft-capped or scaled logits, mixture-of-experts with a balancing loss) go through their own
forward. Nothing here waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from babygpt.errors import ModelError
from babygpt.model.attention import known_packing

__all__ = ["IGNORED", "LOGITS_BOUND", "Head", "chunk_bytes", "count_targets", "find_head", "sum_nll"]

IGNORED = -100
# Bytes of one fp32 copy of the logits above which they are computed in chunks of rows.
LOGITS_BOUND = 2**30
# Smaller chunks save no more that matters, and their matrix products become inefficient.
_CHUNK_BYTES = 2**27
# What a CPU core keeps close while it works on it.
_CACHE_BYTES = 2**20
_PROBE_GAIN = 1000.0


@dataclass(frozen=True)
class Head:
    """A model in two parts: logits = linear(base(inputs).last_hidden_state), and nothing else.

    Args:
        base: input ids -> hidden states [batch, block, width].
        linear: hidden states -> logits [batch, block, vocabulary].
    """

    base: nn.Module
    linear: nn.Linear


def count_targets(labels: torch.Tensor) -> torch.Tensor:
    """Targets of `sum_nll`, an int64 scalar: labels that are not ignored, but for the first column."""
    return (labels[:, 1:] != IGNORED).sum()


@torch.no_grad()
def find_head(model: PreTrainedModel) -> Head | None:
    """The model's base and head, if its logits are exactly the head of the base's last hidden state.

    One forward pass of four tokens with the head's output amplified, so that a soft cap or a scale shows, and
    one of the base alone.

    Args:
        model: with weights on a device; its mode and the process's random numbers are left as they were.

    Returns:
        None where the model's own logits have to be used.
    """
    causal: Any = model  # transformers' methods carry no types
    linear, base = causal.get_output_embeddings(), causal.base_model
    if type(linear) is not nn.Linear or base is model or linear.weight.device.type == "meta":
        return None
    seen: dict[str, torch.Tensor] = {}

    def amplify(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        del module
        seen["hidden"], seen["logits"] = args[0], output * _PROBE_GAIN
        return seen["logits"]

    rows = int(causal.get_input_embeddings().weight.shape[0])
    inputs = {"input_ids": torch.arange(4, device=linear.weight.device)[None] % rows, "use_cache": False}
    was_training = model.training
    causal.eval()
    hook = linear.register_forward_hook(amplify)
    try:
        out = causal(**inputs)
        hidden = base(**inputs).last_hidden_state
    finally:
        hook.remove()
        model.train(was_training)
    if not seen or getattr(out, "aux_loss", None) is not None:
        return None
    whole = seen["hidden"].shape == hidden.shape and torch.equal(seen["hidden"], hidden)
    plain = out.logits.shape == seen["logits"].shape and torch.equal(out.logits, seen["logits"])
    return Head(base, linear) if whole and plain else None


def sum_nll(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    labels: torch.Tensor,
    head: Head | None,
    *,
    logits_bound: int = LOGITS_BOUND,
) -> torch.Tensor:
    """Sum of -log p(token | tokens before it) over the targets.

    Divided by `count_targets(labels)` it is the loss of `model(**inputs, labels=labels)`; a
    mixture-of-experts model's balancing loss is in it, times the targets, wherever the model adds it itself.

    Args:
        model: any causal language model.
        inputs: of `model_inputs`, without labels.
        labels: int64 [batch, block], the input ids or -100 where a token is no target.
        head: of `find_head`, for this very model.
        logits_bound: bytes of fp32 logits above which they are computed in chunks of rows.

    Returns:
        A scalar in fp32, or fp64 for an fp64 model.

    Raises:
        ModelError: a balancing loss whose weight is not known.
    """
    # Shifting the labels, not the hidden states, saves copying those; the last column then predicts nothing.
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED).reshape(-1)
    if head is None:
        return _own_logits_nll(model, inputs, labels, targets, logits_bound)
    with known_packing(inputs):
        hidden = head.base(**inputs).last_hidden_state
    rows = hidden.reshape(-1, hidden.shape[-1])
    linear = head.linear
    vocabulary = linear.weight.shape[0]
    targets = targets.to(rows.device)
    if rows.shape[0] * vocabulary * 4 <= logits_bound:
        # Nothing else holds these, and a linear layer's gradients do not need what came out of it.
        return _nll(linear(rows), targets, overwrite=True)
    return _chunked_nll(rows, linear, targets, _chunk_rows(vocabulary, logits_bound))


def _nll(logits: torch.Tensor, targets: torch.Tensor, *, overwrite: bool = False) -> torch.Tensor:
    """Summed in fp32 at least; `overwrite` lets go of the logits, whose memory may then be used."""
    nll: torch.Tensor = _NLL.apply(logits, targets, overwrite)  # type: ignore[no-untyped-call]
    return nll


class _NLL(torch.autograd.Function):
    """What `F.cross_entropy` computes, with one [rows, vocabulary] tensor where that has three.

    Logits become the log-probabilities in place, and those the gradient, on a CPU in pieces that stay in its cache.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor, overwrite: bool) -> torch.Tensor:
        wide = _wide(logits.dtype)
        if logits.dtype != wide and logits.device.type != "cpu":
            logp = torch.log_softmax(logits, dim=1, dtype=wide)  # reads narrow and writes wide at once
        else:
            logp = logits if overwrite and logits.dtype == wide else logits.to(wide, copy=True)
            for share in torch.split(logp, _piece_rows(logp)):
                _to_logp(share)
        picked = logp.gather(1, targets.clamp(min=0)[:, None])[:, 0]
        ctx.save_for_backward(logp, targets)
        ctx.dtype = logits.dtype
        return -torch.where(targets == IGNORED, 0.0, picked).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        logp, targets = ctx.saved_tensors
        rows = _piece_rows(logp)
        for share, wanted in zip(torch.split(logp, rows), torch.split(targets, rows), strict=True):
            _to_gradient(share, wanted, grad)
        return logp.to(ctx.dtype), None, None


def _piece_rows(logits: torch.Tensor) -> int:
    """Rows that are worked on at a time."""
    bound = _CACHE_BYTES if logits.device.type == "cpu" else _CHUNK_BYTES
    return max(1, bound // (logits.element_size() * logits.shape[1]))


def _to_logp(logits: torch.Tensor) -> None:
    """Logits [rows, vocabulary] to log-probabilities, in place."""
    logits.sub_(logits.amax(dim=1, keepdim=True))
    logits.sub_(logits.exp().sum(dim=1, keepdim=True).log_())


def _to_gradient(logp: torch.Tensor, wanted: torch.Tensor, grad: torch.Tensor) -> None:
    """Log-probabilities [rows, vocabulary] to the gradient of the logits, in place: (p - one-hot) * grad."""
    logp.exp_()
    logp.scatter_add_(1, wanted.clamp(min=0)[:, None], torch.full_like(logp[:, :1], -1.0))
    logp.mul_(torch.where(wanted == IGNORED, 0.0, grad)[:, None])


def chunk_bytes(vocabulary: int, logits_bound: int = LOGITS_BOUND) -> int:
    """Bytes of the fp32 logits of one chunk of rows."""
    return 4 * vocabulary * _chunk_rows(vocabulary, logits_bound)


def _chunk_rows(vocabulary: int, logits_bound: int) -> int:
    return max(1, min(_CHUNK_BYTES, logits_bound) // (4 * vocabulary))


def _own_logits_nll(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    labels: torch.Tensor,
    targets: torch.Tensor,
    logits_bound: int,
) -> torch.Tensor:
    with known_packing(inputs):
        out = model(**inputs)
    logits: torch.Tensor = out.logits.reshape(-1, out.logits.shape[-1])
    targets = targets.to(logits.device)
    if logits.numel() * 4 <= logits_bound:
        nll = _nll(logits, targets)
    else:
        # The logits are there already; chunks keep their fp32 copies from being there all at once.
        chunk = _chunk_rows(logits.shape[1], logits_bound)
        nll = torch.stack(
            [
                checkpoint(_nll, rows, some, use_reentrant=False, preserve_rng_state=False)
                for rows, some in zip(torch.split(logits, chunk), torch.split(targets, chunk), strict=True)
            ]
        ).sum()
    aux: torch.Tensor | None = getattr(out, "aux_loss", None)
    if aux is None:
        return nll
    return nll + _aux_weight(model) * aux.to(nll) * count_targets(labels).to(nll.device)


def _aux_weight(model: PreTrainedModel) -> float:
    for owner in (model, model.config):
        for name in ("router_aux_loss_coef", "aux_loss_coef"):
            if getattr(owner, name, None) is not None:
                return float(getattr(owner, name))
    raise ModelError(
        f"{type(model).__name__} has a balancing loss of unknown weight",
        where="model",
        hint="Set output_router_logits to false in its config.json to train without it",
    )


def _chunked_nll(rows: torch.Tensor, linear: nn.Linear, targets: torch.Tensor, chunk: int) -> torch.Tensor:
    kind = rows.device.type
    compute = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else rows.dtype
    if rows.dtype == torch.float64:
        compute = rows.dtype
    nll: torch.Tensor = _ChunkedNLL.apply(  # type: ignore[no-untyped-call]
        rows, linear.weight, linear.bias, targets, chunk, compute
    )
    return nll


class _ChunkedNLL(torch.autograd.Function):
    """Linear and cross-entropy over chunks of rows; the logits are computed again in the backward pass.

    The head's weight is cast once, and its gradient is summed over the chunks in the weight's own precision:
    automatic differentiation of a checkpointed loop would sum it in bf16.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        chunk: int,
        compute: torch.dtype,
    ) -> torch.Tensor:
        with _without_autocast(rows):
            cast_rows, cast_weight = rows.to(compute), weight.to(compute)
            cast_bias = None if bias is None else bias.to(compute)
            total = torch.zeros((), device=rows.device, dtype=_wide(compute))
            normalisers = total.new_empty(len(rows))
            logits_of = _Logits(cast_weight, cast_bias, min(chunk, len(rows)))
            for start in range(0, len(rows), chunk):
                part = slice(start, start + chunk)
                logits, wanted = logits_of(cast_rows[part]), targets[part]
                picked = logits.gather(1, wanted.clamp(min=0)[:, None])[:, 0]
                largest = logits.amax(dim=1, keepdim=True)
                torch.sum(logits.sub_(largest).exp_(), dim=1, out=normalisers[part])
                normalisers[part].log_().add_(largest[:, 0])
                total += torch.where(wanted == IGNORED, 0.0, normalisers[part] - picked).sum()
        ctx.save_for_backward(cast_rows, cast_weight, cast_bias, targets, normalisers)
        ctx.chunk, ctx.dtypes = chunk, (rows.dtype, weight.dtype, None if bias is None else bias.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, bias, targets, normalisers = ctx.saved_tensors
        rows_dtype, weight_dtype, bias_dtype = ctx.dtypes
        (grad,) = grads
        grad_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=_wide(weight.dtype)) if ctx.needs_input_grad[1] else None
        grad_bias = None
        if bias is not None and ctx.needs_input_grad[2]:
            grad_bias = torch.zeros_like(bias, dtype=_wide(bias.dtype))
        with _without_autocast(rows):
            logits_of = _Logits(weight, bias, min(ctx.chunk, len(rows)))
            for start in range(0, len(rows), ctx.chunk):
                part = slice(start, start + ctx.chunk)
                some, wanted = rows[part], targets[part]
                share = logits_of(some)
                _to_gradient(share.sub_(normalisers[part, None]), wanted, grad)
                grad_logits = share.to(weight.dtype)
                if grad_rows is not None:
                    torch.mm(grad_logits, weight, out=grad_rows[part])
                if grad_weight is not None:
                    _add_product(grad_weight, grad_logits.t(), some)
                if grad_bias is not None:
                    grad_bias += share.sum(dim=0)
        return (
            None if grad_rows is None else grad_rows.to(rows_dtype),
            None if grad_weight is None else grad_weight.to(weight_dtype),
            None if grad_bias is None else grad_bias.to(bias_dtype),
            None,
            None,
            None,
        )


class _Logits:
    """The head's output for chunks of rows, in fp32 at least, each in the same memory as the one before.

    Taken and freed for every chunk, such pieces leave gaps in which the next does not fit where a process keeps what
    it freed (`machine.keep_freed_memory`): eight chunks of 64 MiB took 735 MiB, and take 95 so.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> None:
        self._weight, self._bias = weight.t(), bias
        self._narrow = weight.new_empty(rows, weight.shape[0])
        wide = _wide(weight.dtype)
        self._wide = self._narrow if weight.dtype == wide else self._narrow.to(wide)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Float [rows, vocabulary]; valid until the next call."""
        out, logits = self._narrow[: len(rows)], self._wide[: len(rows)]
        if self._bias is None:
            torch.mm(rows, self._weight, out=out)
        else:
            torch.addmm(self._bias, rows, self._weight, out=out)
        return out if self._wide is self._narrow else logits.copy_(out)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    if total.dtype == right.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _without_autocast(tensor: torch.Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)
