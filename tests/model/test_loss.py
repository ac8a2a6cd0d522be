"""Our summed loss against the models' own, and its gradient against plain automatic differentiation."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from babygpt.data.labels import IGNORED
from babygpt.errors import ModelError
from babygpt.model import cross_entropy
from babygpt.model import loss as loss_module
from babygpt.model.blocks import recompute_blocks
from babygpt.model.cross_entropy import LOGITS_BYTES, LogitsMemory, chunk_rows, head_nll, logits_nll
from babygpt.model.loss import Head, count_targets, find_head, sum_nll

WITH_HEAD = ["gpt2", "llama", "qwen3", "gpt_neox", "phi", "opt", "bloom", "gptj"]
OWN_LOGITS = ["gemma2", "granite", "mixtral", "qwen3_moe"]
EAGER = {"gemma2", "gptj", "bloom"}
# 4 bytes for each of 97 logits of 7 rows: 60 rows need 9 chunks, the last one short.
SMALL_BOUND = 4 * 97 * 7


@pytest.fixture
def build(tiny: Any) -> Any:
    return lambda kind, **changes: tiny(kind, "eager" if kind in EAGER else "sdpa", **changes)


def _inputs(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {"input_ids": batch["input_ids"], "use_cache": False}


def _plain_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The model's own logits through one line of textbook cross-entropy, in the model's own precision."""
    logits = model(**_inputs(batch)).logits[:, :-1]
    return F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), batch["labels"][:, 1:].reshape(-1), reduction="sum"
    )


