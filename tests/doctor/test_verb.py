"""The doctor finds each planted fault, and nothing on a sound set-up.

The verb runs whole; only its numeric runs are done in this process, whose imports are done, where `test_numerics`
starts the real one. What a plant adds to the findings is compared with a doctor's before it.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import ssl
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from architectures import save_tiny
from babygpt import checks, planner
from babygpt.doctor import devices, network, numerics, own, places, probe, system, verb
from babygpt.doctor.findings import Diagnosis, Finding
from babygpt.machine_settings import DoctorSettings
from babygpt.recipe import DataRecipe, ModelRecipe

Patch = pytest.MonkeyPatch
# Reading the metadata of eighty packages takes longer than everything else that a doctor does here.
VERSION, REQUIRES = cache(metadata.version), cache(metadata.requires)


class InProcess:
    """Stands in for the process of the numeric runs."""

    def __init__(self, what: str) -> None:
        self.what = what

    def findings(self) -> list[Finding]:
        said: list[str] = []
        probe.main(self.what, lambda value: said.append(json.dumps(value)))
        return numerics._read("\n".join(said))[1]


@pytest.fixture
def sound(monkeypatch: Patch, tmp_path: Path) -> None:
    """What of the environment the tests decide themselves."""
    (tmp_path / "cache").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verb, "started", contextmanager(lambda what: iter([InProcess(what)])))
    monkeypatch.setattr(places, "_PIECES", 1)
    monkeypatch.setattr(places, "_SLOW", 0.0)  # other tests may keep the disk busy
    monkeypatch.setattr(places, "_SLOW_FLUSH", 60.0)
    monkeypatch.setenv("BABYGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(metadata, "version", VERSION)
    monkeypatch.setattr(metadata, "requires", REQUIRES)
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "RANK",
        "WORLD_SIZE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))


@cache
def before() -> frozenset[Finding]:
    """What is not quite well without any plant: tests run on one thread, and compile nothing."""
    return frozenset(bad(verb.doctor(DoctorSettings())))


def bad(diagnosis: Diagnosis) -> list[Finding]:
    return [each for each in diagnosis.findings if each.status != "ok"]


@dataclass(frozen=True)
class Plant:
    """A fault.

    Attributes:
        plant: brings it in.
        status: that it is to have.
        words: of its sentence.
        mend: of its mend.
    """

    plant: Callable[[Patch, Path], Any]
    status: str
    words: str
    mend: str


def version(name: str, given: str | None) -> Callable[[Patch, Path], None]:
    """A package in another version, or missing."""

    def plant(patch: Patch, tmp_path: Path) -> None:
        real = metadata.version

        def fake(asked: str) -> str:
            if asked != name:
                return real(asked)
            if given is None:
                raise metadata.PackageNotFoundError(name)
            return given

        patch.setattr(metadata, "version", fake)

    return plant


def variable(**values: str) -> Callable[[Patch, Path], None]:
    return lambda patch, tmp_path: [patch.setenv(name, value) for name, value in values.items()] and None


def attribute(place: Any, name: str, value: Any) -> Callable[[Patch, Path], None]:
    return lambda patch, tmp_path: patch.setattr(place, name, value)


def failing(number: int, only: str = "", otherwise: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A function that fails as the system does, where its first argument holds a word."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if only in str(args[0] if args else ""):
            raise OSError(number, os.strerror(number))
        return otherwise(*args, **kwargs) if otherwise else None

    return call


def bad_product(
    dtype: torch.dtype, change: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[Patch, Path], None]:
    """Products of one number format are not quite right."""
    real = torch.mm

    def mm(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return change(real(left, right)) if left.dtype == dtype else real(left, right)

    return attribute(torch, "mm", mm)


def not_causal(patch: Patch, tmp_path: Path) -> None:
    real = torch.nn.functional.scaled_dot_product_attention
    patch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda q, k, v, is_causal: real(q, k, v)
    )


def no_decay(patch: Patch, tmp_path: Path) -> None:
    real = torch.optim.AdamW
    patch.setattr(torch.optim, "AdamW", lambda p, weight_decay, **rest: real(p, weight_decay=0.0, **rest))


def loose_token(patch: Patch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_secret")
    (tmp_path / "token").chmod(0o644)


def answering(error: Exception | None, ago: float = 0.0) -> Callable[[Patch, Path], None]:
    """A hub that fails in some way, or whose clock shows another time."""

    def open_(request: Any, timeout: float) -> Any:
        if error is not None:
            raise error
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() - ago))
        return contextmanager(lambda: iter([SimpleNamespace(headers={"Date": date})]))()

    def plant(patch: Patch, tmp_path: Path) -> None:
        patch.delenv("HF_HUB_OFFLINE")
        patch.setattr(network.urllib.request, "urlopen", open_)

    return plant


def limit(which: int, value: int) -> Callable[[Patch, Path], None]:
    real = resource.getrlimit
    return attribute(resource, "getrlimit", lambda r: (value, value) if r == which else real(r))


CERTIFICATE = ssl.SSLCertVerificationError("self-signed certificate")
PLANTS = {
    "malicious lightning": Plant(version("lightning", "2.6.2"), "fault", "malicious release", ">=2.6.5"),
    "transformers that runs code": Plant(
        version("transformers", "5.2.1"), "fault", "a config.json runs code", ">=5.3"
    ),
    "torch too old": Plant(
        version("torch", "2.10.1"), "fault", "2.10.1 is installed, and >=2.11 is", ">=2.11"
    ),
    "no safetensors": Plant(version("safetensors", None), "fault", "is not installed", "pip install"),
    "filelock with a hole": Plant(
        version("filelock", "3.12"), "warning", "CVE-2025-68146", "pip install -U filelock"
    ),
    "old Python": Plant(
        attribute(verb.versions.platform, "python_version", lambda: "3.10.2"),
        "fault",
        "3.10.2 is outside",
        "Python >=3.11",
    ),
    "code from checkpoints": Plant(
        variable(TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1"), "fault", "runs whatever code", "Unset"
    ),
    "left from a launcher": Plant(
        variable(RANK="3", WORLD_SIZE="4"),
        "fault",
        "RANK=3, WORLD_SIZE=4 without MASTER_ADDR",
        "unset RANK WORLD_SIZE",
    ),
    "no certificates": Plant(variable(SSL_CERT_FILE="/no/where.pem"), "fault", "is not there", "Unset"),
    "waiting for kernels": Plant(variable(CUDA_LAUNCH_BLOCKING="1"), "warning", "slow", "Unset"),
    "on and off line": Plant(
        variable(TRANSFORMERS_OFFLINE="0"), "warning", "TRANSFORMERS_OFFLINE is 0", "HF_HUB_OFFLINE"
    ),
    "an old cache": Plant(variable(TRANSFORMERS_CACHE="/x"), "warning", "no longer read", "HF_HOME"),
    "a hub without https": Plant(
        variable(HF_ENDPOINT="http://me:secret@hub.local"), "warning", "not https", "https address"
    ),
    "no memory": Plant(
        attribute(system, "cpu_memory_available", lambda: 10**8), "fault", "0.1 of", "End other programs"
    ),
    "few files": Plant(limit(resource.RLIMIT_NOFILE, 256), "warning", "at most 256", "ulimit -n"),
    "small files": Plant(limit(resource.RLIMIT_FSIZE, 10**6), "fault", "larger than 1 MB", "ulimit -f"),
    "clock of 1970": Plant(
        attribute(
            system, "time", SimpleNamespace(time=lambda: 0.0, strftime=time.strftime, gmtime=time.gmtime)
        ),
        "fault",
        "1970-01-01",
        "NTP",
    ),
    "ASCII": Plant(
        attribute(system.sys, "getfilesystemencoding", lambda: "ascii"),
        "warning",
        "ascii for file names",
        "PYTHONUTF8=1",
    ),
    "no compiler": Plant(
        attribute(system.shutil, "which", lambda name: None), "warning", "no C++ compiler", "nstall g++"
    ),
    "full disk": Plant(
        attribute(places, "free_bytes", lambda path: 10**6 if "cache" in str(path) else 10**11),
        "fault",
        "less than a checkpoint",
        "Free some space",
    ),
    "disk that fills up": Plant(
        attribute(places, "fsync_dir", failing(errno.ENOSPC, "cache")),
        "fault",
        "no space left",
        "Free some space",
    ),
    "no right to write": Plant(
        attribute(places, "fsync_dir", failing(errno.EACCES, "cache")),
        "fault",
        "permission denied",
        "BABYGPT_CACHE",
    ),
    "cache in a file": Plant(
        lambda patch, tmp_path: patch.setenv("BABYGPT_CACHE", str(Path(__file__) / "x")),
        "fault",
        "is a file, not a folder",
        "BABYGPT_CACHE",
    ),
    "no rename": Plant(
        attribute(places.os, "rename", failing(errno.EXDEV, "cache", os.rename)),
        "fault",
        "cannot rename",
        "BABYGPT_CACHE",
    ),
    "wrong bf16": Plant(
        bad_product(torch.bfloat16, lambda x: x * 1.1), "fault", "products in bfloat16 are wrong", "32-true"
    ),
    "fp32 of 10 bits": Plant(
        bad_product(torch.float32, lambda x: x.half().float()),
        "fault",
        "products in float32 are wrong",
        "64-true",
    ),
    "attention that looks ahead": Plant(
        not_causal, "fault", "scaled_dot_product_attention is wrong on cpu", "eager"
    ),
    "AdamW without decay": Plant(no_decay, "fault", "fused AdamW is wrong", "torch"),
    "a kernel that raises": Plant(
        attribute(torch, "mm", failing(errno.EIO)), "fault", "OSError", "machine.device"
    ),
    "a library that does not load": Plant(
        lambda patch, tmp_path: patch.setattr(probe, "PACKAGES", ("numpy", "no_such_package")),
        "fault",
        "cannot be imported: ModuleNotFoundError",
        "reinstall",
    ),
    "a hub of another's": Plant(
        answering(urllib.error.URLError(CERTIFICATE)), "fault", "not trusted", "SSL_CERT_FILE"
    ),
    "no network": Plant(
        answering(urllib.error.URLError("no route to host")),
        "warning",
        "no route to host",
        "HF_HUB_OFFLINE=1",
    ),
    "an hour behind": Plant(answering(None, ago=-3600.0), "fault", " s from the hub", "NTP"),
    "a token for everyone": Plant(loose_token, "warning", "other users may read", "chmod 600"),
    "a token with a line's end": Plant(
        variable(HF_TOKEN="hf_secret\n"), "fault", "spaces or characters", "Set it again"
    ),
    "GPU and a build without": Plant(
        attribute(devices, "gpus_of_the_system", lambda: "2 NVIDIA GPUs"),
        "warning",
        "cannot use 2 NVIDIA GPUs",
        "build of torch",
    ),
}


@pytest.mark.usefixtures("sound")
def test_a_sound_set_up(capsys: pytest.CaptureFixture[str]) -> None:
    found = verb.doctor(DoctorSettings())
    allowed = {
        "threads",
        "environment",
    }  # one thread for each of the tests' processes, and nothing is compiled
    assert {each.about for each in bad(found)} <= allowed
    assert not any(each.status == "fault" for each in found.findings)
    assert found.exit_code == 0
    assert capsys.readouterr().out == ""
    assert list(Path.cwd().iterdir()) == [Path.cwd() / "cache"]
    assert list((Path.cwd() / "cache").iterdir()) == []


@pytest.mark.usefixtures("sound")
@pytest.mark.parametrize("name", PLANTS)
def test_each_planted_fault_is_found(name: str, monkeypatch: Patch, tmp_path: Path) -> None:
    plant = PLANTS[name]
    well = before()
    plant.plant(monkeypatch, tmp_path)
    diagnosis = verb.doctor(DoctorSettings())
    (new,) = set(bad(diagnosis)) - well
    assert new.status == plant.status
    assert plant.words in new.what
    assert plant.mend in new.mend
    assert diagnosis.exit_code == (plant.status == "fault")
    assert "secret" not in json.dumps(diagnosis.to_dict())
    assert all(len(line) <= 80 or " " not in str(line).strip()[40:] for line in diagnosis.lines())


# -- the recipe ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workshop:
    """What the recipes are made of."""

    folder: Path
    text: Path
    model: Path

    @property
    def settings(self) -> DoctorSettings:
        data = DataRecipe(path=(str(self.text),), block=32, global_batch_size=4)
        return DoctorSettings(model=ModelRecipe(name=str(self.model)), data=data, given=("data.path",))

    def with_data(self, **values: Any) -> DoctorSettings:
        return replace(self.settings, data=replace(self.settings.data, **values))


@pytest.fixture
def shop(sound: None, tmp_path: Path, tiny_gpt2: Path) -> Workshop:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Document {n} tells of {n * n} things." for n in range(60)))
    return Workshop(tmp_path, text, tiny_gpt2)


def larger_tokenizer(shop: Workshop, patch: Patch) -> DoctorSettings:
    entries = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *(f"<{n}>" for n in range(50))]
    backend = Tokenizer(models.BPE(vocab={entry: i for i, entry in enumerate(entries)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(
        shop.folder / "t"
    )
    return shop.with_data(tokenizer=str(shop.folder / "t"))


def leaking(shop: Workshop, patch: Patch) -> DoctorSettings:
    model = save_tiny("opt", shop.model, shop.folder / "opt")
    return replace(shop.with_data(packing="isolated"), model=ModelRecipe(name=str(model)))


def nobody_answers(shop: Workshop, patch: Patch) -> DoctorSettings:
    chat = shop.folder / "chat.jsonl"
    turn = json.dumps({"messages": [{"role": "user", "content": "Is anybody there?"}]})
    chat.write_text("\n".join([turn] * 60))
    tokenizer = AutoTokenizer.from_pretrained(shop.model)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|endoftext|>{% endfor %}"
    )
    tokenizer.save_pretrained(shop.folder / "talks")
    return shop.with_data(path=(str(chat),), tokenizer=str(shop.folder / "talks"))


def untied(shop: Workshop, patch: Patch) -> DoctorSettings:
    real = own.build_module

    def build(*args: Any) -> Any:
        module = real(*args)
        head: Any = module.model.lm_head
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        return module

    patch.setattr(own, "build_module", build)
    return shop.settings


def shifted(shop: Workshop, patch: Patch) -> DoctorSettings:
    real = checks.sum_nll
    patch.setattr(
        checks, "sum_nll", lambda m, inputs, labels, head: real(m, inputs, labels.roll(-1, 1), head)
    )
    return shop.settings


def not_a_number(shop: Workshop, patch: Patch) -> DoctorSettings:
    model = AutoModelForCausalLM.from_pretrained(shop.model)
    with torch.no_grad():
        model.transformer.ln_f.bias[3] = float("nan")
    model.save_pretrained(shop.folder / "nan")
    AutoTokenizer.from_pretrained(shop.model).save_pretrained(shop.folder / "nan")
    return replace(shop.settings, model=ModelRecipe(name=str(shop.folder / "nan")))


def no_memory(shop: Workshop, patch: Patch) -> DoctorSettings:
    patch.setattr(planner, "memory_available", lambda device: 10**5)
    return shop.settings


def no_room(shop: Workshop, patch: Patch) -> DoctorSettings:
    patch.setattr("babygpt.disk.free_bytes", lambda path: 10**5)
    return shop.settings


RECIPES: dict[str, tuple[Callable[[Workshop, Patch], DoctorSettings], str, str]] = {
    "mismatched tokenizer": (larger_tokenizer, "tokenizer", "data.tokenizer"),
    "leaking attention": (leaking, "documents see each other", "stream or padded"),
    "all targets masked": (nobody_answers, "a target", ""),
    "block longer than positions": (lambda shop, patch: shop.with_data(block=256), "128 positions", "128 or less"),
    "step larger than the text": (lambda shop, patch: shop.with_data(global_batch_size=10**6), "than the", "at most"),
    "tied head broken": (untied, "ties the head to the embeddings", "tie_weights"),
    "labels shifted twice": (shifted, "shifted differently", "report"),
    "weights that are no numbers": (not_a_number, "nan", ""),
    "no such folder": (
        lambda shop, patch: replace(shop.settings, model=ModelRecipe(name="./no-folder")), "no-folder", "",
    ),
    "too large for the memory": (no_memory, "this does not fit", "smaller"),
    "no room for checkpoints": (no_room, "is free", "another disk"),
}  # fmt: skip


def test_a_sound_recipe(shop: Workshop) -> None:
    found = list(own.check_recipe(shop.settings))
    assert [each for each in found if each.status != "ok"] == []
    about = [each.about for each in found]
    assert about[0] == "data"
    assert "plan" in about
    assert about.count("self-check") == 8
    assert not (shop.folder / "runs").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_each_fault_of_a_recipe_is_found(name: str, shop: Workshop, monkeypatch: Patch) -> None:
    make, words, mend = RECIPES[name]
    (found,) = [each for each in own.check_recipe(make(shop, monkeypatch)) if each.status != "ok"]
    assert found.status == "fault"
    assert words in found.what
    assert mend in found.mend
    assert found.mend


def test_a_recipe_is_looked_at_only_if_one_is_given(shop: Workshop, monkeypatch: Patch) -> None:
    asked: list[DoctorSettings] = []
    monkeypatch.setattr(own, "check_recipe", lambda settings: asked.append(settings) or iter(()))
    for given in ((), ("out", "json")):
        verb.doctor(replace(shop.settings, given=given))
    assert asked == []
    verb.doctor(shop.settings)
    assert asked == [shop.settings]


def test_what_a_check_did_not_foresee_is_a_finding(shop: Workshop, monkeypatch: Patch) -> None:
    monkeypatch.setattr(system, "check_clock", lambda: iter([1 / 0]))
    (found,) = [e for e in verb.doctor(DoctorSettings()).findings if e.status == "fault"]
    assert found.about == "clock"
    assert "ZeroDivisionError" in found.what


def test_no_home_folder_is_a_finding(shop: Workshop, monkeypatch: Patch) -> None:
    for name in ("BABYGPT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "~no-such-user")
    monkeypatch.delenv("BABYGPT_CACHE")
    found = {each.about: each for each in verb.doctor(DoctorSettings(out="~no-such-user/run")).findings}
    assert found["cache"].what == "cache: this user has no home folder for it"
    assert found["run folder"].what == "~no-such-user/run: there is no home folder for its ~"


def test_no_torch_before_it_is_known_to_work() -> None:
    """In a fresh process the verb's file imports nothing that could be broken."""
    heavy = set(probe.PACKAGES)
    code = f"import sys, babygpt.doctor.verb; print(*{heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
