"""Recipes that name a corpus: the same data, order and losses as from the text, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest

from babygpt.cli import main
from babygpt.data.ahead import Ahead
from babygpt.data.arrow import open_store
from babygpt.data.corpus import read_corpus
from babygpt.data.module import LLMDataModule
from babygpt.errors import DataError
from command import with_short_samples
from web_server import WebServer

TINY = ("--budget.steps", "4", "--data.global_batch_size", "4", "--checkpoint.every_steps", "2")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with text, the cache in it."""
    with_short_samples(monkeypatch)
    monkeypatch.setenv("BABYGPT_CACHE", str(tmp_path / "cache"))
    rows = [{"prompt": f"{n} says", "completion": f"{'word ' * (n % 20)}{n}"} for n in range(300)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def corpus(home: Path, tiny_gpt2: Path, web: WebServer) -> Callable[..., str]:
    """Prepares a corpus, serves it, and returns its address."""

    def make(*arguments: str) -> str:
        asked = ("--data.path", home / "text.jsonl", "--model.name", tiny_gpt2, "--to", home / "corpus")
        assert main(["data", "prepare", *map(str, asked), *arguments]) == 0
        for file in (home / "corpus").rglob("*"):
            if file.is_file():
                web.files[f"/x/{file.relative_to(home / 'corpus').as_posix()}"] = file.read_bytes()
        web.stays = True
        return web.url("/x/corpus.json")

    return make


def losses(run: Path) -> list[tuple[object, ...]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(each["step"], each.get("train_loss"), each.get("val_loss")) for each in lines]


def stopped_half_way(run: Path, copy: Path) -> Path:
    """A copy of a run, as if it had been killed after its second step."""
    shutil.copytree(run, copy, symlinks=True)
    for checkpoint in (copy / "checkpoints").iterdir():
        if checkpoint.is_symlink():
            checkpoint.unlink()
        elif checkpoint.name != "step-000002":
            shutil.rmtree(checkpoint)
    return copy


def message(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main([str(each) for each in arguments]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_the_folder_is_two_stores_the_same_each_time(home: Path, corpus, tiny_gpt2: Path) -> None:
    corpus()
    first = {
        p.relative_to(home / "corpus"): p.read_bytes() for p in (home / "corpus").rglob("*") if p.is_file()
    }
    (home / "corpus").rename(home / "before")
    os.environ["BABYGPT_CACHE"] = str(home / "other-cache")
    corpus()
    assert first == {
        p.relative_to(home / "corpus"): p.read_bytes() for p in (home / "corpus").rglob("*") if p.is_file()
    }
    store = open_store(home / "corpus" / "train")
    rows = datasets.load_from_disk(str(home / "corpus" / "train"))
    assert rows["input_ids"][3] == store.document(3).tolist()
    lengths = np.fromfile(home / "corpus" / "train" / "lengths.u32", "<u4")
    assert np.cumsum(lengths).tolist() == store.offsets[1:].tolist()
    assert str(home) not in (home / "corpus" / "corpus.json").read_text()


@pytest.mark.parametrize(("packing", "workers"), [("stream", 0), ("isolated", 2)])
def test_loaders_give_what_the_text_gives(
    home: Path, corpus, tiny_gpt2: Path, packing: str, workers: int
) -> None:
    address, text = corpus(), str(home / "text.jsonl")
    modules = [
        LLMDataModule(str(tiny_gpt2), 3, path=path, block=32, packing=packing, workers=count)
        for path, count in ((text, 0), (address, workers), (str(home / "corpus" / "corpus.json"), 0))
    ]
    for module in modules:
        module.setup()
    ours, *others = [
        [{k: v.tolist() for k, v in batch.items()} for batch in (*m.train_dataloader(), *m.val_dataloader())]
        for m in modules
    ]
    assert all(other == ours for other in others)
    assert len({m.prepared.fingerprint for m in modules}) == 1


def test_a_run_is_the_same_from_text_and_corpus_and_goes_on_from_either(
    home: Path, corpus, tiny_gpt2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, text = corpus(), str(home / "text.jsonl")
    common = ["train", "--model.name", str(tiny_gpt2), "--data.block", "32", *TINY]
    for name, path in (("text", text), ("web", address)):
        assert main([*common, "--data.path", path, "--out", str(home / name)]) == 0
    assert losses(home / "web") == losses(home / "text")
    goes_on = {
        name: stopped_half_way(home / name, home / f"{name}-{n}") for n, name in enumerate(("text", "web"))
    }
    changed = stopped_half_way(home / "web", home / "changed")
    for begun, then in (("text", address), ("web", text)):
        assert main(["train", "--resume", str(goes_on[begun]), "--data.path", then]) == 0
        assert losses(goes_on[begun])[-1] == losses(home / "text")[-1]
    (home / "text.jsonl").write_text('{"prompt": "other", "completion": "text"}\n' * 50)
    assert f"{text} holds other ids" in message(["train", "--resume", changed, "--data.path", text], capsys)


def test_secrets_of_its_address_are_nowhere_and_are_given_again(
    home: Path, corpus, tiny_gpt2: Path, web: WebServer, capsys
) -> None:
    corpus()
    address, out = web.url("/x/corpus.json?sig=hush-query", "me:hush-word@"), home / "run"
    common = ["--model.name", str(tiny_gpt2), "--data.block", "32"]
    constant = ("--schedule.name", "constant", "--schedule.warmup", "1")
    assert main(["train", *common, *constant, "--data.path", address, *TINY, "--out", str(out)]) == 0
    assert main(["data", "inspect", *common, "--data.path", address, "--json"]) == 0
    assert main(["data", "prepare", *common[:2], "--data.path", address]) == 0
    assert "never written down" in message(["train", "--resume", out, "--budget.steps", "5"], capsys)
    longer = ["train", "--resume", str(out), "--budget.steps", "5", "--data.path", address]
    assert main(longer) == 0
    assert losses(out)[-1][0] == 5
    said = capsys.readouterr()
    assert "hush" not in said.out + said.err
    assert [p for p in home.rglob("*") if p.is_file() and b"hush" in p.read_bytes()] == []


def test_eval_and_inspect_take_a_corpus(home: Path, corpus, tiny_gpt2: Path, capsys) -> None:
    address = corpus()
    capsys.readouterr()
    assert main(["data", "inspect", "--data.path", address, "--model.name", str(tiny_gpt2), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["contamination"] is None
    assert shown["unread"] == "a corpus holds ids, not text"
    found = []
    for path in (address, str(home / "corpus" / "corpus.json")):
        assert main(["eval", str(tiny_gpt2), "--data.path", path, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["loss"])
    assert found[0] == found[1]


def test_what_was_decided_in_preparation_is_refused(home: Path, corpus, tiny_gpt2: Path, capsys) -> None:
    address = corpus("--data.deduplicate", "exact")
    begin = ["data", "inspect", "--model.name", tiny_gpt2, "--data.path", address]
    assert main([str(each) for each in (*begin, "--data.deduplicate", "exact")]) == 0
    for flags, said in (
        (["--data.val_fraction", "0.2"], "data.val_fraction: "),
        (["--data.field", "body"], "data.field: "),
        (["--data.train_on_prompts"], "was prepared with False, which cannot be changed to True"),
        (["--data.val_path", home / "text.jsonl"], "data.val_path: "),
        (
            ["--data.tokenizer", "train:300"],
            "data.tokenizer: the corpus was tokenised with auto, not with train:300",
        ),
    ):
        assert said in message([*begin, *flags], capsys)
    assert "does not go with other data in one" in message([*begin, home / "text.jsonl"], capsys)
    taken = [
        "data",
        "prepare",
        "--model.name",
        tiny_gpt2,
        "--data.path",
        home / "text.jsonl",
        "--to",
        home / "corpus",
    ]
    assert "is there already" in message(taken, capsys)
    again = [*taken[:-3], address, "--to", home / "again"]
    assert "is a corpus already" in message(again, capsys)
    assert not (home / "again").exists()


def test_a_corpus_says_whether_prompts_may_count(home: Path, corpus, tiny_gpt2: Path, capsys) -> None:
    weighed = ["data", "inspect", "--model.name", tiny_gpt2, "--data.prompt_weight", "0.5", "--data.path"]
    assert main([*map(str, weighed), corpus()]) == 0
    path = home / "corpus" / "corpus.json"
    content = json.loads(path.read_text())
    assert content["withheld"] == ""
    for withheld, said in (
        (
            "text.jsonl:3: message 1 of field 'messages' has weight 0, or train false",
            "may be more than prompts: text",
        ),
        (None, "was prepared by a version that did not note"),
        (7, "what is withheld is no sentence"),
    ):
        path.write_text(json.dumps({**content, "withheld": withheld}))
        assert said in message([*weighed, path], capsys)


def test_several_corpora_are_mixed(home: Path, corpus, tiny_gpt2: Path) -> None:
    address, text = corpus(), str(home / "text.jsonl")
    ours, theirs = (
        LLMDataModule(str(tiny_gpt2), 4, path=paths, weights=(1, 2), block=32)
        for paths in ((address, text), (text, text))
    )
    for module in (ours, theirs):
        module.setup()
    for a, b in zip(ours.train_dataloader(), theirs.train_dataloader(), strict=True):
        assert {k: v.tolist() for k, v in a.items()} == {k: v.tolist() for k, v in b.items()}


def test_a_damaged_corpus_json_is_refused_and_any_other_file_is_data(
    home: Path, corpus, web: WebServer
) -> None:
    address = corpus()
    content = json.loads(web.files["/x/corpus.json"])
    for damage in (
        lambda c: c.update(babygpt_corpus=2),
        lambda c: c["files"].update({"../evil": {"size": 1, "sha256": "0" * 64}}),
        lambda c: c["files"].update({"/etc/evil": {"size": 1, "sha256": "0" * 64}}),
        lambda c: c["sides"]["train"]["shards"].append(["val/other.arrow", 1]),
        lambda c: c["sides"]["val"]["manifest"].pop("dtype"),
        lambda c: c["files"].pop("train/lengths.u32"),
        lambda c: c.update(piece=0),
    ):
        wrong = json.loads(json.dumps(content))
        damage(wrong)
        (home / "wrong").mkdir(exist_ok=True)
        (home / "wrong" / "corpus.json").write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=r"corpus\.json: (no whole corpus\.json|a corpus of format 2)"):
            read_corpus(str(home / "wrong" / "corpus.json"), home)
    for other in ('{"text": "hello"}', "[]", "{", ""):
        (home / "wrong" / "corpus.json").write_text(other)
        assert read_corpus(str(home / "wrong" / "corpus.json"), home) is None
    web.types["/x/corpus.json"] = "text/html"
    with pytest.raises(DataError, match="HTML page"):
        read_corpus(address, home / "empty")


@pytest.mark.parametrize("processes", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 40])
def test_each_process_learns_of_each_micro_batch_once_and_early(processes: int, count: int) -> None:
    rows = [np.full(128, number) for number in range(count)]
    handed, turns = list(Ahead(rows, processes)), max(1, processes)
    assert [int(each.rows[0]) for each in handed] == list(range(count))
    for process in range(turns):
        own = handed[process::turns]
        told = [int(later[0]) for each in own for later in each.coming]
        assert told == list(range(process, count, turns))
        for place in range(len(own) - 1):
            known = {int(later[0]) for before in own[: place + 1] for later in before.coming}
            assert int(own[place + 1].rows[0]) in known
            assert len(known) - place == min(3, len(own) - place)  # itself and two more: 256 windows
