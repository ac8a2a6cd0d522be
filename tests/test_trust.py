"""What SECURITY.md promises of files: nothing they carry runs, each gets one plain message, no secret gets out.

A payload that ran would leave the canary, a file in the test's folder. What an attacker can write into a
checkpoint it can also seal with a manifest of its own, as `seal` does: checksums find damage, not malice.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from babygpt.cli import main

STEP = "checkpoints/step-000001"
ESC = "\x1b[31m"
ARGS = (
    *("--data.block", "32", "--data.global_batch_size", "2", "--data.tokenizer", "train:300"),
    *("--machine.micro_batch", "2", "--machine.workers", "0", "--machine.precision", "32-true"),
    *("--validate.batches", "1", "--budget.steps", "2", "--checkpoint.every_steps", "1"),
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 200)
    return path


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps without its last checkpoint: it goes on from step 1. Not to be written in."""
    out = tmp_path_factory.mktemp("runs") / "run"
    args = ("train", "--model.name", "preset:gpt2-1m", "--data.path", str(text), *ARGS, "--out", str(out))
    assert main(args) == 0
    for path in (out / "checkpoints").glob("*"):
        if path.name not in ("step-000001", "last"):
            shutil.rmtree(path)
    (out / "checkpoints" / "last").unlink()
    (out / "checkpoints" / "last").symlink_to("step-000001")
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "the payload ran"


@pytest.fixture
def payload(canary: Path) -> bytes:
    """A pickle that makes the canary when it is read."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.system, (f"touch {canary}",))

    return pickle.dumps(Bomb())


def evil_module(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w').close()\nclass C: pass\nclass M: pass\nclass T: pass\n"


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must answer with one plain message, soon; gives the message."""

    def refuse(*args: str | Path) -> str:
        capfd.readouterr()
        begun = time.monotonic()
        code = main([str(a) for a in args])
        took = time.monotonic() - begun
        out, err = capfd.readouterr()
        assert code == 2, f"exit code {code}: {err}"
        assert out == ""
        assert "Traceback" not in err
        assert "\x1b" not in err
        messages = [line for line in err.splitlines() if line.startswith("babygpt ")]
        assert len(messages) == 1, err
        assert len(err) < 5000
        assert took < 20
        return messages[0]

    return refuse


def edit(file: Path, **changes: Any) -> None:
    content = {**json.loads(file.read_text()), **changes}
    if file.name == "manifest.json":
        content.pop("sha256", None)  # its own checksum need not be there
    file.write_text(json.dumps(content))


def seal(folder: Path) -> None:
    """Gives a folder the manifest of what is in it now."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "manifest.json"]
    entries = {
        p.relative_to(folder).as_posix(): {
            "size": p.stat().st_size,
            "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
        }
        for p in files
    }
    edit(folder / "manifest.json", files=entries)


def uses(verb: str, run: Path, text: Path) -> tuple[str | Path, ...]:
    """A command line that meets a run's checkpoint."""
    folder = run / STEP
    return {
        "name": (
            "train",
            "--model.name",
            folder,
            "--data.path",
            text,
            *ARGS[:4],
            "--out",
            run.parent / "new",
        ),
        "eval": ("eval", folder, "--data.path", text, "--data.block", "32"),
        "generate": ("generate", folder, "--max_new_tokens", "2"),
        "verify": ("checkpoint", "verify", folder),
        "resume": ("train", "--resume", run),
    }[verb]


# -- pickles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["name", "eval", "generate", "resume"])
@pytest.mark.parametrize("disguise", ["pytorch_model.bin", "model.safetensors", "shard"])
def test_pickled_weights(
    verb: str, disguise: str, run: Path, text: Path, payload: bytes, refused: Callable[..., str]
) -> None:
    folder = run / STEP
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    if disguise == "shard":
        # An index that is believed would have them unpickled; the decoy looks like weights.
        (folder / "evil.bin").write_bytes(payload)
        (folder / "decoy.safetensors").write_bytes(b"")
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, "evil.bin")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        (folder / disguise).write_bytes(payload)
    seal(folder)
    message = refused(*uses(verb, run, text))
    assert str(folder) in message


