"""The nearest name to a mistyped one, other trainers' names included."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from babygpt.errors import RecipeError

__all__ = ["OTHER_NAMES", "nearest", "unknown_field"]

# What other trainers call our fields.
OTHER_NAMES: dict[str, str] = {
    "accelerator": "machine.device",
    "accumulate_grad_batches": "data.global_batch_size",
    "activation_checkpoint": "machine.activation_checkpointing",
    "adam_beta1": "optim.betas",
    "adam_beta2": "optim.betas",
    "attn_implementation": "model.attention",
    "attention_dropout": "model.dropout",
    "auto_resume": "resume",
    "batch_size": "data.global_batch_size",
    "bf16": "machine.precision",
    "beta1": "optim.betas",
    "beta2": "optim.betas",
    "block_size": "data.block",
    "ckpt_path": "resume",
    "clip_grad": "optim.grad_clip",
    "context_length": "data.block",
    "corpus": "data.path",
    "data_dir": "data.path",
    "data_path": "data.path",
    "data_seed": "seed",
    "dataloader_num_workers": "machine.workers",
    "data": "data.path",
    "dataset": "data.path",
    "dataset_name": "data.path",
    "dataset_text_field": "data.field",
    "decay_lr": "schedule.name",
    "dtype": "machine.precision",
    "epoch": "budget.epochs",
    "eval_data": "data.val_path",
    "eval_file": "data.val_path",
    "eval_interval": "validate.every_steps",
    "eval_iters": "validate.batches",
    "eval_steps": "validate.every_steps",
    "fp16": "machine.precision",
    "fp32": "machine.precision",
    "global_batch": "data.global_batch_size",
    "gpus": "machine.devices",
    "gradient_accumulation": "data.global_batch_size",
    "gradient_accumulation_steps": "data.global_batch_size",
    "gradient_checkpointing": "machine.activation_checkpointing",
    "gradient_clip": "optim.grad_clip",
    "gradient_clip_val": "optim.grad_clip",
    "init_from": "model.name",
    "input_file": "data.path",
    "learning_rate": "optim.lr",
    "limit_val_batches": "validate.batches",
    "lr_scheduler": "schedule.name",
    "lr_scheduler_type": "schedule.name",
    "lr_warmup_steps": "schedule.warmup",
    "max_epochs": "budget.epochs",
    "max_grad_norm": "optim.grad_clip",
    "max_iters": "budget.steps",
    "max_length": "data.block",
    "max_lr": "optim.lr",
    "max_minutes": "budget.minutes",
    "max_norm": "optim.grad_clip",
    "max_seq_len": "data.block",
    "max_seq_length": "data.block",
    "max_steps": "budget.steps",
    "max_time": "budget.minutes",
    "max_tokens": "budget.tokens",
    "micro_batch_size": "machine.micro_batch",
    "min_lr": "schedule.final",
    "mixed_precision": "machine.precision",
    "model": "model.name",
    "model_id": "model.name",
    "model_name": "model.name",
    "model_name_or_path": "model.name",
    "model_revision": "model.revision",
    "n_ctx": "data.block",
    "num_epochs": "budget.epochs",
    "num_iterations": "budget.steps",
    "num_nodes": "machine.nodes",
    "num_steps": "budget.steps",
    "num_train_epochs": "budget.epochs",
    "num_training_steps": "budget.steps",
    "num_warmup_steps": "schedule.warmup",
    "num_workers": "machine.workers",
    "optimizer": "optim.name",
    "out_dir": "out",
    "output_dir": "out",
    "per_device_eval_batch_size": "machine.micro_batch",
    "per_device_train_batch_size": "machine.micro_batch",
    "random_seed": "seed",
    "resume_from": "resume",
    "resume_from_checkpoint": "resume",
    "save_every": "checkpoint.every_steps",
    "save_steps": "checkpoint.every_steps",
    "save_top_k": "checkpoint.keep",
    "save_total_limit": "checkpoint.keep",
    "scheduler": "schedule.name",
    "seq_len": "data.block",
    "seq_length": "data.block",
    "sequence_length": "data.block",
    "steps": "budget.steps",
    "text_column": "data.field",
    "tokenizer_name": "data.tokenizer",
    "torch_compile": "machine.compile",
    "total_batch_size": "data.global_batch_size",
    "train_batch_size": "data.global_batch_size",
    "train_data": "data.path",
    "train_file": "data.path",
    "val_check_interval": "validate.every_steps",
    "val_interval": "validate.every_steps",
    "validation_file": "data.val_path",
    "validation_split": "data.val_fraction",
    "warmup_iters": "schedule.warmup",
    "warmup_ratio": "schedule.warmup",
    "warmup_steps": "schedule.warmup",
    "wd": "optim.weight_decay",
    "assistant_only_loss": "data.train_on_prompts",
    "completion_only_loss": "data.train_on_prompts",
    "mask_prompt": "data.train_on_prompts",
    "prompt_loss_weight": "data.prompt_weight",
    "train_on_input": "data.train_on_prompts",
    "train_on_inputs": "data.train_on_prompts",
    "truncation": "data.too_long",
    "overlong": "data.too_long",
}


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known dotted names that a wrong one may have meant, best first, four at most.

    Tried in turn: the name itself with `-` for `_`, what other trainers call a field, a name's last
    part alone (`lr`), the fields of a group, and last a likeness of letters.
    """
    asked, names = name.replace("-", "_").lower(), list(known)
    last = asked.rpartition(".")[2]
    for exact in (asked, OTHER_NAMES.get(last)):
        if exact in names:
            return [exact]
    by_last = [n for n in names if n.rpartition(".")[2] == last]
    within = [n for n in names if n.startswith(f"{asked}.")]
    if by_last or within:
        return [*by_last, *within][:4]
    ends = {n.rpartition(".")[2]: n for n in reversed(names)}
    full = difflib.get_close_matches(asked, names, n=1, cutoff=0.7)
    ending = difflib.get_close_matches(last, [*ends, *OTHER_NAMES], n=1, cutoff=0.7)
    meant = [*full, *(ends.get(n) or OTHER_NAMES[n] for n in ending)]
    return list(dict.fromkeys(n for n in meant if n in names))


def unknown_field(
    name: str, known: Iterable[str], *, where: str | None = None, flag: str | None = None
) -> RecipeError:
    """The error for a name that is no field, with the nearest names.

    Args:
        name: what was given, without dashes.
        known: every name there is.
        where: the file it stands in.
        flag: as it was typed, on a command line.
    """
    dashes, kind = ("--", f"flag {flag}") if flag else ("", f"field {name}")
    meant = " or ".join(dashes + n for n in nearest(name, known))
    listed = "--help lists them all" if flag else "babygpt train --print_config lists them all"
    hint = f"Did you mean {meant}" if meant else listed
    return RecipeError(f"there is no {kind}", where=where, hint=hint)
