"""transformers `Trainer`. Variants: `default` (but for the task itself), `bf16`, `compile` (torch_compile)."""

from __future__ import annotations

from datasets import Dataset
from probe import StepProbe, autocasts, count_parameters, hugging_face_loss, read_spec, report
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)


def main() -> None:
    """Trains for the spec's steps and reports."""
    spec = read_spec()
    tokenizer = AutoTokenizer.from_pretrained(spec.model)
    model = AutoModelForCausalLM.from_pretrained(spec.model)
    probe = StepProbe(spec)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir="out",
            max_steps=spec.steps,
            per_device_train_batch_size=spec.micro_batch,
            gradient_accumulation_steps=spec.accumulate,
            learning_rate=spec.learning_rate,
            seed=spec.seed,
            use_cpu=True,  # it refuses bf16 without a GPU otherwise
            bf16=spec.variant == "bf16",
            torch_compile=spec.variant == "compile",
        ),
        train_dataset=Dataset.from_dict({"input_ids": spec.train_windows()}),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
    )
    trainer.train()
    compiled = ", compiled" if trainer.args.torch_compile else ""
    report(
        spec,
        probe,
        held_out=hugging_face_loss(model, spec),
        parameters=count_parameters(model),
        arithmetic=autocasts(trainer.args.bf16) + compiled,
    )


if __name__ == "__main__":
    main()
