"""Files of ids made elsewhere, against documents cut by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from babygpt.data.tokenised import are_blocks, is_tokenised, read_tokens
from babygpt.errors import DataError

EOS = 0


def read(path: Path, eos: int = EOS) -> list[tuple[list[int], list[bool] | None]]:
    found = read_tokens(str(path), eos, blocks=are_blocks(str(path), eos))
    return [(t.ids.tolist(), None if t.is_target is None else t.is_target.tolist()) for t in found]


def ids_of(path: Path) -> list[list[int]]:
    return [ids for ids, _ in read(path)]


def write(folder: Path, kind: str, columns: dict[str, Any]) -> Path:
    path = folder / f"rows.{kind}"
    table = pa.table(columns)
    if kind == "parquet":
        parquet.write_table(table, path, row_group_size=2)
    elif kind == "stream.arrow":
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, 2)
    elif kind == "file.arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, 2)
    else:
        datasets.Dataset(table).save_to_disk(path)
    return path


KINDS = ["parquet", "stream.arrow", "file.arrow", "saved"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 5))
def test_flat_ids_are_cut_behind_each_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: list[int], chunk: int
) -> None:
    monkeypatch.setattr("babygpt.data.tokenised._CHUNK", chunk)
    path = tmp_path / "train.bin"
    np.array(ids, dtype=np.uint16).tofile(path)
    text = "".join(map(str, ids)).split("0")
    assert ids_of(path) == [[*map(int, part), EOS] for part in text if part]
    assert all(mask is None for _, mask in read(path))


def test_the_header_of_llm_c_is_no_ids(tmp_path: Path) -> None:
    header = np.zeros(256, dtype="<i4")
    ids = np.array([0, 5, 6, 0, 7], dtype="<u2")
    header[:3] = 20240520, 1, len(ids)
    path = tmp_path / "x.bin"
    path.write_bytes(header.tobytes() + ids.tobytes())
    assert ids_of(path) == [[5, 6, 0], [7, 0]]
    path.write_bytes(header.tobytes() + ids.tobytes()[:-2])
    with pytest.raises(DataError, match="its header says 5 ids of version 1, and it has 1,032 bytes"):
        read(path)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_documents(tmp_path: Path, kind: str) -> None:
    rows = [[5, 6, 0], [7], [], [8, 0, 9, 0, 0], [0]]
    path = write(tmp_path, kind, {"input_ids": rows, "other": list("abcde")})
    assert is_tokenised(str(path))
    assert ids_of(path) == [[5, 6, 0], [7, 0], [8, 0, 9, 0]], "an end inside a row is the row's own"


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_rows_of_one_length_are_a_stream(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, {"input_ids": [[5, 0, 6], [7, 8, 9], [0, 1, 2], [3]]})
    assert ids_of(path) == [[5, 0], [6, 7, 8, 9, 0], [1, 2, 3, 0]]


def test_rows_of_one_length_that_all_end_are_documents(tmp_path: Path) -> None:
    rows = [[5, 0, 6, 0], [7, 8, 9, 0], [1, 1, 2, 0]]
    assert ids_of(write(tmp_path, "parquet", {"input_ids": rows})) == rows


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("labels", [[-100, 6, 0], [-100, 8]]),
        ("is_target", [[False, True, True], [False, True]]),
        ("loss_mask", [[0, 1, 1], [0, 1]]),
    ],
)
def test_targets_are_taken_over(tmp_path: Path, name: str, values: list[list[int]]) -> None:
    path = write(tmp_path, "parquet", {"input_ids": [[5, 6, 0], [7, 8]], name: values})
    # An end that was not there is no target.
    assert read(path) == [([5, 6, 0], [False, True, True]), ([7, 8, 0], [False, True, False])]


def test_padding_is_left_out(tmp_path: Path) -> None:
    columns = {
        "input_ids": [[9, 9, 5, 6], [7, 8, 9, 9], [1, 2, 3, 0]],
        "attention_mask": [[0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]],
        "labels": [[-100, -100, -100, 6], [7, 8, -100, -100], [1, 2, 3, 0]],
    }
    assert read(write(tmp_path, "parquet", columns)) == [
        ([5, 6, 0], [False, True, False]),
        ([7, 8, 0], [True, True, False]),
        ([1, 2, 3, 0], [True] * 4),
    ]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int32()), pa.large_list(pa.uint16()), pa.list_(pa.int64(), 2)], ids=str
)
def test_any_list_of_whole_numbers_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"input_ids": pa.array([[5, 0], [6, 0], [7, 0]], kind)}), path)
    assert ids_of(path) == [[5, 0], [6, 0], [7, 0]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"input_ids": [[1.5]]}, "'input_ids' is of type list<.*double>, not lists of whole numbers"),
        ({"input_ids": [[1], None]}, "'input_ids' has rows or values without content"),
        ({"input_ids": [[1, None]]}, "'input_ids' has rows or values without content"),
        ({"input_ids": [[1]], "labels": [[1, 2]]}, r"rows\.parquet:0: 1 input_ids and 2 labels"),
        (
            {"input_ids": [[1], [1, 2]], "labels": [[1], [2, 2]]},
            r"rows\.parquet:1: labels differ from input_ids",
        ),
        ({"input_ids": [[1]], "labels": [[1]], "loss_mask": [[1]]}, "labels and loss_mask both say"),
        (
            {"input_ids": [[1, 2, 3]], "attention_mask": [[1, 0, 1]]},
            r"rows\.parquet:0: attention_mask has gaps",
        ),
    ],
    ids=repr,
)
def test_columns_that_do_not_fit(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, "parquet", columns))


@pytest.mark.parametrize("content", [b"", b"abc"])
def test_bytes_that_are_no_ids(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(DataError, match=f"its {len(content)} bytes are no ids of two bytes each"):
        read(tmp_path / "x.bin")


def test_text_is_text(tmp_path: Path) -> None:
    both = str(write(tmp_path, "parquet", {"input_ids": [[1]], "text": ["a"]}))
    assert [is_tokenised(both, field) for field in ("auto", "text", "input_ids")] == [False, False, True]
    assert not is_tokenised(str(write(tmp_path, "saved", {"text": ["a"]})))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for name in ("broken.parquet", "missing.bin", "x.txt", "."):
        assert not is_tokenised(str(tmp_path / name))
    assert not is_tokenised("builtin:python")