def _gradient(model: Any, total: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _assert_same_gradient(got: dict[str, Any], wanted: dict[str, Any], tolerance: float) -> None:
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        difference = (got[name].double() - gradient.double()).norm()
        # A gradient that is zero by symmetry (a key's bias) holds rounding only: its size is that of its
        # parts.
        assert difference <= tolerance * gradient.double().norm() + 1e-3 * tolerance, name


def _sizes_of_products(monkeypatch: pytest.MonkeyPatch, dimension: int = 0) -> list[int]:
    """Grows by the rows, or the columns, of each product with the head's weight."""
    sizes: list[int] = []
    multiply = cross_entropy._multiply
    monkeypatch.setattr(
        cross_entropy,
        "_multiply",
        lambda *a, out: (sizes.append(out.shape[dimension]), multiply(*a, out=out)),
    )
    return sizes


class TestHead:
    @pytest.mark.parametrize("kind", WITH_HEAD)
    def test_is_found(self, build: Any, kind: str) -> None:
        model = build(kind)
        head = find_head(model)
        assert head is not None
        assert head.linear is model.get_output_embeddings()
        assert model.training

    @pytest.mark.parametrize("kind", OWN_LOGITS)
    def test_is_not_used_where_the_logits_are_more_than_it(self, build: Any, kind: str) -> None:
        assert find_head(build(kind)) is None

    def test_experts_without_balancing_loss_have_one(self, build: Any) -> None:
        assert find_head(build("mixtral", output_router_logits=False)) is not None

    def test_probe_leaves_random_numbers_and_hooks_alone(self, build: Any) -> None:
        model = build("gpt2", resid_pdrop=0.5)
        before = torch.random.get_rng_state()
        find_head(model)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert not model.get_output_embeddings()._forward_hooks

    def test_keeps_eval_mode(self, build: Any) -> None:
        model = build("gpt2").eval()
        find_head(model)
        assert not model.training


class TestValue:
    @pytest.mark.parametrize("kind", WITH_HEAD + OWN_LOGITS)
    @pytest.mark.parametrize("bound", [LOGITS_BYTES, SMALL_BOUND], ids=["whole", "chunked"])
    def test_equals_the_models_own(self, build: Any, batch: Any, kind: str, bound: int) -> None:
        model = build(kind)
        ours = sum_nll(model, _inputs(batch), batch["labels"], find_head(model), logits_bytes=bound)
        theirs = model(**_inputs(batch), labels=batch["labels"]).loss * count_targets(batch["labels"])
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)

    @pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
    def test_balancing_loss_is_in_it(self, build: Any, batch: Any, kind: str) -> None:
        model = build(kind)
        out = model(**_inputs(batch))
        extra = sum_nll(model, _inputs(batch), batch["labels"], None) - _plain_loss(model, batch)
        assert out.aux_loss > 0.1
        torch.testing.assert_close(
            extra, 0.5 * out.aux_loss * count_targets(batch["labels"]), rtol=1e-4, atol=0
        )

    def test_balancing_loss_of_unknown_weight_is_refused(self) -> None:
        with pytest.raises(ModelError, match="balancing loss of unknown weight"):
            loss_module._aux_weight(SimpleNamespace(config=SimpleNamespace()))  # type: ignore[arg-type]

    def test_first_label_and_ignored_ones_do_not_count(self, batch: Any) -> None:
        assert count_targets(batch["labels"]).item() == 13 + 19
        assert count_targets(torch.tensor([[5, -100, -100]])).item() == 0

    @pytest.mark.parametrize("bound", [LOGITS_BYTES, SMALL_BOUND])
    def test_nothing_to_predict_gives_zero_not_nan(self, build: Any, batch: Any, bound: int) -> None:
        model = build("gpt2")
        labels = torch.full_like(batch["labels"], -100)
        total = sum_nll(model, _inputs(batch), labels, find_head(model), logits_bytes=bound)
        assert total.item() == 0
        assert all(not g.any() for g in _gradient(model, total).values())

    def test_no_more_logits_than_asked_for_are_there_at_a_time(
        self, build: Any, batch: Any, monkeypatch: Any
    ) -> None:
        sizes = _sizes_of_products(monkeypatch)
        model = build("gpt2")
        head, everything = find_head(model), batch["input_ids"]
        sum_nll(model, _inputs(batch), everything, head, logits_bytes=4 * 97 * 60)
        assert sizes == [60]
        sizes.clear()
        sum_nll(model, _inputs(batch), everything, head, logits_bytes=4 * 97 * 60 - 1)
        assert sizes == [59, 1]

    @pytest.mark.parametrize(("targets", "rows"), [(1, 1), (13 + 19, 13 + 19), (52, 52), (53, 60), (0, 60)])
    def test_the_head_is_applied_to_targets_where_many_tokens_are_none(
        self, build: Any, batch: Any, monkeypatch: Any, targets: int, rows: int
    ) -> None:
        """Up to seven in eight of 60; all rows where there is none, so that every weight has a gradient."""
        sizes, model = _sizes_of_products(monkeypatch), build("llama").double()
        chosen = torch.randperm(57, generator=torch.Generator().manual_seed(1)) < targets
        labels = torch.full_like(batch["input_ids"], IGNORED)
        labels[:, 1:] = batch["input_ids"][:, 1:].where(chosen.view(3, 19), IGNORED)
        plain = {**batch, "labels": labels}
        wanted = _gradient(model, _plain_loss(model, plain))
        total = sum_nll(model, _inputs(batch), labels, find_head(model))
        assert sizes == [rows]
        _assert_same_gradient(_gradient(model, total), wanted, 1e-10)

    def test_memory_of_logits_does_not_grow_with_the_targets(self, build: Any, batch: Any) -> None:
        model = build("llama")
        head, sizes = find_head(model), set[int]()
        assert head is not None
        for counted in (2, 9, 20):
            labels = batch["input_ids"].clone()
            labels[:, counted:] = IGNORED
            sum_nll(model, _inputs(batch), labels, head)
            sizes.add(len(head.memory._kept[torch.float32]))
        assert sizes == {60 * 97}

    def test_chunks_suit_matrix_products(self) -> None:
        assert chunk_rows(50257, 2**27) == 640  # 667 would do
        assert chunk_rows(50257, 4 * 50257 * 63) == 63
        assert chunk_rows(50257, 1) == 1
        assert chunk_rows(300, 2**27) == 2048


