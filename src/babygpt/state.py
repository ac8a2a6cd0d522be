"""Nested training state <-> JSON and named tensors, bit for bit and without pickle.

    encode   {"step": 3, "state": {0: {"exp_avg": tensor}}}
          -> {"step": 3, "state": {"$dict": [[0, {"exp_avg": {"$tensor": "state.0.exp_avg"}}]]}}
             and {"state.0.exp_avg": tensor}
    decode   the way back

JSON holds null, booleans, integers, finite floats (their shortest digits give the same bits back), strings,
lists and objects. The rest gets an object whose only key begins with `$`: `$tensor`, `$tuple`, `$float` (inf
and nan), `$int` (beyond 64 bits) and `$dict` (keys that are no plain strings). What has no exact form is
refused, its place named.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping
from typing import Any

import torch

from babygpt.errors import CheckpointError

__all__ = ["bytes_of", "copied", "decode", "encode", "is_storable"]

_DTYPES = {
    *(torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32),
    *(torch.uint64, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2),
}
_DICTS = {dict, OrderedDict, defaultdict, Counter}


def encode(value: Any, name: str = "") -> tuple[Any, dict[str, torch.Tensor]]:
    """Takes state apart.

    Args:
        value: None, booleans, numbers, strings and tensors, in lists, tuples and dicts with scalar or tuple
            keys. Ordered and default dicts and counters become plain dicts; subclasses of int, float and str
            plain values.
        name: what the value is called in messages and tensor names.

    Returns:
        A value for `json.dumps`, and the tensors by name: on the CPU, contiguous, none sharing memory.

    Raises:
        TypeError: something else is in it; the message gives its path, such as `callbacks.Timer.started`.
    """
    encoder = _Encoder()
    return encoder.encode(value, name), encoder.tensors


def decode(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Puts together what `encode` took apart.

    Raises:
        CheckpointError: the value is not one that `encode` returns, or a tensor is missing.
    """
    try:
        return _decode(value, tensors)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"the training state is malformed ({error!r})") from error


def is_storable(tensor: torch.Tensor) -> bool:
    """Whether safetensors can hold the tensor."""
    return tensor.layout == torch.strided and tensor.dtype in _DTYPES and tensor.device.type != "meta"


def copied(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with copies of their tensors on the CPU.

    What is one tensor under two names stays one, so that tied weights stay tied.
    """
    copies: dict[tuple[Any, ...], torch.Tensor] = {}

    def copy(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        place = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if place not in copies or not value.numel():
            copies[place] = value.detach().to("cpu", copy=True)
        return copies[place]

    return {name: copy(value) for name, value in values.items()}


def bytes_of(values: Mapping[str, Any]) -> int:
    """Bytes of the tensors among the values, shared memory counted once."""
    tensors = [value for value in values.values() if isinstance(value, torch.Tensor)]
    return sum({tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in tensors}.values())


class _Encoder:
    """Collects tensors on the way down."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._storages: set[int] = set()
        self._open: set[int] = set()

    def encode(self, value: Any, path: str) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            number = int(value)
            return number if -(2**63) <= number < 2**64 else {"$int": hex(number)}
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, torch.Tensor):
            return {"$tensor": self._keep(value, path)}
        if id(value) in self._open:
            raise TypeError(f"{path}: contains itself, and cannot be saved in a checkpoint")
        self._open.add(id(value))
        try:
            return self._encode_container(value, path)
        finally:
            self._open.remove(id(value))

    def _encode_container(self, value: Any, path: str) -> Any:
        if type(value) is list:
            return [self.encode(inner, _join(path, i)) for i, inner in enumerate(value)]
        if type(value) in (tuple, torch.Size):
            return {"$tuple": [self.encode(inner, _join(path, i)) for i, inner in enumerate(value)]}
        if type(value) in _DICTS:
            if all(isinstance(key, str) and not key.startswith("$") for key in value):
                return {str.__str__(key): self.encode(v, _join(path, key)) for key, v in value.items()}
            pairs = ((self._encode_key(key, path), _join(path, key), inner) for key, inner in value.items())
            return {"$dict": [[key, self.encode(inner, place)] for key, place, inner in pairs]}
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(
            f"{path or 'the state'}: a {kind} cannot be saved in a checkpoint;"
            " keep numbers, strings, tensors, and lists, tuples and dicts of them"
        )

    def _encode_key(self, key: Any, path: str) -> Any:
        if type(key) is tuple:
            return {"$tuple": [self._encode_key(inner, path) for inner in key]}
        if key is not None and not isinstance(key, bool | int | float | str):
            raise TypeError(f"{path or 'the state'}: {key!r} as a dict's key cannot be saved in a checkpoint")
        return self.encode(key, path)

    def _keep(self, tensor: torch.Tensor, path: str) -> str:
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or not is_storable(tensor):
            kind = f"{tensor.layout} {tensor.dtype} {type(tensor).__name__} on {tensor.device}"
            raise TypeError(f"{path or 'the state'}: a {kind} cannot be saved in a checkpoint")
        kept = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        storage = kept.untyped_storage()
        if storage.data_ptr() in self._storages or storage.nbytes() != kept.nbytes:
            kept = kept.clone(memory_format=torch.contiguous_format)
        self._storages.add(kept.untyped_storage().data_ptr())
        # Names are for people; two paths may look the same ("a.b" and a -> b): the later gets a number.
        name = base = (path or "value").encode("utf-8", "backslashreplace").decode()
        count = 1
        while name in self.tensors or name == "__metadata__":
            name, count = f"{base}#{count}", count + 1
        self.tensors[name] = kept
        return name


def _decode(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if not tag.startswith("$"):
        return {key: _decode(inner, tensors) for key, inner in value.items()}
    inner = value[tag]
    if tag == "$tensor":
        return tensors[inner]
    if tag == "$tuple":
        return tuple(_decode(item, tensors) for item in inner)
    if tag == "$dict":
        return {_decode(key, tensors): _decode(item, tensors) for key, item in inner}
    if tag == "$float":
        return float(inner)
    if tag == "$int":
        return int(inner, 16)
    raise ValueError(f"unknown tag {tag}")


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
