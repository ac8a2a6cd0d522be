"""Gradients that keep their places: the same numbers, where they were before."""

from __future__ import annotations

import torch

from babygpt.model.gradients import keep_places
from babygpt.model.load import load_model


def test_gradients_keep_their_numbers_and_their_places() -> None:
    """Two micro-batches a step, and cleared after it, beside a model that is left alone; a frozen weight stays so."""
    ids = [torch.arange(n, n + 24).reshape(2, 12) for n in (0, 40)]
    plain, kept = (load_model("preset:gpt2-1m", vocab_size=128, seed=1) for _ in range(2))
    for model in (plain, kept):
        model.get_input_embeddings().weight.requires_grad_(False)  # type: ignore[union-attr]
    handles = keep_places(kept)
    places: set[tuple[int, ...]] = set()
    for _ in range(3):
        for model in (plain, kept):
            model.zero_grad()
            for some in ids:
                model(input_ids=some, labels=some).loss.backward()
        for wanted, got in zip(plain.parameters(), kept.parameters(), strict=True):
            assert (wanted.grad is None) == (got.grad is None) == (not got.requires_grad)
            assert wanted.grad is None or torch.equal(wanted.grad, got.grad)  # type: ignore[arg-type]
        places.add(tuple(p.grad.data_ptr() for p in kept.parameters() if p.grad is not None))
    assert len(places) == 1
    assert len(handles) == len(next(iter(places)))