class TestGradient:
    @pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox", "phi", "gemma2"])
    @pytest.mark.parametrize("bound", [LOGITS_BYTES, SMALL_BOUND], ids=["whole", "chunked"])
    @pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
    def test_equals_plain_differentiation_in_fp64(
        self, build: Any, batch: Any, kind: str, bound: int, checkpointing: bool
    ) -> None:
        model = build(kind).double()
        wanted = _gradient(model, _plain_loss(model, batch))
        recompute_blocks(model, checkpointing)
        total = sum_nll(model, _inputs(batch), batch["labels"], find_head(model), logits_bytes=bound)
        assert total.dtype == torch.float64
        _assert_same_gradient(_gradient(model, total), wanted, 1e-10)

    @pytest.mark.parametrize("bound", [LOGITS_BYTES, SMALL_BOUND], ids=["whole", "chunked"])
    def test_equals_the_models_own_with_experts(self, build: Any, batch: Any, bound: int) -> None:
        model = build("mixtral")
        own = model(**_inputs(batch), labels=batch["labels"]).loss * count_targets(batch["labels"])
        wanted = _gradient(model, own)
        total = sum_nll(model, _inputs(batch), batch["labels"], find_head(model), logits_bytes=bound)
        _assert_same_gradient(_gradient(model, total), wanted, 1e-5)

    def test_finite_differences_of_the_head(self) -> None:
        """Central ones, whose error is of the second order: 1e-5 ** 2, and the rounding of the loss over 1e-5."""
        generator = torch.Generator().manual_seed(3)
        linear = torch.nn.Linear(5, 11).double()
        rows = torch.randn(9, 5, generator=generator, dtype=torch.float64, requires_grad=True)
        targets = torch.tensor([1, -100, 10, 0, 3, 3, -100, 7, 2])

        def nll() -> torch.Tensor:
            return head_nll(rows, linear.weight, linear.bias, targets, 4, LogitsMemory())

        nll().backward()  # type: ignore[no-untyped-call]
        for tensor in (rows, linear.weight, linear.bias):
            assert tensor.grad is not None
            for value, gradient in zip(tensor.data.view(-1), tensor.grad.view(-1), strict=True):
                exact = value.clone()
                value.copy_(exact + 1e-5)
                above = nll().detach()
                value.copy_(exact - 1e-5)
                assert (above - nll().detach()) / 2e-5 == pytest.approx(float(gradient), abs=1e-8)
                value.copy_(exact)

    def test_is_there_once(self, build: Any, batch: Any) -> None:
        for kind in ("gpt2", "gemma2"):
            model = build(kind)
            total = sum_nll(model, _inputs(batch), batch["labels"], find_head(model))
            total.backward(retain_graph=True)
            with pytest.raises(RuntimeError, match="compute the loss again"):
                total.backward()

    def test_of_two_losses_that_share_the_memory_of_their_logits(self, build: Any, batch: Any) -> None:
        model = build("llama").double()
        other = {**batch, "input_ids": batch["input_ids"].flip(1), "labels": batch["labels"].flip(1)}
        wanted = _gradient(model, _plain_loss(model, batch) + 2 * _plain_loss(model, other))
        head = find_head(model)
        with torch.inference_mode():
            sum_nll(model, _inputs(other), other["labels"], head)
        first, second = (sum_nll(model, _inputs(b), b["labels"], head) for b in (batch, other))
        with torch.inference_mode():
            sum_nll(model, _inputs(other), other["labels"], head)
        _assert_same_gradient(_gradient(model, first + 2 * second), wanted, 1e-10)

    def test_frozen_head_or_frozen_base(self, build: Any, batch: Any) -> None:
        model = build("llama").double()
        wanted = _gradient(model, _plain_loss(model, batch))
        for part in (model.lm_head, model.model):
            part.requires_grad_(False)
            got = _gradient(
                model,
                sum_nll(model, _inputs(batch), batch["labels"], find_head(model), logits_bytes=SMALL_BOUND),
            )
            part.requires_grad_(True)
            _assert_same_gradient(got, {k: v for k, v in wanted.items() if k in got}, 1e-10)
            assert len(got) < len(wanted)

    def test_mixed_precision_chunks_lose_no_more_than_the_whole(self, build: Any, batch: Any) -> None:
        """Summing a tied head's gradient over chunks in bf16 would cost another digit."""
        model = build("gpt2")
        wanted = _gradient(model, _plain_loss(model, batch))
        errors = []
        for bound in (LOGITS_BYTES, 4 * 97 * 2):
            with torch.autocast("cpu", torch.bfloat16):
                total = sum_nll(model, _inputs(batch), batch["labels"], find_head(model), logits_bytes=bound)
            assert total.dtype == torch.float32
            got = _gradient(model, total)
            assert got["transformer.wte.weight"].dtype == torch.float32
            errors.append(
                max(float((got[k] - g).norm() / g.norm()) for k, g in wanted.items() if g.norm() > 1e-3)
            )
        assert errors[1] <= 1.2 * errors[0]
        assert errors[0] < 0.1


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_columns_that_fill_up_the_vocabulary_change_nothing(
    dtype: torch.dtype, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an accelerator; 97 columns become 128, whose zeros would be a fifth of the softmax if they counted.

    Beside the vocabulary as it is: logits and gradients are narrowed once in both, so that they may lie two roundings
    apart.
    """
    generator = torch.Generator().manual_seed(0)
    rows, linear = torch.randn(50, 16, generator=generator), torch.nn.Linear(16, 97, bias=bias)
    targets = torch.randint(0, 97, (50,), generator=generator)
    targets[::7] = IGNORED
    columns = _sizes_of_products(monkeypatch, 1)

    def found(multiple: int) -> list[torch.Tensor]:
        monkeypatch.setattr(cross_entropy, "_CPU_COLUMNS", multiple)
        linear.zero_grad()
        leaf = rows.clone().requires_grad_()
        with torch.autocast("cpu", dtype):
            total = head_nll(leaf, linear.weight, linear.bias, targets, 20, LogitsMemory())
        total.backward()  # type: ignore[no-untyped-call]
        return [total.detach(), *(p.grad for p in (leaf, *linear.parameters()) if p.grad is not None)]

    plain, padded = found(1), found(64)
    assert columns == [97] * 3 + [128] * 3
    assert [len(plain), *map(len, plain[1:])] == [3 + bias, 50, 97, *[97] * bias]
    for one, other in zip(plain, padded, strict=True):
        torch.testing.assert_close(other, one, rtol=2 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


def test_large_hidden_states_do_not_overflow_in_fp16() -> None:
    """Rows that pull one way: (0.5 - 1) * 40 in each of 4,096 is -81,920 a sum, where fp16 ends at 65,504."""
    rows, weight = torch.full((4096, 1), 40.0), torch.zeros(2, 1, requires_grad=True)
    targets = torch.ones(4096, dtype=torch.int64)
    with torch.autocast("cpu", torch.float16):
        head_nll(rows, weight, None, targets, 4096, LogitsMemory()).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [81920.0, -81920.0]


def test_logits_memory_is_no_part_of_copies_and_no_other_threads() -> None:
    memory, weight = LogitsMemory(), torch.zeros(100, 4)
    kept = memory.take(50, weight, torch.float32)
    assert memory.take(50, weight, torch.float32).data_ptr() == kept.data_ptr()
    assert len(pickle.dumps(memory)) < 200
    assert copy.deepcopy(memory).take(50, weight, torch.float32).data_ptr() != kept.data_ptr()
    with ThreadPoolExecutor(1) as other:
        assert other.submit(memory.take, 50, weight, torch.float32).result().data_ptr() != kept.data_ptr()


def test_no_rows_have_no_loss() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert head_nll(torch.zeros(0, 4), torch.zeros(3, 4), None, none, 8, LogitsMemory()) == 0


def test_head_is_a_plain_pair(tiny: Any) -> None:
    model = tiny("gpt2")
    assert find_head(model) == Head(model.transformer, model.lm_head)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 2**-8)]
)
def test_the_gradient_of_the_logits_is_that_of_cross_entropy(dtype: torch.dtype, tolerance: float) -> None:
    """More rows than go through the cache at once, some of them no targets, under a gradient that is not 1."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = 5003
    rows = 3 * cross_entropy._CACHE_BYTES // (4 * vocabulary) + 1
    logits = (4 * torch.randn(rows, vocabulary, generator=generator)).to(dtype).requires_grad_()
    before = logits.detach().clone()
    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    targets[::3] = IGNORED
    exact = logits.detach().double().requires_grad_()
    wanted = F.cross_entropy(exact, targets, ignore_index=IGNORED, reduction="sum")
    (0.37 * wanted).backward()
    assert exact.grad is not None
    found = logits_nll(logits, targets)
    torch.testing.assert_close(found.double(), wanted.detach(), rtol=1e-6, atol=0)
    (0.37 * found).backward()
    assert logits.grad is not None
    assert logits.grad.dtype == dtype
    assert torch.equal(logits, before)
    assert torch.equal(logits.grad[::3], torch.zeros_like(logits.grad[::3]))
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=tolerance * 4, atol=tolerance)


