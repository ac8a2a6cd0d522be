"""Command lines to settings: names, lists, recipe files, and what the flags put over them."""

from __future__ import annotations

import re
import shlex

import pytest

from babygpt.arguments import parse
from babygpt.errors import InputError
from babygpt.fields import leaves
from babygpt.recipe import Budget, DataRecipe, ModelRecipe, OptimRecipe, Recipe, read_recipe, write_recipe
from babygpt.settings import EvalSettings, GenerateSettings, TrainSettings, VerifySettings
from babygpt.verbs import VERBS


def train(*arguments):
    return parse(VERBS["train"].syntax, arguments)


def refusal(verb, *arguments):
    with pytest.raises(InputError) as error:
        parse(VERBS[verb].syntax, arguments)
    return str(error.value)


# -- flags ---------------------------------------------------------------------------------------------------


def test_nothing_given_is_every_default():
    parsed = train()
    assert parsed.settings == TrainSettings()
    assert parsed.given == ()


def test_every_field_is_a_flag():
    assert set(VERBS["train"].syntax.flags) == set(leaves(TrainSettings)) - {"given", "begun"}


def test_types_of_values():
    settings = train(
        "--model.name", "gpt2", "--model.revision", "1e5", "--optim.lr", "3e-4", "--data.block", "64",
        "--schedule.warmup", "100", "--budget.epochs", "0.5", "--seed", "7", "--machine.compile", "true",
        "--machine.micro_batch", "4", "--checkpoint.every_minutes", "null", "--out", "123", "--json",
    ).settings  # fmt: skip
    assert settings.model == ModelRecipe(name="gpt2", revision="1e5")
    assert settings.optim.lr == 3e-4
    assert settings.data.block == 64
    assert settings.schedule.warmup == 100
    assert settings.budget == Budget(epochs=0.5)
    assert settings.seed == 7
    assert settings.machine.compile is True
    assert settings.machine.micro_batch == 4
    assert settings.checkpoint.every_minutes is None
    assert settings.out == "123"
    assert settings.json is True


def test_other_verbs():
    assert parse(VERBS["eval"].syntax, ["x", "--data.path", "a", "b"]).settings == EvalSettings(
        "x", DataRecipe(path=("a", "b"))
    )
    assert parse(VERBS["eval"].syntax, ["x"]).settings == EvalSettings("x")
    assert parse(VERBS["generate"].syntax, ["x", "--prompt", "- a: b", "--temperature", "0"]).settings == (
        GenerateSettings("x", "- a: b", temperature=0.0)
    )
    assert parse(VERBS["generate"].syntax, ["x", "--prompt=--seed"]).settings.prompt == "--seed"
    assert parse(VERBS["checkpoint verify"].syntax, ["x", "--json"]).settings == VerifySettings(
        "x", json=True
    )


# -- lists ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["--data.path", "a"], ("a",)),
        (["--data.path", "a", "b c", "d"], ("a", "b c", "d")),
        (["--data.path=a"], ("a",)),
        (["--data.path", "a", "b", "--seed", "1"], ("a", "b")),
        (["--seed", "1", "--data.path", "a", "b"], ("a", "b")),
        (['--data.path=["a", "b"]'], ("a", "b")),
        (["--data.path", '["a", "b"]'], ("a", "b")),
        (["--data.path", "[draft]"], ("[draft]",)),
        (["--data.path", "a: b", "#c", "null", "1", 'q"', "é", "😀", "x,y", "{z}"],
         ("a: b", "#c", "null", "1", 'q"', "é", "😀", "x,y", "{z}")),
    ],
    ids=repr,
)  # fmt: skip
def test_lists_of_text(arguments, path):
    assert train(*arguments).settings.data.path == path


def test_lists_of_numbers():
    assert train("--optim.betas", "0.8", "0.9", "--seed", "1").settings.optim.betas == (0.8, 0.9)
    assert train("--optim.betas=[0.8, 9e-1]").settings.optim.betas == (0.8, 0.9)


@pytest.mark.parametrize("given", [["--budget.tokens", "1.5e6"], ["--budget.tokens=1.5e6"]], ids=repr)
def test_whole_numbers_by_powers_of_ten(given, tmp_path):
    assert train(*given, "--data.path", "1e3").settings.budget.tokens == 1_500_000
    file = tmp_path / "recipe.yaml"
    file.write_text("budget: {tokens: 1.5e6}\ndata: {path: [a]}\n")
    assert train("--config", str(file)).settings.budget.tokens == 1_500_000
    file.write_text("budget: {tokens: 1.5e+6}\ndata: {path: [a]}\n")
    assert train("--config", str(file)).settings.budget.tokens == 1_500_000
    assert train(*given, "--data.path", "1e3").settings.data.path == ("1e3",)


