"""Checkpoints: exact, whole, found by what is in them, and kept until superseded."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from babygpt import checkpoints
from babygpt.checkpoints import (
    best,
    best_name,
    copy_checkpoint,
    discover,
    keep,
    link_last,
    load_state,
    newest,
    publish,
    publish_staged,
    step_name,
)
from babygpt.errors import CheckpointError, SpaceError
from babygpt.files import read_manifest, verify_folder
from babygpt.staging import stage

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "head_dim": 8,
}
ENDS = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
CONFIGS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32, **ENDS),
    "llama": LlamaConfig(**SMALL, **ENDS),
    "llama tied": LlamaConfig(**SMALL, **ENDS, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SMALL, **ENDS),
    "neox": GPTNeoXConfig(**{**SMALL, "head_dim": None}, **ENDS),
    "gemma2": Gemma2Config(**SMALL, **ENDS),
    "mixtral": MixtralConfig(**SMALL, **ENDS, num_local_experts=3, num_experts_per_tok=2),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small only lose by more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(kind: str = "gpt2", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[kind]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model.to(dtype)


def state_of(model: PreTrainedModel, step: int = 3) -> dict[str, Any]:
    """What Lightning hands over after a few steps of AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return {
        "state_dict": {f"model.{k}": v for k, v in model.state_dict().items()} | {"meter": torch.tensor(7)},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"last_epoch": 3, "_last_lr": [0.1], "lr_lambdas": [None]}],
        "global_step": step,
        "epoch": 0,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best": torch.tensor(float("inf"))}},
        "hyper_parameters": {"lr": 3e-4, "betas": (0.9, 0.95)},
    }


def save(parent: Path, name: str = "step-000003", step: int = 3, **options: Any) -> Path:
    model = options.pop("model", None) or build()
    facts = {"step": step, "val_loss": options.pop("val_loss", None)}
    state = options.pop("state", None) or state_of(model, step)
    return publish(parent, name, model=model, tokenizer=None, state=state, facts=facts, **options)


def assert_same(one: Any, other: Any, path: str = "") -> None:
    assert type(one) is type(other), path
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, path
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert list(one) == list(other), path
        for key in one:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{path}.{i}")
    else:
        assert one == other, path


def snapshot(value: Any) -> Any:
    """A copy as plain dicts, since torch's state dicts are ordered ones with metadata."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: snapshot(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(snapshot(v) for v in value)
    return value


def names(parent: Path) -> list[str]:
    return sorted(p.name for p in parent.iterdir())


def damage(folder: Path) -> None:
    """Flips one bit in the middle of the weights."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


# -- the same state back ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tensor_and_number_comes_back(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    model = build(kind, dtype)
    state = state_of(model)
    before = snapshot(state)
    path = save(tmp_path, model=model, state=state)
    assert_same(snapshot(state), before)  # saving changes nothing
    back = load_state(path)
    order = list(before["state_dict"])
    assert sorted(back["state_dict"]) == sorted(order)
    back["state_dict"] = {k: back["state_dict"][k] for k in order}
    assert_same(back, before)
    fresh = build(kind, dtype)
    for parameter in fresh.parameters():
        torch.nn.init.zeros_(parameter)
    weights = {k.removeprefix("model."): v for k, v in back["state_dict"].items() if k != "meter"}
    fresh.load_state_dict(weights, strict=True)
    assert_same(snapshot(dict(fresh.state_dict())), snapshot(dict(model.state_dict())))


