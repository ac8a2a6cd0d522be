from __future__ import annotations

import pytest

from babygpt.data import excerpts as subject
from babygpt.data.excerpts import excerpts


def test_samples_of_a_large_corpus_are_spread_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "SAMPLE_BYTES", 20_000)
    monkeypatch.setattr(subject, "_SAMPLE_CHARS", 500)
    texts = ["".join(f"{n}-{k:03} " for k in range(400)) for n in range(100)]
    total = sum(map(len, texts))
    picked = list(excerpts(texts, total))
    assert 12_000 < sum(map(len, picked)) <= 20_000
    assert picked == list(excerpts(texts, total))
    assert len({text.split("-")[0] for text in picked}) > 10
    assert 2_000 < sum(map(len, excerpts(texts, total, 4_000))) <= 4_000
    assert sum(map(len, excerpts(texts[:1], 1234))) == 1234
    assert list(excerpts([], 0)) == []