def _weighted_by_hand(model: Any, batch: dict[str, torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """Each token's loss from the model's own logits by torch, times its weight, summed."""
    logits = model(**_inputs(batch)).logits[:, :-1]
    each = F.cross_entropy(logits.transpose(1, 2), batch["input_ids"][:, 1:], reduction="none")
    return (each * weights[:, 1:]).sum()


class TestWeights:
    @pytest.fixture
    def weights(self, batch: Any) -> torch.Tensor:
        """Targets count 1, other tokens 0.1, and the first row's last seven nothing."""
        weights = torch.where(batch["labels"] != IGNORED, 1.0, 0.1)
        weights[0, -7:] = 0
        assert len(weights.unique()) == 3
        return weights

    @pytest.mark.parametrize("kind", ["gpt2", "llama", "phi", "gemma2"])
    @pytest.mark.parametrize("bound", [LOGITS_BYTES, SMALL_BOUND], ids=["whole", "chunked"])
    def test_each_loss_and_its_gradient_are_multiplied(
        self, build: Any, batch: Any, weights: Any, kind: str, bound: int
    ) -> None:
        model, exact = build(kind).double(), weights.double()
        by_hand = _weighted_by_hand(model, batch, exact)
        wanted = _gradient(model, by_hand)
        head = find_head(model)
        total = sum_nll(model, _inputs(batch), batch["labels"], head, weights=exact, logits_bytes=bound)
        torch.testing.assert_close(total, by_hand, rtol=1e-12, atol=0)
        _assert_same_gradient(_gradient(model, total), wanted, 1e-10)

    @pytest.mark.parametrize("kind", ["gpt2", "gemma2", "mixtral"])
    def test_weights_of_0_and_1_are_labels_to_the_bit(self, build: Any, batch: Any, kind: str) -> None:
        model = build(kind)
        head, ones = find_head(model), (batch["labels"] != IGNORED).float()
        plain = sum_nll(model, _inputs(batch), batch["labels"], head, logits_bytes=SMALL_BOUND)
        wanted = _gradient(model, plain)
        none = torch.full_like(batch["labels"], IGNORED)  # the weights decide, not the labels
        ones[:, 0] = 5  # predicted by nothing, whatever it weighs
        total = sum_nll(model, _inputs(batch), none, head, weights=ones, logits_bytes=SMALL_BOUND)
        assert torch.equal(total, plain)
        got = _gradient(model, total)
        assert all(torch.equal(got[name], gradient) for name, gradient in wanted.items())

    def test_balancing_loss_is_in_it_by_their_sum(self, build: Any, batch: Any, weights: Any) -> None:
        model = build("mixtral")
        aux = model(**_inputs(batch)).aux_loss
        extra = sum_nll(model, _inputs(batch), batch["labels"], None, weights=weights) - _weighted_by_hand(
            model, batch, weights
        )
        torch.testing.assert_close(extra, 0.5 * aux * weights[:, 1:].sum(), rtol=1e-4, atol=0)

    def test_mixed_precision_multiplies_before_it_narrows(self, build: Any, batch: Any, weights: Any) -> None:
        model = build("gpt2")
        wanted = _gradient(model, _weighted_by_hand(model, batch, weights))
        with torch.autocast("cpu", torch.bfloat16):
            total = sum_nll(model, _inputs(batch), batch["labels"], find_head(model), weights=weights)
        assert total.dtype == torch.float32
        got = _gradient(model, total)
        assert max(float((got[k] - g).norm() / g.norm()) for k, g in wanted.items() if g.norm() > 1e-3) < 0.1
