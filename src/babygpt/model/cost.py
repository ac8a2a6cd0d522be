"""Parameters, FLOPs and bytes of a step: pure arithmetic on a configuration.

Only the parameter count needs the model, built on the meta device: shapes without memory.

FLOPs of a token, forward and backward, after Kaplan et al. (arXiv:2001.08361) with the attention term of
Chowdhery et al. (arXiv:2204.02311): 6 * N + 12 * layers * width * block. N holds every parameter that is
multiplied: the head, tied or not, and of a mixture of experts the active share; looking up an embedding costs
nothing. The attention term counts whole rows, as is usual, although causal kernels compute half of them.
"""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from babygpt.errors import ModelError
from babygpt.model.attention import resolve_attention
from babygpt.model.cross_entropy import LOGITS_BYTES, chunk_rows
from babygpt.untrusted import shown

__all__ = ["MemoryParts", "ModelCost", "UpdateBytes", "gap_bytes", "memory_bytes", "meta_model", "model_cost"]

# Gaps by bytes of activations: of blocks with a gated perceptron, and of others.
_GAPS = {True: 0.6, False: 0.1}
# Pages of libraries that a backward pass, an update or a save is the first to touch.
_TOUCHED = 24 * 2**20


@dataclass(frozen=True)
class ModelCost:
    """What a model is made of.

    Args:
        parameters: each counted once, tied ones too.
        embedding_parameters: of the look-up tables (tokens and learned positions).
        multiplied_parameters: per token: without look-ups, with the head, of experts the active ones.
        layers: blocks.
        width: of the hidden states.
        heads: of attention.
        attention_width: heads times their width.
        kv_width: key-value heads times their width.
        mlp_width: of the hidden layer of the blocks' perceptrons.
        gated: whether those have a gate beside the up-projection.
        vocabulary: rows of the head.
        tied: whether the head is the table of the tokens.
    """

    parameters: int
    embedding_parameters: int
    multiplied_parameters: int
    layers: int
    width: int
    heads: int
    attention_width: int
    kv_width: int
    mlp_width: int
    gated: bool
    vocabulary: int
    tied: bool

    @property
    def non_embedding_parameters(self) -> int:
        """All but the look-up tables (a tied head is one of those)."""
        return self.parameters - self.embedding_parameters

    def flops_per_token(self, block: int) -> int:
        """Floating-point operations of a token's forward and backward pass in windows of `block` tokens."""
        return 6 * self.multiplied_parameters + 12 * self.layers * self.attention_width * block


