"""What a save costs training: steps while a checkpoint is written beside steps while none is, in one run.

    python benchmarks/saving.py                     # the default model, a save every 20 steps
    python benchmarks/saving.py --model preset:gpt2-11m --every 10

A run saves every N steps. The N / 2 steps that follow a save, its copy in memory included, are block A; the N / 2 steps
after them, with the disk at rest, are block B; so that A B A B ... lie in one process and minute. The difference of the
medians is what one save adds, wall clock and processor time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

from torch.optim.optimizer import register_optimizer_step_post_hook

from babygpt.cli import main as babygpt


def measure(model: str, every: int, rounds: int, folder: Path) -> dict[str, object]:
    """Runs once and compares the blocks.

    Args:
        model: as `model.name`.
        every: steps between saves, even.
        rounds: pairs of blocks; one more is left out to warm up.
        folder: where the run goes.
    """
    clocks: list[tuple[float, float]] = []
    register_optimizer_step_post_hook(lambda *_: clocks.append((time.perf_counter(), time.process_time())))
    steps = every * (rounds + 2)
    fields = {
        "model.name": model,
        "budget.steps": steps,
        "validate.every_steps": steps,
        "checkpoint.every_steps": every,
        "out": folder / "run",
    }
    words = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = babygpt(["train", *words, "--json"])
    if code:
        raise SystemExit(code)
    half, added = every // 2, []
    for kind in (0, 1):
        marks = [clock[kind] for clock in clocks]
        # The mark of step s lies before its save: block A begins with it.
        saves = range(every, every * (rounds + 1), every)
        with_save = [marks[s + half - 1] - marks[s - 1] for s in saves]
        without = [marks[s + every - 1] - marks[s + half - 1] for s in saves]
        added.append((statistics.median(with_save), statistics.median(without)))
    result = json.loads(out.getvalue())
    (a, b), (cpu_a, cpu_b) = added
    return {
        "model": model,
        "steps_in_a_block": half,
        "rounds": rounds,
        "seconds_with_a_save": round(a, 3),
        "seconds_without": round(b, 3),
        "added_seconds": round(a - b, 3),
        "added_cpu_seconds": round(cpu_a - cpu_b, 3),
        "stood_still_seconds_in_all": result["saving_seconds"],
        "saves": rounds + 2,
    }


def main() -> None:
    """Prints JSON, and what the saves of a three-minute run of nine would add."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="auto")
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    if args.every < 2 or args.every % 2 or args.rounds < 1:
        parser.error("--every is an even number of steps, --rounds at least 1")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args.model, args.every, args.rounds, Path(folder))
    share = 9 * float(str(found["added_seconds"])) / 180
    print(json.dumps(found, indent=2))
    print(f"nine saves in three minutes: {share:.2%} of the training time")


if __name__ == "__main__":
    main()
