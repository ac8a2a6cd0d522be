"""A program for tests: fits of three steps on two processes through plain Lightning; each rank writes what it saw.

python two_ranks.py DATA OUT PACKING FITS, where FITS is a JSON list of [micro-batch, accumulation, precision,
prompt weight]. Fit number n of rank r goes to OUT/n-r.pt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from babygpt import BabyGPT, LLMDataModule
from fits import BLOCK, PRESET, Recorder, trainer_of

STEPS = 3


def main() -> None:
    data, out, packing, fits = sys.argv[1:]
    for number, (micro, accumulate, precision, prompt_weight) in enumerate(json.loads(fits)):
        module = BabyGPT(PRESET, 1e-3, vocab_size=300)
        loader = LLMDataModule(
            PRESET,
            micro,
            path=data,
            block=BLOCK,
            tokenizer="train:300",
            packing=packing,
            global_batch_size=8,
            prompt_weight=prompt_weight,
        )
        recorder = Recorder(gradients_of=0)
        trainer = trainer_of(
            callbacks=[recorder],
            devices=2,
            strategy="ddp",
            precision=precision,
            max_steps=STEPS,
            accumulate_grad_batches=accumulate,
            log_every_n_steps=1,
        )
        trainer.fit(module, datamodule=loader)
        loss = module.meter.drain()[0].train_loss
        found = {
            "gradients": recorder.gradients, "seen": torch.tensor(recorder.seen), "loss": torch.tensor(loss),
        }  # fmt: skip
        torch.save(found, Path(out) / f"{number}-{trainer.global_rank}.pt")


if __name__ == "__main__":
    main()
