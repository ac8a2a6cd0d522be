"""What the doctor finds, and how it is told: one sentence what, and its mend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

from babygpt.untrusted import redacted, shown

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["Diagnosis", "Finding", "Status", "fault", "ok", "warning"]

Status = Literal["ok", "warning", "fault"]

_LONGEST = 600  # characters of a sentence
_WIDTH, _STATUS_WIDTH, _ABOUT_WIDTH = 80, 9, 14
_STYLES = {"ok": "green", "warning": "yellow", "fault": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        about: what was looked at, a word or two.
        status: `ok`; `warning`, a run works but slower or less safely; `fault`, a run fails or goes wrong.
        what: what is so, a sentence without its full stop.
        mend: what to do about it, likewise; empty where all is well.
    """

    about: str
    status: Status
    what: str
    mend: str = ""


def ok(about: str, what: object) -> Finding:
    """All is well."""
    return Finding(about, "ok", _line(what))


def warning(about: str, what: object, mend: str) -> Finding:
    """A run works, but slower or less safely."""
    return Finding(about, "warning", _line(what), _line(mend))


def fault(about: str, what: object, mend: str) -> Finding:
    """A run fails or goes wrong."""
    return Finding(about, "fault", _line(what), _line(mend))


def _line(text: object) -> str:
    """One line without control characters and without what addresses hold back."""
    return " ".join(shown(redacted(str(text)), _LONGEST).split())


@dataclass(frozen=True)
class Diagnosis:
    """All findings, in the order of the checks."""

    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """Of the command: 1 if there is a fault."""
        return int(any(each.status == "fault" for each in self.findings))

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        counts = Counter(each.status for each in self.findings)
        findings = [asdict(each) for each in self.findings]
        return {"faults": counts["fault"], "warnings": counts["warning"], "findings": findings}

    def lines(self) -> list[str | Text]:
        """For people: a table in 80 columns, then the count."""
        from rich.text import Text

        table: list[str | Text] = []
        for each in self.findings:
            first, *rest = _rows(each)
            head = Text(f"{each.status:<{_STATUS_WIDTH}}", style=_STYLES[each.status])
            table.append(head.append(f"{each.about:<{_ABOUT_WIDTH}}{first}", style="default"))
            table += [" " * (_STATUS_WIDTH + _ABOUT_WIDTH) + row for row in rest]
        counts = self.to_dict()
        parts = [
            f"{n} {word}{'s' * (n != 1)}"
            for word, n in (("fault", counts["faults"]), ("warning", counts["warnings"]))
        ]
        return [*table, "", f"{len(self.findings)} checks: {', '.join(parts)}"]


def _rows(finding: Finding) -> Iterator[str]:
    width = _WIDTH - _STATUS_WIDTH - _ABOUT_WIDTH
    yield from wrap(finding.what, width, break_long_words=False, break_on_hyphens=False) or [""]
    if finding.mend:
        yield from wrap(
            f"-> {finding.mend}",
            width,
            subsequent_indent="   ",
            break_long_words=False,
            break_on_hyphens=False,
        )
