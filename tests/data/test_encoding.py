from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from babygpt.data import encoding
from babygpt.data.encoding import Encoded, encode
from babygpt.data.sources import Document, Span, content_hash
from babygpt.data.tokenizers import train_tokenizer
from babygpt.errors import DataError, TokenizerError


def one(document: Document, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    (encoded,) = encode([document], tokenizer)
    return encoded


def spans(prompt: str, completion: str) -> Document:
    return Document("x", spans=(Span(prompt, False), Span(completion, True)))


def test_text_ends_in_one_end_of_text(tokenizer) -> None:
    document = Document("x", text="Some text, é.")
    encoded = one(document, tokenizer)
    assert encoded.ids.tolist() == [*tokenizer("Some text, é.")["input_ids"], 0]
    assert encoded.is_target is None
    assert encoded.num_bytes == 14
    assert encoded.content_hash == content_hash(document)
    assert (
        one(Document("x", text="a<|endoftext|><|endoftext|>"), tokenizer).ids.tolist()
        == one(Document("x", text="a"), tokenizer).ids.tolist()
    )


def test_bos_stays_and_the_tokenizers_own_eos_is_not_doubled(sentencepiece_like) -> None:
    ids = one(Document("x", text="hello there"), sentencepiece_like).ids.tolist()
    assert ids == sentencepiece_like("hello there")["input_ids"]
    assert ids[0] == 1
    assert ids.count(2) == 1


# Hypothesis tries the strings that stand in the sources: a text's own end-of-text is not doubled, by design.
PLAIN_TEXT = st.text(max_size=30).filter(lambda text: "<|" not in text)


@given(st.lists(PLAIN_TEXT, min_size=1, max_size=8))
def test_documents_come_out_in_order_and_decode_to_themselves(tokenizer, texts: list[str]) -> None:
    encoded = list(encode([Document(str(i), text=text) for i, text in enumerate(texts)], tokenizer))
    back = [tokenizer.decode(e.ids[:-1], clean_up_tokenization_spaces=False) for e in encoded]
    assert back == texts


@given(PLAIN_TEXT, PLAIN_TEXT)
def test_a_prompt_has_the_ids_inference_gives_it(tokenizer, prompt: str, completion: str) -> None:
    encoded = one(spans(prompt, completion), tokenizer)
    assert encoded.is_target is not None
    count = int((~encoded.is_target).sum())
    assert not encoded.is_target[:count].any()
    assert encoded.is_target[count:].all()
    assert encoded.ids[:count].tolist() == tokenizer(prompt, add_special_tokens=False)["input_ids"]
    rest = tokenizer.decode(encoded.ids[count:-1], clean_up_tokenization_spaces=False)
    assert rest == completion
    assert encoded.ids[-1] == 0
    assert encoded.num_bytes == len(completion.encode())


@pytest.mark.parametrize("which", ["tokenizer", "trimming", "sentencepiece_like"])
@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("The value is", " used here"),
        ("The value is ", "used here"),
        ("Returns the va", "lue of it"),
        ("", "x"),
        ("x", ""),
    ],
)
def test_a_token_never_straddles_the_border(request, which: str, prompt: str, completion: str) -> None:
    used = request.getfixturevalue(which)
    encoded = one(spans(prompt, completion), used)
    assert encoded.is_target is not None
    count = int((~encoded.is_target).sum())
    alone = used(prompt, add_special_tokens=False)["input_ids"] if prompt else []
    bos = [1] if which == "sentencepiece_like" else []
    assert encoded.ids[:count].tolist() == bos + alone
    assert encoded.is_target[-1]  # the model learns where to stop, even after nothing
    assert encoded.ids[-1] == used.eos_token_id
    if not prompt.endswith(" ") and completion.startswith(
        " "
    ):  # a natural border: the joint encoding is kept
        assert (
            encoded.ids[count:-1].tolist()
            == used(prompt + completion, add_special_tokens=False)["input_ids"][len(alone) :]
        )


