"""What a page and a terminal say of a run, as rows of (name, value): plain text, escaped by whoever shows it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from babygpt import fields
from babygpt.recipe import Recipe, to_dict
from babygpt.report.curves import Validation
from babygpt.report.run import RunView
from babygpt.tokenizer_names import loader_of
from babygpt.units import file_size_words, flops_words, size_words
from babygpt.untrusted import redacted

__all__ = [
    "SUMMARY",
    "again",
    "data_rows",
    "differing_fields",
    "duration",
    "environment_rows",
    "event_rows",
    "health_rows",
    "labels",
    "load_code",
    "now_rows",
    "number",
    "plan_rows",
    "summary",
    "validation_rows",
]

Rows = list[tuple[str, str]]

_MOST_SOURCES = 30
_MOST_VALIDATIONS = 100
_NONE = "-"


def labels(runs: Sequence[RunView]) -> list[str]:
    """A name for each run: its folder's own, or its path where two are alike."""
    names = [run.name for run in runs]
    return [name if names.count(name) == 1 else str(run.path) for name, run in zip(names, runs, strict=True)]


# -- what was reached ----------------------------------------------------------------------------------------

SUMMARY = (
    "state",
    "steps",
    "tokens",
    "time",
    "train loss",
    "val loss",
    "perplexity",
    "bits/byte",
    "best val loss",
)


def summary(run: RunView) -> tuple[str, ...]:
    """A run in short, in the order of `SUMMARY`."""
    curves, planned = run.curves, run.recipe.budget.steps
    last, best = curves.last, curves.best
    of = "" if planned is None or curves.steps == planned else f" of {planned:,}"
    return (
        _state(run),
        f"{curves.steps:,}{of}",
        f"{curves.tokens:,}",
        duration(curves.seconds),
        number(curves.train_loss),
        number(last.loss if last else None),
        number(last.perplexity if last else None, 2),
        number(last.bits_per_byte if last else None, 3),
        _NONE if best is None else f"{number(best.loss)} at {best.step:,}",
    )


def _state(run: RunView) -> str:
    """How far it has come; of a run under way also the training time that is left, at its speed so far."""
    curves, planned = run.curves, run.recipe.budget.steps
    if run.state != "under way" or planned is None or not curves.seconds or not curves.steps:
        return run.state
    return f"{run.state}, {duration(curves.seconds / curves.steps * (planned - curves.steps))} left"


def now_rows(run: RunView) -> Rows:
    """What a terminal shows of a run under way beside its losses; nothing of one that is not."""
    curves = run.curves
    if run.state != "under way":
        return []
    rows: Rows = []
    if curves.pace is not None and (speed := curves.train["speed"][-1]) is not None:
        share = _share(run, curves.pace)
        rows.append(("speed", f"{speed:,.0f} tokens/s" + (f", {share}" if share else "")))
    if curves.memory is not None:
        total = _number_in(_part(run, "facts"), "memory_bytes") if _is_on_cpu(run) else None
        of = "" if total is None else f" of {_memory(total)}"
        rows.append((_memory_name(run), f"{_memory(curves.memory)}{of}"))
    return rows


def _share(run: RunView, pace: float | None) -> str | None:
    """The share of what the devices multiply at most, at a pace of steps a second; None where that was not measured."""
    measured = _part(run, "measured")
    peak, flops = _number_in(measured, "matrix_peak"), _number_in(measured, "step_flops")
    if not peak or flops is None or pace is None:
        return None
    return f"{flops * pace / peak:.0%} of {flops_words(peak)} (measured)"


def _is_on_cpu(run: RunView) -> bool:
    return _part(run, "plan").get("device") == "cpu"


def _memory_name(run: RunView) -> str:
    return "memory, at its peak" + (" (of the whole process)" if _is_on_cpu(run) else "")


def validation_rows(run: RunView) -> list[tuple[str, ...]]:
    """Step, tokens, time, loss, perplexity and bits per byte of validations: of very many, spread over the run."""
    every = run.curves.validations
    shown = every
    if len(every) > _MOST_VALIDATIONS:
        last = len(every) - 1
        at = sorted({round(i * last / (_MOST_VALIDATIONS - 1)) for i in range(_MOST_VALIDATIONS)})
        shown = tuple(every[i] for i in at)
    return [_validation(v) for v in shown]


