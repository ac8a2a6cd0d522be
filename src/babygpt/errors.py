"""The exceptions of the package.

    BabyGPTError
    ├── InputError (also a ValueError)   the user can mend it: the command exits with 2
    │   ├── RecipeError                  a field of the recipe, or a command line
    │   ├── DataError                    a file, a record, a field, a split
    │   ├── TokenizerError               a tokenizer that is missing or does not fit
    │   ├── ModelError                   a model that is missing, unknown or unfit
    │   ├── MachineError                 something this computer does not have
    │   ├── CheckpointError              a checkpoint or run folder that is damaged or foreign
    │   ├── SpaceError                   a disk that is full or about to be
    │   └── CheckError                   a self-check that failed on the very model and batch
    ├── NotFiniteError                   gradients that are no numbers, many steps in a row
    ├── SpikeSeen                        a loss leapt in a run that goes back when one does
    ├── Ended                            another process of the run has ended, and this one with it
    └── Stopped                          a signal asked the run to stop, and it has saved

Every message says what was wrong, where, and what to do. Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

from babygpt.untrusted import redacted, shown

__all__ = [
    "BabyGPTError",
    "CheckError",
    "CheckpointError",
    "DataError",
    "Ended",
    "InputError",
    "MachineError",
    "ModelError",
    "NotFiniteError",
    "RecipeError",
    "SpaceError",
    "SpikeSeen",
    "Stopped",
    "TokenizerError",
    "exit_code",
]


_LONGEST = 4000  # characters of each part of a message


class BabyGPTError(Exception):
    """Everything this package raises on purpose; `exit_code` is the command's."""

    exit_code = 1


class InputError(BabyGPTError, ValueError):
    """Something the user gave is wrong; the message alone must be enough to mend it.

    Args:
        what: what is wrong, a sentence without its full stop.
        where: the file, field or line it was found in.
        hint: what to do about it, a sentence without its full stop, or a question, `Did you mean ...`.

    What and where often quote what others wrote: the message is one line without control characters, and without
    the credentials and queries of addresses.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = _line(what), where and _line(where), hint and _line(hint)
        message = f"{self.where}: {self.what}" if where else self.what
        end = "?" if (self.hint or "").startswith("Did you mean") and "?" not in str(self.hint) else "."
        super().__init__(f"{message}. {self.hint}{end}" if hint else f"{message}.")


def _line(text: str) -> str:
    return " ".join(shown(redacted(text), _LONGEST).splitlines())


class RecipeError(InputError):
    """A field of the recipe, or the command line, is wrong."""


class DataError(InputError):
    """A file, a record, a field or a split of the data is wrong."""


class TokenizerError(InputError):
    """A tokenizer is missing or does not belong to the model or data."""


class ModelError(InputError):
    """A model is missing, unknown or unfit for what is asked."""


class MachineError(InputError):
    """The computer has not what the plan asks for."""


class CheckpointError(InputError):
    """A checkpoint or run folder is damaged, unfinished or belongs to something else."""


class SpaceError(InputError):
    """A disk is full or has too little room for what is about to be written."""


class CheckError(InputError):
    """A self-check failed on the very model and batch about to be trained."""


class NotFiniteError(BabyGPTError):
    """Many steps in a row had a gradient that is no number: the run diverged, or data or precision are unfit."""


class SpikeSeen(BabyGPTError):
    """A run that goes back on spikes has seen one.

    Args:
        step: of the spike, counted from 1.
        seen: steps completed when it was seen.
    """

    def __init__(self, step: int, seen: int) -> None:
        self.step, self.seen = step, seen
        super().__init__(f"the loss of step {step:,} is a spike, seen after step {seen:,}")


class Stopped(BabyGPTError):
    """A signal asked the run to stop; it stopped at a step's end, after saving, unless it was asked again.

    Args:
        signum: the signal's number; the command exits with 128 + signum.
        at_once: it was asked for again, so that nothing was waited for and nothing saved.
    """

    def __init__(self, signum: int, *, at_once: bool = False) -> None:
        self.signum, self.at_once = signum, at_once
        self.exit_code = 128 + signum
        super().__init__(
            f"stopped by signal {signum}{' at once; nothing was saved since' if at_once else ''}"
        )


class Ended(BabyGPTError):
    """Another process of the run has ended, and this one with it.

    Args:
        code: the exit code, of both.
        message: the reason; empty where the other one has given it.
        reason: the same, given or not.
    """

    def __init__(self, code: int, message: str = "", reason: str = "") -> None:
        self.exit_code, self.reason = code, message or reason
        super().__init__(message)


def exit_code(error: BaseException) -> int:
    """The command's exit code for an exception that ends it."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    return error.exit_code if isinstance(error, BabyGPTError) else 1
