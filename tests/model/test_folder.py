"""What of a model folder is refused before transformers sees it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from babygpt.errors import CheckpointError, ModelError
from babygpt.model.folder import read_config_json, require_safetensors
from babygpt.model.load import load_model
from babygpt.model.weights import load_weights

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tiny: Any, tmp_path: Path) -> Path:
    tiny("llama").save_pretrained(tmp_path / "llama", max_shard_size="20KB")
    assert (tmp_path / "llama" / INDEX).is_file()
    return tmp_path / "llama"


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_shards_are_taken(folder: Path) -> None:
    require_safetensors(folder, "llama")
    assert load_model(str(folder)).state_dict().keys() == load_weights(folder).keys()


@pytest.mark.parametrize(
    "shard",
    [
        "evil.bin",
        "../other/model.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "..\\model.safetensors",
        "a\0.safetensors",
        "a\n.safetensors",
        "\x1b[31m.safetensors",
        "x" * 5000 + ".safetensors",
        7,
        None,
        ["x"],
    ],
)
def test_an_index_names_safetensors_of_the_folder_only(folder: Path, shard: Any) -> None:
    (folder / "evil.bin").write_bytes(b"\x80\x04.")
    weights = json.loads((folder / INDEX).read_text())["weight_map"]
    edit(folder / INDEX, weight_map=weights | {"lm_head.weight": shard})
    with pytest.raises(ModelError, match=r"index\.json (names|cannot be read)") as caught:
        load_model(str(folder))
    assert len(str(caught.value)) < len(str(folder)) + 400
    assert str(caught.value).isprintable()
    with pytest.raises(CheckpointError, match=r"index\.json (names|cannot be read)"):
        load_weights(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{}", '{"weight_map": 1}', "\x1b"])
def test_an_index_that_is_none(folder: Path, text: str) -> None:
    (folder / INDEX).write_text(text)
    with pytest.raises(ModelError, match="cannot be read"):
        require_safetensors(folder, "llama")


def test_a_shard_that_is_missing(folder: Path) -> None:
    next(iter(folder.glob("model-00002*"))).unlink()
    with pytest.raises(ModelError, match=r"model-00002.* is missing"):
        load_model(str(folder))


def test_an_adapter_does_not_lead_to_another_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    with pytest.raises(ModelError, match="an adapter to another model"):
        load_model(str(folder))


@pytest.mark.parametrize("weights", ["other.safetensors.index.json", "../x.safetensors", "evil.bin", 3])
def test_the_configuration_names_no_other_weights(folder: Path, weights: Any) -> None:
    edit(folder / "config.json", transformers_weights=weights)
    with pytest.raises(ModelError, match=r"config\.json names the weights"):
        read_config_json(folder, "llama")


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation"])
def test_an_attention_kernel_is_not_downloaded(
    folder: Path, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*args: Any, **kwargs: Any) -> None:
        raise SystemExit("a kernel was asked for")

    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", download)
    monkeypatch.setattr("transformers.integrations.hub_kernels.get_kernel", download)
    edit(folder / "config.json", **{field: "kernels-community/evil"})
    assert load_model(str(folder)).config._attn_implementation == "sdpa"
    assert load_weights(folder)


def test_an_experts_kernel_is_refused(folder: Path) -> None:
    edit(folder / "config.json", _experts_implementation="deepgemm")
    with pytest.raises(ModelError, match="experts kernel"):
        load_model(str(folder))


def test_code_beside_a_built_in_architecture_is_left_alone(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "evil.py").write_text("raise SystemExit('executed')")
    edit(folder / "config.json", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    with caplog.at_level(logging.WARNING, logger="babygpt"):
        assert type(load_model(str(folder))).__module__.startswith("transformers.")
        assert load_weights(folder)
    assert "its own code is not run" in caplog.text


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "null", "\x80"])
def test_a_configuration_that_is_none(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelError, match="damaged"):
        load_model(str(folder))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_weights(folder)


@pytest.mark.parametrize("kind", [["llama"], {"a": 1}, 7, "\x1b[31m" + "x" * 5000])
def test_an_architecture_that_is_no_name(folder: Path, kind: Any) -> None:
    edit(folder / "config.json", model_type=kind)
    with pytest.raises(ModelError, match="does not know its architecture") as caught:
        load_model(str(folder))
    assert len(str(caught.value)) < len(str(folder)) + 300


def test_names_of_weights_are_shown_safely(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    shard = next(iter(folder.glob("model-00001*")))
    name = "\x1b[31mred"
    save_file({**load_file(shard), name: load_file(shard).popitem()[1].clone()}, shard, {"format": "pt"})
    with caplog.at_level(logging.WARNING, logger="babygpt"):
        load_model(str(folder))
    assert "\x1b" not in caplog.text
