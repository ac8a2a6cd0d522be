"""The recipe: its ranges, its file, and what differs between two."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from babygpt.errors import RecipeError
from babygpt.presets import preset_config, preset_names
from babygpt.recipe import (
    Budget,
    DataRecipe,
    ModelRecipe,
    OptimRecipe,
    Recipe,
    ScheduleRecipe,
    ValidateRecipe,
    differences,
    from_dict,
    read_recipe,
    to_dict,
    to_yaml,
    write_recipe,
)
from babygpt.settings import CheckpointPlan

AUTO = st.just("auto")
# Names of files and models may hold anything that a file name may.
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)
SHARES = st.floats(0, 1, exclude_max=True)
OPEN_SHARES = st.floats(0, 1, exclude_min=True, exclude_max=True)
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)
COUNTS = st.integers(1, 10**10)
ATTENTIONS = st.sampled_from(["auto", "sdpa", "eager", "flash_attention_2"])

RECIPES = st.builds(
    Recipe,
    model=st.builds(
        ModelRecipe,
        name=NAMES.filter(lambda n: not n.startswith("preset:")),
        revision=st.none()
        | NAMES
        | st.sampled_from(["1e5", "123", "null", "no", "0x1f", "12:30", "~", "2024-01-01"]),
        attention=ATTENTIONS,
        dropout=SHARES,
    )
    | st.builds(
        ModelRecipe,
        name=st.sampled_from([f"preset:{n}" for n in preset_names()]),
        attention=ATTENTIONS,
        dropout=SHARES,
    ),
    data=st.builds(
        DataRecipe,
        path=st.lists(NAMES, min_size=1, max_size=3).map(tuple),
        weights=st.just(()) | st.lists(POSITIVE, min_size=1, max_size=3).map(tuple),
        field=NAMES,
        val_path=st.lists(NAMES, max_size=2).map(tuple),
        val_fraction=OPEN_SHARES,
        tokenizer=NAMES.filter(lambda n: not n.startswith("train:"))
        | st.integers(257, 10**6).map("train:{}".format),
        block=AUTO | st.integers(2, 2**30),
        packing=st.sampled_from(["stream", "isolated", "padded"]),
        global_batch_size=AUTO | st.integers(1, 10**7),
    ),
    optim=st.builds(
        OptimRecipe,
        lr=AUTO | POSITIVE,
        weight_decay=st.floats(0, allow_infinity=False),
        betas=st.tuples(SHARES, SHARES),
        grad_clip=st.floats(0, allow_infinity=False),
        on_spike=st.sampled_from(["go_on", "rollback"]),
    ),
    schedule=st.builds(
        ScheduleRecipe,
        name=st.sampled_from(["cosine", "linear", "wsd", "constant"]),
        warmup=SHARES | st.integers(1, 10**6).map(float),
        final=st.floats(0, 1),
    ),
    budget=st.builds(Budget)
    | st.builds(Budget, steps=COUNTS)
    | st.builds(Budget, tokens=COUNTS)
    | st.builds(Budget, epochs=POSITIVE)
    | st.builds(Budget, minutes=POSITIVE),
    validate=st.builds(ValidateRecipe, every_steps=AUTO | COUNTS, batches=AUTO | COUNTS),
    seed=st.integers(0, 2**32 - 1),
)


# -- files ---------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(RECIPES)
def test_recipe_file_gives_the_recipe_back(recipe):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        write_recipe(path, recipe)
        assert read_recipe(path) == recipe
        assert differences(recipe, read_recipe(path)) == []
        # As any YAML reader sees it: every field there, none more.
        assert yaml.safe_load(path.read_text(encoding="utf-8")) == to_dict(recipe)


@settings(max_examples=60)
@given(RECIPES)
def test_plain_values_are_json(recipe):
    assert from_dict(json.loads(json.dumps(to_dict(recipe)))) == recipe


def test_recipe_file_is_readable(tmp_path):
    path = tmp_path / "recipe.yaml"
    write_recipe(path, replace(Recipe(), data=DataRecipe(path=("a.txt", "b")), optim=OptimRecipe(lr=5e-5)))
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert "\n  path: [a.txt, b]\n" in text
    assert "\n  betas: [0.9, 0.95]\n" in text
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_rate_without_a_point_is_a_number(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("optim:\n  lr: 1e-3\nschedule:\n  warmup: 100\n")
    recipe = read_recipe(path)
    assert recipe.optim.lr == 0.001
    assert recipe.schedule.warmup == 100.0


def test_errors_in_a_file_name_file_and_field(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("optim:\n  lr: -1\n")
    with pytest.raises(RecipeError) as error:
        read_recipe(path)
    assert str(error.value) == f"{path}: optim.lr: -1.0 is not a number above 0."
    path.write_text("learning_rate: 1\n")
    with pytest.raises(RecipeError) as error:
        read_recipe(path)
    assert str(error.value) == f"{path}: there is no field learning_rate. Did you mean optim.lr?"


# -- differences ---------------------------------------------------------------------------------------------


def test_differences_name_each_field_and_both_values():
    there = Recipe(optim=OptimRecipe(lr=0.001), data=DataRecipe(path=("a", "b")), budget=Budget(steps=5))
    here = Recipe(optim=OptimRecipe(lr=0.002), data=DataRecipe(path=("a",)), seed=1)
    assert differences(there, here) == [
        "data.path: [a, b] there, [a] here",
        "optim.lr: 0.001 there, 0.002 here",
        "budget.steps: 5 there, null here",
        "seed: 0 there, 1 here",
    ]


@settings(max_examples=60)
@given(RECIPES, RECIPES)
def test_differences_are_none_exactly_for_equals(a, b):
    assert (differences(a, b) == []) == (a == b)
    assert {d.split(":")[0] for d in differences(a, b)} == {d.split(":")[0] for d in differences(b, a)}


# -- ranges --------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("cls", "field", "values"),
    [
        (ModelRecipe, "model.name", ["", " ", 3]),
        (ModelRecipe, "model.revision", [""]),
        (ModelRecipe, "model.dropout", [-0.1, 1, NAN, "0"]),
        (DataRecipe, "data.path", ["notes.txt", ("",), (3,), 3]),
        (DataRecipe, "data.val_path", ["notes.txt", ("",)]),
        (DataRecipe, "data.field", [""]),
        (DataRecipe, "data.val_fraction", [0, 1, -1, NAN]),
        (DataRecipe, "data.tokenizer", ["", "train:", "train:256", "train:-300", "train:1e4", "train:x"]),
        (DataRecipe, "data.block", [1, 0, -5, 1.5, True, "all"]),
        (DataRecipe, "data.global_batch_size", [0, -1, 2.0]),
        (OptimRecipe, "optim.lr", [0, -1e-3, NAN, INF, "fast"]),
        (OptimRecipe, "optim.weight_decay", [-0.1, INF]),
        (OptimRecipe, "optim.betas", [(0.9,), (0.9, 1.0), (-0.1, 0.9), "ab", 0.9, (0.9, 0.95, 0.99)]),
        (OptimRecipe, "optim.grad_clip", [-1, NAN]),
        (ScheduleRecipe, "schedule.warmup", [-0.1, 1.5, INF]),
        (ScheduleRecipe, "schedule.final", [-0.1, 1.1]),
        (Budget, "budget.steps", [0, -1, 1.5]),
        (Budget, "budget.tokens", [0, 1e6]),
        (Budget, "budget.epochs", [0, -1, INF]),
        (Budget, "budget.minutes", [0, NAN]),
        (Budget, "budget.flops", [0, -1e9, INF]),
        (ValidateRecipe, "validate.every_steps", [0, None]),
        (ValidateRecipe, "validate.batches", [0, -3]),
        (Recipe, "seed", [-1, 2**32, 1.0, True]),
        (CheckpointPlan, "checkpoint.every_steps", [0, -1]),
        (CheckpointPlan, "checkpoint.every_minutes", [0, NAN]),
        (CheckpointPlan, "checkpoint.keep", [0, 1.5]),
    ],
)
def test_out_of_range_names_the_field(cls, field, values):
    for value in values:
        with pytest.raises(RecipeError) as error:
            cls(**{field.rpartition(".")[2]: value})
        assert error.value.where == field


def test_edges_that_are_allowed():
    OptimRecipe(grad_clip=0, weight_decay=0, betas=(0.0, 0.0))
    ScheduleRecipe(warmup=0, final=0)
    ScheduleRecipe(warmup=1, final=1)
    DataRecipe(tokenizer="train:257", block=2, global_batch_size=1)
    CheckpointPlan(every_steps=None, every_minutes=None, keep=1)


def test_lists_become_tuples_so_that_recipes_hash():
    assert hash(Recipe(data=DataRecipe(path=["a"]), optim=OptimRecipe(betas=[0.9, 0.99])))


def test_a_recipe_needs_text_to_train_on():
    assert DataRecipe(path=()).path == ()
    with pytest.raises(RecipeError, match=r"^data\.path: names nothing"):
        Recipe(data=DataRecipe(path=()))


def test_two_budgets_are_refused():
    with pytest.raises(RecipeError, match=r"^budget: steps and minutes are given\. Give one of them\.$"):
        Budget(steps=3, minutes=1)


# -- presets -------------------------------------------------------------------------------------------------


def test_presets_are_configurations():
    assert "gpt2-124m" in preset_names()
    for name in preset_names():
        assert preset_config(name) == preset_config(f"preset:{name}")
        assert "model_type" in preset_config(name)
        ModelRecipe(name=f"preset:{name}")


@pytest.mark.parametrize(
    "weights", [[-1, 2], [0, 0], [NAN, 1], [float("inf"), 1], [True, 1], ["1", 2], "12", 3, [None]]
)
def test_weights_that_are_none(weights):
    with pytest.raises(RecipeError, match=r"data\.weights"):
        DataRecipe(path=("a", "b"), weights=weights)


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan"), float("inf"), "0.1", True, 9e-4])
def test_prompt_weights_that_are_none(weight):
    with pytest.raises(RecipeError, match=r"^data\.prompt_weight: "):
        DataRecipe(prompt_weight=weight)


def test_a_prompt_weight_beside_prompts_as_targets_is_refused():
    with pytest.raises(
        RecipeError, match=r"^data\.prompt_weight: data\.train_on_prompts makes prompts targets"
    ):
        DataRecipe(prompt_weight=0.5, train_on_prompts=True)
    assert DataRecipe(prompt_weight=1).prompt_weight == 1


def test_weights_go_with_the_paths():
    DataRecipe(path=("a", "b"), weights=(0, 2.5)).check_sources()
    DataRecipe(path=("a", "b"), val_path=("c",)).check_sources()
    with pytest.raises(RecipeError, match=r"data\.weights: 1 weight for 2 paths"):
        DataRecipe(path=("a", "b"), weights=(1,)).check_sources()
    with pytest.raises(RecipeError, match=r"data\.val_path: 1 path for the 2 sources"):
        DataRecipe(path=("a", "b"), weights=(1, 2), val_path=("c",)).check_sources()


def test_unknown_preset_names_the_nearest():
    with pytest.raises(
        RecipeError, match=r"there is no preset 'gpt2-142m'\. Did you mean preset:gpt2-124m\?"
    ):
        preset_config("gpt2-142m")
    with pytest.raises(RecipeError, match="Did you mean preset:gpt2-124m"):
        ModelRecipe(name="preset:gpt2-142m")
    with pytest.raises(RecipeError, match="there is no preset"):
        preset_config("../presets/gpt2-124m")


def test_defaults_are_those_of_the_design():
    assert asdict(Recipe()) == {
        "model": {"name": "auto", "revision": None, "attention": "auto", "dropout": 0.0},
        "data": {
            "path": ("builtin:python",), "weights": (), "field": "auto", "val_path": (), "val_fraction": 0.05,
            "deduplicate": "none",
            "tokenizer": "auto", "block": "auto", "packing": "stream", "too_long": "split",
                "train_on_prompts": False, "prompt_weight": 0.0, "global_batch_size": "auto",
        },
        "optim": {"name": "auto", "lr": "auto", "weight_decay": 0.1, "betas": (0.9, 0.95), "grad_clip": 1.0,
                  "on_spike": "go_on"},
        "schedule": {"name": "linear", "warmup": 0.05, "final": 0.0},
        "budget": {"steps": None, "tokens": None, "epochs": None, "minutes": None, "flops": None},
        "validate": {"every_steps": "auto", "batches": "auto"},
        "seed": 0,
    }  # fmt: skip


def test_a_name_that_turns_the_direction_of_writing_is_escaped() -> None:
    recipe = Recipe(model=ModelRecipe(name="/models/abc\u202efdp"), data=DataRecipe(path=("t\u00e9xt",)))
    text = to_yaml(recipe)
    assert "\u202e" not in text
    assert r"\u202e" in text.lower()
    assert yaml.safe_load(text)["model"]["name"] == recipe.model.name
    assert "t\u00e9xt" in to_yaml(replace(recipe, model=ModelRecipe()))
