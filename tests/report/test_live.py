"""The live page: what it answers and to whom, what it shows as a run goes on, and how it ends."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from babygpt.cli import main
from babygpt.errors import InputError, RecipeError
from babygpt.health import curves_of as health_of
from babygpt.health import findings
from babygpt.report import live
from babygpt.report.curves import curves_of
from babygpt.report.live import LiveRuns, bound
from babygpt.report.metrics import Metrics
from babygpt.settings import ReportSettings
from babygpt.training.alive import alone_in
from run_folders import lines, make_run, write_lines

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@dataclass
class Client:
    port: int

    def ask(
        self, path: str = "/", method: str = "GET", host: str | None = None, **headers: str
    ) -> tuple[int, Any, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest(method, path, skip_host=True)
        if host != "":
            connection.putheader("Host", host or f"127.0.0.1:{self.port}")
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        try:
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def data(self) -> Any:
        status, _, text = self.ask("/data")
        assert status == 200, text
        return json.loads(text)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "a", planned=200)


@pytest.fixture
def client(run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(live, "_LEAST_SECONDS", 0.0)
    with bound(LiveRuns([run], 1000), None) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield Client(server.server_address[1])
        server.shutdown()


# -- what it answers -----------------------------------------------------------------------------------------


def test_the_page_and_its_data_and_nothing_else(client: Client) -> None:
    status, headers, page = client.ask()
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "connect-src 'self'" in page
    assert "default-src 'none'" in page
    assert 'id="live"' in page
    status, headers, text = client.ask("/data")
    assert (status, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    assert json.loads(text)["runs"][0]["train"]["step"][-1] == 40
    for path in (
        "/data/",
        "/..",
        "/recipe.yaml",
        "/%2e%2e/recipe.yaml",
        "/data?x",
        "/metrics.jsonl",
        "*",
    ):
        assert client.ask(path)[0] == 404, path


def test_it_is_only_read(client: Client, run: Path) -> None:
    before = sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*"))
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        status, headers, _ = client.ask(method=method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert client.ask(method="BREW")[0] == 501
    for path in ("/", "/data"):
        whole, head = client.ask(path), client.ask(path, "HEAD")
        assert (head[0], head[2]) == (200, "")
        assert head[1]["Content-Length"] == whole[1]["Content-Length"] == str(len(whole[2].encode()))
        assert whole[1]["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in whole[1]
    assert sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*")) == before


@pytest.mark.parametrize("path", ["/", "/data"])
@pytest.mark.parametrize(
    "host", ["", "evil.example", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{}", "[::1]:{}"]
)
def test_another_host_gets_nothing(client: Client, path: str, host: str) -> None:
    status, _, text = client.ask(path, host=host.format(client.port))
    assert status == 421
    assert "train" not in text


def test_the_two_names_of_this_computer(client: Client) -> None:
    assert live._names(8000) == ("127.0.0.1:8000", "localhost:8000")
    assert live._names(80) == ("127.0.0.1", "localhost"), "as browsers ask"
    assert client.ask(host=f"localhost:{client.port}")[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)
    connection.putrequest("GET", "/", skip_host=True)
    for host in (f"127.0.0.1:{client.port}", "evil.example"):
        connection.putheader("Host", host)
    connection.endheaders()
    assert connection.getresponse().status == 421, "two hosts are one too many"


def test_nothing_is_sent_again_while_nothing_has_changed(client: Client, run: Path) -> None:
    _, headers, _ = client.ask("/data")
    assert client.ask("/data", If_None_Match=headers["ETag"])[::2] == (304, "")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**next(islice(lines(41), 41, None)), "step": 41}) + "\n")
    assert client.ask("/data", If_None_Match=headers["ETag"])[0] == 200


# -- as the run goes on --------------------------------------------------------------------------------------


def test_new_points_a_resumed_run_and_its_end(client: Client, run: Path) -> None:
    every = list(lines(200))
    metrics = run / "metrics.jsonl"

    def steps() -> list[int]:
        return list(client.data()["runs"][0]["train"]["step"])

    write_lines(metrics, iter(every[:60]))
    known = [line["step"] for line in every[:60] if "train_loss" in line]
    assert steps() == known
    with metrics.open("a") as file:  # torn, as by a kill
        file.write(json.dumps(every[60])[:20])
    assert steps() == known
    # Going on cuts the file to the checkpoint and writes on, past where it was read to.
    write_lines(metrics, ({**line, "lr": 0.5} for line in every[:90]))
    data = client.data()
    assert data["runs"][0]["train"]["step"] == [line["step"] for line in every[:90] if "train_loss" in line]
    assert set(data["runs"][0]["train"]["lr"]) == {0.5}
    assert ">stopped<" in data["parts"]["reached"]
    write_lines(metrics, iter(every))
    assert ">finished<" in client.data()["parts"]["reached"]


def test_findings_appear(client: Client, run: Path) -> None:
    assert "What is not well" not in client.data()["parts"]["reached"]
    sick = [{**line, "train_loss": 3.0 if line["step"] < 60 else 9.0} for line in lines(120) if "lr" in line]
    write_lines(run / "metrics.jsonl", iter(sick))
    reached = client.data()["parts"]["reached"]
    assert "What is not well" in reached
    assert "has risen from 3.000" in reached


def test_what_others_wrote_is_text(client: Client, run: Path) -> None:
    write_lines(run / "samples.jsonl", iter([{"step": 1, "prompt": HOSTILE, "text": HOSTILE}]))
    samples = client.data()["parts"]["run0-samples"]
    assert "alert(1)" in samples
    assert "<script" not in samples
    assert "<img" not in samples


def test_a_folder_that_goes_is_said_and_may_come_back(client: Client, run: Path) -> None:
    run.rename(run.with_name("b"))
    status, _, text = client.ask("/data")
    assert (status, "is not a run folder" in text) == (503, True)
    run.with_name("b").rename(run)
    assert client.ask("/data")[0] == 200


def test_what_goes_wrong_in_it_is_said_and_is_no_end(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(views: Any) -> Any:
        raise ValueError("no such number")

    with monkeypatch.context() as patch:
        patch.setattr(live, "live_values", fails)
        assert client.ask("/data")[::2] == (500, "it cannot be shown (ValueError: no such number)")
    assert client.ask("/data")[0] == 200


def test_numbers_that_none_can_be_are_no_curve(client: Client, run: Path) -> None:
    sound = list(lines(40))
    wrong = [{**line, "train_loss": 9e299, "targets": 2**62} for line in sound if "lr" in line]
    write_lines(run / "metrics.jsonl", iter(wrong))
    assert set(client.data()["runs"][0]["train"]["train_loss"]) == {None}


def test_memory_and_share_of_the_peak_are_those_of_now(run: Path, client: Client) -> None:
    """Ten steps a second of a thousand million operations each, where twenty thousand million are the most."""
    machine = json.loads((run / "machine.json").read_text())

    def now() -> str:
        return str(re.sub(r"<[^>]*>", " ", client.data()["parts"]["reached"]))

    assert "Now" not in now(), "nobody is at work in it"
    with alone_in(run):
        text = now()
        assert "1,000 tokens/s, 50% of 20 GFLOP/s (measured)" in text
        assert "memory, at its peak (of the whole process)" in text
        assert "1.02 GiB of 16.00 GiB" in text
        half = [{**line, "tokens_per_second": 500.0} if line["step"] > 40 else line for line in lines(60)]
        write_lines(run / "metrics.jsonl", iter(half))
        assert "500 tokens/s, 25% of" in now(), "of the newest steps, not of the whole run"
        del machine["measured"]
        (run / "machine.json").write_text(json.dumps(machine))
        assert "500 tokens/s" in now()
        assert "GFLOP/s" not in now(), "it was not measured"
    assert "Now" not in now()


def test_what_is_sent_is_bounded(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", steps=5000)
    _, (view,) = LiveRuns([run], 100).views()
    assert len(view.curves.train["step"]) <= 100


def test_read_in_pieces_is_read_at_once(tmp_path: Path) -> None:
    every = [{**line, "tokens_per_second": None} if n < 30 else line for n, line in enumerate(lines(700))]
    path = tmp_path / "metrics.jsonl"
    pieces = Metrics(path, 64, 700)
    text = "".join(json.dumps(line) + "\n" for line in every).encode()
    for begin in range(0, len(text), 1777):
        with path.open("ab") as file:
            file.write(text[begin : begin + 1777])
        pieces.read()
        _ = pieces.curves, pieces.findings
    assert pieces.curves == curves_of(every, 64)
    assert pieces.findings == findings(health_of(every, 700))


# -- the command ---------------------------------------------------------------------------------------------


def test_the_command_serves_until_ctrl_c(run: Path) -> None:
    words = [sys.executable, "-m", "babygpt", "report", str(run), "--live"]
    # Where a shell has put the tests into the background, it has them ignore the signal, and what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            assert said.startswith("page: http://127.0.0.1:")
            client = Client(int(said.partition("127.0.0.1:")[2].partition("/")[0]))
            assert client.data()["runs"][0]["name"] == "a"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (130, "", "babygpt report: interrupted\n")
    assert not (run / "report.html").exists()


def test_what_is_refused(run: Path, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--live", "--port", str(client.port)]) == 2
    assert f"port {client.port}: cannot be listened on" in capsys.readouterr().err
    assert main(["report", str(run.parent), "--live"]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    for more in (
        {"out": "x.html", "live": True},
        {"json": True, "live": True},
        {"port": 80},
        {"port": 0, "live": True},
    ):
        with pytest.raises(RecipeError):
            ReportSettings((str(run),), **more)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is not a run folder"):
        LiveRuns([run.parent], 100).views()
