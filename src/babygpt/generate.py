"""The verb `generate`: a checkpoint and a prompt in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from babygpt.data.bounds import bounded
from babygpt.errors import InputError
from babygpt.untrusted import is_utf8, shown

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from babygpt.settings import GenerateSettings

__all__ = ["GenerateResult", "continue_text", "generate"]

_SECONDS = 5.0  # that a chat template may take
_ANSWER = "\ue000"


@dataclass(frozen=True)
class GenerateResult:
    """What was written.

    Args:
        checkpoint: the model folder.
        prompt: what was continued, or answered.
        text: the continuation, without the prompt; or the answer.
        chat: whether the prompt was a user's turn.
    """

    checkpoint: str
    prompt: str
    text: str
    chat: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people: prompt and continuation as one text, or the answer."""
        return [self.text if self.chat else self.prompt + self.text]


def continue_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[int],
    *,
    ends: Sequence[int] = (),
    max_new_tokens: int,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
) -> str:
    """The continuation of a prompt; the process's random numbers are left as they were.

    Args:
        model: in eval mode.
        tokenizer: of the model.
        prompt: text, or its ids; may be empty: then the model begins a document of its own.
        ends: ids that end the text, beside the tokenizer's end of text.
        max_new_tokens: at most so many; fewer where the model ends or its positions do.
        temperature: 0 is greedy.
        top_p: share of the probability that is sampled from.
        seed: of the sampling.
    """
    import torch
    from transformers import GenerationConfig

    writer: Any = model  # its `generate` is mixed in and untyped
    device = next(model.parameters()).device
    ids = list(tokenizer(prompt)["input_ids"] if prompt and isinstance(prompt, str) else prompt)
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
        eos_token_id=[*ends, *([] if eos is None else [eos])] or None,
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


def _turn(tokenizer: PreTrainedTokenizerBase, settings: GenerateSettings) -> tuple[list[int], list[int]]:
    """The prompt as a user's turn up to where the assistant begins, and what ends its turn, as ids.

    Raises:
        InputError: the tokenizer has no chat template, or one that refuses the turn.
    """
    if tokenizer.chat_template is None:
        raise InputError(
            "the tokenizer has no chat template",
            where=settings.checkpoint,
            hint="Leave chat out, or give a model that was trained on conversations",
        )
    user, answer = {"role": "user", "content": settings.prompt}, {"role": "assistant", "content": _ANSWER}
    write: Any = tokenizer.apply_chat_template
    try:
        with bounded() as alarm:
            alarm(_SECONDS)
            begun = write([user], tokenize=False, add_generation_prompt=True)
            behind = write([user, answer], tokenize=False).rpartition(_ANSWER)[2]
    except Exception as error:  # templates raise whatever they like
        raise InputError(
            f"the chat template refuses the prompt ({shown(str(error) or type(error).__name__, 300)})",
            where=settings.checkpoint,
        ) from error
    ids, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (begun, behind))
    # A word that stands behind the turn may stand within it as well: only a special token ends it.
    return ids, [i for i in after[:1] if i in tokenizer.added_tokens_decoder]


def generate(settings: GenerateSettings) -> GenerateResult:
    """Loads a model folder or hub name and continues the prompt.

    Raises:
        ModelError: the checkpoint cannot be loaded.
        InputError: the prompt does not fit.
    """
    from babygpt.data.tokenizers import load_tokenizer
    from babygpt.model.load import load_model

    if not is_utf8(settings.prompt):
        raise InputError(
            "holds bytes that are no UTF-8",
            where="prompt",
            hint="Write it in a terminal whose encoding is UTF-8",
        )
    tokenizer = load_tokenizer(settings.checkpoint) if settings.chat else None
    asked, ends = (settings.prompt, []) if tokenizer is None else _turn(tokenizer, settings)
    model = load_model(settings.checkpoint)
    model.train(False)
    text = continue_text(
        model,
        tokenizer or load_tokenizer(settings.checkpoint),
        asked,
        ends=ends,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
    )
    return GenerateResult(settings.checkpoint, settings.prompt, text, settings.chat)
