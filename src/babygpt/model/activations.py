"""Activation functions that a model writes in single operations, put as one kernel.

GPT-2's `gelu_new` is 0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) in eight operations, each of which
reads and writes the blocks' widest tensor and keeps it for the backward pass; torch has the same function as one
kernel (Hendrycks and Gimpel, arXiv:1606.08415, section 2). The configuration keeps the name it came with.
"""

from __future__ import annotations

from transformers import PreTrainedModel
from transformers.activations import ACT2FN

__all__ = ["fuse_activations"]

# By transformers' own names: forms of one function, and that of a single kernel.
_SLOW = ("gelu_new", "gelu_fast", "gelu_accurate")
_FAST = "gelu_pytorch_tanh"


def fuse_activations(model: PreTrainedModel) -> int:
    """Exchanges a model's slow activation modules, in place; they hold no weights.

    Returns:
        how many.
    """
    slow = tuple(type(ACT2FN[name]) for name in _SLOW)
    found = [(m, name) for m in model.modules() for name, child in m.named_children() if type(child) in slow]
    for parent, name in found:
        setattr(parent, name, ACT2FN[_FAST])
    return len(found)
