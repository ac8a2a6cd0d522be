"""Carries a lab out: every run once, in a folder that can be gone on with, then the verdicts and the page.

    OUT/runs/ARM-NUMBER.json   a run: its setting, outcomes, curves and tables, written when it is done
    OUT/results.json           all of them, with the verdicts
    OUT/index.html             the page

A run whose file is there is not made again: a lab that was stopped, or asked for more seeds, goes on. What is in the
folder must have been made by the same settings.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from babygpt.computer import cpu_name, installed_versions, usable_cores
from babygpt.errors import InputError, NotFiniteError, RecipeError
from babygpt.files import make_folder, write_json_atomic, write_text_atomic
from babygpt.labs.framework import Lab, Measured, Scale, Setting
from babygpt.labs.page import lab_page
from babygpt.labs.verdicts import judge
from babygpt.untrusted import read_json

__all__ = ["PAGE", "RESULTS", "run_lab"]

RESULTS, PAGE = "results.json", "index.html"
Say = Callable[[str], None]


def run_lab(
    lab: Lab, scale: Scale, out: Path, seeds: int | None = None, say: Say = lambda message: None
) -> dict[str, Any]:
    """Makes the runs that are missing and writes results and page.

    Args:
        lab: what is done.
        scale: how large.
        out: the folder; made if missing.
        seeds: pairs of runs; the lab's own number if None.
        say: told each run as it is done.

    Returns:
        What `results.json` holds.

    Raises:
        RecipeError: the folder holds runs of other settings, or there are too few seeds.
        InputError: it cannot be written to.
    """
    pairs = lab.seeds if seeds is None else seeds
    if pairs < 2:
        raise RecipeError(f"{pairs} is not at least 2", where="seeds", hint="An interval takes two pairs")
    plan = lab.plan(scale, pairs)
    each = len(plan) // pairs
    done = {n: _read(lab, _file(out, s, n // each), s, n // each) for n, s in enumerate(plan)}
    make_folder(out / "runs")
    if lab.notice():
        say(lab.notice())
    begun = time.monotonic()
    runs = []
    with _quiet():
        for n, setting in enumerate(plan):
            run = done[n]
            if run is None:
                run = _made(lab, setting, n // each)
                write_json_atomic(_file(out, setting, n // each), run)
                say(_progress(run, n + 1, len(plan), time.monotonic() - begun))
            runs.append(run)
    return _finish(lab, scale, pairs, runs, out)


def _made(lab: Lab, setting: Setting, number: int) -> dict[str, Any]:
    """One run; one that breaks down is a result like any other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(setting.threads)
    begun, cpu = time.perf_counter(), time.process_time()
    try:
        found = lab.run(setting)
    except NotFiniteError:
        found = Measured({o.name: math.nan for o in lab.outcomes})
    finally:
        torch.set_num_threads(threads)
    missing = {o.name for o in lab.outcomes} - found.outcomes.keys()
    assert not missing, f"the run of {setting.arm} gave no {', '.join(sorted(missing))}"
    return {
        "arm": setting.arm,
        "number": number,
        "setting": _plain(setting),
        "seconds": round(time.perf_counter() - begun, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "outcomes": {name: float(value) for name, value in found.outcomes.items()},
        "curves": {name: [list(point) for point in line] for name, line in found.curves.items()},
        "tables": dict(found.tables),
    }


def _finish(lab: Lab, scale: Scale, pairs: int, runs: list[dict[str, Any]], out: Path) -> dict[str, Any]:
    verdicts = judge(lab, runs)
    results = {
        "lab": lab.name,
        "question": lab.question,
        "protocol": lab.protocol,
        "notice": lab.notice(),
        "scale": scale.name,
        "seeds": pairs,
        "versions": installed_versions(),
        "machine": f"{cpu_name()}, {usable_cores()} cores",
        "cpu_seconds": round(sum(run["cpu_seconds"] for run in runs), 1),
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "runs": runs,
    }
    write_json_atomic(out / RESULTS, results)
    write_text_atomic(out / PAGE, lab_page(lab, results, verdicts))
    return results


# -- the folder ------------------------------------------------------------------------------------------------------


def _file(out: Path, setting: Setting, number: int) -> Path:
    return out / "runs" / f"{setting.arm}-{number}.json"


def _plain(setting: Setting) -> dict[str, Any]:
    """As it is read again: JSON has no tuples."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(setting).items()}


def _read(lab: Lab, path: Path, setting: Setting, number: int) -> dict[str, Any] | None:
    """A run that was made before; None where there is none."""
    if not path.exists():
        return None
    try:
        run: dict[str, Any] = read_json(path)
        made_by, outcomes = dict(run["setting"]), dict(run["outcomes"])
        if (run["arm"], run["number"]) != (setting.arm, number):
            raise ValueError("it is another one's")
        _check_form(run)
        whole = all(v is None or isinstance(v, float | int) for v in outcomes.values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise InputError(f"is no run of a lab ({error})", where=str(path), hint="Take it away") from error
    if not whole:
        raise InputError("has outcomes that are no numbers", where=str(path), hint="Take it away")
    missing = [o.name for o in lab.outcomes if o.name not in outcomes]
    if missing:
        what = f"has no {missing[0]}: another version of the lab made it"
        raise InputError(what, where=str(path), hint="Take it away, or give another --out")
    wanted = _plain(setting)
    other = [name for name in wanted if made_by.get(name) != wanted[name]]
    if other:
        name = other[0]
        raise RecipeError(
            f"the folder holds a run with {name} {made_by.get(name)!r}, where {wanted[name]!r} is asked for",
            where=str(path),
            hint="Give another --out",
        )
    return run


def _check_form(run: Mapping[str, Any]) -> None:
    """Raises ValueError or TypeError where a run has not the form that its page needs."""
    math.isfinite(run["cpu_seconds"])
    for points in dict(run["curves"]).values():
        for x, y in points:
            math.isfinite(x)
            if y is not None:
                math.isfinite(y)
    for rows in dict(run["tables"]).values():
        if not rows or not all(isinstance(cell, str) for row in rows for cell in row):
            raise ValueError("a table in it is none")


def _progress(run: Mapping[str, Any], done: int, of: int, seconds: float) -> str:
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in run["outcomes"].items())
    return f"run {done:>3} of {of}  {run['arm']:<16} pair {run['number']}  {numbers}  ({seconds:.0f} s)"


@contextmanager
def _quiet() -> Iterator[None]:
    """Arms that break rules on purpose are warned of; here that is known."""
    loggers: Sequence[logging.Logger] = [logging.getLogger("lightning.pytorch.babygpt")]
    before = [logger.level for logger in loggers]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
