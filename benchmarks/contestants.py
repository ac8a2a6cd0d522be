"""Who competes, on which shapes: data only."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONTENDERS", "REFERENCE", "SHAPES", "Contender", "Shape"]

# Ratios are taken to this one, within the same round.
REFERENCE = "transformers"


@dataclass(frozen=True)
class Shape:
    """A GPT-2 shape.

    Args:
        layers: transformer blocks.
        width: of the residual stream.
        heads: of attention.
        block: tokens of a window, and positions of the model.
        vocab_size: entries of the vocabulary.
    """

    layers: int
    width: int
    heads: int
    block: int
    vocab_size: int


SHAPES = {
    "tiny": Shape(layers=2, width=64, heads=2, block=64, vocab_size=1024),
    "small": Shape(layers=4, width=256, heads=4, block=256, vocab_size=8192),
    "gpt2-11m": Shape(layers=6, width=384, heads=6, block=256, vocab_size=8192),
    "gpt2-124m": Shape(layers=12, width=768, heads=12, block=512, vocab_size=50257),
}


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Args:
        name: of the row, and what `--only` takes.
        script: in `contenders/`, without `.py`.
        variant: what the script is told.
        environment: its requirement file in `requirements/`, without `.txt`.
        title: for people.
    """

    name: str
    script: str
    variant: str
    environment: str
    title: str


CONTENDERS = (
    Contender("bare", "bare_loop", "fp32", "transformers", "bare PyTorch loop, fp32"),
    Contender("bare-bf16", "bare_loop", "bf16", "transformers", "bare PyTorch loop, bf16"),
    Contender("transformers", "hf_trainer", "default", "transformers", "transformers Trainer"),
    Contender("transformers-bf16", "hf_trainer", "bf16", "transformers", "transformers Trainer, bf16=True"),
    Contender(
        "transformers-compile",
        "hf_trainer",
        "compile",
        "transformers",
        "transformers Trainer, torch_compile=True",
    ),
    Contender("trl", "trl_sft", "default", "trl", "TRL SFTTrainer"),
    Contender("trl-lean", "trl_sft", "lean", "trl", "TRL SFTTrainer, gradient_checkpointing=False"),
    Contender("litgpt", "litgpt_pretrain", "32-true", "litgpt", "LitGPT pretrain, 32-true"),
    Contender("litgpt-bf16", "litgpt_pretrain", "bf16-mixed", "litgpt", "LitGPT pretrain, bf16-mixed"),
    Contender("tutorial", "plain_lightning", "16-mixed", "lightning", "the tutorial's script"),
    Contender("babygpt", "ours", "command", "babygpt", "BabyGPT, babygpt train"),
    Contender("babygpt-fp32", "ours", "command-fp32", "babygpt", "BabyGPT, babygpt train, 32-true"),
    Contender(
        "babygpt-half",
        "ours",
        "command-half",
        "babygpt",
        "BabyGPT, babygpt train, micro-batch given, every second block computed again",
    ),
    Contender("babygpt-lightning", "ours", "lightning", "babygpt", "BabyGPT in L.Trainer"),
    Contender("babygpt-lightning-bf16", "ours", "lightning-bf16", "babygpt", "BabyGPT in L.Trainer, bf16"),
)
