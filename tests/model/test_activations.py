"""The fused activations are the functions they stand for, and the configuration does not tell of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.activations import ACT2FN, GELUTanh

from babygpt.model.activations import fuse_activations
from babygpt.model.load import load_model


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast", "gelu_accurate"])
def test_the_same_function_and_derivative(name: str) -> None:
    """Up to fp64's rounding, and for gelu_fast to the ten digits that its root of 2 / pi is written with."""
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64, requires_grad=True)
    holder = torch.nn.ModuleDict({"act": ACT2FN[name]})
    slow = holder["act"](x)
    (slope,) = torch.autograd.grad(slow.sum(), x)
    assert fuse_activations(holder) == 1  # type: ignore[arg-type]
    fast = holder["act"](x)
    tolerance = 1e-9 if name == "gelu_fast" else 1e-14
    torch.testing.assert_close(fast, slow, rtol=0, atol=tolerance)
    torch.testing.assert_close(torch.autograd.grad(fast.sum(), x)[0], slope, rtol=0, atol=10 * tolerance)


def test_in_fp32_it_is_the_function_in_fp64_to_rounding() -> None:
    """With t = tanh(u) off by a few roundings of 1, x (1 + t) / 2 is off by as many of |x|; the slope's other term,
    x (1 - t^2) u' / 2, is below 1 in size and as far off."""
    x = torch.linspace(-12, 12, 20_001).requires_grad_()
    exact = x.detach().double().requires_grad_()
    found, wanted = ACT2FN["gelu_pytorch_tanh"](x), ACT2FN["gelu_new"](exact)
    size = exact.detach().abs().clamp(min=1)
    slopes = torch.autograd.grad(found.sum(), x)[0], torch.autograd.grad(wanted.sum(), exact)[0]
    for single, double in ((found, wanted), slopes):
        assert float(((single - double).detach().abs() / size).max()) <= 4 * torch.finfo(torch.float32).eps


def test_a_loaded_model_has_them_and_saves_its_own_name(tiny: Any, tmp_path: Path) -> None:
    slow = tiny("gpt2")
    assert slow.config.activation_function == "gelu_new"
    slow.save_pretrained(tmp_path / "given")
    model = load_model(str(tmp_path / "given"))
    assert [type(b.mlp.act) for b in model.transformer.h] == [GELUTanh] * 2
    ids = torch.arange(20)[None]
    torch.testing.assert_close(model(input_ids=ids).logits, slow(input_ids=ids).logits, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path / "saved")
    assert AutoConfig.from_pretrained(tmp_path / "saved").activation_function == "gelu_new"


def test_others_are_left_alone(tiny: Any) -> None:
    model = tiny("llama")
    before = [type(b.mlp.act_fn) for b in model.model.layers]
    assert fuse_activations(model) == 0
    assert [type(b.mlp.act_fn) for b in model.model.layers] == before