def _validation(v: Validation) -> tuple[str, ...]:
    return (
        f"{v.step:,}",
        f"{v.tokens:,}",
        duration(v.seconds),
        number(v.loss),
        number(v.perplexity, 2),
        number(v.bits_per_byte, 3),
    )


def health_rows(run: RunView) -> Rows:
    """What is not well, and what to do."""
    return [(found.kind.replace("_", " "), f"{found.what}. {found.mend}.") for found in run.findings]


def event_rows(run: RunView) -> Rows:
    """What did not go by itself."""
    curves = run.curves
    rows: Rows = []
    if curves.resumed:
        rows.append(("gone on with", f"after step {_steps(curves.resumed)}"))
    if curves.spikes:
        rows.append(("spikes of the loss", f"at step {_steps(curves.spikes)}"))
    for back in run.rollbacks:
        rows.append(
            (
                "rollback",
                f"the spike at step {back.spike:,} was seen after step {back.seen:,};"
                f" back to step {back.to:,}, without the data since",
            )
        )
    if curves.skipped:
        rows.append(("passed over", f"{curves.skipped:,} steps whose gradient was no number"))
    rows += [("could not be read", note) for note in run.notes]
    return rows


def _steps(steps: Sequence[int]) -> str:
    return ", ".join(f"{step:,}" for step in steps)


# -- recipe and plan -----------------------------------------------------------------------------------------


def differing_fields(recipes: Sequence[Recipe]) -> list[tuple[str, ...]]:
    """Each field of the recipes that is not the same in all: its name, and its value in each."""
    flat = [fields.flatten(to_dict(recipe)) for recipe in recipes]
    return [
        (name, *(_value(f[name]) for f in flat))
        for name in flat[0]
        if any(f[name] != flat[0][name] for f in flat)
    ]


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(redacted(str(v)) for v in value) or "none"
    return "none" if value is None else str(value)


def plan_rows(run: RunView) -> list[tuple[str, str, str]]:
    """What was planned and what happened, as (what, planned, happened)."""
    curves, planned = run.curves, run.recipe.budget.steps
    predicted, measured = _part(run, "predicted"), _part(run, "measured")
    step = _number_in(predicted, "step_seconds")
    rows = [("steps", _NONE if planned is None else f"{planned:,}", f"{curves.steps:,}")]
    per_step = curves.seconds / curves.steps if curves.seconds and curves.steps else None
    rows.append(("time of a step", _seconds(step), _against(_seconds(per_step), per_step, step)))
    whole = step * planned if step is not None and planned is not None else None
    finished = curves.seconds if planned == curves.steps else None
    rows.append(("training time", duration(whole), _against(duration(curves.seconds), finished, whole)))
    if share := _share(run, per_step and 1 / per_step):
        rows.append(("share of the peak", _NONE, share))
    memory, peak = _number_in(predicted, "memory_bytes"), _number_in(measured, "peak_memory_bytes")
    peak = curves.memory if peak is None else peak
    what = "memory, at its peak" if peak is None else _memory_name(run)
    rows.append((what, _memory(memory), _against(_memory(peak), peak, memory)))
    return rows


def _against(text: str, happened: float | None, planned: float | None) -> str:
    """The text, with how far it is from what was planned."""
    return f"{text} ({happened / planned - 1:+.0%})" if happened is not None and planned else text


def _number_in(part: dict[str, Any], name: str) -> float | None:
    value = part.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < 1e300 else None


def environment_rows(run: RunView) -> Rows:
    """Where it was trained, how, and why so."""
    facts, plan, versions = (_part(run, name) for name in ("facts", "plan", "versions"))
    rows: Rows = [("computer", str(facts["name"]))] if "name" in facts else []
    if "cores" in facts:
        rows.append(("cores", f"{facts['cores']}, {facts.get('threads', '?')} threads of arithmetic"))
    if facts.get("cuda_count"):
        rows.append(("GPUs", str(facts["cuda_count"])))
    if (memory := _number_in(facts, "memory_bytes")) is not None:
        rows.append(("memory", _memory(memory)))
    rows += [("plan: " + str(name).replace("_", " "), str(value)) for name, value in plan.items()]
    reasons = run.machine.get("reasons")
    rows += [("reason", str(reason)) for reason in (reasons if isinstance(reasons, list) else [])]
    rows += [(str(name), str(version)) for name, version in versions.items()]
    then = run.best.facts.get("versions") if run.best is not None else None
    if isinstance(then, dict) and then != versions:
        rows.append(("best checkpoint", "was written with " + ", ".join(f"{k} {v}" for k, v in then.items())))
    return rows


