"""A run folder read in every state that a run leaves it in."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from babygpt.errors import CheckpointError, RecipeError
from babygpt.report.run import read_run
from babygpt.report.tables import summary
from babygpt.report.verb import report
from babygpt.settings import ReportSettings
from babygpt.training.alive import alone_in
from run_folders import lines, make_run, write_lines


def test_a_finished_run(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a"), 100)
    assert (run.name, run.state, run.notes) == ("a", "finished", ())
    assert run.data is not None
    assert (run.data.train, run.data.val) == ((90, 2000), (10, 300))
    assert run.data.sources[0].bytes == 5000
    assert not run.data.is_here
    assert run.best is not None
    assert run.best.path.name == "babygpt-2.25"
    assert [s.step for s in run.samples] == [0, 10, 20, 30, 40]


def test_under_way_stopped_and_not_begun(tmp_path: Path) -> None:
    out = make_run(tmp_path / "a", steps=20, planned=40)
    assert read_run(out, 100).state == "stopped"
    with alone_in(out):
        under_way = read_run(out, 100)
        assert under_way.state == "under way"
        assert summary(under_way)[0] == "under way, 2.0 s left"  # a tenth of a second for each of 20 steps
    (out / "metrics.jsonl").unlink()
    assert read_run(out, 100).state == "not begun"


def test_a_killed_process_leaves_half_a_line(tmp_path: Path) -> None:
    out = make_run(tmp_path / "a")
    whole = (out / "metrics.jsonl").read_bytes()
    for end in (1, 2, 40):
        (out / "metrics.jsonl").write_bytes(whole + whole.splitlines(keepends=True)[-1][:-end])
        read = read_run(out, 100).curves
        assert read.steps == 40
        assert read.validated == (6 if end == 1 else 5)  # without its line end a line may still be whole


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(CheckpointError, match=r"is not a run folder.*Give the folder that --out named"):
            read_run(path, 100)
    (tmp_path / "recipe.yaml").write_text("model: {nam: x}")
    with pytest.raises(RecipeError):
        read_run(tmp_path, 100)


@pytest.mark.parametrize(
    "name", ["machine.json", "data.json", "rollbacks.json", "samples.jsonl", "metrics.jsonl"]
)
@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[" * 10_000, b"[1]", b'{"step": []}', b'{"step": "x", "store": 3}', b"null"],
)
def test_whatever_else_is_damaged_is_left_out(tmp_path: Path, name: str, content: bytes) -> None:
    out = make_run(tmp_path / "a")
    (out / name).write_bytes(content)
    run = read_run(out, 100)
    if name.endswith(".json") and content != b"[1]":
        assert [note.partition(":")[0] for note in run.notes] in ([name], [])
    assert run.recipe.budget.steps == 40


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rollbacks.json", '[{"spike": Infinity, "seen": 3, "to": 0}]'),
        ("samples.jsonl", '{"step": -Infinity, "text": "a"}\n'),
        ("data.json", '{"size": 1%s}' % ("0" * 400)),
        ("data.json", '{"size": Infinity}'),
        ("metrics.jsonl", '{"step": 3, "train_loss": 2, "targets": 9, "tokens_per_second": 1e-299}\n' * 2),
        ("metrics.jsonl", '{"step": 3, "train_loss": 2, "targets": 9, "tokens_per_second": -5}\n' * 2),
    ],
)
def test_numbers_beyond_any_bound_are_left_out(tmp_path: Path, name: str, content: str) -> None:
    out = make_run(tmp_path / "a")
    if name == "data.json":
        value = json.loads((out / name).read_text())
        value["path"][0]["files"] = [["a.txt", json.loads(content)["size"]]]
        content = json.dumps(value)
    (out / name).write_text(content)
    result = report(ReportSettings((str(out),)))
    seconds = result.runs[0].seconds
    assert seconds is None or 0 <= seconds < 1e20
    assert [note.partition(":")[0] for note in read_run(out, 100).notes] in ([name], [])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl", "machine.json", "data.json"])
def test_a_pipe_in_the_folder_is_not_waited_for(tmp_path: Path, name: str) -> None:
    out = make_run(tmp_path / "a")
    (out / name).unlink(missing_ok=True)
    os.mkfifo(out / name)
    (out / "checkpoints" / "babygpt-1.00").mkdir()
    os.mkfifo(out / "checkpoints" / "babygpt-1.00" / "manifest.json")
    run = read_run(out, 100)
    assert [note.partition(":")[0] for note in run.notes] == [name]
    assert run.best is not None
    assert run.best.path.name == "babygpt-2.25"


def test_the_recipe_alone(tmp_path: Path) -> None:
    out = make_run(tmp_path / "a")
    for path in out.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "recipe.yaml":
            path.unlink()
    run = read_run(out, 100)
    assert run.notes == ("machine.json: is missing", "data.json: is missing")
    assert (run.state, run.best, run.samples) == ("not begun", None, ())


def test_many_samples_are_thinned_the_first_and_last_kept(tmp_path: Path) -> None:
    out = make_run(tmp_path / "a")
    write_lines(out / "samples.jsonl", ({"step": s, "prompt": "x" * 9000, "text": "y"} for s in range(1001)))
    run = read_run(out, 100)
    assert run.sampled == 1001
    assert len(run.samples) <= 42
    assert (run.samples[0].step, run.samples[-1].step) == (0, 1000)
    assert len(run.samples[0].prompt) == 4000


def test_rollbacks_and_the_stores_own_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make_run(tmp_path / "a")
    (out / "rollbacks.json").write_text(json.dumps([{"spike": 12, "seen": 14, "to": 10}]))
    write_lines(out / "metrics.jsonl", lines(40))
    monkeypatch.setenv("BABYGPT_CACHE", str(tmp_path / "cache"))
    from babygpt.files import publish_folder

    publish_folder(
        tmp_path / "cache" / "data", "0" * 32, lambda folder: None, {"notes": ["3 documents twice"]}
    )
    run = read_run(out, 100)
    assert run.rollbacks[0].spike == 12
    assert run.data is not None
    assert run.data.notes == ("3 documents twice",)
