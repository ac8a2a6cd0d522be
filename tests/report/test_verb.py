"""The verb through its settings and through the command: the page, the table, the numbers, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from babygpt.cli import main
from babygpt.errors import CheckpointError, InputError, RecipeError
from babygpt.report.verb import ReportResult, report
from babygpt.settings import ReportSettings
from babygpt.untrusted import shown
from run_folders import lines, loss_at, make_run, write_lines

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&lt;\x1b[2J\u202e<!--"


class Page(HTMLParser):
    """Elements with their attributes, the text between them, and what scripts and styles hold."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self._in: tuple[str, dict[str, str | None]] | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in = (tag, dict(attrs)) if tag in ("script", "style") else None

    def handle_endtag(self, tag: str) -> None:
        self._in = None

    def handle_data(self, data: str) -> None:
        if self._in:
            self.raw.append((*self._in, data))
        else:
            self.text += data

    @property
    def data(self) -> Any:
        (block,) = [text for tag, a, text in self.raw if tag == "script" and a.get("id") == "data"]
        return json.loads(block)


def page_of(*runs: Path, out: Path | None = None) -> Page:
    return Page(Path(report(ReportSettings(tuple(map(str, runs)), out and str(out))).page))


def test_the_numbers_are_those_of_the_run(tmp_path: Path) -> None:
    out = make_run(tmp_path / "a")
    result = report(ReportSettings((str(out),)))
    assert result.page == str(out / "report.html")
    (numbers,) = result.to_dict()["runs"]
    loss = loss_at(40) + 0.25
    assert numbers == {
        "run": str(out), "state": "finished", "steps": 40, "planned_steps": 40, "tokens": 4000, "seconds": 4.0,
        "tokens_per_second": 1000.0, "train_loss": pytest.approx(loss_at(40)), "val_loss": loss,
        "val_perplexity": math.exp(loss),
        "val_bits_per_byte": loss / 3, "val_losses": {}, "best_val_loss": loss, "best_step": 40,
        "best": str(out / "checkpoints" / "babygpt-2.25"), "findings": [],
    }  # fmt: skip


def test_the_table_lines_up(tmp_path: Path) -> None:
    runs = (str(make_run(tmp_path / "a")), str(make_run(tmp_path / "a-longer-name", steps=1200)))
    *rows, empty, last = report(ReportSettings(runs)).lines()
    assert (empty, last) == ("", f"page: {tmp_path / 'a' / 'report.html'}")
    assert len({len(row) for row in rows}) == 1
    assert max(map(len, rows)) <= 80
    assert rows[1].split() == ["a", "finished", "40", "3.8316", "46.14", "4,000", "4.0", "s"]


def test_the_page_says_what_the_run_holds(tmp_path: Path) -> None:
    text = page_of(make_run(tmp_path / "a")).text
    for what in (
        "90 documents, 2,000 tokens", "notes.txt (1 files, 5.0 kB)", "A processor", "16.00 GiB", "0.100 s (+25%)",
        "1.50 GiB (+50%)", "bf16 is no faster on this hardware", "babygpt train --config", "from_pretrained(folder)",
        "checkpoints/babygpt-2.25", "upon a time", "global_batch_size: 4", "2.00",
    ):  # fmt: skip
        assert what in text, what


def test_the_page_names_what_loads_the_tokenizer(tmp_path: Path) -> None:
    out = make_run(tmp_path / "a")
    assert "tokenizer = AutoTokenizer.from" in page_of(out).text
    file = out / "checkpoints" / "babygpt-2.25" / "tokenizer_config.json"
    file.write_text('{"tokenizer_class": "TokenizersBackend"}')
    assert "tokenizer = PreTrainedTokenizerFast.from" in page_of(out).text
    file.write_text("{")
    assert "tokenizer = AutoTokenizer.from" in page_of(out).text


def test_what_is_not_well_is_said_everywhere(tmp_path: Path) -> None:
    sick = make_run(tmp_path / "sick", steps=120)
    rising = (
        {**v, "train_loss": 3.0 if v["step"] < 60 else 9.0} if "lr" in v else v for v in list(lines(120))
    )
    write_lines(sick / "metrics.jsonl", rising)
    result = report(
        ReportSettings((str(sick), str(make_run(tmp_path / "sound"))), str(tmp_path / "page.html"))
    )
    first, second = result.to_dict()["runs"]
    (finding,) = first["findings"]
    assert (finding["kind"], second["findings"]) == ("diverging", [])
    assert finding["what"].startswith("the training loss has risen from 3.000 at step ")
    line = f"health of sick: {finding['what']}. {finding['mend']}"
    assert [text for text in result.lines() if text.startswith("health")] == [line]
    said = Page(tmp_path / "page.html").text
    assert said.count("What is not well") == 1
    assert "sick: diverging" in said
    assert f"{finding['what']}. {finding['mend']}." in said