@pytest.mark.parametrize("kind", ["gpt2", "llama tied", "mixtral"])
def test_a_staged_state_is_that_of_its_moment_whatever_happens_until_it_is_written(
    tmp_path: Path, kind: str
) -> None:
    model = build(kind)
    state = state_of(model)
    before = snapshot(state)
    staged = stage(model=model, tokenizer=None, state=state, facts={"step": 3, "val_loss": None}, copy=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for moments in state["optimizer_states"][0]["state"].values():
            for value in moments.values():
                value.zero_()
    state["optimizer_states"][0]["param_groups"][0]["lr"] = 9.0
    path = publish_staged(tmp_path, "step-000003", staged)
    assert_same(snapshot(load_state(path)), before)


@pytest.mark.parametrize("kind", CONFIGS)
def test_hugging_face_loads_it_with_the_same_logits(tmp_path: Path, kind: str) -> None:
    model = build(kind).eval()
    path = save(tmp_path, model=model)
    loaded = AutoModelForCausalLM.from_pretrained(path).eval()
    ids = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    path = save(tmp_path)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_state(path)
    assert torch.equal(torch.rand(3), expected)


def test_a_tied_weight_is_written_once_and_nothing_is_pickled(tmp_path: Path) -> None:
    path = save(tmp_path)
    with safe_open(path / "model.safetensors", framework="pt") as file:
        stored = set(file.keys())
    assert "transformer.wte.weight" in stored
    assert "lm_head.weight" not in stored
    with safe_open(path / "training" / "optimizer.safetensors", framework="pt") as file:
        assert not any(name.startswith("state_dict.model.") for name in file.keys())  # noqa: SIM118
    allowed = {".json", ".safetensors", ".md"}
    assert {p.suffix for p in path.rglob("*") if p.is_file()} == allowed


def test_weights_tied_by_hand_or_parted_come_back_as_they_are(tmp_path: Path) -> None:
    untied = build("llama")
    untied.lm_head.weight = untied.model.embed_tokens.weight
    tied = build("llama tied")
    tied.lm_head.weight = torch.nn.Parameter(torch.randn_like(tied.lm_head.weight))
    for model in (untied, tied):
        state = state_of(model)
        before = snapshot(state["state_dict"])
        back = load_state(save(tmp_path, model=model, state=state))["state_dict"]
        assert_same({k: back[k] for k in before}, before)


def test_a_state_dict_that_shares_no_memory_any_more(tmp_path: Path) -> None:
    model = build()
    state = state_of(model)
    state["state_dict"] = snapshot(state["state_dict"])
    path = save(tmp_path, model=model, state=state)
    with safe_open(path / "model.safetensors", framework="pt") as file:
        assert "lm_head.weight" not in set(file.keys())
    assert_same(load_state(path)["state_dict"], state["state_dict"])


def test_mixed_dtypes_and_strides_come_back(tmp_path: Path) -> None:
    model = build("llama", torch.bfloat16)
    model.model.norm.float()
    layer = model.model.layers[0].self_attn.q_proj
    layer.weight = torch.nn.Parameter(layer.weight.detach().t().contiguous().t())
    state = state_of(model)
    before = snapshot(state["state_dict"])
    back = load_state(save(tmp_path, model=model, state=state))["state_dict"]
    assert_same({k: back[k] for k in before}, before)


def test_weights_that_transformers_loads_in_fp32_whatever_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("llama", torch.bfloat16)
    monkeypatch.setattr(type(model), "_keep_in_fp32_modules_strict", {"norm"}, raising=False)
    model = type(model)(model.config).bfloat16()
    state = state_of(model)
    before = snapshot(state["state_dict"])
    path = save(tmp_path, model=model, state=state)
    assert AutoModelForCausalLM.from_pretrained(path).model.norm.weight.dtype == torch.float32
    back = load_state(path)["state_dict"]
    assert_same({k: back[k] for k in before}, before)


def test_not_a_number_in_the_weights_comes_back(tmp_path: Path) -> None:
    model = build()
    state = state_of(model)
    with torch.no_grad():
        model.transformer.wte.weight[0, 0] = float("nan")
    back = load_state(save(tmp_path, model=model, state=state))["state_dict"]
    for key, value in state["state_dict"].items():
        assert torch.equal(torch.nan_to_num(back[key]), torch.nan_to_num(value)), key
        assert torch.equal(back[key].isnan(), value.isnan()), key


def test_facts_versions_and_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1, "<end>": 2}, unk_token="a")), eos_token="<end>"
    )
    model = build()
    facts = {"step": 3, "val_loss": 1.5, "data_fingerprint": "abc"}
    path = publish(tmp_path, "one", model=model, tokenizer=tokenizer, state=state_of(model), facts=facts)
    manifest = verify_folder(path)
    assert {k: manifest.facts[k] for k in facts} == facts
    assert manifest.facts["versions"]["torch"] == torch.__version__
    assert "tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)" in (path / "README.md").read_text()
    loaded = PreTrainedTokenizerFast.from_pretrained(path)
    assert loaded.encode("b") == [1]
    assert loaded.eos_token == "<end>"