def _part(run: RunView, name: str) -> dict[str, Any]:
    part = run.machine.get(name)
    return part if isinstance(part, dict) else {}


# -- data ----------------------------------------------------------------------------------------------------


def data_rows(run: RunView) -> Rows:
    """What it was trained on."""
    recipe, data = run.recipe.data, run.data
    rows: Rows = []
    if data is None:
        rows.append(("sources", ", ".join(map(redacted, recipe.path))))
    else:
        rows += _source_rows(run)
        for name, side in (("training", data.train), ("validation", data.val)):
            if side is not None:
                rows.append((name, f"{side[0]:,} documents, {side[1]:,} tokens"))
        if data.train is not None and data.train[1]:
            rows.append(("passes over it", f"{run.curves.tokens / data.train[1]:.2f}"))
    rows.append(("tokenizer", recipe.tokenizer))
    held_out = "what data.val_path names" if recipe.val_path else f"{recipe.val_fraction:g} of the text"
    rows.append(("held out", held_out))
    rows.append(("windows", f"{recipe.block} tokens, packed as {recipe.packing}"))
    rows.append(("a step", f"{recipe.global_batch_size} windows"))
    rows.append(("equal documents", f"deduplicate {recipe.deduplicate}"))
    if data is not None:
        rows += [("note", note) for note in data.notes]
        if not data.is_here:
            rows.append(
                (
                    "note",
                    "the tokenised text is not in this computer's cache, and what it says not shown here",
                )
            )
        rows.append(("fingerprint", data.fingerprint))
    return rows


def _source_rows(run: RunView) -> Iterator[tuple[str, str]]:
    assert run.data is not None
    sources = run.data.sources
    weights = run.recipe.data.weights
    for number, source in enumerate(sources[:_MOST_SOURCES]):
        files = f"{source.files:,} files, {file_size_words(source.bytes)}" if source.files else source.kind
        share = f", weight {weights[number]:g}" if number < len(weights) else ""
        yield "source", f"{redacted(source.path)} ({files}{share})"
    if len(sources) > _MOST_SOURCES:
        yield "source", f"and {len(sources) - _MOST_SOURCES:,} more"


# -- commands ------------------------------------------------------------------------------------------------


def again(run: RunView) -> list[str]:
    """Command lines that train it once more, go on with it, and use it."""
    path = os.path.normpath(run.path)
    lines = [
        shlex.join(["babygpt", "train", "--config", str(Path(path) / "recipe.yaml"), "--out", "runs/again"])
    ]
    if run.state != "finished":
        lines.append(shlex.join(["babygpt", "train", "--resume", path]))
    return lines


def load_code(run: RunView) -> str | None:
    """Python that loads the best model of a run, or its newest; None where it has no checkpoint."""
    found = run.best or next(iter(run.checkpoints), None)
    if found is None:
        return None
    tokenizer = loader_of(found.path)
    return (
        f"from transformers import AutoModelForCausalLM, {tokenizer}\n\n"
        f"folder = {str(found.path)!a}\n"
        "model = AutoModelForCausalLM.from_pretrained(folder)\n"
        f"tokenizer = {tokenizer}.from_pretrained(folder)\n"
    )


# -- numbers in words ----------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 4) -> str:
    """With so many digits behind the point; a dash for none."""
    return _NONE if value is None else f"{value:,.{digits}f}"


def duration(seconds: float | None) -> str:
    """As `1 h 02 min`, `3 min 05 s` or `4.2 s`; a dash for none."""
    if seconds is None:
        return _NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def _seconds(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f} s"


def _memory(count: float | None) -> str:
    return _NONE if count is None else size_words(count)
