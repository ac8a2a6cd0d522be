"""Text that others wrote: shown without control characters, parsed within bounds.

A file's name, a record or a model's own words may hold escape sequences that would move a terminal's cursor
or retitle its window. JSON may be nested until the parser gives up, YAML may name ten entries that name ten
more. Nothing here raises anything but ValueError.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

__all__ = [
    "is_endless",
    "is_utf8",
    "parse_json",
    "parse_yaml",
    "read_bytes",
    "read_json",
    "redacted",
    "shown",
]

# C0, DEL and C1 controls, line and paragraph separators, what reverses the direction of writing, half surrogates.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+(?=@)")  # of a proxy's address, in some library's message
_QUERY = re.compile(r"(://[^\s?#'\"<>]*)[?#][^\s'\"<>]*")
_MOST_NODES, _DEEPEST = 10_000, 50  # of YAML, aliases counted as what they stand for


def shown(text: object, most: int | None = None) -> str:
    r"""Text as it may be shown: control characters but newline and tab become `\x1b`, `\u202e`, ...

    Whatever stands before the `@` of an address, a password maybe, is left out.

    Args:
        text: anything with a `str`.
        most: characters that are kept; the middle of a longer text gives way.
    """
    safe = _HIDDEN.sub(_escaped, _CREDENTIALS.sub("...", str(text)))
    if most is None or len(safe) <= most:
        return safe
    half = (most - 5) // 2
    return f"{safe[:half]} ... {safe[-half:]}"


def redacted(text: str) -> str:
    """Text whose addresses are without what may be secret: user, password, query and fragment become dots."""
    return _QUERY.sub(r"\1?...", _CREDENTIALS.sub("...", text))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def is_utf8(text: str) -> bool:
    """Whether text can be written: Python keeps the bytes of arguments that are no UTF-8 as half surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_endless(path: Path) -> bool:
    """Whether a file is a pipe, a socket or a device, or leads to one: reading it may wait or go on for ever."""
    return path.exists() and not (path.is_file() or path.is_dir())


def read_bytes(path: Path, most: int) -> bytes:
    """A file's bytes, which must be few.

    Raises:
        OSError: it cannot be read. ValueError: it is larger than `most`, or endless.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than {most / 1e6:g} MB")
    return content


def parse_json(content: bytes) -> Any:
    """A JSON value from UTF-8.

    Raises:
        ValueError: it is none, or nested too deeply; the message holds nothing of the content.
    """
    try:
        return json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path, most: int = 16_000_000) -> Any:
    """The JSON value in a regular file of at most so many bytes.

    Raises:
        OSError, ValueError: as `read_bytes` and `parse_json`; or it is a pipe or a device.
    """
    if is_endless(path):
        raise ValueError("it is no regular file")
    return parse_json(read_bytes(path, most))


class _Loader(yaml.SafeLoader):
    """Plain values only, no more of them than a recipe could need, and each key of a group once."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._made = self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        before, self._depth = self._made, self._depth + 1
        if self._depth > _DEEPEST:
            raise self._refusal("it is nested too deeply", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise self._refusal("a part of it contains itself", event)
            self._made += self._sizes[id(node)]
        else:
            self._made += 1
            self._sizes[id(node)] = self._made - before
        if self._made > _MOST_NODES:
            raise self._refusal(f"its aliases stand for more than {_MOST_NODES:,} values", event)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:  # the library would take the last and let the others go
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":  # which may bring several groups
                if key.value in seen:
                    raise self._refusal(f"the key {key.value!r} stands twice in one group", key)
                seen.add(key.value)
        return node

    def _refusal(self, problem: str, where: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
        mark: Any = where.start_mark
        return yaml.composer.ComposerError(None, None, problem, mark)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    value: int = loader.construct_yaml_int(node)
    if abs(value) >= 2**64:  # a few characters of base 60 make a number too long to be printed
        raise ValueError("a whole number in it is too large")
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


def parse_yaml(content: bytes) -> Any:
    """A YAML document from UTF-8: plain values, no tags of Python's.

    Raises:
        UnicodeDecodeError: it is not UTF-8. yaml.YAMLError: it is no YAML, or too much of it.
        ValueError: a number or date in it is none, or too large.
    """
    loader = _Loader(content.decode())
    try:
        return loader.get_single_data()
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None
    finally:
        loader.dispose()