# -- refused ---------------------------------------------------------------------------------------


def test_a_plain_model_has_nothing_to_resume_from(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"nothing to resume from.*model\.name"):
        load_state(tmp_path)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "training/optimizer.safetensors", "training/state.json"]
)
def test_damage_is_named_and_only_unverified_loading_may_miss_it(tmp_path: Path, file: str) -> None:
    path = save(tmp_path)
    target = path / file
    data = bytearray(target.read_bytes())
    data[-2] ^= 1
    target.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{file} is damaged"):
        load_state(path)
    target.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=f"{file} has"):
        load_state(path)
    with pytest.raises(CheckpointError):
        load_state(path, verify=False)


def test_a_model_that_lost_a_weight_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path)
    other = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=32, **ENDS))
    other.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", path)
    with pytest.raises(CheckpointError, match="missing keys"):
        load_state(path, verify=False)


def test_a_foreign_state_dict_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = build()
    state = state_of(model)
    state["state_dict"] = {k.replace(".h.", "._orig_mod.h."): v for k, v in state["state_dict"].items()}
    with pytest.raises(CheckpointError, match="not this model's"):
        save(tmp_path / "here", model=model, state=state)
    assert names(tmp_path) == []


def test_unsavable_state_is_named_before_anything_is_written(tmp_path: Path) -> None:
    state = state_of(build())
    state["callbacks"]["Foo"] = {"path": Path("x")}
    with pytest.raises(TypeError, match=r"callbacks\.Foo\.path"):
        save(tmp_path / "here", state=state)
    assert names(tmp_path) == []


def test_too_little_room_is_known_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(SpaceError, match="the checkpoint step-000003 needs"):
        save(tmp_path / "here")
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_leaves_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(SpaceError):
        save(tmp_path, "step-000004")
    assert names(tmp_path) == ["step-000003"]
    verify_folder(tmp_path / "step-000003")


# -- found -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("template"))


def place(template: Path, parent: Path, name: str, step: int, val_loss: float | None = None) -> Path:
    """A whole checkpoint with other facts: the manifest is the only file that says them."""
    path = parent / name
    shutil.copytree(template, path)
    content = json.loads((path / "manifest.json").read_text())
    content["facts"] |= {"step": step, "val_loss": val_loss}
    del content["sha256"]  # one without is as good
    (path / "manifest.json").write_text(json.dumps(content))
    return path


def test_discovery_reads_manifests_and_not_names(tmp_path: Path, template: Path) -> None:
    place(template, tmp_path, "step-000009", 2)
    place(template, tmp_path, "babygpt-1.00", 5, 1.0)
    place(template, tmp_path, "step-000005", 5)
    place(template, tmp_path, "odd name", 7)
    place(template, tmp_path, ".partial-step-000100-ab", 100)
    (tmp_path / "last").symlink_to("odd name")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    assert [(f.path.name, f.step) for f in discover(tmp_path)] == [
        ("odd name", 7),
        ("step-000005", 5),
        ("babygpt-1.00", 5),
        ("step-000009", 2),
    ]
    assert discover(tmp_path / "absent") == []


