"""Summed cross-entropy in bounded memory, with its gradient computed on the way.

Logits are the largest tensor of a step: [tokens, vocabulary], several times over in fp32. The gradient of a summed loss
is known as soon as the logits are: p - one-hot. So the head's hidden states are gone through in chunks of rows, whose
logits become their gradient at once and are forgotten: the head's three matrix products, as in one piece, in the memory
of a chunk. The idea is that of Liger's fused loss (Hsu et al., arXiv:2410.10989).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from babygpt.data.labels import IGNORED

__all__ = ["LOGITS_BYTES", "LogitsMemory", "chunk_rows", "head_nll", "logits_nll"]

# Of a chunk's fp32 logits at most: of large vocabularies, whose matrix products become inefficient with fewer rows.
LOGITS_BYTES = 2**27
# With more rows they gain nothing that matters.
_ROWS = 2048
# What a CPU core keeps close while it works on it.
_CACHE_BYTES = 2**20
_FP16_SCALE = 2.0**-6
# Columns of the logits' products on an accelerator: rows that begin off its boundaries keep 16-bit products off the
# tensor cores' quick kernels (GPT-2's 50,257 columns). A processor's libraries arrange matrices as they like.
_COLUMNS, _CPU_COLUMNS = 64, 1


def chunk_rows(vocabulary: int, logits_bytes: int = LOGITS_BYTES) -> int:
    """Rows of a chunk at most; a multiple of 64, which suits matrix products, where it is more."""
    rows = min(_ROWS, max(1, logits_bytes // (4 * vocabulary)))
    return rows if rows < 64 else rows // 64 * 64


class LogitsMemory(threading.local):
    """Where a chunk's logits lie: on a CPU in the same place all run long, each thread's in its own.

    Taken and freed every step, pieces of this size leave gaps in which the next does not fit where a process keeps what
    it freed (`computer.keep_freed_memory`): a run whose tensors never took more than 1.6 GiB took 2.6.
    """

    def __init__(self) -> None:
        self._kept: dict[torch.dtype, torch.Tensor] = {}

    def __reduce__(self) -> tuple[type[LogitsMemory], tuple[()]]:
        """Copies begin empty: what lies in it is nobody's."""
        return LogitsMemory, ()

    def take(self, rows: int, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised [rows, vocabulary], on a CPU valid until the next call for its dtype.

        Args:
            rows: of it.
            weight: of the head, [vocabulary, width].
            dtype: of it.
        """
        vocabulary = weight.shape[0]
        if weight.device.type != "cpu":
            return weight.new_empty(rows, vocabulary, dtype=dtype)
        kept = self._kept.get(dtype)
        if kept is None or len(kept) < rows * vocabulary:
            self._kept.pop(dtype, None)
            # A validation is often the first to ask, and what is made in inference mode can be used in no other.
            with torch.inference_mode(False):
                kept = self._kept[dtype] = weight.new_empty(rows * vocabulary, dtype=dtype)
        return kept[: rows * vocabulary].view(rows, vocabulary)


def head_nll(
    rows: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    chunk: int,
    memory: LogitsMemory,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """The summed loss of the logits rows @ weight.T + bias, under autocast with the products in its dtype.

    Args:
        rows: hidden states [tokens, width].
        weight: [vocabulary, width].
        bias: [vocabulary], if there is one.
        targets: int64 [tokens], `IGNORED` where there is none.
        chunk: rows at a time, at least 1; memory is taken for as many, even if there are fewer.
        memory: for their logits.
        weights: float [tokens], how much each row's loss counts; None is 1 each.

    Returns:
        A scalar in fp32, or fp64 for fp64 rows, to be differentiated once.
    """
    kind = rows.device.type
    narrow = torch.is_autocast_enabled(kind) and rows.dtype != torch.float64
    dtype = torch.get_autocast_dtype(kind) if narrow else rows.dtype
    work = _Work(chunk, dtype, torch.is_grad_enabled(), memory)
    nll: torch.Tensor = _HeadNLL.apply(  # type: ignore[no-untyped-call]
        rows, weight, bias, targets, _as_wide(weights, dtype), work
    )
    return nll


def logits_nll(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """The same of logits [tokens, vocabulary] that are there already; they are left as they are."""
    nll: torch.Tensor = _LogitsNLL.apply(  # type: ignore[no-untyped-call]
        logits, targets, _as_wide(weights, logits.dtype), torch.is_grad_enabled()
    )
    return nll


@dataclass(frozen=True)
class _Work:
    """How a head's loss is computed.

    Args:
        chunk: rows at a time.
        dtype: of the matrix products.
        differentiate: whether gradients are wanted at all.
        memory: for the logits.
    """

    chunk: int
    dtype: torch.dtype
    differentiate: bool
    memory: LogitsMemory


class _HeadNLL(torch.autograd.Function):
    """Linear and summed cross-entropy in chunks of rows, with the gradient of both computed on the way.

    The head's weight is cast once, and its gradient is summed over the chunks in fp32: automatic differentiation of
    a loop would sum it in the narrow dtype.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        weights: torch.Tensor | None,
        work: _Work,
    ) -> torch.Tensor:
        of_rows, of_weight, of_bias = (work.differentiate and needed for needed in ctx.needs_input_grad[:3])
        differentiate, wide = of_rows or of_weight or of_bias, _wide(work.dtype)
        with _without_autocast(rows):
            vocabulary = len(weight)
            inputs, matrix = rows.to(work.dtype), _padded(weight.to(work.dtype))
            offset = None if bias is None else _padded(bias.to(work.dtype))
            narrow = work.memory.take(work.chunk, matrix, work.dtype)
            logits = narrow if work.dtype == wide else work.memory.take(work.chunk, matrix, wide)
            losses = rows.new_empty(len(rows), dtype=wide)
            grad_rows = torch.empty_like(inputs) if of_rows else None
            grad_weight, grad_bias = None, None
            for part in _parts(len(rows), work.chunk):
                some, wanted, counts = inputs[part], targets[part], _some(weights, part)
                # Columns beyond the vocabulary are 0 as logits, and stay so as their gradient.
                product, share = narrow[: len(some)], logits[: len(some), :vocabulary]
                _multiply(some, matrix, offset, out=product)
                if work.dtype != wide:
                    share.copy_(product[:, :vocabulary])
                for piece in _parts(len(some), _piece_rows(share)):
                    losses[part][piece] = _to_gradient(
                        share[piece], wanted[piece], _some(counts, piece), differentiate
                    )
                if differentiate and work.dtype != wide:
                    product[:, :vocabulary] = share
                if grad_rows is not None:
                    torch.mm(product, matrix, out=grad_rows[part])
                if of_weight:
                    grad_weight = _plus_product(grad_weight, product.t(), some)
                if of_bias:
                    grad_bias = share.sum(dim=0) if grad_bias is None else grad_bias + share.sum(dim=0)
        if grad_weight is not None:
            grad_weight = grad_weight[:vocabulary]
        _keep(ctx, (grad_rows, rows), (grad_weight, weight), (grad_bias, bias))
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*_times(ctx, grad), None, None, None)