@dataclass(frozen=True)
class MemoryParts:
    """Predicted bytes at the peak of a run on one device, by what they hold.

    Args:
        weights: fp32 masters.
        gradients: fp32, as far as they are there at that moment.
        optimizer: the optimiser's fp32 state.
        activations: what the forward pass keeps for the backward pass, and low-precision copies of the weights.
        logits: a chunk of the head's output, and the gradients of the loss by hidden states and head.
        workspace: what a recomputed block, the summing of gradients or the update takes.
        saving: the copy of weights and state that is written while training goes on; 0 where it lies in another memory.
        process: what Python and its libraries hold before the model is there; 0 where they lie in another memory.
        gaps: in a CPU's memory, what lies between the pieces, and code and caches that only training touches.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    workspace: int = 0
    saving: int = 0
    process: int = 0
    gaps: int = 0

    @property
    def total(self) -> int:
        """All parts together."""
        return self.needed + self.process

    @property
    def needed(self) -> int:
        """What is not taken yet before the model is there: all parts but the process itself."""
        parts = (self.weights, self.gradients, self.optimizer, self.activations, self.logits)
        return sum(parts) + self.workspace + self.saving + self.gaps


@dataclass(frozen=True)
class UpdateBytes:
    """What an optimiser takes.

    Args:
        state: fp32, kept between steps and saved.
        workspace: while it updates.
    """

    state: int
    workspace: int


def model_cost(config: PreTrainedConfig) -> ModelCost:
    """Counts a model of this configuration; the second call with an equal one is free."""
    kind: Any = type(config)
    return _model_cost(kind, json.dumps(config.to_dict(), sort_keys=True, default=str))


def meta_model(config: PreTrainedConfig) -> Any:
    """A model of this configuration without memory: shapes alone.

    Raises:
        ModelError: there is none.
    """
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        try:
            model = AutoModelForCausalLM.from_config(copy.deepcopy(config))  # type: ignore[no-untyped-call]
        except Exception as error:
            # Each architecture meets a value that makes no sense with an error of its own type.
            what = f"its configuration builds no model ({type(error).__name__}: {shown(error, 200)})"
            raise ModelError(what, where="model.name", hint="Mend its config.json") from error
    return model


@functools.lru_cache(maxsize=32)
def _model_cost(config_class: Any, values: str) -> ModelCost:
    config = config_class.from_dict(json.loads(values))
    model = meta_model(config)
    tables = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings()
    parameters = list(model.named_parameters())
    share = _active_share(config)
    multiplied = sum(
        int(p.numel() * (share if ".experts." in name else 1))
        for name, p in parameters
        if id(p) not in tables
    )
    tied = head is not None and id(head.weight) in tables
    multiplied += head.weight.numel() if tied else 0
    layers, width = _first(config, "num_hidden_layers"), _first(config, "hidden_size")
    heads = _first(config, "num_attention_heads", default=1)
    head_width = _first(config, "head_dim", default=width // heads)
    mlp = _first(
        config, "moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim", default=4 * width
    )
    return ModelCost(
        parameters=sum(p.numel() for _, p in parameters),
        embedding_parameters=sum(tables.values()),
        multiplied_parameters=multiplied,
        layers=layers,
        width=width,
        heads=heads,
        attention_width=heads * head_width,
        kv_width=_first(config, "num_key_value_heads", default=heads) * head_width,
        mlp_width=mlp * _first(config, "num_experts_per_tok", default=1),
        gated=any("gate_proj" in name or "gate_up_proj" in name for name, _ in parameters),
        vocabulary=_first(config, "vocab_size") if head is None else int(head.weight.shape[0]),
        tied=tied,
    )


def _first(config: Any, *names: str, default: int | None = None) -> int:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    assert default is not None, f"{config.model_type} has none of {', '.join(names)}"
    return default


def _active_share(config: Any) -> float:
    experts = _first(config, "num_local_experts", "num_experts", "n_routed_experts", default=1)
    active = _first(config, "num_experts_per_tok", default=experts)
    return active / experts


def memory_bytes(
    config: PreTrainedConfig,
    micro_batch: int,
    block: int,
    *,
    checkpointing: int,
    bf16: bool,
    update: UpdateBytes | None = None,
    accumulates: bool = True,
    logits_bytes: int = LOGITS_BYTES,
) -> MemoryParts:
    """A training step's memory at its peak: the largest of these moments.

    * The loss, when the forward pass has kept all that it keeps. Gradients are cleared behind each update: there are
      none yet but those of earlier micro-batches.
    * A recomputed block, with the gradients of its inside: the first one that runs again, or the last.
    * The end of the backward pass: the gradients of the embeddings and of the head where both are one table, and their
      sum, each as a whole.
    * The update.

    Args:
        config: of the model.
        micro_batch: windows at a time.
        block: tokens of a window.
        checkpointing: every n-th block is computed again in the backward pass; 1 all of them, 0 none.
        bf16: whether matrix products run in 16-bit mixed precision.
        update: of the optimiser; None takes AdamW's, whose two moments are all it needs.
        accumulates: whether gradients are there in forward passes too: a step has several micro-batches, or their
            memory is kept.
        logits_bytes: as in `sum_nll`.
    """
    cost = model_cost(config)
    tokens, small = micro_batch * block, 2 if bf16 else 4
    weights = 4 * cost.parameters
    update = update or UpdateBytes(2 * weights, 0)
    inside = _block_bytes(cost, small) * tokens
    if config._attn_implementation == "eager" or resolve_attention(config, "stream", "auto") == "eager":
        inside += (4 + small) * cost.heads * block * tokens
    entrance = 4 * cost.width * tokens
    again = -(-cost.layers // checkpointing) if checkpointing else 0
    copies = small * cost.multiplied_parameters if bf16 else 0
    kept = again * entrance + (cost.layers - again) * inside + _last_norm_bytes(cost) * tokens + copies
    table = 4 * cost.vocabulary * cost.width
    logits, found = _loss_bytes(cost, tokens, small, logits_bytes, own=_own_logits(config))
    before = weights if accumulates else 0
    # The head's gradient waits for the embeddings' where both are one table; else it is added to what is there.
    waiting = table if cost.tied or not accumulates else 0

    def moment(gradients: int, activations: int, of_loss: int = 0, workspace: int = 0) -> MemoryParts:
        return MemoryParts(weights, gradients, update.state, activations, logits + of_loss, workspace)

    moments = [moment(before, kept, of_loss=found)]
    if again:
        workspace = inside + 4 * (cost.width + cost.mlp_width) * tokens
        # What the blocks behind the last recomputed one have kept is free by the time that one runs again.
        behind = (cost.layers - 1) % checkpointing
        others = (again - 1) * entrance + (cost.layers - again) * inside
        late = weights - (0 if accumulates else (weights - table) // cost.layers)
        moments += [
            moment(before + waiting, kept - behind * inside, workspace=workspace),
            moment(late + (waiting if accumulates else 0), kept - others, workspace=workspace),
        ]
    tables = (2 if cost.tied else 0) + accumulates
    moments += [moment(weights, 0, workspace=tables * table), moment(weights, 0, workspace=update.workspace)]
    return max(moments, key=lambda parts: parts.needed)


def gap_bytes(config: PreTrainedConfig, activations: int) -> int:
    """What a run takes of a CPU's memory on top of the process and its tensors.

    A piece that is aligned, as torch's are, does not fit into the place of one of its own size in glibc's heap: between
    what a forward pass keeps there are holes of what it does not. Blocks of Llama's kind, whose norms are written in
    single operations, leave most. Shares and bytes are those of the runs that `benchmarks/plan_versus_run.py` compares,
    but for the ones held out.

    Args:
        config: of the model.
        activations: what is kept at the peak.
    """
    return _TOUCHED + int(activations * _GAPS[model_cost(config).gated])


def _loss_bytes(cost: ModelCost, tokens: int, small: int, logits_bytes: int, own: bool) -> tuple[int, int]:
    """Bytes of the loss: logits, which stay, and the gradients that it hands on.

    A chunk of the head's logits in fp32, under mixed precision also as they come out of the product, with the gradients
    of the hidden states and of the head. Where the logits are a model's `own`, all of them and their gradient.
    """
    whole = tokens * cost.vocabulary
    if own:
        return small * whole, small * whole
    chunk = min(whole, chunk_rows(cost.vocabulary, logits_bytes) * cost.vocabulary)
    return (4 + (2 if small == 2 else 0)) * chunk, 4 * cost.width * (tokens + cost.vocabulary)


def _own_logits(config: PreTrainedConfig) -> bool:
    """Whether a model's logits are more than its head's output, so that the loss takes its own (`loss.find_head`)."""
    capped = getattr(config, "final_logit_softcapping", None) is not None
    scaled = any(getattr(config, name, 1) not in (None, 1) for name in ("logit_scale", "logits_scaling"))
    return capped or scaled or bool(getattr(config, "output_router_logits", False))


def _block_bytes(cost: ModelCost, small: int) -> int:
    """Bytes that one block keeps for one token, eager attention's scores apart.

    The inputs of its norms, of its matrix products, of attention (queries, keys, values and the output, with a
    normaliser a head) and of the activation function. The residual stream and the norms stay fp32 under mixed
    precision.
    """
    # Llama's kind: RMS norms written in single operations keep their result too, and each of the five
    # projections behind them keeps a low-precision copy of its input.
    norms = 4 * cost.width * (4 if cost.gated else 2) + 4 * (2 if cost.gated else 4)
    inputs = small * cost.width * (5 if cost.gated and small == 2 else 2)
    attention = small * (2 * cost.attention_width + 2 * cost.kv_width) + 4 * cost.heads
    mlp = small * cost.mlp_width * (4 if cost.gated else 2)
    return norms + inputs + attention + mlp


def _last_norm_bytes(cost: ModelCost) -> int:
    """Bytes that the norm behind the blocks and the head keep of one token's hidden state."""
    return 4 * cost.width * (3 if cost.gated else 2)
