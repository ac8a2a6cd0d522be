"""The model card: a head that the hub's own reader takes, and text that nothing in it can break out of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from babygpt.card import model_card
from babygpt.recipe import DataRecipe, ModelRecipe, Recipe, from_dict, to_dict

HOSTILE = "`x` ``y`` </code><script>alert(1)</script>\n---\nlicense: mit\n---\n![a](http://example.org/p.png)\x1b[2J"


def card(recipe: Recipe | None = None, **facts: Any) -> str:
    return model_card(
        {"step": 120, "val_loss": 2.5, **facts},
        model_type="gpt2",
        parameters=1234,
        positions=64,
        recipe=recipe,
    )


def head_of(text: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?\n)---\n", text, re.DOTALL)
    assert match
    return dict(yaml.safe_load(match[1]))


def test_the_head_as_the_hub_reads_it() -> None:
    text = card(model="owner/base-1.1B")
    data = ModelCard(text).data.to_dict()
    assert data == head_of(text)
    assert data == {
        "license": "unknown",
        "language": ["und"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["babygpt", "pytorch", "gpt2"],
        "base_model": "owner/base-1.1B",
    }


@pytest.mark.parametrize("name", ["preset:gpt2-1m", "./model", "a/b/c", "/tmp/model", HOSTILE, "", None, 3])
def test_only_a_hub_name_is_a_base_model(name: Any) -> None:
    assert "base_model" not in head_of(card(model=name))


def test_a_folder_that_looks_like_a_hub_name_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert head_of(card(model="path/model"))["base_model"] == "path/model"
    (tmp_path / "path" / "model").mkdir(parents=True)
    assert "base_model" not in head_of(card(model="path/model"))


def test_what_it_was_trained_on_and_how_well() -> None:
    text = card(
        model="preset:gpt2-1m",
        tokens=5000,
        data={"path": ["notes.txt", "https://me:secret@example.org/a.txt?token=1"]},
        versions={"torch": "2.13.0"},
    )
    assert "`gpt2`, 1,234 parameters, at most 64 tokens at once" in text
    assert "random weights of `preset:gpt2-1m`" in text
    assert "120 optimiser steps, 5,000 tokens" in text
    assert "loss 2.5000 nats a token, perplexity 12.18" in text  # exp(2.5) = 12.1825
    assert "`notes.txt`" in text
    assert "secret" not in text
    assert "token=1" not in text
    assert "`torch 2.13.0`" in text
    assert "kept no recipe" in text


@pytest.mark.parametrize("loss", [None, float("nan"), float("inf")])
def test_no_validation_is_said(loss: float | None) -> None:
    assert "**Last validation**: none" in card(val_loss=loss)


def test_a_loss_beyond_numbers() -> None:
    assert "perplexity beyond any number" in card(val_loss=900.0)


def test_the_recipe_comes_back_from_the_card() -> None:
    recipe = Recipe(data=DataRecipe(path=("odd ````` name.txt", "b: [c]\n---\n# x")), seed=3)
    tokens = MarkdownIt().parse(card(recipe).partition("\n---\n")[2])
    (block,) = [t for t in tokens if t.type == "fence" and t.info == "yaml"]
    assert to_dict(from_dict(yaml.safe_load(block.content))) == to_dict(recipe)


def test_the_code_in_it_is_python() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", card(), re.DOTALL)
    compile(block, "card", "exec")


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_name_becomes_markup(name: str, path: str) -> None:
    """In the text of a card only our own words are markup: a reader of Markdown finds the same structure always."""

    def structure(text: str) -> list[str]:
        kinds = []
        for token in MarkdownIt().parse(text.partition("\n---\n")[2]):
            inside = token.children or []
            kinds.append(f"{token.type} {[c.type for c in inside if c.type not in ('text', 'code_inline')]}")
        return kinds

    plain = card(Recipe(), model="x:y", data={"path": ["p"]})
    odd = Recipe(model=ModelRecipe(name=name or "auto"))
    text = card(odd, model=name, data={"path": [path]})
    assert structure(text) == structure(plain)
    assert head_of(text).keys() - {"base_model"} == head_of(plain).keys() - {"base_model"}


def test_a_hostile_name_stays_one_line_of_code() -> None:
    text = card(model=HOSTILE, data={"path": [HOSTILE] * 30})
    (line,) = [line for line in text.splitlines() if line.startswith("* **Began from**")]
    (inline,) = [t for t in MarkdownIt().parse(line) if t.type == "inline"]
    code = [c.content for c in inline.children or [] if c.type == "code_inline"]
    assert code == [HOSTILE.replace("\n", " ").replace("\x1b", "\\x1b")]
    assert "and 10 more" in text
    assert head_of(text)["license"] == "unknown"
