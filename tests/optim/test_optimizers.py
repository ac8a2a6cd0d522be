"""AdamW against its formula; Muon against the polar factor it approximates, and one matrix at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from babygpt.optim.groups import parameter_groups
from babygpt.optim.muon import orthogonalize
from babygpt.optim.optimizers import OPTIMIZERS, build_optimizer


def _by_hand(p: torch.Tensor, grads: list[torch.Tensor], lr: float, decay: float) -> torch.Tensor:
    first, second = torch.zeros_like(p), torch.zeros_like(p)
    for t, g in enumerate(grads, 1):
        first, second = 0.9 * first + 0.1 * g, 0.95 * second + 0.05 * g * g
        p = p - lr * decay * p
        p = p - lr * (first / (1 - 0.9**t)) / ((second / (1 - 0.95**t)).sqrt() + 1e-8)
    return p


@pytest.mark.parametrize("fused", [None, True, False])
def test_update(fused: bool | None) -> None:
    model = nn.Linear(3, 4).double()
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    grads = [{n: torch.randn_like(p) for n, p in model.named_parameters()} for _ in range(3)]
    optimizer = build_optimizer(
        "adamw", parameter_groups(model, weight_decay=0.1), 0.01, (0.9, 0.95), fused=fused
    )
    for step in grads:
        for name, parameter in model.named_parameters():
            parameter.grad = step[name]
        optimizer.step()
    for name, parameter in model.named_parameters():
        decay = 0.1 if name == "weight" else 0.0
        wanted = _by_hand(start[name], [g[name] for g in grads], 0.01, decay)
        torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-12, atol=1e-12)


def test_fused_in_fp32_is_the_formula_in_fp64_to_rounding() -> None:
    """A weight is rounded once for its decay and once for its update, which is at most the learning rate and itself
    off by the roundings of a root, a quotient and two moments."""
    lr, steps, rounding = 0.01, 3, torch.finfo(torch.float32).eps
    model = nn.Linear(30, 40)
    start = {n: p.detach().double() for n, p in model.named_parameters()}
    grads = [{n: torch.randn_like(p) for n, p in model.named_parameters()} for _ in range(steps)]
    optimizer = build_optimizer("adamw", parameter_groups(model, weight_decay=0.1), lr, (0.9, 0.95))
    assert all(group["fused"] for group in optimizer.param_groups)
    for step in grads:
        for name, parameter in model.named_parameters():
            parameter.grad = step[name]
        optimizer.step()
    for name, parameter in model.named_parameters():
        decay = 0.1 if name == "weight" else 0.0
        wanted = _by_hand(start[name], [g[name].double() for g in grads], lr, decay)
        # The largest update of a sequence of gradients is 1 / sqrt(1 - 0.95) learning rates.
        bound = steps * rounding * (2 * float(wanted.abs().max()) + 8 * lr / 0.05**0.5)
        assert float((parameter.detach() - wanted).abs().max()) <= bound, name


@pytest.mark.parametrize(("device", "fused"), [("cpu", True), ("meta", False)])
def test_fused_where_every_device_has_it(device: str, fused: bool) -> None:
    model: Any = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2, device=device)])
    groups = parameter_groups(model)
    optimizer = build_optimizer("adamw", groups, 0.01, (0.9, 0.95))
    assert {g["fused"] for g in optimizer.param_groups} == {fused}
    assert [g["name"] for g in optimizer.param_groups] == ["biases", "matrices"]
    assert "lr" not in groups[0], "the caller's groups are left as they were"


# -- Muon ----------------------------------------------------------------------------------------------------


def _model(kind: str) -> Any:
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2} if kind == "gpt2" else {
        "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 40,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, vocab_size=32, **sizes)
        return AutoModelForCausalLM.from_config(config).double()


def _with_gradients(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def test_muon_in_fp32_is_the_formula_in_fp64_to_rounding() -> None:
    """Batched and in fp32 against one at a time in fp64. The polynomial's slope is at most 3.4445, so that a rounding
    of the matrix products of the first of the five steps has grown to 3.4445^5 of itself at the end."""
    rounding = torch.finfo(torch.float32).eps
    model = _model("llama").float()
    start = {n: p.detach().double() for n, p in model.named_parameters()}
    gradients = []
    for seed in range(3):
        _with_gradients(model, seed)
        gradients.append({n: p.grad.double() for n, p in model.named_parameters()})
    optimizer = _steps(model)
    hidden = {id(p) for g in optimizer.param_groups if g["update"] == "muon" for p in g["params"]}
    for name, parameter in model.named_parameters():
        if id(parameter) in hidden:
            wanted = _matrix_by_hand(start[name], [g[name] for g in gradients])
            longest = max(parameter.shape)
            update = 0.01 * 0.2 * longest**0.5 * 3.4445**5 * longest**0.5 * rounding
            bound = 3 * (2 * rounding * float(wanted.abs().max()) + update)
            assert float((parameter.detach() - wanted).abs().max()) <= bound, name


def _steps(model: Any, count: int = 3) -> torch.optim.Optimizer:
    groups = parameter_groups(model, OPTIMIZERS["muon"], 0.1)
    optimizer = build_optimizer("muon", groups, 0.01, (0.9, 0.95))
    for seed in range(count):
        _with_gradients(model, seed)
        optimizer.step()
    return optimizer


def _matrix_by_hand(weight: torch.Tensor, gradients: list[torch.Tensor]) -> torch.Tensor:
    """The published steps on one matrix as it is applied, rows times columns."""
    momentum = torch.zeros_like(weight)
    for gradient in gradients:
        momentum = 0.95 * momentum + 0.05 * gradient
        x = 0.95 * momentum + 0.05 * gradient
        x = x / x.norm()
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        x = x.T if tall else x
        weight = weight * (1 - 0.01 * 0.1) - 0.01 * 0.2 * max(weight.shape) ** 0.5 * x
    return weight


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_hidden_matrices_one_at_a_time_and_the_rest_by_adamw(kind: str) -> None:
    model = _model(kind)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    gradients = []
    for seed in range(3):
        _with_gradients(model, seed)
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
    optimizer = _steps(model)
    hidden = {id(p) for g in optimizer.param_groups if g["update"] == "muon" for p in g["params"]}
    assert len(hidden) == (8 if kind == "gpt2" else 14)
    for name, parameter in model.named_parameters():
        seen = [g[name] for g in gradients]
        if id(parameter) not in hidden:
            decay = 0.1 if parameter.dim() > 1 else 0.0
            wanted = _by_hand(start[name], seen, 0.01, decay)
        elif name.endswith("c_attn.weight"):
            thirds = [[t.chunk(3, 1)[i] for t in (start[name], *seen)] for i in range(3)]
            wanted = torch.cat([_matrix_by_hand(first, list(rest)) for first, *rest in thirds], 1)
        else:
            wanted = _matrix_by_hand(start[name], seen)
        torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_come_near_one(dtype: torch.dtype) -> None:
    left, _ = torch.linalg.qr(torch.randn(3, 8, 8))
    right, _ = torch.linalg.qr(torch.randn(3, 20, 8))
    values = torch.linspace(0.2, 3.0, 8)
    matrices = left @ (values[:, None] * right.mT)
    done = orthogonalize(matrices.to(dtype)).float()
    seen = torch.linalg.svdvals(done)
    assert 0.6 < float(seen.min()) <= float(seen.max()) < 1.3
    polar = left @ right.mT
    assert float(((done * polar).sum((1, 2)) / (done.norm(dim=(1, 2)) * polar.norm(dim=(1, 2)))).min()) > 0.98
    assert torch.equal(orthogonalize(torch.zeros(1, 2, 3)), torch.zeros(1, 2, 3))


def test_state_comes_back_and_goes_on_to_the_same_bits() -> None:
    whole = _model("gpt2")
    _steps(whole)
    stopped = _model("gpt2")
    saved = _steps(stopped, 2).state_dict()
    groups = parameter_groups(stopped, OPTIMIZERS["muon"], 0.1)
    again = build_optimizer("muon", groups, 0.01, (0.9, 0.95))
    again.load_state_dict(saved)
    _with_gradients(stopped, 2)
    again.step()
    for mine, theirs in zip(stopped.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_what_has_no_gradient_stays() -> None:
    model = _model("llama")
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = build_optimizer("muon", parameter_groups(model, OPTIMIZERS["muon"], 0.1), 0.01, (0.9, 0.95))
    optimizer.step()
    assert all(torch.equal(start[n], p) for n, p in model.named_parameters())