@pytest.mark.parametrize("file", ["training/optimizer.safetensors", "training/state.json", "config.json"])
def test_a_pickle_where_state_should_be(
    file: str, run: Path, text: Path, payload: bytes, refused: Callable[..., str]
) -> None:
    (run / STEP / file).write_bytes(payload)
    seal(run / STEP)
    assert "cannot be" in refused(*uses("resume", run, text))


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_pickle_where_json_should_be(
    file: str, run: Path, text: Path, payload: bytes, refused: Callable[..., str]
) -> None:
    (run / STEP / file).write_bytes(payload)
    refused(*uses("generate", run, text))


# -- code ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["name", "eval", "generate", "resume"])
def test_an_architecture_in_code(
    verb: str, run: Path, text: Path, canary: Path, refused: Callable[..., str]
) -> None:
    folder = run / STEP
    (folder / "evil.py").write_text(evil_module(canary))
    hooks = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    edit(folder / "config.json", model_type="evil", auto_map=hooks)
    seal(folder)
    assert "no code from a checkpoint is ever run" in refused(*uses(verb, run, text))


def test_hooks_of_built_in_classes_are_left_alone(
    run: Path, text: Path, canary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run / STEP
    (folder / "evil.py").write_text(evil_module(canary))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(evil_module(canary))
    hooks = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", "evil.T"]}
    edit(folder / "config.json", auto_map=hooks)
    edit(folder / "tokenizer_config.json", auto_map=hooks, tokenizer_class="evil.T")
    edit(folder / "generation_config.json", custom_generate="evil", auto_map=hooks)
    assert main([str(a) for a in uses("generate", run, text)]) == 0
    assert "its own code is not run" in caplog.text


# -- names and links -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../../recipe.yaml", "/etc/passwd", "a\0b", "a\nb", f"{ESC}red", "x" * 5000, "training", "."]
)
def test_a_manifest_that_names_what_is_not_inside(
    name: str, run: Path, text: Path, refused: Callable[..., str]
) -> None:
    manifest = json.loads((run / STEP / "manifest.json").read_text())
    edit(run / STEP / "manifest.json", files=manifest["files"] | {name: {"size": 3, "sha256": "0" * 64}})
    assert "step-000001" in refused(*uses("verify", run, text))


@pytest.mark.parametrize(
    "target", ["..", "../../run", "/etc", "step-000001\0", ESC, "a\nb", "x" * 400, "\x80"]
)
def test_a_last_that_leads_elsewhere(target: str, run: Path, refused: Callable[..., str]) -> None:
    last = run / "checkpoints" / "last"
    last.unlink()
    last.write_text(target, encoding="latin-1")
    refused("checkpoint", "verify", last)


@pytest.mark.parametrize("target", ["/etc", "last", "../recipe.yaml"])
def test_a_last_that_is_a_link_elsewhere(target: str, run: Path, refused: Callable[..., str]) -> None:
    last = run / "checkpoints" / "last"
    last.unlink()
    last.symlink_to(target)
    refused("checkpoint", "verify", last)
    refused("generate", last)


@pytest.mark.parametrize("file", ["model.safetensors", "training/state.json"])
def test_a_checkpoint_with_a_link_out(file: str, run: Path, text: Path, refused: Callable[..., str]) -> None:
    shutil.move(run / STEP / file, run.parent / "moved")
    (run / STEP / file).symlink_to(run.parent / "moved")
    assert "a link that leads out" in refused(*uses("verify", run, text))


def test_a_checkpoint_that_is_a_link_is_passed_over(run: Path) -> None:
    from babygpt.checkpoints import newest

    shutil.move(run / STEP, run.parent / "moved")
    (run / STEP).symlink_to(run.parent / "moved")
    said: list[str] = []
    assert newest(run / "checkpoints", said.append) is None
    assert said == ["step-000001 is passed over: it is a link"]


# -- sizes -----------------------------------------------------------------------------------------


