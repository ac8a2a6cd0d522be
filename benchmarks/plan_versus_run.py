"""How far `babygpt plan` is from the run it foretells: memory at its peak, time of a step, time of the whole.

    python benchmarks/plan_versus_run.py                          all recipes, several minutes each way
    python benchmarks/plan_versus_run.py --only "gpt2-11m" --out plan.json
    python benchmarks/plan_versus_run.py --memory                 memory alone, of runs of three steps
    python benchmarks/plan_versus_run.py --table plan.json         the table of files that are there

For each recipe of `plan_recipes.py` a process of its own runs `babygpt plan --json`, whose answer is written into the
result file before anything else happens; then another runs `babygpt train` on the same recipe. What the run has used
is read from its own folder:

* memory: `measured.peak_memory_bytes` of `machine.json`, the process's largest resident size, beside the plan's total.
  Both are of the whole process: what it holds before the model is there is a part of the prediction, `process`.
* step: mean seconds a step behind the first interval of ten steps, from `metrics.jsonl`, validations left out.
* whole: seconds of the fit, with its validations, samples and saves; the validation before the first step, which the
  run does not count, is left out of the prediction too.

Memory alone needs no quiet machine and no plan of its own: the run writes its prediction into `machine.json` before its
first step.

Data are prepared and tokenizers trained beforehand, as for any second run on them. Errors are happened / planned - 1:
above 0 the run took more than was said. A recipe that the result file holds already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from plan_recipes import RECIPES, PlanRecipe
from tables import aligned, markdown

_INTERVAL = 10  # steps between readings of a run's meter
_MIB = 2**20
_FEW = 3  # steps of a run that tells of its memory: a save after each


def happened(words: Sequence[str], folder: Path) -> dict[str, Any]:
    """Trains, and reads what that took."""
    run = folder / "run"
    result = json.loads(_babygpt("train", [*words, "--out", str(run)]))
    machine = machine_of(run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "peak_memory_bytes": machine["measured"]["peak_memory_bytes"],
        "step_seconds": step_seconds(lines),
        "fit_seconds": result["seconds"],
        "saving_seconds": result["saving_seconds"],
    }


def memory_alone(words: Sequence[str], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a short run says of its memory before its first step, and what it has used at its end."""
    run = folder / "run"
    _babygpt("train", [*words, "--out", str(run)])
    machine = machine_of(run)
    planned = {"memory": {"total": machine["predicted"]["memory_bytes"]}}
    return planned, {"peak_memory_bytes": machine["measured"]["peak_memory_bytes"]}


def machine_of(run: Path) -> dict[str, Any]:
    """A run's `machine.json`."""
    value: dict[str, Any] = json.loads((run / "machine.json").read_text(encoding="utf-8"))
    return value


def step_seconds(lines: Sequence[dict[str, Any]]) -> float:
    """Mean seconds of the steps behind a run's first interval.

    Args:
        lines: of `metrics.jsonl`; every step of an interval tells the interval's speed.
    """
    timed = [line for line in lines if line.get("tokens_per_second") and line["step"] > _INTERVAL]
    return sum(line["targets"] / line["tokens_per_second"] for line in timed) / len(timed)


