"""The command: exit codes, what it prints where, verbs, and how fast it answers.

The verbs themselves are stood in for, so that each ending can be had at will.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

import babygpt
from babygpt.cli import main
from babygpt.errors import CheckpointError, DataError, Ended, SpaceError, Stopped
from babygpt.verbs import VERBS


@dataclass(frozen=True)
class Answer:
    value: Any = 1.5
    text: str = "the first line"

    def to_dict(self) -> dict[str, Any]:
        return {"value": self.value, "nested": {"list": [self.value]}}

    def lines(self) -> list[str]:
        return [self.text, "the [second] line"]


@pytest.fixture
def verb(monkeypatch):
    """Puts a function in a verb's place, and returns what it is asked."""

    def stand_in(name, do):
        asked = []
        module, _, function = VERBS[name].home.partition(":")
        fake = ModuleType(module)

        def run(settings):
            asked.append(settings)
            return do(settings)

        setattr(fake, function, run)
        monkeypatch.setitem(sys.modules, module, fake)
        return asked

    return stand_in


def raising(error):
    def run(settings):
        raise error

    return run


def answer(settings):
    return Answer()


# -- exit codes ----------------------------------------------------------------------------------------------


def test_1_bad_news_is_a_result(verb, capsys, monkeypatch):
    """A judgement is told by every process, and its exit code is the command's."""

    @dataclass(frozen=True)
    class Judged(Answer):
        exit_code: int = 1

    monkeypatch.setenv("RANK", "1")
    for code in (0, 1):
        verb("doctor", lambda settings, code=code: Judged(exit_code=code))
        assert main(["doctor"]) == code
        assert capsys.readouterr().out.startswith("the first line")


def test_0_done(verb, capsys):
    asked = verb("train", answer)
    assert main(["train", "--optim.lr", "0.1"]) == 0
    out, err = capsys.readouterr()
    assert out == "the first line\nthe [second] line\n"
    assert err == ""
    assert asked[0].optim.lr == 0.1
    assert asked[0].given == ("optim.lr",)


