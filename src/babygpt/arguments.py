"""A command line -> the settings of a verb, through a parser made from the settings' own dataclasses.

1. Every flag is looked up first, so that a mistyped one is answered with the nearest name.
2. A recipe file is checked against the same fields, and its errors name the file.
3. `--data.path a b` becomes the one value that the parser takes for a list, and 1e9 the whole number that it is.
4. jsonargparse parses the flags, over what the file says, whatever their order.
5. The settings are built, and check their own ranges.

No field is named here: what the dataclasses hold, the command takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import docstring_parser
import jsonargparse

from babygpt import fields
from babygpt.errors import RecipeError
from babygpt.names import nearest, unknown_field

__all__ = ["Parsed", "Syntax", "parse"]

S = TypeVar("S")

# Not a negative number, nor a text that begins with a dash and goes on with a space.
_FLAG = re.compile(r"--?([A-Za-z][\w.+-]*)(?:=(.*))?", re.DOTALL)
_CONFIG, _PRINT = "config", "print_config"
_CONFIG_HELP = "a recipe file; flags go over what it says"


@dataclass(frozen=True)
class Syntax(Generic[S]):
    """How a verb is called.

    Args:
        prog: the command and the verb.
        settings: the dataclass that the verb takes; its docstring is the help.
        positional: the field that is given without a flag, if any.
        left_out: fields that the verb does not read: they are no flags.
        one_of: the group of which one field is set: a flag puts aside what a recipe file sets of it.
        takes_config: whether a recipe file may be given.
        config: the dataclass that says what may stand in it, where that is more than the verb reads.
        examples: command lines for the help.
    """

    prog: str
    settings: type[S]
    positional: str | None = None
    left_out: tuple[str, ...] = ()
    one_of: str | None = None
    takes_config: bool = False
    config: type[Any] | None = None
    examples: tuple[str, ...] = ()

    @property
    def flags(self) -> dict[str, Any]:
        """The dotted names that can be set, each with its type hint."""
        every = fields.leaves(self.settings)
        return {n: h for n, h in every.items() if n not in self.left_out and n != self.positional}

    @property
    def takes_several(self) -> bool:
        """Whether what goes without a flag may be given more than once."""
        hints = fields.leaves(self.settings)
        return self.positional is not None and typing.get_origin(hints[self.positional]) is tuple

    def is_exclusive(self, name: str) -> bool:
        """Whether a field belongs to the group of which one is set."""
        return self.one_of is not None and name.startswith(f"{self.one_of}.")


@dataclass(frozen=True)
class Parsed(Generic[S]):
    """What a command line says.

    Args:
        settings: of the verb.
        given: the dotted names that it or its recipe file sets.
    """

    settings: S
    given: tuple[str, ...]


def parse(syntax: Syntax[S], arguments: Sequence[str]) -> Parsed[S]:
    """Reads a command line.

    Raises:
        InputError: the first thing that is wrong with it.
        SystemExit: help or the configuration was asked for, and has been printed.
    """
    names = list(_flag_names(syntax, arguments))
    configs, printing, rest = _split_config(arguments)
    from_files: dict[str, Any] = {}
    for path in configs:
        from_files.update(_read_file(syntax, path))
    if any(syntax.is_exclusive(n) for n in names):
        from_files = {n: v for n, v in from_files.items() if not syntax.is_exclusive(n)}
    ready = _join_lists(syntax, list(_spell_out(syntax, rest)))
    parser = _parser(syntax)
    # Not through the parser's own reader, whose numbers are not YAML's: a revision 1e5 would not stay text.
    parser.set_defaults(from_files)
    try:
        values = parser.parse_args(ready).as_dict()
        values.pop(_CONFIG, None)
        settings = fields.build(syntax.settings, values)
        if printing:
            parser.parse_args([*ready, *printing])
    except argparse.ArgumentError as error:
        raise _plain_error(syntax, ready, str(error)) from None
    given = [*from_files, *(n for n in names if n in syntax.flags)]
    return Parsed(settings, tuple(dict.fromkeys(given)))


# -- before the parser ---------------------------------------------------------------------------------------


def _flag_names(syntax: Syntax[Any], arguments: Sequence[str]) -> Iterator[str]:
    known = [*syntax.flags, *((_CONFIG, _PRINT) if syntax.takes_config else ())]
    for argument in arguments:
        if argument == "--":
            return
        match = _FLAG.fullmatch(argument)
        if match is None or argument in ("-h", "--help"):
            continue
        name, flag = match[1], argument.partition("=")[0]
        if name == syntax.positional:
            hint = f"It goes without one: {syntax.prog} {name.upper()}"
            raise RecipeError(f"there is no flag {flag}", hint=hint)
        if name not in known or not argument.startswith("--"):
            raise _no_flag(syntax, name, known, flag)
        yield name


def _no_flag(syntax: Syntax[Any], name: str, known: Sequence[str], flag: str) -> RecipeError:
    """The error for what begins with a dash and is no flag: mistyped, or a value such as a file's name."""
    error = unknown_field(name, known, flag=flag)
    if flag.startswith("--") or nearest(name, known):
        return error
    behind = f" or, without a flag, behind --: {syntax.prog} -- {flag}" if syntax.positional else ""
    hint = f"A value that begins with a dash stands behind a flag's =, as in --FLAG={flag}{behind}"
    return RecipeError(error.what, hint=hint)