class _LogitsNLL(torch.autograd.Function):
    """What `F.cross_entropy` computes in fp32, with one [rows, vocabulary] tensor in the logits' dtype."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor | None,
        differentiate: bool,
    ) -> torch.Tensor:
        wide = _wide(logits.dtype)
        gradient = torch.empty_like(logits) if differentiate and ctx.needs_input_grad[0] else None
        losses = logits.new_empty(len(logits), dtype=wide)
        for piece in _parts(len(logits), _piece_rows(logits)):
            share = logits[piece].to(wide, copy=True)
            losses[piece] = _to_gradient(share, targets[piece], _some(weights, piece), gradient is not None)
            if gradient is not None:
                gradient[piece] = share
        _keep(ctx, (gradient, logits))
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*_times(ctx, grad), None, None, None)


def _keep(ctx: Any, *pairs: tuple[torch.Tensor | None, torch.Tensor | None]) -> None:
    """Gradients of the sum, each with what it is the gradient of."""
    ctx.found = [None if g is None or of is None else g.to(of.dtype) for g, of in pairs]


def _times(ctx: Any, grad: torch.Tensor) -> list[torch.Tensor | None]:
    """The gradients, and lets go of them: what nobody else holds need not be copied."""
    found, ctx.found = ctx.found, None
    if found is None:
        raise RuntimeError(
            "The loss's gradient was computed with it and is there once: compute the loss again"
        )
    return [None if g is None else g.mul_(grad) for g in found]


def _parts(rows: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, rows, size))


def _piece_rows(logits: torch.Tensor) -> int:
    """Rows [rows, vocabulary] that are worked on at a time."""
    bound = _CACHE_BYTES if logits.device.type == "cpu" else LOGITS_BYTES
    return max(1, bound // (4 * logits.shape[1]))


def _to_gradient(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None, differentiate: bool
) -> torch.Tensor:
    """Each row's loss, 0 where it has no target; logits [rows, vocabulary] become its gradient, p - one-hot.

    Args:
        logits: fp32 or fp64, overwritten.
        targets: int64 [rows].
        weights: float [rows], in their dtype, that loss and gradient are multiplied by; None is 1 each.
        differentiate: False leaves anything in the logits.
    """
    ignored, index = targets == IGNORED, targets.clamp(min=0)[:, None]
    logits.sub_(logits.amax(dim=1, keepdim=True))
    picked = logits.gather(1, index)[:, 0]
    total = logits.exp_().sum(dim=1)
    if differentiate:
        shares, less = torch.where(ignored, 0.0, total.reciprocal()), ignored.to(logits.dtype) - 1
        if weights is not None:
            shares, less = shares * weights, less * weights
        logits.mul_(shares[:, None])
        logits.scatter_add_(1, index, less[:, None])
    losses = torch.where(ignored, 0.0, total.log() - picked)
    return losses if weights is None else losses * weights


def _some(weights: torch.Tensor | None, part: slice) -> torch.Tensor | None:
    return None if weights is None else weights[part]


def _padded(of_head: torch.Tensor) -> torch.Tensor:
    """The head's weight [vocabulary, width] or bias [vocabulary], with zeros up to whole columns of the logits."""
    if of_head.element_size() > 2:
        return of_head
    missing = -len(of_head) % (_CPU_COLUMNS if of_head.device.type == "cpu" else _COLUMNS)
    return F.pad(of_head, (0,) * (2 * of_head.dim() - 1) + (missing,)) if missing else of_head


def _multiply(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    if bias is None:
        torch.mm(rows, weight.t(), out=out)
    else:
        torch.addmm(bias, rows, weight.t(), out=out)


def _plus_product(total: torch.Tensor | None, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`total` + left @ right, in fp32 at least; None is 0."""
    if total is not None and total.dtype == right.dtype:
        return total.addmm_(left, right)
    if right.dtype == torch.float16:
        # A loss scale that shrinks cannot help here, since it comes afterwards: 2,048 rows of a hidden state above 32
        # can be more than fp16 holds.
        product = (left @ (right * _FP16_SCALE)).to(torch.float32).div_(_FP16_SCALE)
    else:
        product = (left @ right).to(_wide(right.dtype))
    return product if total is None else total.add_(product)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _as_wide(weights: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    return None if weights is None else weights.to(_wide(dtype))


def _without_autocast(tensor: torch.Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)