def header(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


def declaring(shape: list[int], end: int) -> bytes:
    return header(json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode())


@pytest.mark.parametrize("size", ["1" + "0" * 18, "9" * 10_000])
def test_a_huge_size_in_a_manifest(size: str, run: Path, text: Path, refused: Callable[..., str]) -> None:
    file = run / STEP / "manifest.json"
    edit(file)
    file.write_text(file.read_text().replace('"size": ', f'"size": {size}', 1))
    assert "step-000001" in refused(*uses("verify", run, text))


@pytest.mark.parametrize(
    "content",
    [
        declaring([250_000_000_000_000_000], 10**18),
        declaring([2**63, 2**63], 0),
        header(b"{}", 100 << 30),
        header(b"{}", 2**64 - 1),
        header(b'{"a":' + b"[" * 1_000_000),
    ],
    ids=["10^18 bytes", "a shape that overflows", "a header of 100 GB", "a header of 2^64", "nested"],
)
def test_a_huge_size_in_safetensors(
    content: bytes, run: Path, text: Path, refused: Callable[..., str]
) -> None:
    kept = (run / STEP / "model.safetensors").read_bytes()
    (run / STEP / "model.safetensors").write_bytes(content)
    refused(*uses("generate", run, text))
    (run / STEP / "model.safetensors").write_bytes(kept)
    (run / STEP / "training" / "optimizer.safetensors").write_bytes(content)
    seal(run / STEP)
    refused(*uses("resume", run, text))


@pytest.mark.parametrize("file", ["config.json", "training/state.json"])
def test_deeply_nested_json(file: str, run: Path, text: Path, refused: Callable[..., str]) -> None:
    (run / STEP / file).write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    seal(run / STEP)
    assert "nested too deeply" in refused(*uses("resume", run, text))
    if file == "config.json":
        assert "nested too deeply" in refused(*uses("generate", run, text))


# -- recipes ---------------------------------------------------------------------------------------


def laughs() -> str:
    lines = ["x0: &x0 [x, x]", *(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, 12))]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("seed: !!python/object/apply:os.system ['touch CANARY']", "constructor"),
        ("!!python/object/apply:os.system ['touch CANARY']", "constructor"),
        (laughs(), "aliases"),
        (f"data:\n  path: [x]\n{laughs()}", "aliases"),
        ("seed: " + "[" * 50_000, "nested too deeply"),
        ("seed: 1:1" + ":1" * 5000, "too large"),
        ("data: &d\n  path: [x]\n  more: *d", "contains itself"),
        ('seed: "\\e[31m"', "whole number"),
        ('"\\e[31mseed": 1', "no field"),
        ("# " + "x" * 2_000_000, "larger than"),
    ],
)
def test_a_hostile_recipe(
    recipe: str, message: str, run: Path, canary: Path, refused: Callable[..., str]
) -> None:
    (run / "recipe.yaml").write_text(recipe.replace("CANARY", str(canary)))
    assert message in refused("train", "--config", run / "recipe.yaml", "--out", run.parent / "new")
    assert message in refused("train", "--resume", run)
    assert not (run.parent / "new").exists()


def test_a_recipe_without_its_length_is_no_runs(run: Path, refused: Callable[..., str]) -> None:
    (run / "recipe.yaml").write_text("seed: 1\n")
    assert "budget.steps is missing" in refused("train", "--resume", run)


@pytest.mark.parametrize("line", ["out: /tmp/elsewhere", "resume: /tmp/elsewhere", "machine:\n  devices: 64"])
def test_the_recipe_of_a_run_leads_nowhere_else(line: str, run: Path, refused: Callable[..., str]) -> None:
    file = run / "recipe.yaml"
    file.write_text(f"{file.read_text()}{line}\n")
    assert "no field" in refused("train", "--resume", run)


# -- state -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("global_step", -1, "global_step"),
        ("global_step", 10**30, "global_step"),
        ("global_step", "1", "global_step"),
        ("global_step", True, "global_step"),
        ("epoch", 1.5, "epoch"),
        ("loops", "x", "loops"),
        ("callbacks", [{}], "callbacks"),
        ("optimizer_states", {ESC: 1}, "optimizer_states"),
        ("lr_schedulers", "x", "lr_schedulers"),
        ("state_dict", [1], "cannot be read"),
        ("loops", {"$evil": 1}, "unknown tag"),
        ("loops", {"$tensor": "nope"}, "malformed"),
        ("loops", {"$dict": [[[1], 2]]}, "malformed"),
        ("loops", {"$float": "evil"}, "malformed"),
        ("loops", {}, "cannot be restored"),
        ("optimizer_states", [{}], "cannot be restored"),
        ("lr_schedulers", [{}], "cannot be restored"),
        ("LLMDataModule", "x", "cannot be restored"),
    ],
)
def test_state_that_is_none(
    field: str, value: Any, message: str, run: Path, text: Path, refused: Callable[..., str]
) -> None:
    file = run / STEP / "training" / "state.json"
    document = json.loads(file.read_text())
    document["state"][field] = value
    file.write_text(json.dumps(document))
    seal(run / STEP)
    assert message in refused(*uses("resume", run, text))