@pytest.mark.parametrize(
    "error",
    [
        DataError("line is not JSON", where="a.jsonl:3", hint="Give one object a line"),
        CheckpointError("is damaged", where="runs/x", hint="Give another"),
        SpaceError("no space left", where="runs", hint="Free some"),
    ],
    ids=repr,
)
def test_2_bad_input(verb, capsys, error):
    verb("train", raising(error))
    assert main(["train", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"babygpt train: {error}\n"


def test_2_usage(verb, capsys):
    asked = verb("generate", answer)
    assert main(["generate", "x", "--temprature", "1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "babygpt generate: there is no flag --temprature. Did you mean --temperature?\n"
    assert asked == []


def test_1_any_other_failure(verb, capsys):
    verb("eval", raising(ZeroDivisionError("a bug")))
    assert main(["eval", "x"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback (most recent call last)" in err
    assert err.endswith("babygpt eval: failed: ZeroDivisionError: a bug\n")


def test_2_a_path_that_cannot_be_looked_at(verb, capsys):
    """Wherever it is looked at first: it was given, and is no bug."""
    verb("report", lambda settings: Path(settings.runs[0]).exists())
    assert main(["report", "x" * 300]) == 2
    assert capsys.readouterr().err.startswith(
        f"babygpt report: {'x' * 300}: file name too long. Give another"
    )
    verb("eval", raising(PermissionError(errno.EACCES, "Permission denied", "closed/model")))
    assert main(["eval", "closed/model"]) == 2
    said = "closed/model: permission denied. Give another path, or grant this user the right to it."
    assert capsys.readouterr().err == f"babygpt eval: {said}\n"
    verb("eval", raising(OSError(errno.EIO, "Input/output error", "disk")))
    assert main(["eval", "x"]) == 1


def test_2_a_current_folder_that_is_gone(verb, capsys, tmp_path, monkeypatch):
    asked = verb("eval", answer)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["eval", "x"]) == 2
    assert (
        capsys.readouterr().err == "babygpt eval: the current folder is gone. Change to one that is there.\n"
    )
    assert asked == []


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_after_saving(verb, capsys, signum, code):
    verb("train", raising(Stopped(signum)))
    assert main(["train"]) == code
    assert capsys.readouterr() == ("", f"babygpt train: stopped by signal {int(signum)}\n")


def test_130_interrupted_outside_of_a_run(verb, capsys):
    verb("train", raising(KeyboardInterrupt()))
    assert main(["train"]) == 130
    assert capsys.readouterr() == ("", "babygpt train: interrupted\n")


@pytest.mark.parametrize(("code", "wanted"), [(None, 0), (3, 3), ("text", 1)])
def test_an_exit_from_inside(verb, code, wanted):
    verb("train", raising(SystemExit(code)))
    assert main(["train"]) == wanted


def test_a_reader_that_left_is_no_traceback():
    """Our standard output is a pipe whose other end is closed before anything is written."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = run("train", "--print_config", stdout=pipe)
    assert done.returncode == 128 + signal.SIGPIPE, "as git and grep end"
    assert done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_no_traceback():
    with open("/dev/full", "w") as full:
        done = run("--version", stdout=full)
    assert done.returncode == 1
    assert done.stderr == "babygpt: standard output cannot be written to (No space left on device)\n"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DataError("no text", where="a.txt"), "babygpt train: a.txt: no text."),
        (ZeroDivisionError("a bug"), "babygpt train: failed: ZeroDivisionError: a bug"),
        (Ended(2, reason="process 1: a.txt: no text."), "babygpt train: process 1: a.txt: no text."),
    ],
    ids=repr,
)
def test_torchrun_can_say_the_reason_last(verb, tmp_path, monkeypatch, error, reason):
    """In its report of the failed processes."""
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    verb("train", raising(error))
    code = main(["train"])
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=code, error_file=str(tmp_path / "error.json"))
    last = ChildFailedError("babygpt", {0: failure}).format_msg().splitlines()[-2]
    assert last == f"  traceback : {reason}"


# -- results -------------------------------------------------------------------------------------------------


def test_json_is_one_object_and_nothing_else(verb, capsys):
    verb("eval", lambda s: Answer(value=float("inf")))
    assert main(["eval", "x", "--json"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert json.loads(out) == {"value": None, "nested": {"list": [None]}}
    assert err == ""


def test_json_in_a_recipe_file(verb, capsys, tmp_path):
    verb("train", answer)
    (tmp_path / "r.yaml").write_text("json: true\n")
    assert main(["train", "--config", str(tmp_path / "r.yaml")]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == 1.5


def test_a_terminal_shows_brackets_as_they_are(verb, capsys, monkeypatch):
    verb("train", answer)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["train"]) == 0
    assert "the [second] line" in re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_only_the_first_process_speaks(verb, capsys, monkeypatch, name):
    verb("train", answer)
    monkeypatch.setenv(name, "1")
    assert main(["train", "--json"]) == 0
    assert capsys.readouterr().out == ""
    monkeypatch.setenv(name, "0")
    assert main(["train", "--json"]) == 0
    assert capsys.readouterr().out != ""


def test_what_the_terminal_cannot_show_is_no_failure():
    code = (
        "import sys, types; from babygpt.cli import main\n"
        "fake = types.ModuleType('babygpt.generate'); sys.modules['babygpt.generate'] = fake\n"
        "fake.generate = lambda s: types.SimpleNamespace(lines=lambda: ['\\u03c0 \\U0001f600'])\n"
        "sys.exit(main(['generate', 'x']))"
    )
    done = run(code=code, env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout) == (0, "\\u03c0 \\U0001f600\n")


# -- verbs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "no verb is given. There are train, eval, generate, data prepare, data inspect, report, lab, checkpoint"
            " verify, plan, doctor; babygpt --help says more.",
        ),
        (["trian"], "there is no verb trian. Did you mean babygpt train?"),
        (["finetune"], "there is no verb finetune. Did you mean babygpt train?"),
        (["evaluate", "x"], "there is no verb evaluate. Did you mean babygpt eval?"),
        (["verify", "x"], "there is no verb verify. Did you mean babygpt checkpoint verify?"),
        (["checkpoint"], "there is no verb checkpoint. Did you mean babygpt checkpoint verify?"),
        (["checkpoint", "vrfy"], "there is no verb checkpoint vrfy. Did you mean babygpt checkpoint verify?"),
        (["--seed", "1"], "--seed stands before the verb. Begin with one of train,"),
        (
            ["xyzzy"],
            "there is no verb xyzzy. There are train, eval, generate, data prepare, data inspect, report, lab,"
            " checkpoint verify, plan, doctor.",
        ),
    ],
    ids=repr,
)
def test_wrong_verbs(capsys, arguments, message):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"babygpt: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["checkpoint", "--help"]], ids=repr)
def test_help_lists_every_verb(capsys, arguments):
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert [line.split("  ")[1] for line in out.splitlines() if line.startswith("  ")] == list(VERBS)
    assert err == ""


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"babygpt {babygpt.__version__}\n"


def test_every_verb_has_a_home():
    for verb in VERBS.values():
        module, _, function = verb.home.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_verify_through_the_command(tmp_path, capsys):
    from babygpt.files import publish_folder

    folder = publish_folder(tmp_path, "step-000001", lambda p: (p / "a").write_text("text"), {"step": 1})
    assert main(["checkpoint", "verify", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoints"][0]["files"] == 1
    (folder / "a").write_text("tixt")
    assert main(["checkpoint", "verify", str(folder)]) == 2
    assert "a is damaged" in capsys.readouterr().err


# -- how fast it answers -------------------------------------------------------------------------------------


def run(*arguments, code=None, env=None, stdout=subprocess.PIPE):
    command = ["-c", code] if code else ["-m", "babygpt", *arguments]
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **(env or {})},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["train", "--help"], 0),
        (["eval", "--help"], 0),
        (["train", "--print_config"], 0),
        (["train", "--learning_rate", "1"], 2),
        (["train", "--optim.lr", "fast"], 2),
        (["train", "--model.name", "preset:none"], 2),
        (["checkpoint", "verify", "no/such"], 2),
        (["nothing"], 2),
    ],
    ids=repr,
)
def test_it_answers_without_torch(arguments, code):
    program = (
        "import sys; from babygpt.cli import main\n"
        f"code = main({arguments!r})\n"
        "heavy = {'torch', 'transformers', 'lightning', 'datasets', 'numpy', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = run(code=program)
    assert done.returncode == code, done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["train", "--learning_rate", "1"]], ids=" ".join
)
def test_it_answers_in_under_a_second(arguments):
    """Of processor time, the least of three: a busy computer makes the clock on the wall say more."""

    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(*arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    taken = min(seconds() for _ in range(3))
    print(f"babygpt {' '.join(arguments)}: {taken:.2f} s")
    assert taken < 1