def test_runs_beside_each_other(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "x" / "a"), make_run(tmp_path / "y" / "a", lr=0.5, sources=("p", "q"))
    page = page_of(one, other, out=tmp_path / "both.html")
    assert [run["name"] for run in page.data["runs"]] == [shown(str(run), 60) for run in (one, other)]
    assert page.data["runs"][1]["sources"].keys() == {"p", "q"}
    section = page.text.partition("What differs in the recipes")[2].partition(str(one) + "\n")[0]
    assert "optim.lr" in section
    assert "0.5" in section
    assert "data.block" not in section.partition("Validations")[0]


def test_what_others_wrote_is_text_and_nothing_else(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "_").replace("\x1b", "")
    out = make_run(tmp_path / name, sample=HOSTILE, sources=(HOSTILE,), data_path=HOSTILE)
    machine = json.loads((out / "machine.json").read_text())
    machine["facts"]["name"] = machine["versions"]["torch"] = machine["plan"]["device"] = HOSTILE
    machine["reasons"].append(HOSTILE)
    (out / "machine.json").write_text(json.dumps(machine))
    other = make_run(tmp_path / "b")
    hostile, plain = page_of(out, other), page_of(make_run(tmp_path / "c", sources=("s",)), other)
    assert {tag for tag, _ in hostile.elements} == {tag for tag, _ in plain.elements}
    names = {name for _, attributes in hostile.elements for name in attributes}
    assert names == {name for _, attributes in plain.elements for name in attributes}
    assert not any(name.startswith("on") for name in names)
    assert not names & {"src", "href", "style"}
    seen = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert hostile.text.count(seen) > 8
    assert hostile.data["runs"][0]["sources"].keys() == {shown(HOSTILE, 60)}
    whole = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", whole)


def test_the_policy_allows_the_pages_own_scripts_and_style_only(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "a"))
    (policy,) = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    scripts = [digest(text) for tag, a, text in page.raw if tag == "script" and not a]
    (style,) = [digest(text) for tag, _, text in page.raw if tag == "style"]
    expected = f"script-src {' '.join(scripts)}; style-src {style}"
    assert policy == f"default-src 'none'; {expected}; base-uri 'none'; form-action 'none'"
    assert len(scripts) == 2
    (about,) = [text for tag, _, text in page.raw if tag == "style"]
    assert "Leon Sorokin" in about  # the library's licence goes with it
    assert "url(" not in about


def test_a_long_run_makes_no_long_page(tmp_path: Path) -> None:
    short, long = make_run(tmp_path / "a", steps=900), make_run(tmp_path / "b", steps=10)
    small = len((tmp_path / "a" / "report.html").read_bytes()) if page_of(short) else 0
    write_lines(long / "metrics.jsonl", lines(20_000))
    page = page_of(long)
    assert len((long / "report.html").read_bytes()) < 2 * small
    assert "Each point stands for 32 steps" in page.text
    assert "validations" in page.text
    assert page.data["runs"][0]["train"]["step"][-1] == 20_000


def test_a_run_that_has_nothing_yet(tmp_path: Path) -> None:
    out = make_run(tmp_path / "a")
    for name in ("metrics.jsonl", "samples.jsonl", "machine.json", "data.json"):
        (out / name).unlink()
    result = report(ReportSettings((str(out),)))
    assert result.runs[0].state == "not begun"
    text = Page(Path(result.page)).text
    assert "machine.json: is missing" in text
    assert "None yet." in text


def test_what_is_refused(tmp_path: Path) -> None:
    out = str(make_run(tmp_path / "a"))
    with pytest.raises(CheckpointError, match="is not a run folder"):
        report(ReportSettings((out, str(tmp_path))))
    with pytest.raises(InputError, match="is a folder"):
        report(ReportSettings((out,), str(tmp_path)))
    with pytest.raises(InputError, match="there is no such folder"):
        report(ReportSettings((out,), str(tmp_path / "no" / "page.html")))
    for runs in ((), ("",), ("a", "a"), tuple(map(str, range(51)))):
        with pytest.raises(RecipeError):
            ReportSettings(runs)
    assert list(tmp_path.rglob("*.html")) == []


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(make_run(tmp_path / "a"))
    assert main(["report", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == report(ReportSettings((out,))).to_dict()
    assert main(["report", out]) == 0
    assert f"page: {out}/report.html" in capsys.readouterr().out
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"babygpt report: {tmp_path}: is not a run folder")
    assert main(["report"]) == 2
    assert "no run is given. babygpt report RUN" in capsys.readouterr().err


def test_no_torch_is_imported_for_it(tmp_path: Path) -> None:
    out = make_run(tmp_path / "a")
    code = (
        "import sys; from babygpt.cli import main; main(['report', sys.argv[1]]);"
        "print({'torch', 'transformers', 'lightning'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_result_is_what_the_command_shows() -> None:
    result = ReportResult("p.html", (), (("run", "x"), ("a", "1")))
    assert result.lines() == ["run  x", "a    1", "", "page: p.html"]


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    with pytest.raises(InputError, match=r"cannot be written \(.*\)\. Give another --out"):
        report(ReportSettings((str(run),), out=str(tmp_path / ("x" * 300))))