def test_the_newest_whole_one_is_taken_and_the_others_named(tmp_path: Path, template: Path) -> None:
    said: list[str] = []
    assert newest(tmp_path / "absent", said.append) is None
    good = place(template, tmp_path, "step-000001", 1)
    damage(place(template, tmp_path, "step-000002", 2))
    (place(template, tmp_path, "step-000003", 3) / "manifest.json").unlink()
    (place(template, tmp_path, "step-000004", 4) / "training" / "state.json").unlink()
    (place(template, tmp_path, "step-000005", 5) / "manifest.json").write_text("{}")
    assert newest(tmp_path, said.append) == good
    assert len(said) == 4
    for n, reason in [(2, "damaged"), (3, "never finished"), (4, "missing"), (5, "cannot be read")]:
        assert any(s.startswith(f"step-00000{n} is passed over") and reason in s for s in said), said
    damage(good)
    assert newest(tmp_path, said.append) is None


def test_a_model_without_training_state_is_no_place_to_resume(tmp_path: Path) -> None:
    from babygpt.files import publish_folder

    publish_folder(tmp_path, "step-000009", lambda folder: build().save_pretrained(folder), {"step": 9})
    said: list[str] = []
    assert newest(tmp_path, said.append) is None
    assert "nothing to resume from" in said[0]


def test_the_best_is_the_smallest_loss_and_the_earlier_of_equals(tmp_path: Path, template: Path) -> None:
    assert best(tmp_path) is None
    place(template, tmp_path, "step-000001", 1, 0.1)
    assert best(tmp_path) is None
    place(template, tmp_path, "babygpt-nan", 2, None)
    assert best(tmp_path) is None
    place(template, tmp_path, "babygpt-1.25-v1", 5, 1.2501)
    place(template, tmp_path, "babygpt-1.25", 4, 1.2501)
    place(template, tmp_path, "babygpt-0.01", 6, 3.0)
    found = best(tmp_path)
    assert found is not None
    assert (found.path.name, found.step, found.facts["val_loss"]) == ("babygpt-1.25", 4, 1.2501)


def test_names() -> None:
    assert step_name(120) == "step-000120"
    assert step_name(12_345_678) == "step-12345678"
    assert best_name(3.1249) == "babygpt-3.12"
    assert best_name(float("nan")) == "babygpt-nan"


# -- kept ------------------------------------------------------------------------------------------


def test_the_newest_and_the_best_stay(tmp_path: Path, template: Path) -> None:
    for step in range(1, 6):
        place(template, tmp_path, step_name(step), step, 5 - step)
        place(template, tmp_path, f"babygpt-{step}.00", step, abs(step - 3.1))
    (tmp_path / "mine").mkdir()
    place(template, tmp_path, "other", 0)
    (tmp_path / ".partial-step-000006-ab").mkdir()
    link_last(tmp_path, tmp_path / "step-000005")
    said: list[str] = []
    keep(tmp_path, newest=2, say=said.append)
    assert names(tmp_path) == ["babygpt-3.00", "last", "mine", "other", "step-000004", "step-000005"]
    assert said == []
    keep(tmp_path, newest=0, say=said.append)
    assert "step-000005" in names(tmp_path)


def test_nothing_goes_while_its_successor_is_damaged(tmp_path: Path, template: Path) -> None:
    for step in (1, 2, 3, 4):
        place(template, tmp_path, step_name(step), step)
    damage(tmp_path / "step-000004")
    damage(place(template, tmp_path, "babygpt-1.00", 4, 1.0))
    place(template, tmp_path, "babygpt-2.00", 3, 2.0)
    said: list[str] = []
    keep(tmp_path, newest=2, say=said.append)
    assert names(tmp_path) == ["babygpt-1.00", "babygpt-2.00", "step-000002", "step-000003", "step-000004"]
    assert any("step-000004 is damaged" in s for s in said)
    assert any("babygpt-1.00 is damaged" in s for s in said)
    for step in (2, 3):
        damage(tmp_path / step_name(step))
    place(template, tmp_path, "step-000000", 0)
    keep(tmp_path, newest=1, say=said.append)
    assert "step-000000" in names(tmp_path)


