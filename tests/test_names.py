"""Suggestions: each name of another trainer leads to a field that there is."""

from __future__ import annotations

import pytest

from babygpt.fields import leaves
from babygpt.names import OTHER_NAMES, nearest, unknown_field
from babygpt.settings import TrainSettings

KNOWN = [name for name in leaves(TrainSettings) if name != "given"]


def test_every_other_name_leads_to_a_field():
    assert set(OTHER_NAMES.values()) <= set(KNOWN)


def test_no_other_name_hides_a_field_of_ours():
    """A name that is our own field's last part would be answered by another field."""
    ours = {name.rpartition(".")[2] for name in KNOWN}
    assert {n for n in OTHER_NAMES if n in ours and n != OTHER_NAMES[n].rpartition(".")[2]} == set()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("learning_rate", ["optim.lr"]),
        ("optim.learning_rate", ["optim.lr"]),
        ("learning-rate", ["optim.lr"]),
        ("lerning_rate", ["optim.lr"]),
        ("per_device_train_batch_size", ["machine.micro_batch"]),
        ("gradient_accumulation_steps", ["data.global_batch_size"]),
        ("num_train_epochs", ["budget.epochs"]),
        ("max_steps", ["budget.steps"]),
        ("block_size", ["data.block"]),
        ("max_seq_length", ["data.block"]),
        ("bf16", ["machine.precision"]),
        ("fp16", ["machine.precision"]),
        ("weight_decay", ["optim.weight_decay"]),
        ("warmup_ratio", ["schedule.warmup"]),
        ("output_dir", ["out"]),
        ("model_name_or_path", ["model.name"]),
        ("dataset", ["data.path"]),
        ("random_seed", ["seed"]),
        ("lr", ["optim.lr"]),
        ("data.val-path", ["data.val_path"]),
        ("data.pth", ["data.path"]),
        ("optim.weigth_decay", ["optim.weight_decay"]),
        ("model.lr", ["optim.lr"]),
        ("every_steps", ["validate.every_steps", "checkpoint.every_steps"]),
        ("name", ["model.name", "optim.name", "schedule.name"]),
        ("budget", ["budget.steps", "budget.tokens", "budget.epochs", "budget.minutes"]),
        ("xyzzy", []),
    ],
)
def test_nearest(typed, meant):
    assert nearest(typed, KNOWN) == meant


def test_only_known_names_are_suggested():
    assert nearest("learning_rate", ["prompt", "top_p"]) == []
    assert nearest("topp", ["prompt", "top_p"]) == ["top_p"]


def test_unknown_field_says_name_place_and_meant():
    assert str(unknown_field("learning_rate", KNOWN, where="r.yaml")) == (
        "r.yaml: there is no field learning_rate. Did you mean optim.lr?"
    )
    assert str(unknown_field("lr", KNOWN, flag="-lr")) == "there is no flag -lr. Did you mean --optim.lr?"
