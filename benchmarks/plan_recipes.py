"""The recipes that plans are compared with runs on; those held out judge the predictions and never mend them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["RECIPES", "PlanRecipe"]


@dataclass(frozen=True)
class PlanRecipe:
    """A recipe on this computer's CPU.

    Args:
        name: of it.
        fields: dotted names to values, besides what all have in common.
        shape: of a model folder that is made with random weights, as (transformers' model type, its configuration);
            None where `model.name` is a preset.
        held_out: whether it is left out where predictions are mended.
    """

    name: str
    fields: dict[str, Any]
    shape: tuple[str, dict[str, Any]] | None = None
    held_out: bool = False
    steps: int = field(default=40)


def _preset(name: str, tokenizer: int, block: int, batch: int, micro: int, optimizer: str) -> dict[str, Any]:
    return {"model.name": f"preset:{name}", **_shared(tokenizer, block, batch, micro, optimizer)}


def _shared(tokenizer: int, block: int, batch: int, micro: int, optimizer: str) -> dict[str, Any]:
    return {
        "data.tokenizer": f"train:{tokenizer}",
        "data.block": block,
        "data.global_batch_size": batch,
        "machine.micro_batch": micro,
        "optim.name": optimizer,
    }


def _llama(width: int, layers: int, vocabulary: int, **more: Any) -> tuple[str, dict[str, Any]]:
    values = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": 8 * width // 3,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64,
        "vocab_size": vocabulary,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
    }
    return "llama", {**values, **more}


_ON: dict[str, Any] = {"machine.activation_checkpointing": True}
_ISOLATED: dict[str, Any] = {"data.packing": "isolated"}

RECIPES = (
    PlanRecipe("gpt2-1m", _preset("gpt2-1m", 4096, 128, 32, 8, "adamw"), steps=120),
    PlanRecipe("gpt2-4m", _preset("gpt2-4m", 8192, 256, 16, 4, "muon"), steps=40),
    PlanRecipe("gpt2-4m, short block, 32k", _preset("gpt2-4m", 32768, 64, 64, 64, "adamw"), steps=24),
    PlanRecipe("llama-5m", _preset("llama-5m", 8192, 256, 16, 16, "muon"), steps=40),
    PlanRecipe("gpt2-11m", _preset("gpt2-11m", 8192, 256, 16, 16, "adamw"), steps=30),
    PlanRecipe(
        "gpt2-11m, checkpointing", {**_preset("gpt2-11m", 8192, 256, 16, 16, "adamw"), **_ON}, steps=24
    ),
    PlanRecipe("gpt2-30m, long block, 32k", _preset("gpt2-30m", 32768, 1024, 4, 4, "adamw"), steps=20),
    PlanRecipe(
        "gpt2-30m, every 2nd block again",
        {**_preset("gpt2-30m", 16384, 512, 4, 4, "muon"), "machine.activation_checkpointing": 2},
        steps=20,
    ),
    PlanRecipe(
        "llama, 128k in one piece",
        _shared(8192, 256, 4, 2, "adamw"),
        shape=_llama(256, 4, 131072),
        steps=20,
    ),
    PlanRecipe(
        "llama, 128k in chunks, fewer key-value heads",
        _shared(8192, 512, 8, 8, "muon"),
        shape=_llama(192, 3, 131072, num_key_value_heads=1),
        steps=20,
    ),
    PlanRecipe(
        "gpt2-11m, isolated", {**_preset("gpt2-11m", 16384, 256, 16, 8, "muon"), **_ISOLATED}, steps=24
    ),
    PlanRecipe("gpt2-124m", _preset("gpt2-124m", 32768, 128, 4, 4, "adamw"), steps=20),
    PlanRecipe("llama-160m", _preset("llama-160m", 32768, 128, 4, 2, "adamw"), steps=20, held_out=True),
    PlanRecipe(
        "gpt2-11m, 512, checkpointing, 4k",
        {**_preset("gpt2-11m", 4096, 512, 16, 8, "muon"), **_ON},
        steps=20,
        held_out=True,
    ),
    PlanRecipe(
        "qwen3, 64k",
        _shared(16384, 128, 16, 16, "muon"),
        shape=(
            "qwen3",
            {
                "hidden_size": 320,
                "num_hidden_layers": 5,
                "intermediate_size": 960,
                "num_attention_heads": 5,
                "num_key_value_heads": 1,
                "head_dim": 64,
                "vocab_size": 65536,
                "max_position_embeddings": 512,
                "tie_word_embeddings": False,
            },
        ),
        steps=24,
        held_out=True,
    ),
    PlanRecipe(
        "gpt2-4m, isolated",
        {**_preset("gpt2-4m", 16384, 512, 8, 8, "adamw"), **_ISOLATED},
        steps=30,
        held_out=True,
    ),
)
