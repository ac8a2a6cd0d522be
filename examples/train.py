"""The tutorial's training script on BabyGPT: data, engine, autosave, manager, fit.

python examples/train.py                                    # GPT-2 from the hub, fine-tuned
python examples/train.py --model preset:gpt2-4m             # random weights, no network needed
python examples/train.py --model path/to/a/model --epochs 1
"""

from __future__ import annotations

import argparse

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from babygpt import BabyGPT, FolderCheckpointIO, LLMDataModule


def mixed_precision() -> str:
    """bf16 where the hardware has it, fp16 with scaling on older GPUs, fp32 otherwise."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "32-true"


def main() -> None:
    """Trains for some epochs and keeps the best checkpoint by validation loss."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gpt2", help="hub name, local folder, or preset:NAME")
    parser.add_argument("--data", default="builtin:python", help="a file or folder of text")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--block", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batches", type=int, help="of an epoch at most; by default all")
    parser.add_argument("--checkpoints", default="checkpoints")
    args = parser.parse_args()

    # 1. The fuel: text to windows of tokens.
    data = LLMDataModule(model_name=args.model, batch_size=args.batch_size, path=args.data, block=args.block)

    # 2. The engine: any causal language model.
    model = BabyGPT(model_name=args.model, lr=args.lr)

    # 3. The autosave: an ordinary Hugging Face folder each time the validation loss gets better, and the last one.
    autosave = ModelCheckpoint(
        dirpath=args.checkpoints,
        filename="babygpt-{val_loss:.2f}",
        auto_insert_metric_name=False,
        save_top_k=1,
        monitor="val_loss",
        mode="min",
        save_last=True,
    )
    autosave.FILE_EXTENSION = ""

    # 4. The manager.
    trainer = L.Trainer(
        max_epochs=args.epochs,
        limit_train_batches=args.batches,
        accelerator="auto",
        devices=1,
        precision=mixed_precision(),
        callbacks=[autosave],
        plugins=[FolderCheckpointIO()],
        gradient_clip_val=1.0,
        log_every_n_steps=10,
        logger=False,
    )

    # 5. Fit.
    trainer.validate(model, datamodule=data)
    trainer.fit(model, datamodule=data)
    print(f"best checkpoint: {autosave.best_model_path}, validation loss {autosave.best_model_score:.4f}")


if __name__ == "__main__":
    main()