def _split_config(arguments: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The recipe files, the asking for a printed configuration, and everything else."""
    configs: list[str] = []
    printing: list[str] = []
    rest: list[str] = []
    ended, todo = False, iter(arguments)
    for argument in todo:
        ended = ended or argument == "--"
        name, equals, value = argument.partition("=")
        if not ended and name == f"--{_CONFIG}":
            path = value if equals else next(todo, "")
            if not path or path.startswith("--"):
                raise RecipeError("needs a file", where=f"--{_CONFIG}")
            configs.append(path)
        elif not ended and name == f"--{_PRINT}":
            printing = [argument]
        else:
            rest.append(argument)
    return configs, printing, rest


def _read_file(syntax: Syntax[Any], path: str) -> dict[str, Any]:
    """The fields that a recipe file sets, by their dotted names."""
    values = fields.read_yaml(path)
    flat = fields.flatten(values)
    for name in flat:
        if name in syntax.left_out and syntax.config is None:
            raise unknown_field(name, syntax.flags, where=path)
    fields.build(syntax.config or syntax.settings, values, path)
    read = {name: value for name, value in flat.items() if name in syntax.flags}
    return {name: fields.convert(value, syntax.flags[name], name) for name, value in read.items()}


def _spell_out(syntax: Syntax[Any], arguments: Sequence[str]) -> Iterator[str]:
    """Rewrites `--budget.tokens 1e9` in digits, as the parser wants a whole number."""
    awaited: Any = None
    todo = iter(arguments)
    for argument in todo:
        if argument == "--":
            yield from (argument, *todo)
            return
        match = _FLAG.fullmatch(argument)
        hint = syntax.flags.get(match[1]) if match else awaited
        value = match[2] if match else argument
        awaited = hint if match and value is None else None
        whole = fields.as_whole(value) if value and int in (hint, *typing.get_args(hint)) else None
        yield argument if whole is None else f"{argument.removesuffix(value)}{whole}"


def _join_lists(syntax: Syntax[Any], arguments: Sequence[str]) -> list[str]:
    """Rewrites `--data.path a b` as `--data.path=["a", "b"]`."""
    joined: list[str] = []
    seen: set[str] = set()
    at = 0
    while at < len(arguments):
        argument, at = arguments[at], at + 1
        if argument == "--":
            return [*joined, *arguments[at - 1 :]]
        match = _FLAG.fullmatch(argument)
        hint = syntax.flags.get(match[1]) if match else None
        if match is None or typing.get_origin(hint) is not tuple:
            joined.append(argument)
            continue
        values = [] if match[2] is None else [match[2]]
        while match[2] is None and at < len(arguments) and not _ends_list(arguments[at]):
            values.append(arguments[at])
            at += 1
        if match[1] in seen:
            raise RecipeError(
                "is given twice", where=f"--{match[1]}", hint="Give all its values after one flag"
            )
        seen.add(match[1])
        joined.append(f"--{match[1]}={_as_json_list(match[1], values, hint)}")
    return joined


def _ends_list(argument: str) -> bool:
    return argument == "--" or _FLAG.fullmatch(argument) is not None


def _as_json_list(name: str, values: list[str], hint: Any) -> str:
    if not values:
        raise RecipeError(f"needs {fields.describe(hint)}", where=f"--{name}")
    if len(values) == 1 and values[0].startswith("["):
        try:
            json.loads(values[0])
        except ValueError:
            pass  # a file's name
        else:
            return values[0]
    if typing.get_args(hint)[0] is str:
        return json.dumps(values, ensure_ascii=False)
    return f"[{', '.join(values)}]"


# -- the parser ----------------------------------------------------------------------------------------------


def _parser(syntax: Syntax[Any]) -> jsonargparse.ArgumentParser:
    settings, about = syntax.settings, _descriptions(syntax.settings)
    called = syntax.prog if syntax.positional is None else f"{syntax.prog} {_called(syntax)}"
    if syntax.takes_several:
        called += f" [{_called(syntax)} ...]"
    parser = jsonargparse.ArgumentParser(
        prog=syntax.prog,
        usage=f"{called} [--FIELD VALUE ...]",
        description=about[""],
        epilog="\n".join(["examples:", *(f"  {line}" for line in syntax.examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    if syntax.takes_config:
        parser.add_argument(f"--{_CONFIG}", action="config", metavar="FILE", help=_CONFIG_HELP)
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        hint, name = hints[field.name], field.name
        if name == syntax.positional:
            more: dict[str, Any] = {"nargs": "+"} if syntax.takes_several else {}
            if field.default is not dataclasses.MISSING:
                more = {"nargs": "?", "default": field.default}
            parser.add_argument(name, type=str, metavar=_called(syntax), help=about[name], **more)
        elif not dataclasses.is_dataclass(hint):
            if name not in syntax.left_out:
                _add(parser, name, hint, field.default, about[name])
        else:
            group = parser.add_argument_group(f"{name}: {about[name].rstrip('.')}")
            default = field.default_factory() if callable(field.default_factory) else field.default
            _add_group(syntax, group, name, hint, default)
    return parser


def _called(syntax: Syntax[Any]) -> str:
    """What stands for the positional in usage and messages: of a list, one of it."""
    name = str(syntax.positional).upper()
    return name.removesuffix("S") if syntax.takes_several else name


def _add_group(syntax: Syntax[Any], group: Any, name: str, cls: Any, default: Any) -> None:
    about = _descriptions(cls)
    for part, hint in typing.get_type_hints(cls).items():
        if f"{name}.{part}" not in syntax.left_out:
            _add(group, f"{name}.{part}", hint, getattr(default, part), about[part])


def _add(group: Any, name: str, hint: Any, default: Any, about: str) -> None:
    about = about.replace("%", "%%")
    if hint is bool:
        group.add_argument(f"--{name}", action="store_true", help=about)
        return
    if default is not None and default != () and default != "":
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        about += f" (default: {shown})"
    group.add_argument(f"--{name}", type=hint, default=default, metavar=_metavar(name, hint), help=about)


def _metavar(name: str, hint: Any) -> str:
    """What stands for a value: `{a,b}` for words, `N` a whole number, `X` a number, else the field's name."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "{" + ",".join(parts) + "}"
    if origin is tuple:
        one = _metavar(name, parts[0])
        return f"{one} [{one} ...]" if parts[-1] is ... else " ".join([one] * len(parts))
    if parts:
        return "|".join(_metavar(name, p).strip("{}") for p in parts if p is not type(None))
    words = {int: "N", float: "X", bool: "true|false"}
    return words.get(hint) or name.rpartition(".")[2].upper()


def _descriptions(cls: Any) -> dict[str, str]:
    """The first line of a dataclass's docstring under "", and what it says of each field."""
    doc = docstring_parser.parse(cls.__doc__ or "")
    about = {p.arg_name: " ".join((p.description or "").split()) for p in doc.params}
    every = {field.name: about.get(field.name, "") for field in dataclasses.fields(cls)}
    return {"": doc.short_description or "", **every}


# -- after the parser ----------------------------------------------------------------------------------------


def _plain_error(syntax: Syntax[Any], arguments: list[str], text: str) -> RecipeError:
    """The parser's own message in our words."""
    key = re.search(r'Parser key "([^"]+)"', text) or re.match(r"argument --([\w.]+):", text)
    name = key[1] if key else ""
    if name in syntax.flags:
        wanted = fields.describe(syntax.flags[name])
        if not text.startswith("Parser key"):
            wrong = "takes no value" if syntax.flags[name] is bool else f"needs {wanted}"
            return RecipeError(wrong, where=f"--{name}")
        return RecipeError(f"{_value_of(name, arguments)} is not {wanted}", where=f"--{name}")
    if "arguments are required" in text and syntax.positional:
        hint = f"{syntax.prog} {_called(syntax)}, before any flag"
        return RecipeError(f"no {_called(syntax).lower()} is given", hint=hint)
    extra = re.search(r"unrecognized arguments: (.*)", text, re.DOTALL)
    if extra:
        hint = "A value follows its flag, in quotes if it has spaces"
        if "--" in arguments:
            hint = "Flags stand before --"
        elif syntax.positional and extra[1].startswith("-"):
            hint = f"What begins with a dash stands behind --: {syntax.prog} -- {extra[1]}"
        return RecipeError(f"{extra[1]!r} belongs to no flag", hint=hint)
    return RecipeError(" ".join(text.split()).rstrip("."))


def _value_of(name: str, arguments: list[str]) -> str:
    """What was typed for a flag, the last time."""
    flag = f"--{name}"
    at = max(i for i, a in enumerate(arguments) if a.partition("=")[0] == flag)
    _, equals, value = arguments[at].partition("=")
    return value if equals else arguments[at + 1]
