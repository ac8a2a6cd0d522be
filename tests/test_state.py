"""Training state through JSON and tensors, and back bit for bit."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter, OrderedDict, defaultdict, namedtuple
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from babygpt.errors import CheckpointError
from babygpt.state import decode, encode

DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32),
    *(torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]


def round_trip(value: Any) -> Any:
    """Through the very bytes of both files."""
    encoded, tensors = encode(value)
    return decode(json.loads(json.dumps(encoded, allow_nan=False)), load(save(tensors)))


def same(one: Any, other: Any) -> bool:
    """Equal in type and every bit; NaN equals NaN."""
    if isinstance(one, torch.Tensor):
        if type(other) is not torch.Tensor or one.dtype != other.dtype or one.shape != other.shape:
            return False
        raw = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
        return bool(torch.equal(*raw))
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("<d", one) == struct.pack("<d", other) or (math.isnan(one) and math.isnan(other))
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=True)
        return len(one) == len(other) and all(same(a, c) and same(b, d) for (a, b), (c, d) in pairs)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = math.prod(shape) * dtype.itemsize
    raw = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype == torch.bool:
        raw = bytearray(b & 1 for b in raw)
    if not size:
        return torch.empty(shape, dtype=dtype)
    tensor = torch.frombuffer(raw, dtype=dtype).reshape(shape)
    return tensor.transpose(0, -1) if tensor.ndim > 1 and draw(st.booleans()) else tensor


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(codec=None)))
keys = st.one_of(scalars.filter(lambda k: k == k), st.tuples(st.integers(), st.text()))
values = st.recursive(
    st.one_of(scalars, tensors()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(), inner, max_size=3),
        st.dictionaries(keys, inner, max_size=3),
        st.dictionaries(st.sampled_from(["$tensor", "$dict", "$", "a.b", "a"]), inner, max_size=3),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(values)
def test_any_state_comes_back_the_same(value: Any) -> None:
    assert same(round_trip(value), value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_also_without_dimensions_and_elements(dtype: torch.dtype) -> None:
    one = torch.ones(6).to(dtype)
    value = {"flat": one, "scalar": one[0], "none": one[:0], "plane": one.reshape(2, 3)}
    assert same(round_trip(value), value)


def test_strange_floats_and_integers() -> None:
    value = [
        0.1,
        -0.0,
        5e-324,
        1.7976931348623157e308,
        math.inf,
        -math.inf,
        math.nan,
        2**63,
        -(2**80),
        10**5000,
    ]
    assert same(round_trip(value), value)


def test_strides_views_and_shared_memory() -> None:
    base = torch.arange(24.0).reshape(4, 6)
    part = torch.complex(torch.rand(3), torch.rand(3))
    value = {
        "base": base,
        "again": base,
        "column": base[:, 1],
        "turned": base.t(),
        "expanded": base[:1].expand(5, 6),
        "row": base[2],
        "conjugate": part.conj(),
        "negative": part.conj().imag,
        "parameter": torch.nn.Parameter(base),
    }
    back = round_trip(value)
    assert all(torch.equal(back[k], v) and back[k].dtype == v.dtype for k, v in value.items())
    encoded, kept = encode(value)
    del encoded
    assert kept["row"].untyped_storage().nbytes() == 24
    pointers = [t.untyped_storage().data_ptr() for t in kept.values()]
    assert len(set(pointers)) == len(pointers)


def test_names_that_look_alike_are_kept_apart() -> None:
    value = {"a.b": torch.tensor(1), "a": {"b": torch.tensor(2), 0: torch.tensor(3), "0": torch.tensor(4)}}
    assert same(round_trip(value), value)
    assert same(round_trip({"__metadata__": torch.tensor(1)}), {"__metadata__": torch.tensor(1)})
    assert same(round_trip(torch.tensor(1)), torch.tensor(1))


class Level(IntEnum):
    """An integer with a name."""

    HIGH = 3


class Text(str):
    """A string with a class."""


def test_kinds_that_become_plain() -> None:
    value = [
        OrderedDict(b=1, a=2),
        defaultdict(int, {3: 4}),
        Counter("aab"),
        torch.Size([2, 3]),
        Level.HIGH,
        Text("x"),
        {Level.HIGH: 1, Text("y"): 2},
    ]
    plain = [{"b": 1, "a": 2}, {3: 4}, {"a": 2, "b": 1}, (2, 3), 3, "x", {3: 1, "y": 2}]
    assert same(round_trip(value), plain)


Point = namedtuple("Point", "x y")


class Colour(Enum):
    """No plain value."""

    RED = 1


@pytest.mark.parametrize(
    "bad",
    [
        {1, 2},
        b"bytes",
        object(),
        Path("x"),
        lambda: None,
        Point(1, 2),
        Colour.RED,
        1j,
        torch.float32,
        torch.eye(2).to_sparse(),
        torch.empty(2, device="meta"),
        torch.zeros(2, dtype=torch.complex128),
        {Path("x"): 1},
        {(1, Path("x")): 1},
    ],
)
def test_what_has_no_exact_form_is_refused_with_its_path(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"^callbacks\.Foo\.1\.bar: .*cannot be saved in a checkpoint"):
        encode({"ok": 1, "callbacks": {"Foo": [0, {"bar": bad}]}})


def test_a_circle_is_refused_and_a_shared_value_is_not() -> None:
    value: list[Any] = []
    value.append({"inner": value})
    with pytest.raises(TypeError, match="contains itself"):
        encode(value, "loops")
    shared = [1]
    assert round_trip([shared, shared, {"a": shared}]) == [[1], [1], {"a": [1]}]


def test_encoding_leaves_the_state_alone() -> None:
    tensor = torch.arange(4.0, requires_grad=True)
    value = {"a": [tensor, (1, {"b": 2})]}
    encode(value)
    assert value == {"a": [tensor, (1, {"b": 2})]}
    assert tensor.requires_grad


@pytest.mark.parametrize(
    "bad",
    [
        {"$tensor": "absent"},
        {"$what": 1},
        {"$dict": [1]},
        {"$int": "x"},
        {"$float": "x"},
        {"$dict": [[[], 1]]},
    ],
)
def test_malformed_state_is_a_checkpoint_error(bad: Any) -> None:
    with pytest.raises(CheckpointError, match="malformed"):
        decode({"a": bad}, {})
