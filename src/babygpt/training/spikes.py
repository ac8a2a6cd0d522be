"""Loss spikes: seen by a robust score, and undone by going back and leaving out the data that made one.

A step's loss is compared with the 64 before it: z = (loss - median) / (1.4826 * median distance from it), the
standard deviation of a normal distribution with that median distance. The window goes into checkpoints, so that a
resumed run sees what an uninterrupted one would.

Going back takes the newest checkpoint before the spike and goes on with the data that follow the step at which it
was seen, as PaLM's authors did by hand (Chowdhery et al., 2022, arXiv:2204.02311, section 5.1: from about 100 steps
before, leaving out 200 to 500 batches). What was decided stands in the run folder's `rollbacks.json` before anything
is deleted.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from babygpt.errors import SpikeSeen
from babygpt.files import remove_folder, write_json_atomic
from babygpt.run_folder import ROLLBACKS, Found, Rollback, discover, read_rollbacks

__all__ = ["MOST_ROLLBACKS", "LossWatch", "Rollback", "is_undone", "read_rollbacks", "roll_back", "undo"]

_WINDOW, _LEAST = 64, 32
_THRESHOLD = 8.0
_TO_SIGMA = 1.4826
# Losses may lie closer together than anything worth telling: below this share of the median nothing is a spike.
_FLOOR = 0.005
# A run that has gone back so often needs other settings; from then on its spikes are only marked.
MOST_ROLLBACKS = 5


@dataclass
class LossWatch:
    """Tells a loss that does not belong to those before it.

    Args:
        losses: of the last steps, the newest last; a spike is kept as the threshold that it passed, so that a new
            level is got used to.
    """

    losses: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    @classmethod
    def of(cls, losses: Iterable[float]) -> LossWatch:
        """A watch that has seen these."""
        return cls(deque(losses, maxlen=_WINDOW))

    def see(self, loss: float) -> bool:
        """Whether a step's loss (nats a target token) is a spike; it joins the window."""
        if not math.isfinite(loss):
            return False  # such a step is passed over, and is no matter of this watch
        if len(self.losses) < _LEAST:
            self.losses.append(loss)
            return False
        middle = statistics.median(self.losses)
        spread = _TO_SIGMA * statistics.median(abs(x - middle) for x in self.losses)
        most = middle + _THRESHOLD * max(spread, _FLOOR * abs(middle))
        self.losses.append(min(loss, most))
        return loss > most


def roll_back(out: Path, spike: SpikeSeen, say: Callable[[str], None]) -> Rollback:
    """Decides where to go back to, writes it down, and deletes the checkpoints that lie after it.

    Args:
        out: the run folder.
        spike: what was seen.
        say: tells the user.
    """
    folder = out / "checkpoints"
    to = max((f.step for f in discover(folder) if f.step < spike.step), default=0)
    decided = Rollback(spike.step, spike.seen, to)
    rollbacks = [*read_rollbacks(out), decided]
    write_json_atomic(out / ROLLBACKS, [asdict(r) for r in rollbacks])
    undo(folder, rollbacks)
    say(
        f"spike: {spike}; going back to step {to:,}, and on with the data after the {spike.seen - to:,} steps since"
    )
    return decided


def undo(folder: Path, rollbacks: Sequence[Rollback]) -> None:
    """Deletes the checkpoints that a rollback has undone, if a kill has left some; to be called before going on."""
    for checkpoint in discover(folder):
        if is_undone(checkpoint, rollbacks):
            remove_folder(checkpoint.path)


def is_undone(checkpoint: Found, rollbacks: Sequence[Rollback]) -> bool:
    """Whether a rollback has gone back to before a checkpoint."""
    known = checkpoint.facts.get("rollbacks", 0)
    return any(checkpoint.step > r.to for r in rollbacks[known if type(known) is int else 0 :])