def test_weights_that_are_not_as_described(run: Path, text: Path, refused: Callable[..., str]) -> None:
    file = run / STEP / "model.safetensors"
    weights = load_file(file)
    name = max(weights, key=lambda key: weights[key].numel())
    for changed in (weights[name][:3].clone(), None):
        fresh = {k: v for k, v in {**weights, name: changed}.items() if v is not None}
        save_file(fresh, file, {"format": "pt"})
        seal(run / STEP)
        assert "step-000001" in refused(*uses("resume", run, text))


# -- templates and terminals -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.system('touch CANARY') }}", "unsafe"),
        ("{{ lipsum.__globals__['os'].system('touch CANARY') }}", "unsafe"),
        ("{{ '{0.__class__.__mro__}'.format('') }}", "unsafe"),
        ("{% import 'os' as os %}", "no loader"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "seconds"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        (f"{{{{ raise_exception('{ESC}red') }}}}", r"\x1b[31mred"),
        pytest.param(
            "{{ 'x' * 10**10 }}",
            "MemoryError",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's"),
        ),
    ],
)
def test_a_hostile_chat_template(
    template: str,
    message: str,
    run: Path,
    canary: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("babygpt.data.chat._SECONDS", 0.5)
    edit(run / STEP / "tokenizer_config.json", chat_template=template.replace("CANARY", str(canary)))
    chat = run / "chat.jsonl"
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    chat.write_text(json.dumps({"messages": turns}) + "\n")
    found = refused("eval", run / STEP, "--data.path", chat, "--data.block", "32")
    assert "chat template" in found
    assert message in found


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (f"{ESC}red.jsonl", b"{broken"),
        ("\x1b]0;title\x07.txt", b"\xff\xfe"),
        ("a\nb.jsonl", b"[]"),
        ("a.jsonl", json.dumps({f"{ESC}key": 1}).encode()),
        ("a.jsonl", json.dumps({"messages": [{ESC: 1}]}).encode()),
    ],
)
def test_escape_sequences_in_data_are_not_shown(
    name: str, content: bytes, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(content)
    refused(
        "train",
        "--model.name",
        "preset:gpt2-1m",
        "--data.path",
        tmp_path / "data",
        *ARGS,
        "--out",
        tmp_path / "o",
    )


def test_escape_sequences_of_a_model_are_not_shown(
    run: Path, text: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("babygpt.generate")  # the package's own name for it is the function
    monkeypatch.setattr(module, "continue_text", lambda *a, **k: f"{ESC}red\x9b\x07\nline")
    assert main([str(a) for a in uses("generate", run, text)]) == 0
    assert capfd.readouterr().out == "\\x1b[31mred\\x9b\\x07\nline\n"
    assert main([*(str(a) for a in uses("generate", run, text)), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["text"] == f"{ESC}red\x9b\x07\nline"


def test_escape_sequences_in_a_failure_of_ours_are_not_shown(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(settings: Any) -> None:
        raise RuntimeError(f"{ESC}red")

    monkeypatch.setattr(importlib.import_module("babygpt.verify"), "verify", fail)
    assert main(["checkpoint", "verify", "x"]) == 1
    err = capfd.readouterr().err
    assert "Traceback" in err
    assert "\x1b" not in err


# -- no pickle -------------------------------------------------------------------------------------

WITHOUT_PICKLE = """
import _pickle, os, pickle, sys
import torch
from babygpt.cli import main

def refuse(*args, **kwargs):
    # To exit, not to raise: nobody who tries to unpickle first and reads something else then shall go unnoticed.
    import traceback
    traceback.print_stack()
    os._exit(77)

class Refuse:
    __init__ = __new__ = refuse

for module in (pickle, _pickle):
    module.load = module.loads = refuse
    module.Unpickler = Refuse
pickle._load = pickle._loads = refuse
torch.load = torch.serialization.load = refuse

text, out = sys.argv[1:3]
verbs = [
    ["train", "--model.name", "preset:gpt2-1m", "--data.path", text, *sys.argv[3:], "--out", out],
    ["train", "--resume", out],
    ["eval", out + "/checkpoints/step-000002"],
    ["generate", out + "/checkpoints/last", "--max_new_tokens", "2"],
    ["checkpoint", "verify", out],
]
for verb in verbs:
    code = main(verb)
    assert code == 0, (verb, code)
    if verb[0] == "train" and "--out" in verb:
        import shutil
        for folder in ("step-000002", *(n for n in os.listdir(out + "/checkpoints") if n.startswith("babygpt-"))):
            shutil.rmtree(f"{out}/checkpoints/{folder}")
try:
    pickle.loads(pickle.dumps(1))
except SystemExit:
    pass
"""


def test_nothing_is_unpickled(text: Path, tmp_path: Path) -> None:
    """In a run without loader workers, a resumed one, eval and generate, whichever library would do it.

    Workers are left out: what Python's own multiprocessing says to its children is pickled, and no file.
    """
    command = [sys.executable, "-c", WITHOUT_PICKLE, str(text), str(tmp_path / "run"), *ARGS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    # The last line unpickles on purpose: the guard was in place.
    assert done.returncode == 77, done.stderr
    assert done.stderr.count("refuse(") <= 1 or "pickle.loads(pickle.dumps(1))" in done.stderr, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "step-000002").is_dir()


# -- secrets ---------------------------------------------------------------------------------------

SECRETS = {
    "HF_TOKEN": "hf_ThisIsTheHubToken",
    "HUGGING_FACE_HUB_TOKEN": "hf_ThisIsTheOlderHubToken",
    "WANDB_API_KEY": "ThisIsTheTrackersKey",
    "AWS_SECRET_ACCESS_KEY": "ThisIsTheCloudsKey",
    "HTTPS_PROXY": "http://somebody:ThisIsTheProxysPassword@127.0.0.1:9",
    "UNRELATED_PRIVATE_VARIABLE": "ThisIsNobodysBusiness",
}


def found_in(content: bytes) -> list[str]:
    words = [value.rpartition("@")[0].rpartition(":")[2] or value for value in SECRETS.values()]
    return [word for word in words if word.encode() in content]


def test_tokens_and_environment_stay_where_they_are(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    assert found_in(b"..ThisIsTheProxysPassword..") == ["ThisIsTheProxysPassword"]
    out = tmp_path / "run"
    args = ("train", "--model.name", "preset:gpt2-1m", "--data.path", str(text), *ARGS, "--out", str(out))
    capfd.readouterr()
    assert main(args) == 0
    assert main(["train", "--resume", str(out), "--json"]) == 0

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("a failure of ours, with its traceback")

    with monkeypatch.context() as patch:
        patch.setattr("babygpt.training.module.BabyGPT.training_step", fail)
        assert main([*args[:-1], str(tmp_path / "failed")]) == 1
    captured = capfd.readouterr()
    assert "Traceback" in captured.err
    assert found_in((captured.out + captured.err).encode()) == []
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 15
    for path in files:
        assert found_in(path.read_bytes()) == [], path


def test_a_failure_of_the_hub_tells_no_token(tmp_path: Path) -> None:
    """Through a proxy that is none: the libraries' own messages name addresses and headers."""
    environment = {k: v for k, v in os.environ.items() if k.upper() not in ("HF_HUB_OFFLINE", "NO_PROXY")}
    proxy = SECRETS["HTTPS_PROXY"].replace("http:", "gopher:")
    environment |= SECRETS | {"HTTPS_PROXY": proxy, "https_proxy": proxy, "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-m", "babygpt", "generate", "somebody/some-model"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=False
    )
    assert found_in(done.stdout + done.stderr) == []
    assert done.returncode == 2, done.stderr
    assert b"Traceback" not in done.stderr
