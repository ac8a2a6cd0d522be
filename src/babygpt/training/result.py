"""What a run reached, and the words for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from babygpt.checkpoints import best
from babygpt.run_folder import losses_of_sources, whole_lines
from babygpt.training.callbacks import RunFiles, Sampler
from babygpt.training.module import BabyGPT
from babygpt.training.start import Run
from babygpt.training.watch import fall_in_words

__all__ = ["RunResult", "finished", "result_of"]


@dataclass(frozen=True)
class RunResult:
    """What a run reached.

    Args:
        out: the run folder.
        steps: optimiser steps completed.
        tokens: target tokens trained on.
        first_perplexity: of the validation at step 0; None in a resumed run.
        val_loss: of the last validation, nats for each target token.
        val_losses: of the last validation, by source, where several are mixed.
        val_perplexity: exp of `val_loss`.
        val_bits_per_byte: of the validation text.
        best: the checkpoint folder with the smallest validation loss.
        sample: what the model wrote at the end, prompt included.
        seconds: of this process, from its first step on.
        saving_seconds: of these, for which training stood still for its checkpoints.
        already_finished: nothing was left to do.
        report: the page about it; None where it could not be written.
    """

    out: str
    steps: int
    tokens: int
    first_perplexity: float | None
    val_loss: float | None
    val_perplexity: float | None
    val_bits_per_byte: float | None
    best: str | None
    sample: str
    seconds: float
    saving_seconds: float = 0.0
    already_finished: bool = False
    val_losses: dict[str, float] = field(default_factory=dict)
    report: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        if self.already_finished:
            return [f"{self.out} is finished ({self.steps:,} steps); nothing was changed"]
        rows = [("steps", f"{self.steps:,} ({self.tokens:,} tokens, {self.seconds:,.0f} s)")]
        if self.val_perplexity is not None:
            fell = ""
            if self.first_perplexity:
                fell = f", {fall_in_words(self.first_perplexity, self.val_perplexity)}"
            rows.append(("perplexity", f"{self.val_perplexity:,.2f} on held-out text{fell}"))
        if self.val_losses:
            rows.append(
                ("by source", ", ".join(f"{n} loss {loss:.4f}" for n, loss in self.val_losses.items()))
            )
        if self.seconds > 0:
            share = self.saving_seconds / self.seconds
            rows.append(("saving", f"training stood still for {self.saving_seconds:.1f} s ({share:.1%})"))
        if self.val_bits_per_byte is not None:
            rows.append(("bits per byte", f"{self.val_bits_per_byte:.3f}"))
        rows += [("best", self.best or "none"), ("run folder", self.out)]
        rows += [("page", self.report)] if self.report else []
        if self.best:
            rows.append(("load it", f'AutoModelForCausalLM.from_pretrained("{self.best}")'))
            rows.append(("go on", f'babygpt generate {self.best} --prompt "..."'))
        lines = [f"{name:>14}  {value}" for name, value in rows]
        return [*lines, "", "sample:", *(f"    {line}" for line in self.sample.splitlines())]


def result_of(
    run: Run, files: RunFiles, sampler: Sampler, module: BabyGPT, seconds: float, saving: float
) -> RunResult:
    """Of a run that this process has trained.

    Args:
        run: it.
        files: its validations.
        sampler: its last sample.
        module: its tokens.
        seconds: of training.
        saving: of these, for which it stood still.
    """
    first, last = files.validations[0], files.validations[-1]
    found = best(run.checkpoints)
    return RunResult(
        out=str(run.out),
        steps=run.steps,
        tokens=module.meter.tokens,
        first_perplexity=first["val_perplexity"] if first["step"] == 0 else None,
        val_loss=last["val_loss"],
        val_perplexity=last["val_perplexity"],
        val_bits_per_byte=last.get("val_bits_per_byte"),
        best=None if found is None else str(found.path),
        sample=sampler.prompt + sampler.latest,
        seconds=round(seconds, 2),
        saving_seconds=round(saving, 2),
        val_losses=losses_of_sources(last),
    )


def finished(run: Run, steps: int) -> RunResult:
    """Of a run in which nothing is left to do, by its files."""
    found = best(run.checkpoints)
    last: dict[str, Any] = {}
    for line in whole_lines(run.out / "metrics.jsonl"):
        last = line if "val_loss" in line else last
    return RunResult(
        out=str(run.out),
        steps=steps,
        tokens=int(last.get("tokens", 0)),
        first_perplexity=None,
        val_loss=last.get("val_loss"),
        val_perplexity=last.get("val_perplexity"),
        val_bits_per_byte=last.get("val_bits_per_byte"),
        best=None if found is None else str(found.path),
        sample="",
        seconds=0.0,
        already_finished=True,
        val_losses=losses_of_sources(last),
    )