def test_what_cannot_be_deleted_is_said(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        place(template, tmp_path, step_name(step), step)

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(checkpoints, "remove_folder", refuse)
    said: list[str] = []
    keep(tmp_path, newest=1, say=said.append)
    assert "step-000001 cannot be deleted" in said[0]


def test_killed_while_replacing_the_one_before_is_found_under_its_name(tmp_path: Path) -> None:
    path = save(tmp_path, "only", 3)
    aside = path.rename(tmp_path / ".replaced-only-0123abcd")
    assert newest(tmp_path, pytest.fail) == aside
    assert load_state(path)["global_step"] == 3
    keep(tmp_path, say=pytest.fail)
    assert newest(tmp_path, pytest.fail) == path


def test_a_copy_is_whole_and_outlives_its_source(tmp_path: Path) -> None:
    source = save(tmp_path, val_loss=2.0)
    expected = load_state(source)
    path = copy_checkpoint(source, "babygpt-2.00")
    assert path == tmp_path / "babygpt-2.00"
    assert os.path.samefile(path / "model.safetensors", source / "model.safetensors")
    assert read_manifest(path) == read_manifest(source)
    (source / "config.json").write_text("{}")
    shutil.rmtree(source)
    assert_same(load_state(path), expected)


def test_a_damaged_source_is_not_copied(tmp_path: Path) -> None:
    source = save(tmp_path)
    damage(source)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not what its manifest says"):
        copy_checkpoint(source, "babygpt-2.00")
    assert names(tmp_path) == ["step-000003"]


def test_a_copy_where_hard_links_are_not_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path)

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    path = copy_checkpoint(source, "babygpt-2.00")
    assert not os.path.samefile(path / "model.safetensors", source / "model.safetensors")
    verify_folder(path)


def test_last_is_a_relative_link_that_moves(tmp_path: Path) -> None:
    parent = tmp_path / "run"
    one, two = save(parent, "step-000001", 1), save(parent, "step-000002", 2)
    link_last(parent, one)
    link_last(parent, two)
    assert os.readlink(parent / "last") == "step-000002"
    shutil.copytree(parent, tmp_path / "moved", symlinks=True)
    shutil.rmtree(parent)
    assert load_state(tmp_path / "moved" / "last")["global_step"] == 2
    assert names(tmp_path / "moved") == ["last", "step-000001", "step-000002"]


def test_last_is_a_file_where_links_are_not_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no links")

    path = save(tmp_path)
    monkeypatch.setattr(os, "symlink", refuse)
    link_last(tmp_path, path)
    link_last(tmp_path, path)
    assert (tmp_path / "last").read_text() == "step-000003\n"
    assert load_state(tmp_path / "last")["global_step"] == 3
    assert names(tmp_path) == ["last", "step-000003"]


def test_a_last_that_a_copying_tool_made_a_folder_is_not_lost(tmp_path: Path) -> None:
    one = save(tmp_path, "step-000001", 1)
    shutil.copytree(one, tmp_path / "last")
    link_last(tmp_path, one)
    assert os.readlink(tmp_path / "last") == "step-000001"
    verify_folder(tmp_path / "last-v1")


def test_the_card_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path)
    assert "README.md" in verify_folder(path).files
    assert (path / "README.md").read_bytes() == (save(tmp_path) / "README.md").read_bytes()
    text = (path / "README.md").read_text(encoding="utf-8")
    config = json.loads((path / "config.json").read_text())
    count = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(path).parameters())
    assert f"`{config['model_type']}`, {count:,} parameters" in text
    (path / "README.md").write_text(text + " ")
    with pytest.raises(CheckpointError, match=r"README\.md has"):
        verify_folder(path)
