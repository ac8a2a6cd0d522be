"""LitGPT `pretrain`. Variants: `32-true`, `bf16-mixed`.

It compiles the whole model by itself. Its GPT has no learned positions, so the nearest shape stands in:
layer norms and biases, sequential residuals, tanh GELU, tied embeddings, rotary positions on a quarter of
each head as in its Pythia configs. The data module is the smallest its documentation allows, without worker
processes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config
from litgpt.data import DataModule
from litgpt.model import GPT
from litgpt.pretrain import setup
from probe import Spec, StepProbe, autocasts, count_parameters, held_out_loss, read_spec, report
from torch.utils.data import DataLoader


class Loader(DataLoader[torch.Tensor]):
    """Has a state, so that the checkpoint holds that and not the pickled loader, which is unsafe to read."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        del state_dict


class Windows(DataModule):
    """Windows of block + 1 ids, as `pretrain` wants them."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self._train = torch.from_numpy(spec.train_windows(spec.block + 1))
        self._held_out = spec.held_out()
        self._batch_size = 1

    def connect(
        self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None, **_: Any
    ) -> None:
        """Takes the micro-batch size."""
        del tokenizer, max_seq_length
        self._batch_size = batch_size

    def train_dataloader(self) -> Any:
        """Shuffled training windows."""
        return Loader(self._train, batch_size=self._batch_size, shuffle=True, drop_last=True)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        """The held-out windows."""
        return Loader(self._held_out, batch_size=self._batch_size)  # type: ignore[arg-type]


def config_of(spec: Spec) -> Config:
    """The LitGPT config nearest to the spec's GPT-2."""
    return Config(
        name="bench",
        block_size=spec.block,
        n_layer=spec.layers,
        n_embd=spec.width,
        n_head=spec.heads,
        vocab_size=spec.vocab_size,
        padded_vocab_size=spec.vocab_size,
        norm_class_name="LayerNorm",
        mlp_class_name="GptNeoxMLP",
        gelu_approximate="tanh",
        parallel_residual=False,
        bias=True,
        lm_head_bias=False,
        rotary_percentage=0.25,
    )


def main() -> None:
    """Trains for the spec's steps and reports."""
    spec = read_spec()
    sys.argv[1:] = ["bench"]  # its command line is parsed once more when the checkpoint is saved
    probe = StepProbe(spec)
    config = config_of(spec)
    setup(
        model_name="bench",
        model_config=config,
        out_dir=Path("out"),
        precision=spec.variant,  # type: ignore[arg-type]
        data=Windows(spec),
        train=TrainArgs(
            save_interval=None,
            global_batch_size=spec.batch,
            micro_batch_size=spec.micro_batch,
            max_tokens=spec.steps * spec.batch * spec.block,
            lr_warmup_steps=max(1, spec.steps // 50),
            max_norm=1.0,
            tie_embeddings=True,
        ),
        eval=EvalArgs(interval=10**9, final_validation=False),
        optimizer={"class_path": "torch.optim.AdamW", "init_args": {"lr": spec.learning_rate}},
        devices=1,
        logger_name="csv",
        seed=spec.seed,
    )
    model = GPT(config)
    model.lm_head.weight = model.transformer.wte.weight
    saved = torch.load("out/final/lit_model.pth", weights_only=True)["model"]
    model.load_state_dict({name.removeprefix("_orig_mod."): tensor for name, tensor in saved.items()})
    report(
        spec,
        probe,
        held_out=held_out_loss(model, model, spec),
        parameters=count_parameters(model),
        arithmetic=autocasts(spec.variant == "bf16-mixed") + ", compiled",
    )


if __name__ == "__main__":
    main()