def test_several_spans_alternate(tokenizer) -> None:
    parts = [("Q: one ", False), ("two", False), ("A: three", True), (" Q: four", False), ("A", True)]
    encoded = one(Document("x", spans=tuple(Span(*part) for part in parts)), tokenizer)
    mask = encoded.is_target
    assert mask is not None
    decode = lambda ids: tokenizer.decode(ids, clean_up_tokenization_spaces=False)  # noqa: E731
    assert decode(encoded.ids[mask]) == "A: threeA<|endoftext|>"
    assert decode(encoded.ids[~mask]) == "Q: one two Q: four"
    last = one(Document("x", spans=(Span("a", True), Span("b", False))), tokenizer)
    assert last.is_target is not None
    assert last.is_target.tolist() == [True, False, False]


def test_batches_do_not_matter(tokenizer, prose, monkeypatch) -> None:
    documents = [Document(str(i), text=text[:500]) for i, text in enumerate(prose)]
    documents[3] = spans("a prompt", " an answer")
    wanted = [e.ids.tolist() for e in encode(documents, tokenizer)]
    monkeypatch.setattr(encoding, "BATCH_CHARS", 700)
    assert [e.ids.tolist() for e in encode(documents, tokenizer)] == wanted
    monkeypatch.setattr(encoding, "_BATCH_DOCUMENTS", 1)
    assert [e.ids.tolist() for e in encode(iter(documents), tokenizer)] == wanted


def talked(number: int, text: str) -> Document:
    return Document(
        str(number),
        messages=({"role": "user", "content": text[:40]}, {"role": "assistant", "content": text[40:90]}),
    )


def test_conversations_are_encoded_ahead_and_come_in_order(prose, monkeypatch) -> None:
    tokenizer = train_tokenizer(prose, 600, chat=True)
    documents = [
        talked(n, text) if n % 5 else Document(str(n), text=text[:90]) for n, text in enumerate(prose[:40])
    ]
    alone = [one(document, tokenizer) for document in documents]
    for most in (1, 3, 7):
        monkeypatch.setattr(encoding, "_BATCH_DOCUMENTS", most)
        found = list(encode(documents, tokenizer))
        assert [each.content_hash for each in found] == [each.content_hash for each in alone]
        for each, by_itself in zip(found, alone, strict=True):
            assert each.ids.tolist() == by_itself.ids.tolist()
            assert (each.is_target is None) == (by_itself.is_target is None)
            if each.is_target is not None:
                assert each.is_target.tolist() == by_itself.is_target.tolist()


def test_what_is_long_is_not_encoded_beside_a_template(prose, monkeypatch) -> None:
    chat = train_tokenizer([prose], 300, chat=True)
    talk = Document("t", messages=({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}))
    here, threads = encoding.SpanEncoder.encode, []

    def noted(self, spans):
        threads.append(threading.current_thread())
        return here(self, spans)

    monkeypatch.setattr(encoding.SpanEncoder, "encode", noted)
    for most in (1000, 10):
        monkeypatch.setattr(encoding, "_BESIDE_CHARS", most)
        assert len(list(encode([talk], chat))) == 1
    assert [thread is threading.main_thread() for thread in threads] == [False, True]


def test_a_bad_conversation_ends_it_and_so_does_whoever_takes_no_more(prose, monkeypatch) -> None:
    tokenizer = train_tokenizer(prose, 600, chat=True)
    monkeypatch.setattr(encoding, "_BATCH_DOCUMENTS", 2)
    bad = Document("bad", messages=({"role": "user", "content": "a"},), tools="[")
    threads = threading.active_count()
    with pytest.raises(DataError, match="bad: field 'tools' is not JSON"):
        list(encode([*(talked(n, prose[n]) for n in range(9)), bad], tokenizer))
    few = encode([talked(n, prose[n]) for n in range(9)], tokenizer)
    assert next(few).content_hash == content_hash(talked(0, prose[0]))
    few.close()
    assert threading.active_count() == threads


@settings(max_examples=5)
@given(st.integers(1, 30))
def test_a_tokenizers_own_truncation_is_switched_off(tokenizer, length: int) -> None:
    tokenizer.backend_tokenizer.enable_truncation(length)
    assert len(one(Document("x", text="word " * 100), tokenizer).ids) > 100


def test_without_end_of_text_the_tokenizer_is_refused(tokenizer) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(TokenizerError, match="no end-of-text token"):
        list(encode([Document("x", text="a")], bare))
