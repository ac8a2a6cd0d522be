from __future__ import annotations

from typing import Any

import pytest
from contestants import CONTENDERS, REFERENCE
from environments import BENCHMARKS
from tables import Spread, aligned, learned, markdown, rows_of, summarise
from throughput import arguments


def run(
    contender: str, number: int, *, seconds: float, loss: float = 6.0, cpu: float = 10.0
) -> dict[str, Any]:
    return {
        "contender": contender,
        "round": number,
        "tokens": 1000,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_rss_bytes": 2**30,
        "seconds_to_first_step": 3.0,
        "held_out_loss": loss,
        "arithmetic": "fp32",
    }


def result(*runs: dict[str, Any]) -> dict[str, Any]:
    return {"runs": list(runs), "data": {"held_out_loss": 9.0}}


def row(summary: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(each for each in summary if each["name"] == name)


def test_ratios_are_taken_within_a_round() -> None:
    # The second round ran on a machine twice as slow; the ratio must not notice.
    summary = summarise(
        result(
            run(REFERENCE, 0, seconds=10.0),
            run("babygpt", 0, seconds=5.0),
            run(REFERENCE, 1, seconds=20.0),
            run("babygpt", 1, seconds=10.0),
        )
    )
    assert row(summary, "babygpt")["ratio_per_second"] == Spread(2.0, 2.0, 2.0)
    assert row(summary, "babygpt")["tokens_per_second"] == Spread(150.0, 100.0, 200.0)
    assert row(summary, REFERENCE)["ratio_per_cpu_second"] == Spread(1.0, 1.0, 1.0)


def test_a_contender_that_does_nothing_gets_no_ratio() -> None:
    runs = [
        run(REFERENCE, 0, seconds=10.0, loss=6.0),
        run("bare", 0, seconds=9.0, loss=6.1),
        run("babygpt", 0, seconds=0.1, loss=8.99),
    ]
    summary = summarise(result(*runs))
    assert not learned(runs[2], runs, 9.0)
    assert row(summary, "babygpt")["ratio_per_second"] is None
    assert "did not learn" in row(summary, "babygpt")["notes"]
    assert row(summary, "bare")["ratio_per_second"] is not None


def test_a_loss_that_rises_or_is_not_a_number_is_no_learning() -> None:
    good = run(REFERENCE, 0, seconds=1.0)
    for loss in (9.5, float("nan")):
        assert not learned(run("bare", 0, seconds=1.0, loss=loss), [good], 9.0)


def test_failed_runs_are_counted_and_shown() -> None:
    failed = {"contender": "trl", "round": 0, "error": "exit 1", "log": ["boom"]}
    summary = summarise(result(run(REFERENCE, 0, seconds=1.0), failed))
    assert row(summary, "trl")["notes"] == "failed in 1 of 1 runs"
    text = aligned(rows_of(summary))
    assert "failed in 1 of 1 runs" in text


def test_tables_are_aligned_and_well_formed() -> None:
    rows = rows_of(summarise(result(run(REFERENCE, 0, seconds=1.0), run("bare", 0, seconds=2.0))))
    lines = aligned(rows).splitlines()
    assert len({line.index("1.00 (") for line in lines if line.startswith("transformers")}) == 1
    assert {line.count("|") for line in markdown(rows).splitlines()} == {len(rows[0]) + 1}


def test_every_contender_has_its_script_and_requirements() -> None:
    assert len({contender.name for contender in CONTENDERS}) == len(CONTENDERS)
    for contender in CONTENDERS:
        assert (BENCHMARKS / "contenders" / f"{contender.script}.py").is_file()
        assert (BENCHMARKS / "requirements" / f"{contender.environment}.txt").is_file()


def test_requirements_are_exact() -> None:
    for path in (BENCHMARKS / "requirements").glob("*.txt"):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        assert all("==" in line or line in {"-c ../../constraints.txt", "-e ."} for line in lines), path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "babygpd"], "no contender babygpd"),
        (["--steps", "5", "--warmup", "5"], "--warmup 5 is not from 1 to 4"),
        (["--batch", "16", "--micro-batch", "5"], "not a multiple"),
    ],
)
def test_bad_arguments_are_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        arguments(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_quick_is_small_and_keeps_the_results_folder_clean() -> None:
    args = arguments(["--quick"])
    assert (args.shape, args.rounds, args.steps) == ("tiny", 1, 12)
    assert BENCHMARKS not in args.out.parents
