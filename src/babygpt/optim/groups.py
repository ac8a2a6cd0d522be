"""Which parameter is decayed, as an ordered table of rules: the first that matches a parameter decides.

Every trainable parameter lands in exactly one group, tied ones once, frozen ones in none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from babygpt.errors import ModelError

__all__ = ["DEFAULT_RULES", "MUON_RULES", "Rule", "parameter_groups"]


@dataclass(frozen=True)
class Rule:
    """One line of the table.

    Args:
        name: of the optimiser group its parameters form.
        matches: called with the parameter's full name, the parameter, and the module that owns it.
        decay: whether weight decay applies.
        update: by which algorithm the optimiser `muon` updates them; `adamw` knows only itself.
    """

    name: str
    matches: Callable[[str, nn.Parameter, nn.Module], bool]
    decay: bool
    update: Literal["adamw", "muon"] = "adamw"


_NORM_NAME = re.compile(r"norm|(^|[._])ln(_|\.|\d)", re.IGNORECASE)


def _is_bias(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    return name.rpartition(".")[2].endswith("bias")


def _is_norm(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() or _NORM_NAME.search(name) is not None


def _is_vector(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    return parameter.dim() < 2


def _is_matrix(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    return parameter.dim() >= 2


def _is_hidden_matrix(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    """A matrix of one of the numbered blocks: no embedding, no head."""
    return (
        parameter.dim() == 2
        and not isinstance(module, nn.Embedding)
        and re.search(r"\.\d+\.", name) is not None
    )


_VECTORS: tuple[Rule, ...] = (
    Rule("biases", _is_bias, decay=False),
    Rule("norms", _is_norm, decay=False),
    Rule("vectors", _is_vector, decay=False),
)
_MATRICES = Rule("matrices", _is_matrix, decay=True)

DEFAULT_RULES: tuple[Rule, ...] = (*_VECTORS, _MATRICES)

# Embeddings and head are looked up by row: to orthogonalise them would move the rare tokens as much as the common.
MUON_RULES: tuple[Rule, ...] = (
    *_VECTORS,
    Rule("hidden", _is_hidden_matrix, decay=True, update="muon"),
    _MATRICES,
)


def parameter_groups(
    model: nn.Module, rules: Sequence[Rule] = DEFAULT_RULES, weight_decay: float = 0.1
) -> list[dict[str, Any]]:
    """Optimiser groups, one for each rule that matched anything, in the table's order.

    Args:
        model: whose trainable parameters are grouped, in the order of its modules.
        rules: the table.
        weight_decay: of the groups whose rule says decay; 0 elsewhere.

    Returns:
        Dicts of `name`, `params` and `weight_decay`, as torch optimisers take them; of rules that say Muon also
        `update` and, for each parameter, `parts`: how many matrices lie side by side in it.

    Raises:
        ModelError: a trainable parameter that no rule matches, two rules of one name, or nothing to train.
    """
    names = [rule.name for rule in rules]
    if len(set(names)) != len(names):
        raise ModelError("two rules have the same name", where="optimiser rules", hint="Name each group once")
    members: dict[str, list[nn.Parameter]] = {name: [] for name in names}
    parts: dict[str, list[int]] = {name: [] for name in names}
    for name, parameter, module in _trainable(model):
        rule = next((r for r in rules if r.matches(name, parameter, module)), None)
        if rule is None:
            raise ModelError(
                f"no rule matches this parameter of shape {tuple(parameter.shape)}",
                where=name,
                hint="End the table with a rule that matches everything",
            )
        members[rule.name].append(parameter)
        parts[rule.name].append(_parts_of(name, module))
    groups: list[dict[str, Any]] = []
    for rule in rules:
        if members[rule.name]:
            decay = weight_decay if rule.decay else 0.0
            group: dict[str, Any] = {"name": rule.name, "params": members[rule.name], "weight_decay": decay}
            if rule.update == "muon":
                group |= {"update": "muon", "parts": parts[rule.name]}
            groups.append(group)
    if not groups:
        raise ModelError("no parameter is trainable", where="model", hint="Set requires_grad on some")
    grouped = sorted(id(p) for group in groups for p in group["params"])
    wanted = sorted({id(p) for p in model.parameters() if p.requires_grad})
    assert grouped == wanted, "every trainable parameter is in exactly one group"
    return groups


def _parts_of(name: str, module: nn.Module) -> int:
    """Matrices side by side in a parameter: GPT-2 keeps queries, keys and values in one."""
    return 3 if type(module).__name__ == "Conv1D" and name.endswith(".c_attn.weight") else 1


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """Name, parameter and owner; a tied parameter once, under its first owner."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter, module
