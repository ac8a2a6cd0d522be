"""The decoder blocks: found, recomputed in part, compiled for one shape, and left alone where that fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from babygpt.errors import ModelError
from babygpt.model.blocks import (
    compile_blocks,
    compiled_only,
    deterministic,
    find_blocks,
    recompute_blocks,
    uncompile_blocks,
)

# Torch's tracer looks at the gradient of tensors that have none.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


def _forward_passes_of_blocks(model: Any, ids: torch.Tensor) -> list[int]:
    counted = [0] * len(find_blocks(model))

    def counting(index: int) -> Callable[..., None]:
        def count(*_: Any) -> None:
            counted[index] += 1

        return count

    # A hook before it: computing again stops as soon as the last tensor wanted is there.
    hooks = [b.mlp.register_forward_pre_hook(counting(n)) for n, b in enumerate(find_blocks(model).values())]  # type: ignore[operator,union-attr]
    model(input_ids=ids, use_cache=False).logits.sum().backward()
    for hook in hooks:
        hook.remove()
    return counted


class TestRecomputing:
    @pytest.mark.parametrize("kind", ["gpt2", "llama"])
    def test_every_nth_block_and_off_again(self, tiny: Any, batch: Any, kind: str) -> None:
        model = tiny(kind, num_hidden_layers=5)
        for every, counts in (
            (0, "11111"),
            (1, "22222"),
            (2, "21212"),
            (4, "21112"),
            (5, "21111"),
            (0, "11111"),
        ):
            recompute_blocks(model, every)
            assert _forward_passes_of_blocks(model, batch["input_ids"]) == [int(c) for c in counts], every

    def test_name_before_5_23(self) -> None:
        calls: list[Any] = []

        class Old:
            supports_gradient_checkpointing = True

            def gradient_checkpointing_enable(self, kwargs: Any) -> None:
                calls.append(kwargs)

            def gradient_checkpointing_disable(self) -> None:
                calls.append("off")

        recompute_blocks(Old(), 1)  # type: ignore[arg-type]
        recompute_blocks(Old(), 0)  # type: ignore[arg-type]
        assert calls == [{"use_reentrant": False}, "off"]

    def test_model_that_cannot(self, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        model = tiny("gpt2")
        monkeypatch.setattr(type(model), "supports_gradient_checkpointing", False)
        with pytest.raises(ModelError, match="has no activation checkpointing"):
            recompute_blocks(model, 1)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The graphs that the real front end captures, run as they are by a back end that compiles nothing."""
    graphs: list[Any] = []
    real = torch.compile

    def keep(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: real(function, **kwargs, backend=keep))
    torch._dynamo.reset()
    yield graphs
    torch._dynamo.reset()


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is given to torch's attention: (mask, is_causal) of each call, as it runs."""
    seen: list[Any] = []
    real = F.scaled_dot_product_attention

    def spy(query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        seen.append((attn_mask, kwargs.get("is_causal", False)))
        return real(query, key, value, attn_mask, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    return seen


def _trial(model: Any, ids: torch.Tensor) -> Callable[[], object]:
    return lambda: model(input_ids=ids, use_cache=False).logits.sum().backward()


def _sdpa_masks(graphs: list[Any]) -> list[tuple[Any, Any]]:
    """(mask, is_causal) of the attention calls in captured graphs."""
    calls = [
        n for g in graphs for n in g.graph.nodes if n.target is torch._C._nn.scaled_dot_product_attention
    ]
    return [(n.kwargs.get("attn_mask"), n.kwargs.get("is_causal", False)) for n in calls]


class TestCausalKernels:
    @pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "gpt_neox"])
    def test_no_dense_mask_in_eager_code(self, tiny: Any, batch: Any, masks: list[Any], kind: str) -> None:
        tiny(kind)(input_ids=batch["input_ids"], use_cache=False)
        assert masks == [(None, True)] * 2

    @pytest.mark.parametrize("kind", ["gpt2", "llama"])
    def test_none_in_compiled_blocks(self, tiny: Any, batch: Any, captured: list[Any], kind: str) -> None:
        model = tiny(kind)
        assert len(compile_blocks(model, _trial(model, batch["input_ids"]))) == 2
        assert set(_sdpa_masks(captured)) == {(None, True)}

    def test_a_whole_model_gets_one(self, tiny: Any, batch: Any, captured: list[Any]) -> None:
        """Why blocks are compiled and not models; once this fails, they may be."""
        model = tiny("gpt2")
        whole: Any = torch.compile(model, dynamic=False)
        whole(input_ids=batch["input_ids"], use_cache=False)
        found = _sdpa_masks(captured)
        assert found
        assert all(mask is not None and not causal for mask, causal in found)