def _words(recipe: PlanRecipe, folder: Path, steps: int) -> list[str]:
    fields = {
        "budget.steps": steps,
        "validate.every_steps": steps // 2,
        "validate.batches": 1,
        "machine.device": "cpu",
        **recipe.fields,
    }
    if recipe.shape is not None:
        fields["model.name"] = _model_folder(folder / "model", *recipe.shape)
    return [word for name, value in fields.items() for word in (f"--{name}", _text(value))]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _model_folder(folder: Path, kind: str, values: dict[str, Any]) -> Path:
    """A model of random weights as transformers writes it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values)).save_pretrained(folder)
    return folder


def _babygpt(verb: str, words: Sequence[str]) -> str:
    command = [sys.executable, "-m", "babygpt", verb, *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


# -- the table -------------------------------------------------------------------------------------------------------


def planned_of(pair: dict[str, Any]) -> dict[str, float]:
    """What a plan says of each measure of its run."""
    plan = pair["planned"]
    memory = sum(plan["memory"].values())
    if "time" not in plan:
        return {"memory": memory}
    time = plan["time"]
    inside = 1 - 1 / time["validations"]  # the validation before step 0 is no part of the fit
    fit = time["training"] + time["saving"] + inside * time["validating"]
    return {"memory": memory, "step": plan["step_seconds"], "whole": fit}


def happened_of(pair: dict[str, Any]) -> dict[str, float]:
    """The same of the run."""
    run = pair["happened"]
    names = {"memory": "peak_memory_bytes", "step": "step_seconds", "whole": "fit_seconds"}
    return {name: run[key] for name, key in names.items() if key in run}


def errors(pair: dict[str, Any]) -> dict[str, float]:
    """Happened / planned - 1 of each measure."""
    planned, run = planned_of(pair), happened_of(pair)
    return {name: run[name] / planned[name] - 1 for name in planned}


_COLUMNS: dict[str, tuple[str, str, Callable[[float], str]]] = {
    "memory": ("planned MiB", "peak MiB", lambda value: f"{value / _MIB:,.0f}"),
    "step": ("planned s a step", "s a step", lambda value: f"{value:.3f}"),
    "whole": ("planned s", "s", lambda value: f"{value:.1f}"),
}


def rows_of(pairs: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The table's cells: header, recipes, and of those that were not and those that were held out median and worst."""
    names = [name for name in _COLUMNS if all(name in happened_of(pair) for pair in pairs)]
    header = [cell for name in names for cell in (*_COLUMNS[name][:2], "")]
    rows: list[tuple[str, ...]] = [("recipe", *header)]
    for pair in pairs:
        planned, run, off = planned_of(pair), happened_of(pair), errors(pair)
        cells: list[str] = []
        for name in names:
            text = _COLUMNS[name][2]
            cells += [text(planned[name]), text(run[name]), f"{off[name]:+.1%}"]
        rows.append((pair["recipe"] + (" (held out)" if pair["held_out"] else ""), *cells))
    for held_out in (False, True):
        off_by = [errors(pair) for pair in pairs if pair["held_out"] is held_out]
        if not off_by:
            continue
        for title, of in (("median", statistics.median), ("worst", max)):
            sums = [f"{of([abs(each[name]) for each in off_by]):.1%}" for name in names]
            label = f"{title} of {'the held out' if held_out else 'the others'}"
            rows.append((label, *(cell for each in sums for cell in ("", "", each))))
    return rows


def main() -> None:
    """Compares, writes the result file and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", help="recipes by name")
    parser.add_argument("--out", type=Path, default=Path("plan_versus_run.json"))
    parser.add_argument("--memory", action="store_true", help="memory alone, of runs of three steps")
    parser.add_argument("--table", type=Path, nargs="+", help="prints the table of result files, in Markdown")
    asked = parser.parse_args()
    if asked.table:
        found = [json.loads(path.read_text(encoding="utf-8"))["pairs"] for path in asked.table]
        print(markdown(rows_of([pair for pairs in found for pair in pairs])))
        return
    unknown = set(asked.only or ()) - {recipe.name for recipe in RECIPES}
    if unknown:
        parser.error(f"there is no recipe {', '.join(map(repr, sorted(unknown)))}")
    result: dict[str, Any] = {"command": " ".join(sys.argv), "machine": _machine(), "pairs": []}
    if asked.out.exists():
        result = json.loads(asked.out.read_text(encoding="utf-8"))
    there = {pair["recipe"] for pair in result["pairs"] if "happened" in pair}
    for recipe in RECIPES:
        if recipe.name not in there and (not asked.only or recipe.name in asked.only):
            result["pairs"] = [pair for pair in result["pairs"] if pair["recipe"] != recipe.name]
            _one(recipe, result, asked.out, asked.memory)
    print(aligned(rows_of([pair for pair in result["pairs"] if "happened" in pair])))


def _one(recipe: PlanRecipe, result: dict[str, Any], out: Path, memory: bool) -> None:
    """Writes down what is planned, and after the run beside it what happened."""
    with tempfile.TemporaryDirectory(prefix="babygpt-plan-") as name:
        folder = Path(name)
        words = _words(recipe, folder, _FEW if memory else recipe.steps)
        pair: dict[str, Any] = {
            "recipe": recipe.name,
            "held_out": recipe.held_out,
            "arguments": [word.replace(name, "FOLDER") for word in words],
            "load_before": os.getloadavg()[0],
        }
        result["pairs"].append(pair)
        if memory:
            pair["planned"], pair["happened"] = memory_alone(words, folder)
        else:
            pair["planned"] = json.loads(_babygpt("plan", words).replace(name, "FOLDER"))
            _write(result, out)
            pair["happened"] = happened(words, folder)
        _write(result, out)


def _write(result: dict[str, Any], out: Path) -> None:
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _machine() -> dict[str, Any]:
    from babygpt.computer import detect, installed_versions

    facts = detect()
    return {
        "name": facts.name,
        "cores": facts.cores,
        "threads": facts.threads,
        "memory_gib": round(facts.memory_bytes / 2**30, 1),
        "versions": installed_versions(),
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
