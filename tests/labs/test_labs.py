"""Every lab at its smallest scale, its verdicts computed again from raw results; planted faults that they must see.

Three pairs of runs each (two of the labs that search) are enough for the large effects. `make test-lab` runs them.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from babygpt import BabyGPT
from babygpt.labs import labels, overfit, weight_decay
from babygpt.labs.catalog import NAMES, load
from babygpt.labs.framework import NULL, SCALES, Lab
from babygpt.labs.runner import run_lab
from babygpt.labs.verdicts import NO_EFFECT, Verdict, judge

pytestmark = [pytest.mark.lab, pytest.mark.filterwarnings("ignore::UserWarning:lightning")]

SMALL = SCALES["small"]
COURSE = Path(__file__).parents[2] / "docs" / "course" / "results"
PAIRS = 3

# (outcome, arm, against) -> what has to be seen at the smallest scale, whatever the machine.
SEEN = {
    "overfit": {("train_loss", "one-batch", "fresh"): "lower"},
    "labels": {
        ("val_loss", "unshifted", "right"): "higher",
        ("train_loss", "unshifted", "right"): "lower",
        ("val_loss", "double", "right"): "higher",
    },
    "weight-decay": {
        ("norm_gain", "everything", "matrices"): "lower",
        ("norm_gain", "everything-strong", "matrices-strong"): "lower",
    },
    "perplexity": {
        ("perplexity", "mean-of-exps", "exp-of-mean"): "higher",
        ("start", "pretrained", "exp-of-mean"): "lower",
    },
    "accumulation": {("last_step", "each-alike", "exact"): "lower"},
    "schedule": {
        ("last_rate", "per-epoch", "per-step"): "higher",
    },
    "packing": {("filled", "padded", "stream"): "lower", ("cpu_us", "padded", "stream"): "higher"},
    "checkpointing": {
        ("peak_mb", "recomputed", "kept"): "lower",
        ("cpu_ms", "recomputed", "kept"): "higher",
        ("train_loss", "recomputed", "kept"): NO_EFFECT,
    },
    "precision": {("peak_mb", "bf16", "fp32"): "lower"},
    "optimizer": {("val_loss", "muon", "adamw"): "lower"},
    "learning-rate": {},
    "batch-size": {("grad_norm", "four-times", "base"): "lower"},
    "resume": {
        ("distance", "resumed", "whole"): NO_EFFECT,
        ("distance", "weights-only", "whole"): "higher",
    },
    "scaling": {("error", "power", "last"): "lower"},
}
CLAIMS = {"overfit": ["holds"], "schedule": ["does not hold", "holds"], "resume": ["holds"]}


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield


# The longest first, so that of several processes none ends alone with it.
@pytest.mark.parametrize("name", sorted(NAMES, key=lambda name: name != "scaling"))
def test_a_lab_sees_what_is_there(name: str, tmp_path: Path) -> None:
    lab = load(name)
    searches = len(lab.trainings(lab.setting(lab.baseline.name, SMALL, 0))) >= 5
    run_lab(lab, SMALL, tmp_path, 2 if searches else PAIRS)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    verdicts = judge(lab, results["runs"])
    assert [v.words for v in verdicts] == [v["words"] for v in results["verdicts"]]
    found = {(v.outcome, v.arm, v.against): v.words for v in verdicts if v.bounds is None}
    assert {k: found[k] for k in SEEN[name]} == SEEN[name]
    if name in CLAIMS:
        assert [v.words for v in verdicts if v.bounds is not None] == CLAIMS[name]
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert text.count("<svg") >= len(lab.plotted)
    for run in results["runs"]:
        assert run["arm"] == NULL or set(dict.fromkeys(n for n, _, _ in lab.plotted)) <= run["curves"].keys()
    assert other_than_in_the_course(lab, results["runs"]) == []


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * int(sdpa_flop_count(query, key, value))


# The counter knows that of GPUs only.
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def test_the_cost_of_a_lab_is_what_its_runs_compute() -> None:
    """Counted by torch, product by product, over a pair of every arm."""
    lab, scale = load("overfit"), dataclasses.replace(SMALL, steps=24)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        for setting in lab.plan(scale, 1):
            lab.run(setting)
    assert lab.cost(scale, 1).flops == pytest.approx(counter.get_total_flops(), rel=0.15)


# Times are the machine's own.
TIMED = ("cpu_ms", "wall_ms", "cpu_us")


def settled(verdict: Verdict) -> bool:
    """Whether the interval ends clear of where the word changes, by a tenth of its width: else a last digit decides."""
    low, high = verdict.estimate.low, verdict.estimate.high
    edges = verdict.bounds or ((1.0,) if verdict.ratio else (0.0,))
    clear = 0.1 * (high - low)
    return not any(0 < abs(end - edge) <= clear for end in (low, high) for edge in edges)


def other_than_in_the_course(lab: Lab, runs: list[dict[str, Any]]) -> list[str]:
    """Verdicts of fresh runs that are others than those of the course's runs, of the same pairs."""
    file = COURSE / f"{lab.name}.json"
    if not file.exists():
        return []
    pairs = {run["number"] for run in runs}
    kept = [run for run in json.loads(file.read_text(encoding="utf-8"))["runs"] if run["number"] in pairs]
    return [
        f"{there.about}, {there.outcome}: {there.words} in the course, {here.words} here"
        for there, here in zip(judge(lab, kept), judge(lab, runs), strict=True)
        if there.outcome not in TIMED and settled(there) and there.words != here.words
    ]