class TestCompile:
    @pytest.mark.parametrize(
        ("kind", "prefix"),
        [
            ("gpt2", "transformer.h"),
            ("llama", "model.layers"),
            ("gpt_neox", "gpt_neox.layers"),
            ("mixtral", "model.layers"),
        ],
    )
    def test_blocks_are_found(self, tiny: Any, kind: str, prefix: str) -> None:
        assert list(find_blocks(tiny(kind))) == [f"{prefix}.0", f"{prefix}.1"]

    def test_without_a_compiler_it_says_so_and_goes_on(
        self, tiny: Any, batch: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def no_compiler(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no C++ compiler found\nand much more")

        monkeypatch.setattr(torch, "compile", no_compiler)
        model = tiny("gpt2")
        with caplog.at_level(logging.WARNING, logger="babygpt"):
            assert compile_blocks(model, lambda: None) == []
        assert "going on without: no C++ compiler found" in caplog.text
        model(input_ids=batch["input_ids"])

    def test_a_compiler_that_fails_on_the_model(
        self, tiny: Any, batch: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        real = torch.compile

        def only_lines(graph: Any, inputs: Any) -> Any:
            if len(list(graph.graph.nodes)) > 10:
                raise RuntimeError("cannot lower this")
            return graph.forward

        monkeypatch.setattr(torch, "compile", lambda f, **kw: real(f, **kw, backend=only_lines))
        torch._dynamo.reset()
        model = tiny("gpt2")
        wanted = model(input_ids=batch["input_ids"], use_cache=False).logits
        with caplog.at_level(logging.WARNING, logger="babygpt"):
            assert compile_blocks(model, _trial(model, batch["input_ids"])) == []
        assert "cannot lower this" in caplog.text
        assert torch.equal(model(input_ids=batch["input_ids"], use_cache=False).logits, wanted)
        assert all(p.grad is None for p in model.parameters())
        torch._dynamo.reset()

    def test_one_graph_serves_every_block_and_nothing_else_is_compiled(
        self, tiny: Any, batch: Any, captured: list[Any]
    ) -> None:
        model, ids = tiny("llama", num_hidden_layers=10), batch["input_ids"]
        names, wanted = list(model.state_dict()), model(input_ids=ids, use_cache=False).logits
        random_state = torch.random.get_rng_state()
        assert compile_blocks(model, _trial(model, ids)) == [f"model.layers.{n}" for n in range(10)]
        blocks_and_line = len(captured)
        assert blocks_and_line == 2, "the line that tries the compiler, and one block for all"
        assert torch.equal(torch.random.get_rng_state(), random_state)
        assert list(model.state_dict()) == names
        with compiled_only():
            got = model(input_ids=ids, use_cache=False).logits
            with torch.no_grad():
                for rows in (1, 2, 3):
                    model(input_ids=ids[:rows, :7], use_cache=False)
                model.eval()(input_ids=ids, use_cache=False)
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
        assert len(captured) == blocks_and_line
        uncompile_blocks(model)
        assert torch.equal(model.train()(input_ids=ids, use_cache=False).logits, wanted)


def test_determinism_is_for_a_while() -> None:
    with deterministic():
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
