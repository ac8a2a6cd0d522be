"""A batch taken apart: every id comes back, with the kind that the labels and the documents by hand give it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from babygpt.data.batches import WindowDataset
from babygpt.data.packing import Packing, pack
from babygpt.data.view import Piece, WindowView, _pieces, view_of

DOCUMENTS = [[11, 12, 13, 0], [21, 22, 0], [31, 32, 33, 34, 35, 36, 37, 38, 0], [0]]
TARGET = (True, 0.0)
MASKS = [[False, True, True, True], [False, False, True], [True] * 9, [True]]


def views(store: Any, packing: Packing, block: int, tokenizer: Any) -> list[WindowView]:
    data = WindowDataset.of(store, block, packing, pad_id=7)
    batch = data[np.arange(len(data))]
    return [view_of(batch, row, store, data.windows, row, tokenizer) for row in range(len(data))]


def by_hand(view: WindowView) -> list[tuple[int, bool, bool, list[tuple[int, bool]]]]:
    return [
        (d.number, d.begins, d.ends, [(i, p.is_target) for p in d.pieces for i in p.ids])
        for d in view.documents
    ]


def test_stream(make_store: Any, tokenizer: Any) -> None:
    one, two, three = views(make_store(DOCUMENTS, MASKS), "stream", 8, tokenizer)
    assert by_hand(one) == [
        (0, True, True, [(11, False), (12, True), (13, True), (0, True)]),
        (1, True, True, [(21, False), (22, False), (0, True)]),
        (2, True, False, [(31, True)]),
    ]
    # The next begins with the last token of the one before, which nothing in it predicts.
    assert by_hand(two) == [(2, True, False, [(31, False), *((n, True) for n in range(32, 39))])]
    assert by_hand(three) == [(2, False, True, [(38, False), (0, True)]), (3, True, True, [(0, True)])]
    assert [(v.targets, v.masked, v.padding) for v in (one, two, three)] == [(5, 3, 0), (7, 1, 0), (2, 1, 5)]
    assert three.pad_id == 7


def test_isolated_and_padded(make_store: Any, tokenizer: Any) -> None:
    store = make_store(DOCUMENTS, MASKS)
    isolated = [by_hand(view) for view in views(store, "isolated", 9, tokenizer)]
    first = (0, True, True, [(11, False), (12, True), (13, True), (0, True)])
    second = (1, True, True, [(21, False), (22, False), (0, True)])
    third = (2, True, True, [(31, False), *((n, True) for n in range(32, 39)), (0, True)])
    assert sorted(isolated) == [[first, second], [third]]
    padded = views(store, "padded", 5, tokenizer)
    assert [by_hand(v) for v in padded[:2]] == [[first], [second]]
    assert by_hand(padded[2]) == [(2, True, False, [(31, False), *((n, True) for n in range(32, 36))])]
    assert by_hand(padded[3]) == [
        (2, False, True, [(35, False), (36, True), (37, True), (38, True), (0, True)])
    ]
    assert [v.padding for v in padded] == [1, 2, 0, 0]


@pytest.mark.parametrize("weight", [0.1, 1.0])
def test_prompts_that_count(make_store: Any, tokenizer: Any, weight: float) -> None:
    store = make_store(DOCUMENTS, MASKS)
    windows = pack(store.offsets, 8, "stream", store.target_cumsum(), with_prompts=True)
    data = WindowDataset(store, windows, 7, weight)
    batch = data[np.arange(len(data))]
    one, two, _ = (view_of(batch, row, store, windows, row, tokenizer) for row in range(len(data)))
    shown = [(i, p.is_target, p.prompt_weight) for d in one.documents for p in d.pieces for i in p.ids]
    # The first token of all has none before it; the second document's question has.
    assert shown[:4] == [(11, False, 0.0), *((n, True, 0.0) for n in (12, 13, 0))]
    assert shown[4:] == [(21, False, weight), (22, False, weight), (0, True, 0.0), (31, True, 0.0)]
    assert [(v.targets, v.prompts, v.masked, v.padding) for v in (one, two)] == [(5, 2, 1, 0), (7, 0, 1, 0)]
    plain = one.to_dict()
    assert (plain["targets"], plain["prompts"]) == (5, 2)
    assert [token[2:] for token in plain["documents"][1]["tokens"]] == [[False, weight]] * 2 + [[True]]


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    entries = ["<s>", "</s>", "<|turn|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={entry: i for i, entry in enumerate(entries)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", additional_special_tokens=["<|turn|>"]
    )


BYTES = bytes_tokenizer()


@settings(max_examples=25)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=12))
def test_characters_of_several_tokens_stay_whole(text: str) -> None:
    ids = BYTES(text, add_special_tokens=False)["input_ids"]
    pieces = list(_pieces(ids, [TARGET] * len(ids), BYTES))
    assert [p.text for p in pieces] == list(text)
    assert [i for p in pieces for i in p.ids] == ids


def test_a_border_within_a_character_shows_its_halves() -> None:
    ids = BYTES("é", add_special_tokens=False)["input_ids"]
    assert list(_pieces(ids, [(False, 0.0), TARGET], BYTES)) == [
        Piece("\ufffd", (ids[0],), is_target=False),
        Piece("\ufffd", (ids[1],), is_target=True),
    ]


def test_special_tokens_are_told_apart() -> None:
    ids = BYTES("<s>a<|turn|>b</s>", add_special_tokens=False)["input_ids"]
    found = [(p.text, p.special) for p in _pieces(ids, [TARGET] * len(ids), BYTES)]
    assert found == [("<s>", "bos"), ("a", ""), ("<|turn|>", "other"), ("b", ""), ("</s>", "eos")]


def test_spaces_that_are_written_between_two_tokens_only() -> None:
    vocab = [("<unk>", 0.0), ("</s>", 0.0), ("▁the", -1.0), ("▁", -2.0), ("cat", -2.0), ("s", -3.0)]
    backend = Tokenizer(models.Unigram(vocab, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    ids = [*tokenizer("the cats the", add_special_tokens=False)["input_ids"], 1]
    assert "".join(p.text for p in _pieces(ids, [TARGET] * len(ids), tokenizer)) == "the cats the</s>"


def test_plain_values(make_store: Any) -> None:
    (view,) = views(make_store([[68, 69, 1]], [[False, True, True]]), "padded", 4, BYTES)
    names = [BYTES.decode([68]), BYTES.decode([69])]
    assert view.to_dict() == {
        "window": 0,
        "targets": 2,
        "prompts": 0,
        "masked": 1,
        "padding": 1,
        "documents": [
            {
                "document": 0,
                "begins": True,
                "ends": True,
                "tokens": [[[68], names[0], False], [[69], names[1], True], [[1], "</s>", True]],
            }
        ],
    }


@pytest.mark.parametrize("packing", ["stream", "isolated", "padded"])
def test_every_id_of_the_batch_is_shown_once(make_store: Any, tokenizer: Any, packing: Packing) -> None:
    rng = np.random.default_rng(0)
    documents = [[*rng.integers(1, 1000, rng.integers(1, 40)).tolist(), 0] for _ in range(30)]
    store = make_store(documents, [(rng.random(len(d)) < 0.6).tolist() for d in documents])
    data = WindowDataset.of(store, 16, packing, pad_id=0)
    batch = data[np.arange(len(data))]
    for row, view in enumerate(views(store, packing, 16, tokenizer)):
        shown = [(i, p.is_target) for d in view.documents for p in d.pieces for i in p.ids]
        ids, labels = batch["input_ids"][row].tolist(), batch["labels"][row].tolist()
        assert shown == [(i, label != -100) for i, label in zip(ids, labels, strict=True)][: len(shown)]
        assert len(shown) + view.padding == 16
        assert (view.targets, view.masked) == (sum(t for _, t in shown), sum(not t for _, t in shown))
