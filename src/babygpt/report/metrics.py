"""A run's `metrics.jsonl` to curves and health, read on from where the last look ended.

Cost: 10 µs for each line that is new, and for the health up to 60 ms a look after a million steps, of which 24 bytes
each are kept.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from babygpt.report.curves import Curves, Gatherer
from babygpt.run_folder import GrowingLines

if TYPE_CHECKING:
    from babygpt.health import Finding

__all__ = ["Metrics"]

_AT_ONCE = 10_000  # lines that are held in memory


class Metrics:
    """What a run's metrics say, as they grow.

    Args:
        path: of the file.
        points: of each curve, at most.
        total_steps: of the whole run; None if it is not known.
    """

    def __init__(self, path: Path, points: int, total_steps: int | None) -> None:
        self._lines = GrowingLines(path)
        self._points, self._total = points, total_steps
        self._begin()

    def _begin(self) -> None:
        from babygpt import health  # with it comes numpy, for which a mistyped command line need not wait

        self._gatherer = Gatherer(self._points)
        self._seen = health.curves_of((), self._total)

    def read(self) -> None:
        """Takes what is new.

        Raises:
            OSError: the file cannot be read. ValueError: it is a pipe or a device, which may never end.
        """
        from babygpt import health

        anew, lines = self._lines.changes()
        if anew:
            self._begin()
        while batch := list(itertools.islice(lines, _AT_ONCE)):
            for line in batch:
                self._gatherer.add(line)
            since = health.curves_of(batch, self._total)
            self._seen = health.joined(self._seen, since)

    @property
    def curves(self) -> Curves:
        """What was measured so far."""
        return self._gatherer.curves()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is not well, the worst first."""
        from babygpt import health

        return health.findings(self._seen)