def test_a_verdict_that_is_another_one_than_the_courses_is_found():
    lab = load("labels")
    runs = json.loads((COURSE / "labels.json").read_text(encoding="utf-8"))["runs"]
    assert other_than_in_the_course(lab, runs) == []
    turned = [
        {**run, "outcomes": {n: -v for n, v in run["outcomes"].items()}} if run["arm"] == "unshifted" else run
        for run in runs
    ]
    found = other_than_in_the_course(lab, turned)
    assert found == ["unshifted against right, val_loss: higher in the course, lower here"]


def words_of(lab: Lab, folder: Path, seeds: int = 3) -> dict[tuple[str, str, str | None], str]:
    runs = run_lab(lab, SMALL, folder, seeds)["runs"]
    return {(v.outcome, v.arm, v.against): v.words for v in judge(lab, runs)}


def test_overfit_finds_a_trainer_whose_labels_are_drawn_anew(tmp_path, monkeypatch):
    class Drawn(overfit.OneBatch):
        def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
            batch = {**batch, "labels": torch.randint_like(batch["labels"], 512)}
            return BabyGPT.training_step(self, batch, batch_idx)

    monkeypatch.setitem(overfit.KINDS, "repeat", Drawn)
    assert words_of(overfit.LAB, tmp_path)["train_loss", "one-batch", None] == "does not hold"


def test_overfit_finds_a_rate_that_does_nothing(tmp_path):
    still = dataclasses.replace(overfit.LAB, shared=lambda scale: {**overfit.LAB.shared(scale), "lr": 1e-9})
    found = words_of(still, tmp_path)
    assert found["train_loss", "one-batch", None] == "does not hold"


def test_labels_finds_a_doubly_shifted_label_in_the_right_arm(tmp_path, monkeypatch):
    monkeypatch.setitem(labels.KINDS, "right", labels.Double)
    found = words_of(labels.LAB, tmp_path)
    assert found["val_loss", "double", "right"] == NO_EFFECT, "both are the fault now"


def test_weight_decay_finds_decay_on_norms_in_the_arm_that_has_none(tmp_path, monkeypatch):
    """Decay 1.0 on the norms of every arm: the gains of the baseline fall as the others' do."""
    honest = weight_decay.run

    def planted(setting: Any) -> Any:
        return honest(dataclasses.replace(setting, variant="everything", weight_decay=1.0))

    lab = dataclasses.replace(weight_decay.LAB, run=planted)
    runs = run_lab(lab, SMALL, tmp_path, 2)["runs"]
    assert max(run["outcomes"]["norm_gain"] for run in runs) < 0.9
    whole = run_lab(weight_decay.LAB, SMALL, tmp_path / "honest", 2)["runs"]
    kept = [run["outcomes"]["norm_gain"] for run in whole if run["arm"] == "matrices"]
    assert min(kept) > 0.98
