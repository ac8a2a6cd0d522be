"""Every trainable parameter in exactly one group, decayed or not as the table says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from babygpt.errors import ModelError
from babygpt.optim.groups import DEFAULT_RULES, MUON_RULES, Rule, parameter_groups

KINDS = ["gpt2", "llama", "qwen3", "gpt_neox", "gemma2", "mixtral", "bloom", "opt", "mamba"]


def _model(kind: str) -> Any:
    config = AutoConfig.for_model(kind, num_hidden_layers=1, vocab_size=128, pad_token_id=None)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _names(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, set[str]]:
    by_id = {id(p): name for name, p in model.named_parameters()}
    return {g["name"]: {by_id[id(p)] for p in g["params"]} for g in groups}


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_once(kind: str) -> None:
    model = _model(kind)
    groups = parameter_groups(model, DEFAULT_RULES, 0.1)
    ids = [id(p) for g in groups for p in g["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_are_decayed_and_nothing_else(kind: str) -> None:
    model = _model(kind)
    for group in parameter_groups(model, DEFAULT_RULES, 0.1):
        decayed = group["name"] == "matrices"
        assert group["weight_decay"] == (0.1 if decayed else 0.0)
        assert all((p.dim() >= 2) == decayed for p in group["params"])


def test_names_of_gpt2() -> None:
    names = _names(model := _model("gpt2"), parameter_groups(model))
    assert names["norms"] == {
        "transformer.h.0.ln_1.weight", "transformer.h.0.ln_2.weight", "transformer.ln_f.weight",
    }  # fmt: skip
    assert "transformer.wte.weight" in names["matrices"]
    assert "transformer.h.0.ln_1.bias" in names["biases"]
    assert set(names) == {"biases", "norms", "matrices"}


def test_tied_once_and_frozen_in_none() -> None:
    model = _model("gpt2")
    model.transformer.wpe.weight.requires_grad_(False)
    ids = [id(p) for g in parameter_groups(model) for p in g["params"]]
    assert ids.count(id(model.lm_head.weight)) == 1
    assert id(model.transformer.wpe.weight) not in ids


def test_norm_by_class_of_its_owner() -> None:
    model = nn.ModuleDict({"scale": nn.RMSNorm((4, 4)), "linear": nn.Linear(4, 4)})
    assert _names(model, parameter_groups(model))["norms"] == {"scale.weight"}


def test_names_that_only_look_like_a_norms() -> None:
    model = nn.ModuleDict({"vln": nn.Linear(4, 4, bias=False), "kiln_weight": nn.Linear(4, 4, bias=False)})
    assert set(_names(model, parameter_groups(model))) == {"matrices"}


def test_first_match_of_a_users_table_wins() -> None:
    model = _model("gpt2")
    table = (
        Rule("embeddings", lambda n, p, m: isinstance(m, nn.Embedding), decay=False),
        Rule("all", lambda n, p, m: True, decay=True),
    )
    names = _names(model, parameter_groups(model, table, 0.3))
    assert names["embeddings"] == {"transformer.wte.weight", "transformer.wpe.weight"}


def test_errors() -> None:
    model = _model("gpt2")
    with pytest.raises(ModelError, match=r"transformer\.wte\.weight: no rule matches"):
        parameter_groups(model, DEFAULT_RULES[:1])
    with pytest.raises(ModelError, match="same name"):
        parameter_groups(model, DEFAULT_RULES * 2)
    model.requires_grad_(False)
    with pytest.raises(ModelError, match="no parameter is trainable"):
        parameter_groups(model)


@pytest.mark.parametrize("kind", KINDS)
def test_muon_takes_the_blocks_matrices_only(kind: str) -> None:
    model = _model(kind)
    groups = parameter_groups(model, MUON_RULES, 0.1)
    ids = [id(p) for g in groups for p in g["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in model.parameters()}
    (hidden,) = [g for g in groups if g.get("update") == "muon"]
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings()
    for parameter in hidden["params"]:
        assert parameter.dim() == 2
        assert id(parameter) not in embeddings | {id(head.weight)}
    assert set(hidden["parts"]) == ({1, 3} if kind == "gpt2" else {1})
    assert all(g["weight_decay"] == 0 for g in groups if g["name"] in ("biases", "norms", "vectors"))
