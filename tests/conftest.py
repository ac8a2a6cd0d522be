"""What every test shares: a web server but no network, a cache of their own, two threads, the command, a tiny model."""

from __future__ import annotations

import os
import tempfile

# Before any import that reads them. Subprocesses inherit them, so that one cache serves the whole session.
_CACHE = tempfile.TemporaryDirectory(prefix="babygpt-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["BABYGPT_CACHE"] = _CACHE.name
os.environ["OMP_NUM_THREADS"] = "1"  # of subprocesses: bit-identical results need a fixed number
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads warn when a test forks loader workers

import gc
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import hypothesis
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import web_server
from browser import Browser, find_chromium

torch.set_num_threads(1)

# The same examples in every run, so that only a change of code can turn a test red.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("house")


def pytest_collection_finish() -> None:
    """Puts what all tests share out of the collector's walks, for good: each fit begins with one.

    A fit puts away and gives back by itself, which `training/test_tuning.py` has.
    """
    gc.collect()
    gc.freeze()
    gc.freeze = gc.unfreeze = lambda: None


class Command(Protocol):
    """`babygpt ARGS...` as a process of its own."""

    def __call__(
        self,
        *args: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 180,
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session", autouse=True)
def _cache_folder() -> Iterator[None]:
    yield
    _CACHE.cleanup()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium, for tests marked `browser`."""
    with Browser(find_chromium()) as running:
        yield running


@pytest.fixture(scope="session")
def babygpt(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Runs the command and returns exit code, standard output and standard error.

    It runs in `cwd` (an empty folder of the session unless told), with `env` added to the environment.
    """
    elsewhere = tmp_path_factory.mktemp("cwd")

    def run(
        *args: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 180
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "babygpt", *map(str, args)],
            cwd=cwd or elsewhere,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[web_server.WebServer]:
    """A web server on this computer; whoever fetches from it waits for nothing between two tries."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("babygpt.data.transfer._FIRST_WAIT", 0.0)
    served = web_server.WebServer()
    server = web_server.start(served)
    yield served
    served.stop.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder, not to be written in: GPT-2 with random weights, one token a byte."""
    folder = tmp_path_factory.mktemp("tiny-gpt2")
    entries = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={entry: i for i, entry in enumerate(entries)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(folder)
    config = GPT2Config(
        vocab_size=len(entries),
        n_positions=128,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)
    return folder