def test_powers_of_ten_that_are_no_numbers_stay_text():
    """A name behind a whole number, and whatever stands behind --."""
    generate = VERBS["generate"].syntax
    assert (
        parse(generate, ["1e3", "--max_new_tokens", "1e1"]).settings
        == parse(generate, ["1e3", "--max_new_tokens=10"]).settings
    )
    assert parse(generate, ["--max_new_tokens", "5", "1e3"]).settings.checkpoint == "1e3"
    assert parse(generate, ["--max_new_tokens", "1e1", "1e3"]).settings.checkpoint == "1e3"
    given = ("--port=1e3", "--port", "1e3")
    assert parse(VERBS["report"].syntax, ("--", *given)).settings.runs == given


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.path"], "--data.path: needs a list of text."),
        (["--data.path", "--seed", "1"], "--data.path: needs a list of text."),
        (
            ["--data.path", "a", "--data.path", "b"],
            "--data.path: is given twice. Give all its values after one flag.",
        ),
        (["--optim.betas", "0.9"], "--optim.betas: [0.9] is not 2 numbers."),
        (["--optim.betas", "a", "b"], "--optim.betas: [a, b] is not 2 numbers."),
        (["--optim.betas", "0.9", "-0.5"], "optim.betas: -0.5 is not a number of at least 0 and below 1."),
    ],
    ids=repr,
)
def test_wrong_lists(arguments, message):
    assert refusal("train", *arguments) == message


# -- mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning_rate", "1"], "there is no flag --learning_rate. Did you mean --optim.lr?"),
        (["--learning_rate=1"], "there is no flag --learning_rate. Did you mean --optim.lr?"),
        (["-lr", "1"], "there is no flag -lr. Did you mean --optim.lr?"),
        (["--model", "gpt2"], "there is no flag --model. Did you mean --model.name?"),
        (["--optim.learnrate", "1"], "there is no flag --optim.learnrate."),
        (["--given", "x"], "there is no flag --given."),
        (["--see", "1"], "there is no flag --see. Did you mean --seed?"),
        (["--optim.lr", "fast"], "--optim.lr: fast is not a number or auto."),
        (["--optim.lr"], "--optim.lr: needs a number or auto."),
        (["--optim.lr", "-1"], "optim.lr: -1.0 is not a number above 0."),
        (["--budget.steps", "1e-2"], "--budget.steps: 1e-2 is not a whole number or null."),
        (["--budget.steps", "1.5"], "--budget.steps: 1.5 is not a whole number or null."),
        (["--budget.steps", "1", "--budget.tokens", "1"], "budget: steps and tokens are given."),
        (["--machine.device", "gpu"], "--machine.device: gpu is not one of auto, cpu, cuda, mps."),
        (["--machine.workers", "-1"], "machine.workers: -1 is not a whole number of at least 0."),
        (["--json=yes"], "--json: takes no value."),
        (["notes.txt"], "'notes.txt' belongs to no flag."),
        (
            ["--data.path", "-notes.txt"],
            "there is no flag -notes.txt. A value that begins with a dash stands behind a flag's =, as in"
            " --FLAG=-notes.txt.",
        ),
        (["--config"], "--config: needs a file."),
        (["--out", "a", "--resume", "b"], "out: a resumed run stays in its own folder. Leave it out."),
        (["--model.name", "preset:gpt2-142m"], "model.name: there is no preset 'gpt2-142m'. Did you mean"),
    ],
    ids=repr,
)  # fmt: skip
def test_mistakes_of_train(arguments, message):
    assert refusal("train", *arguments).startswith(message)


def test_mistakes_of_other_verbs():
    assert refusal("eval").startswith("no checkpoint is given. babygpt eval CHECKPOINT")
    assert refusal("eval", "--data.path", "a", "run").startswith("no checkpoint is given.")
    assert refusal("eval", "--checkpoint", "x").endswith("It goes without one: babygpt eval CHECKPOINT.")
    assert refusal("eval", "-run").endswith("or, without a flag, behind --: babygpt eval -- -run.")
    assert refusal("eval", "-run/last").endswith("stands behind --: babygpt eval -- -run/last.")
    said = refusal("generate", "--", "-x", "--prompt", "a")
    assert said.endswith("belongs to no flag. Flags stand before --.")
    assert refusal("eval", "x", "--data.tokenizer", "y").startswith("there is no flag --data.tokenizer.")
    assert refusal("eval", "x", "--data.prompt_weight", "0.5").startswith(
        "there is no flag --data.prompt_weight."
    )
    assert refusal("eval", "x", "--config", "y").startswith("there is no flag --config.")
    assert refusal("generate", "x", "--top-p", "0.5") == "there is no flag --top-p. Did you mean --top_p?"
    assert refusal("generate", "x", "--top_p", "2") == "top_p: 2.0 is not above 0 and at most 1."
    assert refusal("generate", "x", "--promt", "a") == "there is no flag --promt. Did you mean --prompt?"


# -- recipe files --------------------------------------------------------------------------------------------


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model:\n  name: preset:gpt2-4m\noptim:\n  lr: 1e-3\n  betas: [0.8, 0.9]\nbudget:\n  steps: 5\n"
    )
    return str(path)


