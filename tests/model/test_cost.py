"""Counts against models built for real, and the memory estimate against what a forward pass keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from babygpt.model.blocks import recompute_blocks
from babygpt.model.cost import memory_bytes, model_cost
from babygpt.model.load import load_config, load_model
from babygpt.model.loss import find_head, sum_nll
from babygpt.optim.cost import update_bytes
from babygpt.optim.groups import parameter_groups
from babygpt.optim.optimizers import OPTIMIZERS, build_optimizer
from live_tensors import LiveTensors


class TestCounts:
    @pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "gpt_neox", "mixtral", "bloom", "opt", "phi"])
    def test_parameters(self, tiny: Any, kind: str) -> None:
        model = tiny(kind, "eager")
        cost = model_cost(model.config)
        tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
        assert cost.parameters == sum(p.numel() for p in model.parameters())
        assert cost.embedding_parameters == sum(t.numel() for t in tables)
        assert cost.non_embedding_parameters == cost.parameters - cost.embedding_parameters
        assert cost.vocabulary == 97
        assert (cost.layers, cost.width, cost.attention_width) == (2, 32, 32)

    def test_gpt2_by_hand(self) -> None:
        cost = model_cost(load_config("preset:gpt2-124m"))
        blocks = 12 * (12 * 768**2 + 13 * 768) + 2 * 768
        assert cost.parameters == 50257 * 768 + 1024 * 768 + blocks == 124_439_808
        assert cost.multiplied_parameters == 50257 * 768 + blocks
        assert cost.flops_per_token(1024) == 6 * (50257 * 768 + blocks) + 12 * 12 * 768 * 1024

    def test_untied_look_up_is_free_and_head_is_not(self) -> None:
        cost = model_cost(load_config("preset:llama-1b"))
        assert cost.parameters - cost.multiplied_parameters == 32000 * 2048
        assert (cost.kv_width, cost.attention_width, cost.mlp_width) == (4 * 64, 2048, 5632)

    def test_only_active_experts_are_multiplied(self, tiny: Any) -> None:
        model = tiny("mixtral")
        experts = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
        cost = model_cost(model.config)
        assert cost.multiplied_parameters == cost.parameters - 97 * 32 - experts // 2

    def test_random_numbers_and_config_are_left_alone(self, tiny: Any) -> None:
        config, before = tiny("llama", "eager").config, torch.random.get_rng_state()
        text = config.to_json_string()
        model_cost(config)
        assert config.to_json_string() == text
        assert config._attn_implementation == "eager"
        assert torch.equal(torch.random.get_rng_state(), before)

    @pytest.mark.parametrize("kind", ["gpt2", "llama"])
    def test_flops_are_those_of_the_matrix_products(self, tiny: Any, kind: str) -> None:
        """Against torch's own counter; eager attention computes whole rows, as the formula counts them."""
        from torch.utils.flop_counter import FlopCounterMode

        model = tiny(kind, "eager")
        counter = FlopCounterMode(display=False)
        with counter:
            model(input_ids=torch.zeros(2, 48, dtype=torch.int64), use_cache=False).logits.sum().backward()
        wanted = model_cost(model.config).flops_per_token(48)
        assert counter.get_total_flops() / 96 == pytest.approx(wanted, rel=0.03)


