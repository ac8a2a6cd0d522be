"""The floor of overhead: a plain eager PyTorch loop, nothing but what the mathematics asks for.

Variants: `fp32`, `bf16` (autocast).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from probe import StepProbe, autocasts, count_parameters, hugging_face_loss, read_spec, report
from transformers import AutoModelForCausalLM


def main() -> None:
    """Trains for the spec's steps and reports."""
    spec = read_spec()
    bf16 = spec.variant == "bf16"
    torch.manual_seed(spec.seed)
    model = AutoModelForCausalLM.from_pretrained(spec.model, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, fused=True)
    windows = torch.from_numpy(spec.train_windows())
    order = torch.randperm(len(windows))
    probe = StepProbe(spec)
    for rows in order[: spec.steps * spec.batch].split(spec.batch):
        for ids in windows[rows].split(spec.micro_batch):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = model(input_ids=ids, use_cache=False).logits
            # Shifting the targets instead of the logits spares a copy of the largest tensor.
            targets = F.pad(ids[:, 1:], (0, 1), value=-100)
            loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
            (loss / spec.accumulate).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    report(
        spec,
        probe,
        held_out=hugging_face_loss(model, spec),
        parameters=count_parameters(model),
        arithmetic=autocasts(bf16),
    )


if __name__ == "__main__":
    main()
