"""Every bad input gets one plain message and exit code 2, and leaves nothing half-written."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BloomConfig, BloomForCausalLM, OPTConfig, OPTForCausalLM

from command import Command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capfd)


@pytest.fixture
def refused(command: Command, tmp_path: Path) -> Callable[..., str]:
    """Runs a training that must be refused; gives the message."""

    def run(*args: str | Path, out: Path | None = None) -> str:
        folder = out or tmp_path / "run"
        before = sorted(tmp_path.rglob("*"))
        target = () if "--resume" in args else ("--out", folder)
        seen = command("train", *args, *target)
        assert seen.code == 2, f"exit code {seen.code}: {seen.err}"
        assert "Traceback" not in seen.err
        assert seen.out == ""
        messages = [line for line in seen.err.splitlines() if line.startswith("babygpt train: ")]
        assert len(messages) == 1, seen.err
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        return messages[0]

    return run


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 200)
    return path


def small(data: Path) -> tuple[str | Path, ...]:
    return (
        "--model.name",
        "preset:gpt2-1m",
        "--data.path",
        data,
        "--data.block",
        "32",
        "--budget.steps",
        "2",
    )


def test_missing_file(refused: Callable[..., str], tmp_path: Path) -> None:
    message = refused(*small(tmp_path / "nowhere.txt"))
    assert "nowhere.txt" in message


def test_empty_file(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    message = refused(*small(tmp_path / "empty.txt"))
    assert "empty.txt" in message
    assert "empty" in message.replace("empty.txt", "")


def test_folder_without_text(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "picture.png").write_bytes(b"\x89PNG\r\n")
    assert "folder" in refused(*small(tmp_path / "folder"))


def test_line_that_is_not_json(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"text": broken}\n')
    message = refused(*small(tmp_path / "bad.jsonl"))
    assert "bad.jsonl:2" in message
    assert "JSON" in message


def test_record_without_the_field(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"body": "no", "title": "x"}\n')
    message = refused(*small(tmp_path / "bad.jsonl"))
    assert "bad.jsonl:2" in message
    assert "body" in message


def test_not_utf8(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait " * 50)
    message = refused(*small(tmp_path / "latin.txt"))
    assert "latin.txt" in message
    assert "not UTF-8 at byte offset 3" in message


def test_fewer_tokens_than_a_window(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Only a few words here.")
    message = refused(
        "--model.name", "preset:gpt2-1m", "--data.path", tmp_path / "short.txt", "--data.block", "512"
    )
    assert "tokens" in message
    assert "512" in message


def test_block_beyond_the_positions(refused: Callable[..., str], text: Path) -> None:
    message = refused("--model.name", "preset:gpt2-1m", "--data.path", text, "--data.block", "100000")
    assert "100000" in message
    assert "positions" in message


def test_unknown_preset(refused: Callable[..., str], text: Path) -> None:
    assert "gpt2-4m" in refused("--model.name", "preset:gpt2-4", "--data.path", text)


def test_unknown_key(refused: Callable[..., str], text: Path, tmp_path: Path) -> None:
    assert "--optim.lr" in refused("--learning_rate", "1", "--data.path", text)
    (tmp_path / "recipe.yaml").write_text("optim:\n  lrr: 0.1\n")
    message = refused("--config", tmp_path / "recipe.yaml")
    assert "lrr" in message
    assert "optim.lr" in message


def test_out_below_a_file(refused: Callable[..., str], text: Path) -> None:
    message = refused(*small(text), out=text / "runs" / "x")
    assert f"{text}: is a file, not a folder" in message


def test_out_whose_name_no_folder_can_have(
    refused: Callable[..., str], command: Command, text: Path, tmp_path: Path
) -> None:
    """No tokenizer can be saved under the first; a recipe file may hold the second."""
    wanted = "babygpt train: out: the name holds a zero, or bytes that are no UTF-8. Give a folder of another name."
    assert refused(*small(text), out=tmp_path / b"caf\xe9".decode("utf-8", "surrogateescape")) == wanted
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text('out: "a\\0b"\n')
    seen = command("train", *small(text), "--config", recipe)
    assert (seen.code, seen.err.splitlines()) == (2, [wanted])


def test_more_windows_a_step_than_there_are(refused: Callable[..., str], text: Path) -> None:
    message = refused(*small(text), "--data.global_batch_size", "100000")
    assert "data.global_batch_size: a step of 100,000 windows is more than the" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [("budget.steps", 10**21), ("budget.tokens", 10**21), ("data.global_batch_size", 10**8)],
)
def test_beyond_any_run(refused: Callable[..., str], text: Path, name: str, value: int) -> None:
    given = [word for word in small(text) if word not in ("--budget.steps", "2")]
    assert f"{name}: {value} is not a whole number of at most" in refused(*given, f"--{name}", str(value))


def test_more_processes_than_cores(refused: Callable[..., str], text: Path) -> None:
    message = refused(*small(text), "--machine.devices", "100000", "--machine.device", "cpu")
    assert "machine.devices: 100000 processes would share" in message


def test_a_revision_of_what_has_none(refused: Callable[..., str], text: Path, tiny_gpt2: Path) -> None:
    assert "preset:gpt2-1m has no revisions" in refused(*small(text), "--model.revision", "main")
    given = ("--model.name", tiny_gpt2, "--data.path", text, "--model.revision", "main")
    assert "is a folder, and has no revision 'main'" in refused(*given)


def test_a_field_of_plain_text(refused: Callable[..., str], text: Path) -> None:
    message = refused(*small(text), "--data.field", "body")
    assert "data.field: there is no field 'body': all of the data is plain text" in message


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that opens and cannot be read")
def test_a_disk_that_cannot_be_read(refused: Callable[..., str]) -> None:
    message = refused(*small(Path("/proc/self/mem")))
    assert "/proc/self/mem: cannot be read (Input/output error)" in message


@pytest.mark.parametrize(("key", "value"), [("activation_function", "x"), ("n_head", 5), ("n_embd", "wide")])
def test_a_configuration_that_builds_no_model(
    refused: Callable[..., str], text: Path, tiny_gpt2: Path, tmp_path: Path, key: str, value: Any
) -> None:
    shutil.copytree(tiny_gpt2, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, key: value}))
    message = refused("--model.name", tmp_path / "model", "--data.path", text, "--data.block", "32")
    assert "config" in message


def test_unknown_built_in_corpus(refused: Callable[..., str]) -> None:
    assert "builtin:pyton: no such built-in corpus. Use builtin:python" in refused(
        *small(Path("builtin:pyton"))
    )


def test_model_without_a_tokenizer(
    refused: Callable[..., str], tiny_gpt2: Path, tmp_path: Path, text: Path
) -> None:
    shutil.copytree(tiny_gpt2, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    message = refused("--model.name", tmp_path / "bare", "--data.path", text, "--data.block", "32")
    assert "bare: no tokenizer here" in message
    assert "data.tokenizer" in message


def test_model_that_looks_like_a_path(refused: Callable[..., str], text: Path, tmp_path: Path) -> None:
    message = refused("--model.name", tmp_path / "models" / "mine", "--data.path", text)
    assert "mine" in message
    assert "no such folder" in message


def test_hub_name_without_network(refused: Callable[..., str], text: Path) -> None:
    message = refused("--model.name", "somebody/some-model", "--data.path", text)
    assert "cannot be reached" in message
    assert "preset:" in message
    assert "local folder" in message


@pytest.mark.parametrize("kind", ["opt", "bloom"])
def test_leaking_attention_is_refused_when_isolated(
    command: Command, kind: str, tiny_gpt2: Path, tmp_path: Path, text: Path
) -> None:
    """Only `isolated` is: the same model trains under `stream`."""
    size = {"vocab_size": len(AutoTokenizer.from_pretrained(tiny_gpt2))}
    with torch.random.fork_rng():
        model: Any
        if kind == "opt":
            model = OPTForCausalLM(
                OPTConfig(
                    hidden_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    ffn_dim=64,
                    word_embed_proj_dim=32,
                    pad_token_id=0,
                    bos_token_id=0,
                    eos_token_id=0,
                    **size,
                )
            )
        else:
            model = BloomForCausalLM(
                BloomConfig(
                    hidden_size=32,
                    n_layer=2,
                    n_head=2,
                    pad_token_id=0,
                    bos_token_id=0,
                    eos_token_id=0,
                    **size,
                )
            )
    model.save_pretrained(tmp_path / kind)
    AutoTokenizer.from_pretrained(tiny_gpt2).save_pretrained(tmp_path / kind)
    data = tmp_path / "docs.jsonl"
    data.write_text("".join(json.dumps({"text": f"Document {n} is short."}) + "\n" for n in range(40)))
    args = (
        "train",
        "--model.name",
        tmp_path / kind,
        "--data.path",
        data,
        "--data.block",
        "32",
        "--budget.steps",
        "2",
        "--data.global_batch_size",
        "2",
    )
    seen = command(*args, "--data.packing", "isolated", "--out", tmp_path / "isolated")
    assert seen.code == 2, seen.err
    assert "documents see each other" in seen.err
    assert "Traceback" not in seen.err
    assert not (tmp_path / "isolated").exists()
    seen = command(*args, "--data.packing", "stream", "--out", tmp_path / "stream")
    assert seen.code == 0, seen.err


def test_output_folder_of_another_run(
    command: Command, refused: Callable[..., str], text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert command("train", *small(text), "--out", out).code == 0
    message = refused(*small(text), out=out)
    assert "another run" in message
    assert "--resume" in message


def test_no_space_left(command: Command, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("babygpt.disk.free_bytes", lambda path: 1000)
    seen = command("train", *small(text), "--out", tmp_path / "run")
    assert seen.code == 2, seen.err
    assert "Free some space" in seen.err
    assert not (tmp_path / "run").exists()


def test_disk_that_fills_during_a_save(
    command: Command, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "run"
    assert command("train", *small(text), "--out", out, signal_at=0).code == 143
    with monkeypatch.context() as patch:
        patch.setattr("babygpt.files.fsync_file", full)
        seen = command("train", "--resume", out)
    assert seen.code == 2, seen.err
    assert "space" in seen.err
    assert "Traceback" not in seen.err
    seen = command("train", "--resume", out)
    assert seen.code == 0, seen.err


def test_tokenizer_that_does_not_belong(
    refused: Callable[..., str], tiny_gpt2: Path, tmp_path: Path, text: Path
) -> None:
    message = refused(
        "--model.name", tiny_gpt2, "--data.tokenizer", "train:2000", "--data.path", text, "--data.block", "32"
    )
    assert "tokenizer" in message
    assert "257" in message


def test_damaged_resume_folder(
    command: Command, refused: Callable[..., str], text: Path, tmp_path: Path
) -> None:
    assert "recipe.yaml" in refused("--resume", tmp_path / "nothing")
    out = tmp_path / "run"
    assert command("train", *small(text), "--out", out, signal_at=0).code == 143
    (out / "recipe.yaml").write_text("optim: [broken\n")
    assert "recipe.yaml" in refused("--resume", out)


def test_damaged_checkpoints_are_passed_over_aloud(command: Command, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert command("train", *small(text), "--out", out, signal_at=0).code == 143
    weights = out / "checkpoints" / "step-000001" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    seen = command("train", "--resume", out)
    assert seen.code == 0
    assert "model.safetensors" in seen.err
    assert "passed over" in seen.err


def test_resume_under_another_recipe(
    command: Command, refused: Callable[..., str], text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert command("train", *small(text), "--out", out, signal_at=0).code == 143
    message = refused("--resume", out, "--data.block", "16")
    assert "data.block: 32 there, 16 here" in message
