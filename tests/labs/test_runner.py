"""The runner: which runs are made, which are not made again, what is written; the page and the verb around it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

from babygpt.cli import main
from babygpt.errors import InputError, NotFiniteError, RecipeError
from babygpt.labs import learning_rate, precision, trials
from babygpt.labs.catalog import NAMES, check_name, load
from babygpt.labs.framework import NULL, SCALES, Arm, Claim, Contrast, Lab, Measured, Outcome, Setting
from babygpt.labs.page import describe
from babygpt.labs.plots import Interval, Line, curves, intervals, to_file, to_html
from babygpt.labs.runner import run_lab
from babygpt.labs.verb import LabResult
from babygpt.labs.verdicts import judge
from babygpt.training.fit import Fitted

SMALL = SCALES["small"]
HOSTILE = '<script>alert("x")</script>'


def made_up(made: list[Setting] | None = None) -> Lab:
    def run(setting: Setting) -> Measured:
        if made is not None:
            made.append(setting)
        loss = 5 + 0.01 * (37 * setting.seed % 11) + (1 if setting.variant == "worse" else 0)
        return Measured(
            {"loss": loss},
            {"train_loss": [(1.0, 6.0), (2.0, loss)]},
            {f"Table {HOSTILE}": [["head"], [HOSTILE]]},
        )

    return Lab(
        name="made-up",
        line="A line",
        question=f"Is it worse? {HOSTILE}",
        protocol="As said.",
        arms=(Arm("base", "as it is"), Arm("worse", "one nat worse", {"variant": "worse"})),
        outcomes=(Outcome("loss", "nats"),),
        contrasts=(Contrast("loss", "worse", "base"),),
        claims=(Claim("it is worse", "loss", "worse", "base", 0.5, math.inf),),
        run=run,
    )


def test_every_run_is_made_once_and_every_other_pair_backwards(tmp_path):
    made: list[Setting] = []
    results = run_lab(made_up(made), SMALL, tmp_path, 3)
    assert [s.arm for s in made] == ["base", "worse", NULL, NULL, "worse", "base", "base", "worse", NULL]
    assert [s.seed for s in made] == [0, 0, 10_000, 10_001, 1, 1, 2, 2, 10_002]
    assert [v["words"] for v in results["verdicts"]] == ["higher", "no effect seen", "holds"]
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["runs"] == results["runs"]
    # JSON has no infinity: the claim's upper bound is null.
    assert written["verdicts"][-1]["bounds"] == [0.5, None]
    assert judge(made_up(), written["runs"]) == judge(made_up(), results["runs"])


def test_a_lab_goes_on_where_it_was_stopped_and_takes_more_seeds(tmp_path):
    whole = run_lab(made_up(), SMALL, tmp_path / "whole", 4)
    stopped = tmp_path / "stopped"
    run_lab(made_up(), SMALL, stopped, 2)
    (stopped / "runs" / "worse-1.json").unlink()
    made: list[Setting] = []
    again = run_lab(made_up(made), SMALL, stopped, 4)
    assert [(s.arm, s.seed % 10_000) for s in made] == [
        ("worse", 1), ("base", 2), ("worse", 2), (NULL, 2), (NULL, 3), ("worse", 3), ("base", 3)
    ]  # fmt: skip
    assert again["verdicts"] == whole["verdicts"]


def test_a_folder_of_other_settings_is_refused_and_left_alone(tmp_path):
    run_lab(made_up(), SMALL, tmp_path, 2)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.json")}
    with pytest.raises(
        RecipeError, match=r"holds a run with width 64, where 128 is asked for\. Give another"
    ):
        run_lab(made_up(), SCALES["medium"], tmp_path, 2)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.json")} == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"setting": 3}', "[" * 10_000])
def test_a_damaged_run_is_named(tmp_path, text):
    run_lab(made_up(), SMALL, tmp_path, 2)
    (tmp_path / "runs" / "base-0.json").write_text(text)
    with pytest.raises(InputError, match=r"base-0\.json: .*Take it away"):
        run_lab(made_up(), SMALL, tmp_path, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("outcomes", {}), ("outcomes", 3), ("arm", "worse"), ("number", 1), ("cpu_seconds", "x"),
        ("cpu_seconds", 10**400), ("curves", {"train_loss": 5}), ("curves", {"train_loss": [["1", 2]]}),
        ("tables", {"Table": [3]}), ("tables", {"Table": []}), ("setting", "x"),
    ],
)  # fmt: skip
def test_a_run_that_lacks_something_is_named(tmp_path, name, value):
    """As another version of the lab leaves it, or a hand that was in it."""
    run_lab(made_up(), SMALL, tmp_path, 2)
    file = tmp_path / "runs" / "base-0.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    with pytest.raises(InputError, match=r"base-0\.json: .*Take it away"):
        run_lab(made_up(), SMALL, tmp_path, 2)


def test_one_pair_is_too_few(tmp_path):
    with pytest.raises(RecipeError, match=r"seeds: 1 is not at least 2"):
        run_lab(made_up(), SMALL, tmp_path / "none", 1)
    assert not (tmp_path / "none").exists()


def test_a_run_that_breaks_down_is_a_result(tmp_path):
    def run(setting: Setting) -> Measured:
        if setting.variant == "worse" and setting.seed == 1:
            raise NotFiniteError("ten steps in a row")
        return Measured({"loss": 5.0})

    lab = made_up()
    broken = Lab(**{**{f: getattr(lab, f) for f in lab.__dataclass_fields__}, "run": run})
    for _ in range(2):  # as it is made, and as it is read again
        results = run_lab(broken, SMALL, tmp_path, 2)
        assert results["verdicts"][0]["words"] == "breaks down in 1 of 2 runs"


def test_the_number_of_threads_is_the_settings_and_then_as_before(tmp_path):
    seen = []
    lab = made_up()
    fields = {f: getattr(lab, f) for f in lab.__dataclass_fields__}

    def run(setting: Setting) -> Measured:
        seen.append(torch.get_num_threads())
        return Measured({"loss": 5.0})

    torch.set_num_threads(2)
    try:
        run_lab(Lab(**{**fields, "run": run}), SMALL, tmp_path, 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert set(seen) == {1}


# -- the labs that there are -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_lab_is_whole(name):
    lab = load(name)
    assert lab.name == name
    assert len(lab.line) <= 72
    assert lab.question.endswith("?")
    compared = {c.outcome for c in lab.contrasts} | {c.outcome for c in lab.claims}
    assert lab.outcomes[0].name in compared
    costs = [lab.cost(scale, lab.seeds) for scale in SCALES.values()]
    assert {c.runs for c in costs} == {(len(lab.arms) + 1) * lab.seeds}
    assert costs[0].flops < costs[1].flops < costs[2].flops
    for scale in SCALES.values():
        for arm in lab.arms:
            setting = lab.setting(arm.name, scale, 3)
            assert setting == lab.setting(arm.name, scale, 3)
            assert (setting.arm, setting.seed) == (arm.name, 3)
            assert setting.batch % (setting.micro_batch or setting.batch) == 0


def test_arms_differ_in_what_the_arm_says_and_in_nothing_else():
    lab = load("weight-decay")
    a, b = (lab.setting(arm, SMALL, 0) for arm in ("matrices", "everything-strong"))
    different = {f for f in a.__dataclass_fields__ if getattr(a, f) != getattr(b, f)}
    assert different == {"arm", "variant", "weight_decay"}


def test_what_an_arm_multiplies_stands_in_its_setting():
    half, double = (load("learning-rate").setting(arm, SMALL, 0) for arm in ("half", "double"))
    assert (half.width, double.width) == (32, 128)
    base, larger, raised = (
        load("batch-size").setting(arm, SMALL, 0) for arm in ("base", "four-times", "four-times-sqrt")
    )
    assert (larger.batch, larger.steps, larger.lr) == (4 * base.batch, base.steps // 4, base.lr)
    assert (raised.batch, raised.steps, raised.lr) == (4 * base.batch, base.steps // 4, 2 * base.lr)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_trained_is_the_setting_that_is_recorded(name):
    """But for the rates of a search, and runs that are made beside the one that is recorded."""
    lab = load(name)
    for arm in lab.arms:
        setting = lab.setting(arm.name, SMALL, 0)
        for each in lab.trainings(setting):
            for field in ("width", "layers", "vocab", "block", "batch", "text", "optimizer", "packing"):
                assert getattr(each, field) == getattr(setting, field), (arm.name, field)
        if setting.rates:
            assert [each.lr for each in lab.trainings(setting)][: len(setting.rates)] == list(setting.rates)


def test_costs_by_hand():
    resume, scaling = load("resume"), load("scaling")
    setting = resume.setting("whole", SMALL, 0)
    # Forward, of each of 2 blocks 2 x 12 x 64^2 and attention's 4 x 64 x 32; of the head 2 x 64 x 512.
    forward = 2 * (2 * 12 * 64**2 + 4 * 64 * 32) + 2 * 64 * 512
    steps = 60
    assert setting.flops == forward * (3 * steps * 8 * 32 + 2 * 16_384)
    halves = forward * (3 * steps * 8 * 32 + 4 * 16_384)
    assert resume.cost(SMALL, 1).flops == pytest.approx(
        4 * setting.flops + 2 * halves
    )  # two arms of four runs
    of_three_arms = {each.seed: scaling.trainings(each) for each in scaling.plan(SMALL, 1)}
    assert len(of_three_arms) == 2, "the null comparison has a seed of its own"
    assert scaling.cost(SMALL, 1).flops == sum(e.flops for made in of_three_arms.values() for e in made)


# -- searches --------------------------------------------------------------------------------------------------------


@pytest.fixture
def losses(monkeypatch):
    """Of each rate, without a training; where none stands it breaks down."""
    by_rate: dict[float, float] = {}

    @contextmanager
    def trial(setting, *args, **options):
        def fit(**options):
            if setting.lr not in by_rate:
                raise NotFiniteError("ten steps in a row")
            record = {"step": 1, "lr": setting.lr, "train_loss": 5.0}
            return Fitted((record,), ({"step": 1, "val_loss": by_rate[setting.lr]},), 1.0, 1.0)

        yield SimpleNamespace(fit=fit)

    monkeypatch.setattr(trials, "trial", trial)
    monkeypatch.setattr(learning_rate, "trial", trial)
    return by_rate


def test_a_rate_that_diverges_is_no_best_and_the_search_stands(losses, tmp_path):
    losses.update(
        {2e-3: 5.0, 4e-3: 4.9, 2e-2: 4.2, 4e-2: math.nan}
    )  # AdamW's 0.008 and Muon's 0.01 break down
    lab = load("optimizer")
    for _ in range(2):  # as it is made, and as it is read again
        results = run_lab(lab, SMALL, tmp_path, 2)
        found = {run["arm"]: run["outcomes"] for run in results["runs"]}
        assert found["adamw"] == {"val_loss": 4.9, "best_lr": 4e-3, "at_end": 0.0, "diverged": 1.0}
        assert found["muon"] == {"val_loss": 4.2, "best_lr": 2e-2, "at_end": 0.0, "diverged": 2.0}
        assert [v["words"] for v in results["verdicts"]] == ["lower", "no effect seen", "holds", "holds"]
        assert results["runs"][0]["setting"]["rates"] == [2e-3, 4e-3, 8e-3]


def test_a_best_rate_at_an_end_is_said(losses, tmp_path):
    losses.update({2e-3: 5.0, 4e-3: 4.9, 8e-3: 4.8, 1e-2: 4.3, 2e-2: 4.2, 4e-2: 4.4})
    lines = [
        describe(v) for v in judge(load("optimizer"), run_lab(load("optimizer"), SMALL, tmp_path, 2)["runs"])
    ]
    assert (
        lines[-2]
        == "adamw: the best rate lies between others that were tried: at_end 1 [1, 1]: does not hold"
    )
    assert lines[-1].endswith("holds")


def test_a_search_of_which_nothing_is_left_breaks_down(losses, tmp_path):
    losses.update({2e-2: 4.2, 4e-2: 4.4})
    results = run_lab(load("optimizer"), SMALL, tmp_path, 2)
    assert results["verdicts"][0]["words"] == "breaks down in 2 of 2 runs"
    found = results["runs"][0]["outcomes"]
    assert math.isnan(found["val_loss"])
    assert found["diverged"] == 3


def test_a_range_test_that_breaks_down_leaves_the_sweep(losses):
    losses.update({2.5e-4: 5.2, 1e-3: 5.0, 4e-3: 4.8})  # 0.016 breaks down
    found = learning_rate.run(load("learning-rate").setting("width", SMALL, 0))
    assert found.outcomes["val_loss"] == 4.8
    assert found.outcomes["best_lr"] == 4e-3, "no parabola goes through a loss that is none"
    assert math.isnan(found.outcomes["range_test_lr"])
    assert (found.outcomes["at_end"], found.outcomes["diverged"]) == (0, 1)
    assert [round(10**x, 6) for x, _ in found.curves["sweep"]] == [2.5e-4, 1e-3, 4e-3]


def test_the_vertex_of_a_parabola():
    rates = [10.0**n for n in range(4)]
    parabola = [(math.log10(r) - 1.3) ** 2 + 5 for r in rates]
    assert learning_rate.vertex(rates, parabola) == pytest.approx(10**1.3)
    assert learning_rate.vertex(rates, [1, 2, 3, 4]) == 1
    assert learning_rate.vertex(rates, [4, 2, math.inf, math.inf]) == 10


def test_a_processor_without_bf16_is_said_everywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: False)
    lab, said = dataclasses.replace(made_up(), notice=precision.notice), []
    results = run_lab(lab, SMALL, tmp_path, 2, said.append)
    assert "no instructions for bf16" in results["notice"]
    assert said[0] == results["notice"]
    assert results["notice"] in (tmp_path / "index.html").read_text()
    assert results["notice"] in LabResult(results, (), "out").lines()
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: True)
    assert run_lab(lab, SMALL, tmp_path, 2)["notice"] == ""


def test_labs_use_public_verbs_only():
    import ast

    import babygpt

    folder = Path(babygpt.__file__).parent / "labs"
    lab_files = [folder / f"{name.replace('-', '_')}.py" for name in NAMES]
    # The table of rules is what `BabyGPT(rules=...)` takes; an error is what a verb raises;
    # of the machine it is asked what it has, and of labels which one is ignored.
    allowed = {"babygpt", "babygpt.optim.groups", "babygpt.errors", "babygpt.computer", "babygpt.data.labels"}
    for file in lab_files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("babygpt"):
                assert node.module in allowed or str(node.module).startswith("babygpt.labs"), file.name
            if isinstance(node, ast.ImportFrom) and node.module == "babygpt":
                assert {n.name for n in node.names} <= set(babygpt.__all__), file.name


# -- the page --------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def test_the_page_says_what_was_found_and_runs_nothing(tmp_path):
    lab = made_up()
    results = run_lab(lab, SMALL, tmp_path, 3)
    text = (tmp_path / "index.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert "script" not in reader.tags
    assert HOSTILE in reader.text
    assert reader.tags.count("polyline") == 1 + 6  # the axes, and a curve of each run but the null ones
    for verdict in judge(lab, results["runs"]):
        assert verdict.words in reader.text
        assert verdict.about in reader.text
    assert "babygpt lab made-up --scale small --seeds 3" in reader.text


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1100, False), (1100, True), (390, False)])
def test_a_browser_shows_the_page_and_axe_finds_nothing(browser, tmp_path, width, dark):
    run_lab(made_up(), SMALL, tmp_path, 3)
    browser.open(tmp_path / "index.html", width=width, dark=dark)
    assert browser.problems == []
    assert browser.requests == [(tmp_path / "index.html").as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.evaluate("document.querySelectorAll('polyline').length") == 1 + 6
    assert browser.violations() == []


def test_a_verdict_in_a_line(tmp_path):
    lines = [describe(v) for v in judge(made_up(), run_lab(made_up(), SMALL, tmp_path, 2)["runs"])]
    assert lines[0] == "worse against base: loss +1 [+1, +1]: higher"
    assert lines[-1] == "it is worse: loss +1 [+1, +1]: holds"


def points_of(svg: str) -> list[list[tuple[float, float]]]:
    every = re.findall(r'<polyline class="line c\d" points="([^"]*)"', svg)
    return [[tuple(map(float, p.split(","))) for p in line.split()] for line in every]


def test_curves_lie_where_their_numbers_say():
    figure = curves(
        [Line("a", [(0, 1), (5, 2), (10, 3)]), Line("b", [(0, 3), (10, math.nan)])], "t", "x", "y"
    )
    svg = to_html(figure)
    (x0, y0), (x1, y1), (x2, y2) = points_of(svg)[0]
    assert (x1 - x0, y0 - y1) == pytest.approx((x2 - x1, y1 - y2), abs=0.2)  # SVG's y goes down
    assert y0 > y2
    assert points_of(svg)[1] == [(x0, y2)]
    assert curves([Line("a", [])], "t", "x", "y") is None
    assert to_html(None) == ""
    assert "nan" not in svg
    # Where the marks stand the numbers are: those of y are written at its height, a little below for the letters.
    heights = {
        float(text): float(y) - 4
        for y, text in re.findall(r'<text x="59" y="([\d.]+)" text-anchor="end">([\d.]+)<', svg)
    }
    assert (heights[1], heights[2], heights[3]) == pytest.approx((y0, y1, y2), abs=0.2)


def test_a_figure_is_a_file_that_any_reader_of_xml_takes():
    figure = curves([Line(HOSTILE, [(0, 1), (5, 2)]), Line("b", [(0, 3), (5, 1)])], HOSTILE, "x", "y")
    assert figure is not None
    tree = ElementTree.fromstring(to_file(figure))
    assert tree.tag == "{http://www.w3.org/2000/svg}svg"
    words = ["".join(element.itertext()) for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count(HOSTILE) == 2  # the title and the legend
    assert "var(" not in to_file(figure), "a file has no page to take colours from"


def test_an_interval_that_is_none_is_left_out():
    rows = [Interval("a", 1, 0.5, 1.5), Interval("b", math.nan, math.nan, math.nan)]
    assert to_html(intervals(rows, "t", 0.0)).count("<circle") == 1
    assert intervals(rows[1:], "t", 0.0) is None


# -- the verb --------------------------------------------------------------------------------------------------------


def test_the_list_has_every_lab_with_its_cost(capsys):
    assert main(["lab", "--list"]) == 0
    out = capsys.readouterr().out
    for name in NAMES:
        assert any(line.startswith(f"{name} ") and "runs" in line for line in out.splitlines())
    assert max(map(len, out.splitlines())) <= 80
    assert main(["lab", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["labs"]
    assert [each["name"] for each in listed] == list(NAMES)
    assert set(listed[0]["cost"]) == set(SCALES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lab"], "no lab is named"),
        (["lab", "overfitt"], "there is no lab 'overfitt'. Did you mean overfit?"),
        (["lab", "../etc"], "there is no lab '../etc'"),
        (["lab", "overfit", "--list"], "lists every lab"),
        (["lab", "overfit", "--seeds", "1"], "seeds"),
        (["lab", "overfit", "--scale", "huge"], "--scale"),
        (["lab", "overfit", "--out", ""], "out"),
    ],
)
def test_wrong_words_are_answered_in_one_line(capsys, words, message):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_name_is_checked():
    assert check_name("overfit") == "overfit"
    with pytest.raises(RecipeError, match="no lab is named"):
        check_name("")
