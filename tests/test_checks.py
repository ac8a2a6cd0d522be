"""Each self-check finds its own fault and passes a sound model on a sound batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, OPTConfig, OPTForCausalLM

from babygpt.checks import StepContext, check_schedule, verdicts
from babygpt.errors import CheckError
from babygpt.model.loss import find_head


@pytest.fixture
def model(tiny_gpt2: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_gpt2).train()


@pytest.fixture
def context(tiny_gpt2: Path) -> StepContext:
    ids = torch.arange(1, 65).reshape(2, 32)
    batch = {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}
    return StepContext(batch, AutoTokenizer.from_pretrained(tiny_gpt2), 32, False)


def with_batch(context: StepContext, **changed: torch.Tensor) -> StepContext:
    return replace(context, batch={**context.batch, **changed})


def check_model(model: Any, head: Any, context: StepContext) -> None:
    for _, error in verdicts(model, head, context):
        if error is not None:
            raise error


def failure(model: Any, context: StepContext) -> str:
    with pytest.raises(CheckError) as caught:
        check_model(model, find_head(model), context)
    return str(caught.value)


def test_a_sound_model_passes_and_is_left_as_it_was(model: Any, context: StepContext) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for isolated in (False, True):
        check_model(model, find_head(model), replace(context, isolated=isolated))
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_an_id_beyond_the_vocabulary(model: Any, context: StepContext) -> None:
    ids = context.batch["input_ids"].clone()
    ids[0, 0] = 257
    message = failure(model, with_batch(context, input_ids=ids))
    assert "257 entries" in message
    assert "does not belong to the model" in message


def test_a_block_longer_than_the_positions(model: Any, context: StepContext) -> None:
    message = failure(model, replace(context, block=129))
    assert "129 tokens is longer than the model's 128 positions" in message
    assert "Give 128 or less" in message


def test_every_target_masked(model: Any, context: StepContext) -> None:
    labels = torch.full_like(context.batch["labels"], -100)
    assert "every target of the first batch is masked" in failure(model, with_batch(context, labels=labels))


def test_padding_inside_the_loss(model: Any, context: StepContext) -> None:
    mask = context.batch["attention_mask"].clone()
    mask[1, 20:] = 0
    assert "padding is inside the loss" in failure(model, with_batch(context, attention_mask=mask))
    labels = context.batch["labels"].masked_fill(mask == 0, -100)
    check_model(model, find_head(model), with_batch(context, attention_mask=mask, labels=labels))


def test_an_end_of_text_masked_by_its_id(model: Any, context: StepContext) -> None:
    ids = context.batch["input_ids"].clone()
    ids[:, 15] = context.tokenizer.eos_token_id
    labels = ids.masked_fill(ids == context.tokenizer.eos_token_id, -100)
    message = failure(model, with_batch(context, input_ids=ids, labels=labels))
    assert "never learn to stop" in message
    check_model(model, find_head(model), with_batch(context, input_ids=ids, labels=ids.clone()))


def test_a_tied_head_that_came_loose(model: Any, context: StepContext) -> None:
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    assert "ties the head to the embeddings" in failure(model, context)


def test_labels_shifted_twice(model: Any, context: StepContext, monkeypatch: pytest.MonkeyPatch) -> None:
    import babygpt.checks as checks

    right = checks.sum_nll
    monkeypatch.setattr(
        checks, "sum_nll", lambda m, inputs, labels, head: right(m, inputs, labels.roll(-1, 1), head)
    )
    message = failure(model, context)
    assert "labels are shifted differently" in message


def test_weights_that_are_no_numbers(model: Any, context: StepContext) -> None:
    with torch.no_grad():
        model.transformer.ln_f.bias[3] = float("nan")
    assert "the loss on the first batch is nan" in failure(model, context)


def test_attention_that_leaks() -> None:
    config = OPTConfig(
        vocab_size=257,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=64,
        max_position_embeddings=128,
        word_embed_proj_dim=32,
        dropout=0.0,
    )
    model = OPTForCausalLM(config)
    ids = torch.arange(1, 65).reshape(2, 32)
    batch = {"input_ids": ids, "labels": ids, "position_ids": torch.arange(32).expand(2, 32)}
    context = StepContext(batch, range(257), 32, True)  # type: ignore[arg-type]  # only its length is asked
    assert "documents see each other" in failure(model, context)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_a_rate_that_does_not_move(name: str) -> None:
    with pytest.raises(CheckError, match="same learning rate at every step"):
        check_schedule(name, total=10, warmup=0, final=1.0)
    check_schedule(name, total=10, warmup=0, final=0.9)
    check_schedule(name, total=10, warmup=0.5, final=1.0)
    check_schedule(name, total=1, warmup=0, final=1.0)


@pytest.mark.parametrize("name", ["constant", "wsd"])
def test_a_rate_that_may_stay(name: str) -> None:
    check_schedule(name, total=10, warmup=0, final=1.0)


def test_prompts_that_count(model: Any, context: StepContext) -> None:
    """A batch of nothing else is one to train on; its padding is not."""
    labels = torch.full_like(context.batch["labels"], -100)
    weights = torch.full(labels.shape, 0.1)
    mask = context.batch["attention_mask"].clone()
    mask[1, 20:] = 0
    padded = with_batch(context, attention_mask=mask, labels=labels, loss_weights=weights)
    assert "padding is inside the loss" in failure(model, padded)
    check_model(model, find_head(model), with_batch(padded, loss_weights=weights * mask))
    assert "every target" in failure(model, with_batch(padded, loss_weights=weights * 0))
