"""The verb `generate`: a checkpoint and a prompt in, text out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from babygpt.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from babygpt.settings import GenerateSettings

__all__ = ["GenerateResult", "continue_text", "generate"]


@dataclass(frozen=True)
class GenerateResult:
    """What was written.

    Args:
        checkpoint: the model folder.
        prompt: what was continued.
        text: the continuation, without the prompt.
    """

    checkpoint: str
    prompt: str
    text: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people: prompt and continuation as one text."""
        return [self.prompt + self.text]


def continue_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
) -> str:
    """The continuation of a prompt; the process's random numbers are left as they were.

    Args:
        model: in eval mode.
        tokenizer: of the model.
        prompt: may be empty: then the model begins a document of its own.
        max_new_tokens: at most so many; fewer where the model ends or its positions do.
        temperature: 0 is greedy.
        top_p: share of the probability that is sampled from.
        seed: of the sampling.
    """
    import torch
    from transformers import GenerationConfig

    writer: Any = model  # its `generate` is mixed in and untyped
    device = next(model.parameters()).device
    ids = tokenizer(prompt)["input_ids"] if prompt else []
    start = [tokenizer.eos_token_id] if not ids and tokenizer.eos_token_id is not None else []
    inputs = torch.tensor([start + ids], device=device)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31
    room = min(max_new_tokens, int(positions) - inputs.shape[1])
    if room < 1:
        raise InputError(
            f"the prompt is {inputs.shape[1]} tokens and the model has {positions} positions",
            where="prompt",
            hint="Give a shorter prompt",
        )
    choice: dict[str, Any] = {"do_sample": temperature > 0}
    if temperature > 0:
        choice.update(temperature=temperature, top_p=top_p, top_k=0)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=room,
        pad_token_id=pad if pad is not None else eos,
        eos_token_id=eos,
        use_cache=True,
        remove_invalid_values=True,  # a model that has diverged writes nonsense, and does not end the run
        **choice,
    )
    devices = [device] if device.type == "cuda" else []
    # What is asked and no more: the model's own would fill in what this leaves open, a million beams for one.
    own, writer.generation_config = writer.generation_config, config
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            out = writer.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=config)
    finally:
        writer.generation_config = own
    return str(tokenizer.decode(out[0, inputs.shape[1] :], skip_special_tokens=True))


def generate(settings: GenerateSettings) -> GenerateResult:
    """Loads a model folder or hub name and continues the prompt.

    Raises:
        ModelError: the checkpoint cannot be loaded.
        InputError: the prompt does not fit.
    """
    from babygpt.data.tokenizers import load_tokenizer
    from babygpt.model.load import load_model

    model = load_model(settings.checkpoint)
    model.train(False)
    text = continue_text(
        model,
        load_tokenizer(settings.checkpoint),
        settings.prompt,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
    )
    return GenerateResult(settings.checkpoint, settings.prompt, text)
