"""Tokenised data taken over, against the same text tokenised here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from babygpt.data.imports import byte_lengths
from babygpt.data.prepared import PreparedData
from babygpt.data.store import prepare
from babygpt.errors import DataError, RecipeError
from babygpt.recipe import DataRecipe


def load(home: Path, *paths: Path, tokenizer: Path | str = "auto", **fields: object) -> PreparedData:
    recipe = DataRecipe(path=tuple(map(str, paths)), tokenizer=str(tokenizer), **fields)  # type: ignore[arg-type]
    return prepare(recipe, model_name="preset:gpt2-1m", cache=home)


@pytest.fixture
def folder(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


TEXTS = [f"The text of number {n}: naïve, ünïcode and {n * n}.\n" for n in range(30)]


def flat(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> np.ndarray:
    return np.array([i for text in texts for i in (*tokenizer(text)["input_ids"], 0)], dtype=np.uint16)


def test_flat_ids_come_to_the_store_of_their_text(
    tokenizer: PreTrainedTokenizerFast, folder: Path, tmp_path: Path
) -> None:
    for name, texts in (("train", TEXTS), ("val", TEXTS[:3])):
        flat(tokenizer, texts).tofile(tmp_path / f"{name}.bin")
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    imported = load(tmp_path, tmp_path / "train.bin", tokenizer=folder, val_path=(str(tmp_path / "val.bin"),))
    encoded = load(
        tmp_path, tmp_path / "train.jsonl", tokenizer=folder, val_path=(str(tmp_path / "val.jsonl"),)
    )
    assert imported.train.manifest == encoded.train.manifest
    assert imported.val.manifest == encoded.val.manifest
    assert imported.fingerprint == encoded.fingerprint
    assert imported.key != encoded.key
    assert any("tokenised already, 30 documents, cut behind each end-of-text" in n for n in imported.notes)
    assert load(
        tmp_path, tmp_path / "train.bin", tokenizer=folder, val_path=(str(tmp_path / "val.bin"),)
    ).reused


def test_rows_with_labels_keep_their_targets(
    tokenizer: PreTrainedTokenizerFast, folder: Path, tmp_path: Path
) -> None:
    rows = [[*tokenizer(text)["input_ids"], 0] for text in TEXTS]
    labels = [[-100] * 4 + ids[4:] for ids in rows]
    parquet.write_table(pa.table({"input_ids": rows, "labels": labels}), tmp_path / "x.parquet")
    data = load(tmp_path, tmp_path / "x.parquet", tokenizer=folder, val_fraction=0.3)
    found = {}
    for store in (data.train, data.val):
        for n in range(len(store)):
            start, end = store.offsets[n : n + 2].tolist()
            found[tuple(store.ids(start, end - start).tolist())] = store.target_mask(
                start, end - start
            ).tolist()
    assert found == {tuple(ids): [False] * 4 + [True] * (len(ids) - 4) for ids in rows}
    total = sum(s.manifest.bytes_per_target * s.manifest.num_targets for s in (data.train, data.val))
    texts = [str(tokenizer.decode(ids[4:], skip_special_tokens=True)) for ids in rows]
    assert total == pytest.approx(sum(len(text.encode()) for text in texts))


def test_shards_behind_a_pattern_or_in_a_folder_are_those_named_one_by_one(
    tokenizer: PreTrainedTokenizerFast, folder: Path, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    (shards / "rows").mkdir(parents=True)
    for number in range(3):
        texts = TEXTS[10 * number : 10 * number + 10]
        flat(tokenizer, texts).tofile(shards / f"{number}.bin")
        rows = [tokenizer(text)["input_ids"] for text in texts]
        parquet.write_table(pa.table({"input_ids": rows}), shards / "rows" / f"{number}.parquet")
    named = load(tmp_path / "1", *(shards / f"{n}.bin" for n in range(3)), tokenizer=folder)
    for number, shown in enumerate(("*.bin", "rows/*.parquet", "rows")):
        found = load(tmp_path / f"other{number}", shards / shown, tokenizer=folder)
        assert found.fingerprint == named.fingerprint
        assert sum("tokenised already, 30 documents" in note for note in found.notes) == 1
    (shards / "rows" / "readme.jsonl").write_text('{"text": "rows"}\n')
    with pytest.raises(DataError, match=r"tokenised already, and .*readme.jsonl is not"):
        load(tmp_path, shards / "rows", tokenizer=folder)
    (shards / "rows" / "only").mkdir()
    (shards / "0.bin").rename(shards / "rows" / "only" / "0.bin")
    with pytest.raises(DataError, match=r"ids in \.bin files are named, or matched by a pattern"):
        load(tmp_path, shards / "rows" / "only", tokenizer=folder)


def test_near_duplicates_of_ids_are_refused_not_overlooked(
    tokenizer: PreTrainedTokenizerFast, folder: Path, tmp_path: Path
) -> None:
    flat(tokenizer, TEXTS).tofile(tmp_path / "train.bin")
    with pytest.raises(RecipeError, match="near duplicates are looked for in text"):
        load(tmp_path, tmp_path / "train.bin", tokenizer=folder, deduplicate="near")


def test_what_is_refused(tokenizer: PreTrainedTokenizerFast, folder: Path, tmp_path: Path) -> None:
    path, text = tmp_path / "x.bin", tmp_path / "x.txt"
    flat(tokenizer, TEXTS).tofile(path)
    text.write_text("text")
    with pytest.raises(RecipeError, match=r"tokenised already, and not said with what\. Name the tokenizer"):
        load(tmp_path, path)
    with pytest.raises(DataError, match=r"x\.bin: is tokenised already, and .*x\.txt is text"):
        load(tmp_path, path, text, tokenizer=folder)
    np.array([5, 6, 0, 5, 60000, 0], dtype=np.uint16).tofile(path)
    with pytest.raises(
        DataError, match=r"x\.bin: document 1 has the id 60000 as its token 1, and .* end at 999"
    ):
        load(tmp_path, path, tokenizer=folder)
    np.zeros(4, dtype=np.uint16).tofile(path)
    with pytest.raises(DataError, match=r"x\.bin: holds no tokens"):
        load(tmp_path, path, tokenizer=folder)
    assert list((tmp_path / "data").iterdir()) == []


@pytest.fixture(scope="module")
def lengths(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    found = byte_lengths(tokenizer)
    assert found is not None
    return found


@given(st.lists(st.text(max_size=30), max_size=5))
def test_the_bytes_of_ids_are_those_of_their_text(
    tokenizer: PreTrainedTokenizerFast, lengths: np.ndarray, texts: list[str]
) -> None:
    for text in texts:
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        assert lengths[ids].sum() == len(text.replace("<|endoftext|>", "").encode())
