"""A program for tests: a fit of three steps on two processes through plain Lightning; each rank writes what it saw.

python two_ranks.py DATA OUT PACKING MICRO_BATCH ACCUMULATE PRECISION PROMPT_WEIGHT
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from babygpt import BabyGPT, LLMDataModule
from fits import BLOCK, PRESET, Recorder, trainer_of

STEPS = 3


def main() -> None:
    data, out, packing, micro, accumulate, precision, prompt_weight = sys.argv[1:]
    module = BabyGPT(PRESET, 1e-3, vocab_size=300)
    loader = LLMDataModule(
        PRESET,
        int(micro),
        path=data,
        block=BLOCK,
        tokenizer="train:300",
        packing=packing,
        global_batch_size=8,
        prompt_weight=float(prompt_weight),
    )
    recorder = Recorder(gradients_of=0)
    trainer = trainer_of(
        callbacks=[recorder],
        devices=2,
        strategy="ddp",
        precision=precision,
        max_steps=STEPS,
        accumulate_grad_batches=int(accumulate),
        log_every_n_steps=1,
    )
    trainer.fit(module, datamodule=loader)
    loss = module.meter.drain()[0].train_loss
    found = {"gradients": recorder.gradients, "seen": torch.tensor(recorder.seen), "loss": torch.tensor(loss)}
    torch.save(found, Path(out) / f"rank-{trainer.global_rank}.pt")


if __name__ == "__main__":
    main()
