"""The command: arguments -> verb -> exit code. The only place that prints results or exits.

0    done
1    a failure of ours, with its traceback; or what was looked for was found: a fault, by doctor
2    bad input or usage, one plain message on standard error
128+n  stopped by signal n, after saving: 143 for SIGTERM, 130 for Ctrl-C; 141 where nobody read what was printed
       to the end, which is how a signal ends git and grep: a run is finished and saved by then
"""

from __future__ import annotations

import difflib
import errno
import importlib
import io
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from babygpt import __version__
from babygpt.arguments import parse
from babygpt.errors import BabyGPTError, Ended, InputError, RecipeError, exit_code
from babygpt.launch import is_first_here, is_first_process, leave_reason
from babygpt.machine_settings import DoctorSettings, PlanSettings
from babygpt.settings import TrainSettings
from babygpt.standard_streams import outlive_readers
from babygpt.strict_json import dumped
from babygpt.untrusted import shown
from babygpt.verbs import OTHER_VERBS, VERBS, Verb

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["main"]

_UNREAD = 128 + 13  # SIGPIPE, which Python turns into an exception, and Windows does not have
_ANOTHER_PATH = "Give another path, or grant this user the right to it"
_OF_A_PATH = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)  # met wherever one is looked at


class Result(Protocol):
    """What a verb returns."""

    def to_dict(self) -> dict[str, Any]:
        """For programs."""

    def lines(self) -> Sequence[str | Text]:
        """For people; a `Text` may have colours, and holds nothing that moves a terminal's cursor."""


@runtime_checkable
class Judgement(Result, Protocol):
    """A result that may be bad news; every process tells its own, since each may be on another computer."""

    @property
    def exit_code(self) -> int:
        """0, or 1 for bad news."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
        argv: the arguments, without the command's own name; by default the process's.

    Returns:
        The exit code; nothing is raised.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    outlive_readers()
    for stream in (sys.stdout, sys.stderr):
        # A model may write what the terminal cannot show.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    prog = "babygpt"
    try:
        with _said_once():
            name, rest = _choose(arguments)
        if name is None:
            return 0
        prog = VERBS[name].syntax.prog
        return _run(VERBS[name], rest)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except Ended as error:
        # Of several processes of a run, one gives the reason; torchrun may ask another one for it.
        leave_reason(shown(f"{prog}: {error.reason}"))
        return _say(prog, str(error), error.exit_code) if str(error) else error.exit_code
    except BabyGPTError as error:
        return _say(prog, str(error), error.exit_code)
    except KeyboardInterrupt as error:
        return _say(prog, "interrupted", exit_code(error))
    except BrokenPipeError:
        _print_no_more()
        return _UNREAD
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_A_PATH and error.filename:
            wrong = InputError(
                str(error.strerror).lower(), where=os.fsdecode(error.filename), hint=_ANOTHER_PATH
            )
            return _say(prog, str(wrong), wrong.exit_code)
        print(shown(traceback.format_exc()), end="", file=sys.stderr)
        return _say(prog, f"failed: {type(error).__name__}: {error}", 1)


@contextmanager
def _said_once() -> Iterator[None]:
    """What is wrong with a command line that several processes were given is said by one on each computer."""
    try:
        yield
    except InputError as error:
        if is_first_here():
            raise
        raise Ended(error.exit_code, reason=str(error)) from error


def _say(prog: str, message: str, code: int) -> int:
    said = shown(f"{prog}: {message}")
    leave_reason(said)
    print(said, file=sys.stderr)
    return code


# -- which verb ----------------------------------------------------------------------------------------------


def _choose(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The verb and its arguments; no verb if the command itself was asked something, and has answered."""
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in VERBS:
            return name, arguments[words:]
    first = arguments[0] if arguments else ""
    inside = [name for name in VERBS if name.startswith(f"{first} ")]
    if first in ("-h", "--help") or (inside and arguments[1:2] in (["-h"], ["--help"])):
        _put(_help())
        return None, []
    if first == "--version":
        _put(f"babygpt {__version__}")
        return None, []
    every = ", ".join(VERBS)
    if not first:
        raise RecipeError("no verb is given", hint=f"There are {every}; babygpt --help says more")
    if first.startswith("-"):
        raise RecipeError(f"{first} stands before the verb", hint=f"Begin with one of {every}")
    close = difflib.get_close_matches(first, [*VERBS, *OTHER_VERBS], n=1)
    meant = inside or [OTHER_VERBS.get(c, c) for c in close]
    hint = f"Did you mean babygpt {meant[0]}" if meant else f"There are {every}"
    raise RecipeError(f"there is no verb {' '.join(arguments[:2]) if inside else first}", hint=hint)


def _help() -> str:
    width = max(map(len, VERBS))
    return "\n".join(
        [
            "usage: babygpt VERB [arguments]",
            "",
            "Train and fine-tune any Hugging Face causal language model: one recipe, any machine.",
            "",
            "verbs:",
            *(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()),
            "",
            "babygpt VERB --help lists a verb's arguments; babygpt --version says which this is.",
            "With nothing else said, babygpt train trains a small model for three minutes, offline.",
        ]
    )


# -- running it ----------------------------------------------------------------------------------------------


def _run(verb: Verb, arguments: list[str]) -> int:
    begun = time.monotonic()  # before the imports, which take seconds
    with _said_once():
        _require_folder()
        parsed = parse(verb.syntax, arguments)
    settings: Any = parsed.settings
    if isinstance(settings, TrainSettings | DoctorSettings):
        settings = replace(settings, given=parsed.given)
    if isinstance(settings, TrainSettings | PlanSettings):
        settings = replace(settings, begun=begun)
    module, _, function = verb.home.partition(":")
    result: Result = getattr(importlib.import_module(module), function)(settings)
    if isinstance(result, Judgement) or is_first_process():
        _print(result, as_json=settings.json)
    return result.exit_code if isinstance(result, Judgement) else 0


def _require_folder() -> None:
    """Refuses to begin where no relative path means anything.

    Raises:
        InputError: the current folder was deleted.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        raise InputError("the current folder is gone", hint="Change to one that is there") from None


def _print(result: Result, *, as_json: bool) -> None:
    if as_json:
        _put(dumped(result.to_dict()))
    elif sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        for line in result.lines():
            console.print(_safe(line), markup=False, emoji=False, soft_wrap=True)
    else:
        _put("\n".join(str(_safe(line)) for line in result.lines()))


def _put(text: str) -> None:
    """Prints what was asked for.

    Raises:
        BabyGPTError: it cannot be written, on a full disk for one.
        BrokenPipeError: nobody reads it.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        _print_no_more()
        raise BabyGPTError(f"standard output cannot be written to ({error.strerror})") from error


def _print_no_more() -> None:
    """What could not be written is still there, and the interpreter would complain once more when it flushes."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _safe(line: str | Text) -> str | Text:
    return shown(line) if isinstance(line, str) else line
