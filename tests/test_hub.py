"""Names to folders, without a network: what is taken for a path, the cache, and how fast it says no."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest

from babygpt import hub
from babygpt.errors import ModelError, RecipeError


@pytest.fixture(autouse=True)
def bare_computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty cache, no proxy, a folder of its own; connections fail unless a test allows them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", _refuse)
    real = hub.reachable
    real.cache_clear()
    yield
    real.cache_clear()


def _refuse(*args: Any, **kwargs: Any) -> Any:
    raise ConnectionRefusedError


def _in_cache(tmp_path: Path, name: str, *files: str) -> Path:
    repository = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    for file in files:
        (snapshot / file).write_text("{}")
    return snapshot


class TestPaths:
    def test_a_folder_is_itself(self, tmp_path: Path) -> None:
        (tmp_path / "gpt2").mkdir()
        assert hub.fetch(str(tmp_path / "gpt2"), what="model") == tmp_path / "gpt2"
        assert hub.fetch("gpt2", what="model") == Path("gpt2")

    def test_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "model").mkdir()
        assert hub.fetch("~/model", what="model") == tmp_path / "model"

    @pytest.mark.parametrize(
        "name",
        ["./model", "/no/such", "~/nope", "a\\b", "runs/x/checkpoints/last", "out/", "here/nope", "../m"],
    )
    def test_missing_path_is_never_asked_of_the_hub(
        self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "here").mkdir()
        monkeypatch.setattr(hub, "_cached", None)
        with pytest.raises(ModelError, match="no such folder"):
            hub.fetch(name, what="model")

    def test_file(self, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").touch()
        with pytest.raises(ModelError, match="a file, not a folder"):
            hub.fetch("model.safetensors", what="model")

    @pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2"])
    def test_hub_names_are_no_paths(self, name: str) -> None:
        assert not hub.looks_like_path(name)


class TestNoNetwork:
    @pytest.mark.parametrize("what", ["model", "tokenizer"])
    def test_says_what_to_do_at_once(self, what: Any) -> None:
        begun = time.monotonic()
        with pytest.raises(
            ModelError, match=r"owner/name: .*cannot be reached.*local folder, or preset:NAME"
        ):
            hub.fetch("owner/name", what=what)
        assert time.monotonic() - begun < 2

    def test_a_preset_without_its_prefix(self) -> None:
        with pytest.raises(ModelError, match=r"cannot be reached\. Did you mean preset:gpt2-1m\?"):
            hub.fetch("gpt2-1m", what="model")

    def test_a_connection_that_hangs_is_given_three_seconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hub, "_PROBE_SECONDS", 0.2)
        monkeypatch.setattr(socket, "create_connection", lambda *a, **k: (time.sleep(1.5), _refuse()))
        begun = time.monotonic()
        assert not hub.reachable()
        assert time.monotonic() - begun < 1

    def test_asked_once_a_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Any] = []
        monkeypatch.setattr(socket, "create_connection", lambda *a, **k: (asked.append(a), _refuse())[1])
        assert not hub.reachable()
        assert not hub.reachable()
        assert asked == [(("huggingface.co", 443),)]

    def test_offline_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr(socket, "create_connection", None)
        assert not hub.reachable()

    def test_proxy_is_not_probed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "http://proxy:3128"})
        monkeypatch.setattr(socket, "create_connection", None)
        assert hub.reachable()

    def test_impossible_name(self) -> None:
        with pytest.raises(ModelError, match="possible hub name"):
            hub.fetch("what is this?", what="model")


class TestCache:
    def test_complete_model(self, tmp_path: Path) -> None:
        snapshot = _in_cache(tmp_path, "owner/name", "config.json", "model.safetensors")
        assert hub.fetch("owner/name", what="model").samefile(snapshot)

    def test_tokenizer_alone_is_no_model(self, tmp_path: Path) -> None:
        snapshot = _in_cache(tmp_path, "owner/name", "config.json", "tokenizer.json")
        assert hub.fetch("owner/name", what="tokenizer").samefile(snapshot)
        with pytest.raises(ModelError, match="cannot be reached"):
            hub.fetch("owner/name", what="model")


class TestDownload:
    @pytest.fixture
    def asked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """A hub of one repository with `files`; what is asked of it is kept."""
        state: dict[str, Any] = {"files": ["config.json", "model.safetensors", "pytorch_model.bin"]}

        def snapshot_download(name: str, **options: Any) -> str:
            if options.get("local_files_only"):
                raise huggingface_hub.errors.LocalEntryNotFoundError("not here")
            state.update(name=name, **options)
            return str(tmp_path)

        monkeypatch.setattr(hub, "reachable", lambda: True)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *a, **k: state["files"])
        return state

    def test_never_takes_pickle(self, asked: dict[str, Any], tmp_path: Path) -> None:
        from huggingface_hub.utils import filter_repo_objects

        assert hub.fetch("owner/name", revision="v2", what="model") == tmp_path
        assert (asked["name"], asked["revision"]) == ("owner/name", "v2")
        there = [
            "config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "merges.txt",
            "tokenizer.model", "chat_template.jinja", "pytorch_model.bin", "modeling_x.py", "x.pkl", "x.pt",
            "onnx/config.json", "original/model.safetensors", "consolidated.safetensors", "x.gguf",
        ]  # fmt: skip
        taken = filter_repo_objects(
            there, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
        )
        assert list(taken) == there[:6]

    def test_tokenizer_takes_no_weights(self, asked: dict[str, Any]) -> None:
        hub.fetch("owner/name", what="tokenizer")
        assert "*.safetensors" not in asked["allow_patterns"]

    def test_repository_without_safetensors(self, asked: dict[str, Any]) -> None:
        asked["files"] = ["config.json", "pytorch_model.bin", "onnx/model.safetensors"]
        with pytest.raises(ModelError, match="no weights in safetensors"):
            hub.fetch("owner/name", what="model")
        assert "name" not in asked

    @pytest.mark.parametrize("kind", [OSError, ValueError, RuntimeError])  # httpx's own are no OSError
    def test_failed_download(
        self, kind: type[Exception], asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*args: Any, **kwargs: Any) -> Any:
            raise kind("connection lost\nmore")

        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
        with pytest.raises(ModelError, match=r"owner/name: the download failed: connection lost\. Try again"):
            hub.fetch("owner/name", what="model")


class TestModelConfig:
    def test_context_length_under_one_name(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_positions": 64}))
        assert hub.model_config(str(tmp_path))["max_position_embeddings"] == 64
        assert hub.model_config("preset:gpt2-124m")["max_position_embeddings"] == 1024

    def test_bad_input(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"no readable config\.json"):
            hub.model_config(str(tmp_path))
        with pytest.raises(RecipeError, match="gpt2-4m"):
            hub.model_config("preset:gpt2-4n")