@pytest.mark.parametrize("order", ["file first", "file last"])
def test_flags_go_over_the_file(recipe_file, order):
    file, flags = ["--config", recipe_file], ["--optim.lr", "2e-3", "--data.path", "a", "b"]
    parsed = train(*(file + flags if order == "file first" else flags + file))
    assert parsed.settings.recipe == Recipe(
        model=ModelRecipe(name="preset:gpt2-4m"),
        data=DataRecipe(path=("a", "b")),
        optim=OptimRecipe(lr=2e-3, betas=(0.8, 0.9)),
        budget=Budget(steps=5),
    )
    assert set(parsed.given) == {"model.name", "optim.lr", "optim.betas", "budget.steps", "data.path"}


def test_later_files_go_over_earlier_ones(recipe_file, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("optim: {lr: 5}\n")
    optim = train("--config", recipe_file, f"--config={other}").settings.optim
    assert (optim.lr, optim.betas) == (5.0, (0.8, 0.9))


def test_a_budget_flag_replaces_the_files_budget(recipe_file):
    parsed = train("--config", recipe_file, "--budget.minutes", "2")
    assert parsed.settings.budget == Budget(minutes=2.0)
    assert "budget.steps" not in parsed.given
    assert "budget.minutes" in parsed.given


def test_a_runs_own_recipe_file_is_a_config(tmp_path):
    recipe = Recipe(
        model=ModelRecipe(name="null", revision="1e5"),
        data=DataRecipe(path=("a: b", "ü", "1e5", "no", "😀")),
        optim=OptimRecipe(lr=1e-5),
        seed=3,
    )
    write_recipe(tmp_path / "recipe.yaml", recipe)
    assert train("--config", str(tmp_path / "recipe.yaml")).settings.recipe == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 1\n", "{}: there is no field learning_rate. Did you mean optim.lr?"),
        ("optim: {leraning_rate: 1}\n", "{}: there is no field optim.leraning_rate. Did you mean optim.lr?"),
        ("given: [a]\n", "{}: there is no field given."),
        ("optim: {lr: fast}\n", "{}: optim.lr: 'fast' is not a number or auto."),
        ("budget: {steps: 0}\n", "{}: budget.steps: 0 is not a whole number of at least 1."),
        ("data: {path: notes.txt}\n", "{}: data.path: 'notes.txt' is not a list of text. Write [notes.txt]."),
        ("machine: {device: gpu}\n", "{}: machine.device: 'gpu' is not one of auto, cpu, cuda, mps."),
        ("optim: [\n", "{}:2: is not YAML"),
        ("", "{}: holds no fields."),
    ],
    ids=repr,
)
def test_mistakes_in_a_file_name_it(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert refusal("train", "--config", str(path)).startswith(message.format(path))


def test_a_missing_file():
    assert (
        refusal("train", "--config", "no/such.yaml")
        == "no/such.yaml: cannot be read: No such file or directory."
    )


# -- printing it ---------------------------------------------------------------------------------------------


def test_printed_configuration_is_what_was_given(tmp_path, capsys):
    given = [
        "--data.path", "a: b", "c", "1e5", "--optim.lr", "3e-5", "--machine.device", "cpu", "--budget.steps",
        "9", "--checkpoint.every_minutes", "null", "--model.revision", "1e5", "--out", "runs/x",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        train(*given, "--print_config")
    assert stop.value.code == 0
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    assert train("--config", str(path)).settings == train(*given).settings


def test_a_wrong_configuration_is_not_printed(capsys):
    assert refusal("train", "--print_config", "--optim.lr", "-1").startswith("optim.lr: -1.0")
    assert capsys.readouterr().out == ""


def test_a_printed_recipe_part_is_a_recipe_file(tmp_path, capsys):
    with pytest.raises(SystemExit):
        train("--seed", "3", "--print_config=skip_default")
    path = tmp_path / "recipe.yaml"
    path.write_text(capsys.readouterr().out)
    assert read_recipe(path) == Recipe(seed=3)


# -- help ----------------------------------------------------------------------------------------------------


METAVAR_AND_WORDS = r"(?: \S+)*(?: {2,}|\n +)\S+ \S+"


@pytest.mark.parametrize("verb", list(VERBS))
def test_help_describes_every_flag(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        parse(VERBS[verb].syntax, ["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    found = dict(re.findall(r"\n  --([\w.]+)((?:.|\n(?!  -|\n))*)", text))
    assert set(found) - {"config", "print_config"} == set(VERBS[verb].syntax.flags)
    assert [flag for flag, about in found.items() if not re.match(METAVAR_AND_WORDS, about)] == []
    assert "examples:\n  babygpt " in text


@pytest.mark.parametrize("verb", list(VERBS))
def test_help_examples_are_right(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/notes").mkdir(parents=True)
    write_recipe(tmp_path / "runs/notes/recipe.yaml", Recipe())
    syntax = VERBS[verb].syntax
    for example in syntax.examples:
        words = shlex.split(example)
        assert words[: len(syntax.prog.split())] == syntax.prog.split()
        parse(syntax, words[len(syntax.prog.split()) :])
