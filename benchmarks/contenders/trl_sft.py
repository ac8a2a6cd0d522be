"""TRL `SFTTrainer`.

Variants: `default` (it autocasts to bf16 and checkpoints activations), `lean` (without the latter).
"""

from __future__ import annotations

from datasets import Dataset
from probe import StepProbe, autocasts, count_parameters, hugging_face_loss, read_spec, report
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    """Trains for the spec's steps and reports."""
    spec = read_spec()
    probe = StepProbe(spec)
    trainer = SFTTrainer(
        model=spec.model,
        args=SFTConfig(
            output_dir="out",
            max_steps=spec.steps,
            per_device_train_batch_size=spec.micro_batch,
            gradient_accumulation_steps=spec.accumulate,
            learning_rate=spec.learning_rate,
            max_length=spec.block,
            seed=spec.seed,
            use_cpu=True,  # it refuses bf16, its default, without a GPU otherwise
            gradient_checkpointing=spec.variant != "lean",
        ),
        train_dataset=Dataset.from_dict({"input_ids": spec.train_windows()}),
        processing_class=AutoTokenizer.from_pretrained(spec.model),
    )
    trainer.train()
    checkpointing = ", gradient checkpointing" if trainer.args.gradient_checkpointing else ""
    # Its own model's forward keeps no logits, so the loss is measured on what it saves.
    trainer.save_model("out/final")
    model = AutoModelForCausalLM.from_pretrained("out/final")
    report(
        spec,
        probe,
        held_out=hugging_face_loss(model, spec),
        parameters=count_parameters(model),
        arithmetic=autocasts(trainer.args.bf16) + checkpointing,
    )


if __name__ == "__main__":
    main()