def _kept_bytes(model: Any, ids: torch.Tensor, bf16: bool) -> int:
    """Bytes that the base model's forward pass keeps for the backward pass, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    tensors: list[torch.Tensor] = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: (tensors.append(t), t)[1], lambda t: t),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        model.base_model(input_ids=ids, use_cache=False)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}
    return sum(size for pointer, size in storages.items() if pointer not in weights)


def _steps(
    model: Any, optimizer_name: str, micro: int, block: int, micros: int, bound: int
) -> Callable[[], None]:
    """An optimiser step to be called again and again; the gradients are cleared behind it."""
    head = find_head(model)
    groups = parameter_groups(model, OPTIMIZERS[optimizer_name])
    optimizer = build_optimizer(optimizer_name, groups, 1e-3, (0.9, 0.95))
    ids = torch.arange(micro * block).reshape(micro, block) % model.config.vocab_size
    inputs = {"input_ids": ids, "use_cache": False}

    def step() -> None:
        for _ in range(micros):
            sum_nll(model, inputs, ids, head, logits_bytes=bound).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


class TestMemory:
    @pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
    @pytest.mark.parametrize("name", ["preset:gpt2-4m", "preset:llama-5m"])
    def test_activations_are_what_is_kept(self, name: str, bf16: bool) -> None:
        model = load_model(name)
        ids = torch.zeros(2, 128, dtype=torch.int64)
        kept = _kept_bytes(model, ids, bf16)
        predicted = memory_bytes(model.config, 2, 128, checkpointing=False, bf16=bf16).activations
        # The head's input and the low-precision copy of its weight lie behind the base model.
        predicted -= 4 * 2 * 128 * model.config.hidden_size
        if bf16:
            predicted -= 2 * model.get_output_embeddings().weight.numel()
        assert predicted == pytest.approx(kept, rel=0.2 if bf16 else 0.01)

    def test_checkpointing_keeps_each_blocks_input(self) -> None:
        model = load_model("preset:gpt2-4m")
        recompute_blocks(model, True)
        kept = _kept_bytes(model, torch.zeros(4, 128, dtype=torch.int64), bf16=False)
        entrances = 4 * (4 * 128) * 256 * model.config.n_layer
        assert kept == pytest.approx(entrances, rel=0.3)
        on, off = (memory_bytes(model.config, 4, 128, checkpointing=c, bf16=False) for c in (True, False))
        assert entrances < on.activations < off.activations

    def test_parts_by_hand(self) -> None:
        config = load_config("preset:gpt2-124m")
        parts = memory_bytes(config, 4, 1024, checkpointing=False, bf16=False)
        assert parts.weights == parts.gradients == 4 * 124_439_808
        assert parts.optimizer == 2 * parts.weights
        chunk, gradients = 640 * 50257, 768 * (4 * 1024 + 50257)
        assert parts.logits == 4 * (chunk + gradients)
        assert parts.workspace == 0
        assert parts.total == 4 * parts.weights + parts.activations + parts.logits

    @pytest.mark.parametrize(
        ("name", "vocabulary", "micro", "block", "optimizer", "checkpointing", "micros", "bound"),
        [
            ("gpt2-1m", 2048, 4, 64, "adamw", 0, 2, 2**27),
            ("gpt2-1m", 512, 2, 64, "muon", 0, 1, 2**27),
            ("gpt2-1m", 300, 8, 64, "adamw", 1, 1, 2**27),
            ("gpt2-1m", 300, 8, 64, "adamw", 2, 1, 2**27),
            ("gpt2-4m", 2048, 8, 128, "adamw", 4, 2, 2**27),
            ("gpt2-1m", 8192, 2, 64, "adamw", 0, 2, 2**20),
            ("gpt2-1m", 8192, 1, 16, "muon", 0, 2, 2**27),
            ("llama-5m", 300, 1, 64, "muon", 0, 1, 2**27),
        ],
        ids=["plain", "update", "recomputed", "every second", "every fourth", "chunks", "table", "llama"],
    )
    def test_the_peak_of_a_step(
        self,
        name: str,
        vocabulary: int,
        micro: int,
        block: int,
        optimizer: str,
        checkpointing: int,
        micros: int,
        bound: int,
    ) -> None:
        """Against the bytes of all tensors that are alive in a second step, in the order that Lightning works in."""
        model = load_model(f"preset:{name}", vocab_size=vocabulary)
        recompute_blocks(model, checkpointing)
        step = _steps(model, optimizer, micro, block, micros, bound)
        with LiveTensors() as live:
            step()
            live.peak = 0
            step()
        parts = memory_bytes(
            model.config,
            micro,
            block,
            checkpointing=checkpointing,
            bf16=False,
            update=update_bytes(model.config, optimizer),
            accumulates=micros > 1,
            logits_bytes=bound,
        )
        assert parts.total - parts.weights == pytest.approx(live.peak, rel=0.05)

    def test_logits_grow_by_the_gradient_of_their_hidden_states_alone(self) -> None:
        config = load_config("preset:gpt2-124m")
        small, large = (
            memory_bytes(config, n, 1024, checkpointing=False, bf16=True).logits for n in (64, 512)
        )
        assert large - small == 4 * 768 * 1024 * (512 - 64)

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_grows_with_the_micro_batch(self, checkpointing: bool) -> None:
        config = load_config("preset:llama-160m")
        totals = [
            memory_bytes(config, n, 512, checkpointing=checkpointing, bf16=True).total for n in range(1, 9)
        ]
        assert totals == sorted(set(totals))

    def test_eager_attention_keeps_its_scores(self, tiny: Any) -> None:
        small, large = (
            memory_bytes(tiny("llama", kind).config, 1, 512, checkpointing=False, bf16=False).activations
            for kind in ("sdpa", "eager")
        )
        assert large - small == 2 * 512 * 4 * 512 * 8
