"""The model card of a checkpoint: a README.md that the Hugging Face hub reads, made from what its manifest says.

Its head is YAML of known words only: names that others chose go into it where they are hub names letter by letter, and
nowhere else. In the text they stand as code, behind a fence that they cannot close. The same checkpoint gives the same
card, whenever and wherever it is written: no time, no name of a folder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from babygpt.hub import looks_like_path
from babygpt.recipe import Recipe, to_yaml
from babygpt.untrusted import redacted, shown

__all__ = ["NAME", "model_card"]

NAME = "README.md"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_LONGEST = 300  # characters of a name
_MOST_PATHS = 20

_USE = """## How to use it

```python
from transformers import AutoModelForCausalLM, TOKENIZER

folder = "."  # this folder, or its name on the hub
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = TOKENIZER.from_pretrained(folder)
inputs = tokenizer("Once", return_tensors="pt", return_token_type_ids=False)
output = model.generate(**inputs, max_new_tokens=50, do_sample=True)
print(tokenizer.decode(output[0], skip_special_tokens=True))
```

Or `babygpt generate . --prompt "Once"` in this folder. `training/` holds what going on with the run needs; using the
model needs nothing of it.
"""

_LIMITS = """## Limits

* It continues text in the manner of what it was trained on, and makes up what it does not know, fluently.
* It may repeat what stands in that text, mistakes, prejudice and private details included.
* The validation loss is that of text of the same kind. What the model does on other text was not measured, and neither
  was whether its answers are true, fair or safe.
* Language and licence are not known to the program that wrote this card. Before you share the model, look at the
  licences of its text and of the model it began from, and fill in `license` and `language` above.
"""


def model_card(
    facts: Mapping[str, Any],
    *,
    model_type: str,
    parameters: int,
    positions: int | None,
    recipe: Recipe | None,
    tokenizer: str = "AutoTokenizer",
) -> str:
    """The card as Markdown with a YAML head.

    Args:
        facts: the manifest's: `step`, and where they are known `tokens`, `model` (where the weights came from),
            `data`, `data_fingerprint`, `val_loss` in nats a token, `versions`.
        model_type: the architecture, as transformers calls it.
        parameters: of the model, tied ones once.
        positions: the most tokens that the model takes at once, if its configuration says.
        recipe: of the run, resolved; None where the trainer had none.
        tokenizer: the class of transformers that loads its tokenizer.
    """
    parts = [
        f"---\n{_head(facts.get('model'), model_type)}---\n",
        "# A language model trained with BabyGPT\n",
        "\n".join(f"* **{name}**: {value}" for name, value in _rows(facts, model_type, parameters, positions))
        + "\n",
        _USE.replace("TOKENIZER", tokenizer),
        _again(facts, recipe),
        _LIMITS,
    ]
    return "\n".join(parts)


def _head(began_from: Any, model_type: str) -> str:
    values: dict[str, Any] = {
        "license": "unknown",
        "language": ["und"],  # ISO 639: undetermined
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["babygpt", "pytorch"],
    }
    if _HUB_NAME.fullmatch(model_type):
        values["tags"].append(model_type)
    if (name := _hub_name(began_from)) is not None:
        values["base_model"] = name
    return yaml.safe_dump(values, sort_keys=False, width=10_000)


def _hub_name(name: Any) -> str | None:
    """The name, if it is one of the hub's."""
    if not isinstance(name, str) or not _HUB_NAME.fullmatch(name) or looks_like_path(name):
        return None
    return None if Path(name).exists() else name


def _rows(
    facts: Mapping[str, Any], model_type: str, parameters: int, positions: int | None
) -> Iterator[tuple[str, str]]:
    length = f", at most {positions:,} tokens at once" if positions else ""
    yield "Model", f"{_code(model_type)}, {parameters:,} parameters{length}"
    name = facts.get("model")
    if isinstance(name, str):
        kind = "random weights of" if name.startswith("preset:") else "the weights of"
        yield "Began from", f"{kind} {_code(name)}"
    if isinstance(facts.get("data"), Mapping):
        yield "Trained on", ", ".join(_paths(facts["data"].get("path")))
    if isinstance(facts.get("data_fingerprint"), str):
        yield "Fingerprint of the data", _code(facts["data_fingerprint"])
    tokens = f", {facts['tokens']:,} tokens" if isinstance(facts.get("tokens"), int) else ""
    yield "Trained for", f"{facts.get('step', 0):,} optimiser steps{tokens}"
    loss = facts.get("val_loss")
    if isinstance(loss, float) and math.isfinite(loss):
        perplexity = f"{math.exp(loss):,.2f}" if loss < 700 else "beyond any number"
        yield (
            "Last validation",
            f"loss {loss:.4f} nats a token, perplexity {perplexity}, on text that was held out",
        )
    else:
        yield "Last validation", "none"


def _paths(paths: Any) -> list[str]:
    every = [_code(redacted(path)) for path in paths or () if isinstance(path, str)]
    more = [f"and {len(every) - _MOST_PATHS:,} more"] if len(every) > _MOST_PATHS else []
    return [*every[:_MOST_PATHS], *more]


def _again(facts: Mapping[str, Any], recipe: Recipe | None) -> str:
    versions = facts.get("versions")
    inside = [f"{k} {v}" for k, v in versions.items()] if isinstance(versions, Mapping) else []
    with_what = f"It was trained with {_code(', '.join(inside))}. " if inside else ""
    if recipe is None:
        how = "It was trained from Python, by a trainer that kept no recipe."
        return f"## How to train it again\n\n{with_what}{how}\n"
    text = to_yaml(recipe)
    fence = "`" * max(3, 1 + _longest_run(text))
    return (
        f"## How to train it again\n\n{with_what}Save this as `recipe.yaml` and run"
        f" `babygpt train --config recipe.yaml`, with the data where the recipe says:\n\n{fence}yaml\n{text}{fence}\n"
    )


def _code(text: str) -> str:
    """A code span that shows the text and ends with it, whatever it holds."""
    plain = " ".join(shown(text, _LONGEST).split())
    fence = "`" * (1 + _longest_run(plain))
    room = " " if plain.startswith("`") or plain.endswith("`") or not plain else ""
    return f"{fence}{room}{plain}{room}{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
