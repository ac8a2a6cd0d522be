"""Packed documents see nothing of each other, and what goes to a model keeps it on its fast path."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from babygpt.errors import ModelError
from babygpt.model import attention
from babygpt.model.attention import known_packing, model_inputs, packing_leak, resolve_attention


def _documents(*lengths: int) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(4)
    documents = [torch.randint(97, (n,), generator=generator) for n in lengths]
    positions = torch.cat([torch.arange(n) for n in lengths])
    return documents, {"input_ids": torch.cat(documents)[None], "position_ids": positions[None]}


class TestIsolation:
    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "gpt_neox"])
    def test_packed_logits_are_those_of_documents_alone(self, tiny: Any, kind: str, attention: str) -> None:
        model = tiny(kind, attention).eval()
        documents, window = _documents(9, 1, 17, 4)
        with torch.no_grad():
            packed = model(**model_inputs(window, isolated=True)).logits[0]
            alone = [model(input_ids=d[None]).logits[0] for d in documents]
        torch.testing.assert_close(packed, torch.cat(alone), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "gpt_neox"])
    def test_no_leak(self, tiny: Any, kind: str) -> None:
        assert packing_leak(tiny(kind), 97) < 1e-5

    @pytest.mark.parametrize("kind", ["gemma2", "gptj"])
    def test_no_leak_where_eager_is_chosen_for_it(self, tiny: Any, kind: str) -> None:
        config = tiny(kind, "eager").config
        assert packing_leak(tiny(kind, resolve_attention(config, "isolated", "auto")), 97) < 1e-5

    @pytest.mark.parametrize(("kind", "attention"), [("opt", "sdpa"), ("opt", "eager"), ("bloom", "eager")])
    def test_leaks_are_seen(self, tiny: Any, kind: str, attention: str) -> None:
        assert packing_leak(tiny(kind, attention), 97) > 0.01

    def test_probe_leaves_mode_and_random_numbers_alone(self, tiny: Any) -> None:
        model, before = tiny("gpt2", resid_pdrop=0.5), torch.random.get_rng_state()
        assert packing_leak(model, 97) < 1e-5
        assert model.training
        assert torch.equal(torch.random.get_rng_state(), before)
        model.eval()
        packing_leak(model, 97)
        assert not model.training


class TestKnownPacking:
    """Without positions nothing is packed, and transformers need not look; with them it looks, wherever else it is."""

    @pytest.fixture
    def looks(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        seen: list[int] = []
        real = attention._packed_of

        def look(position_ids: torch.Tensor) -> Any:
            seen.append(len(position_ids))
            return real(position_ids)

        monkeypatch.setattr(attention, "_packed_of", look)
        return seen

    def test_no_look_and_the_same_logits(self, tiny: Any, batch: Any, looks: list[int]) -> None:
        model, inputs = tiny("llama"), {"input_ids": batch["input_ids"], "use_cache": False}
        with known_packing(inputs):
            told = model(**inputs).logits
        assert looks == []
        plain = model(**inputs).logits
        assert torch.equal(plain, told)
        assert looks == [3]

    def test_packed_documents_stay_isolated(self, tiny: Any, looks: list[int]) -> None:
        """In the context with positions, and in another thread while this one is in it without."""
        model = tiny("llama").eval()
        _, window = _documents(9, 1, 17, 4)
        inputs = model_inputs(window, isolated=True)
        found: list[torch.Tensor] = []

        def forward() -> None:
            with torch.no_grad():
                found.append(model(**inputs).logits)

        forward()
        with known_packing(inputs):
            forward()
        with known_packing({}):
            thread = threading.Thread(target=forward)
            thread.start()
            thread.join()
        assert torch.equal(found[1], found[0])
        assert torch.equal(found[2], found[0])
        assert looks[-2:] == [1, 1]


class TestInputs:
    def test_isolated_has_positions_and_no_mask(self) -> None:
        _, window = _documents(3, 2)
        inputs = model_inputs({**window, "labels": window["input_ids"]}, isolated=True)
        assert set(inputs) == {"input_ids", "position_ids", "use_cache"}
        assert inputs["use_cache"] is False

    def test_mask_of_ones_is_dropped_and_a_real_one_kept(self) -> None:
        ids = torch.arange(6).reshape(2, 3)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        assert set(model_inputs(batch, isolated=False)) == {"input_ids", "use_cache"}
        batch["attention_mask"] = torch.tensor([[1, 1, 1], [1, 1, 0]])
        assert model_inputs(batch, isolated=False)["attention_mask"] is batch["attention_mask"]

    def test_mask_on_a_device_is_not_read(self) -> None:
        ids = torch.zeros(2, 3, dtype=torch.int64, device="meta")
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        assert "attention_mask" in model_inputs(batch, isolated=False)  # reading a meta tensor would raise


class TestChoice:
    @pytest.mark.parametrize(
        ("kind", "packing", "chosen"),
        [
            ("gpt2", "stream", "sdpa"),
            ("llama", "isolated", "sdpa"),
            ("gemma2", "isolated", "eager"),
            ("gemma2", "stream", "eager"),
            ("gptj", "isolated", "eager"),
            ("gpt_neo", "isolated", "eager"),
            ("bloom", "stream", "eager"),
        ],
    )
    def test_auto(self, kind: str, packing: str, chosen: str) -> None:
        assert resolve_attention(AutoConfig.for_model(kind), packing, "auto") == chosen

    def test_a_request_is_honoured_or_refused(self) -> None:
        assert resolve_attention(AutoConfig.for_model("gpt2"), "stream", "eager") == "eager"
        assert resolve_attention(AutoConfig.for_model("gpt2"), "isolated", "sdpa") == "sdpa"
        with pytest.raises(ModelError, match=r"Gemma2ForCausalLM has no sdpa attention.*give eager"):
            resolve_attention(AutoConfig.for_model("gemma2"), "stream", "sdpa")
        with pytest.raises(ModelError, match="BloomForCausalLM has no flash_attention_2"):
            resolve_attention(AutoConfig.for_model("bloom"), "stream", "flash_attention_2")

    def test_flash_without_its_library_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Transformers would download a kernel, which is code, in its place."""
        monkeypatch.setattr("babygpt.model.attention.is_flash_attn_2_available", lambda: False)
        with pytest.raises(ModelError, match="needs the flash-attn package"):
            resolve_attention(AutoConfig.for_model("llama"), "stream", "flash_attention_2")
