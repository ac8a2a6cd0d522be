"""Spans to ids, against the definition: three encodings of everything."""

from __future__ import annotations

import random
from functools import cache
from itertools import accumulate, chain, pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from babygpt.data.borders import SpanEncoder
from babygpt.data.sources import Span

# Llama 3's: numbers are cut in threes, so that what stands before them decides where.
_THREES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# As GPT-4o's: a word takes what is written behind an apostrophe, so that what follows depends on what stands before.
_SUFFIXES = (
    r"[^\r\n\p{L}\p{N}]?\p{L}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIAL = ["<unk>", "<s>", "</s>", "<|end|>"]
_NAMES = [
    "threes",
    "suffixes",
    "unigram",
    "marks each",
    "legacy",
    "sticky",
    "tokenizer",
    "trimming",
    "sentencepiece_like",
]


def trained(
    prose: list[str], model: models.Model, trainer: trainers.Trainer, cut: pre_tokenizers.PreTokenizer | None
) -> Tokenizer:
    backend = Tokenizer(model)
    if cut is not None:
        backend.pre_tokenizer = cut
    backend.train_from_iterator((line for text in prose[::4] for line in text.splitlines(True)), trainer)
    return backend


@pytest.fixture(scope="module")
def encoders(
    prose: list[str],
    tokenizer: PreTrainedTokenizerFast,
    trimming: PreTrainedTokenizerFast,
    sentencepiece_like: PreTrainedTokenizerFast,
) -> dict[str, PreTrainedTokenizerFast]:
    letters = pre_tokenizers.ByteLevel.alphabet()
    pairs = trainers.BpeTrainer(
        vocab_size=700, special_tokens=_SPECIAL, initial_alphabet=letters, show_progress=False
    )
    pieces = trainers.UnigramTrainer(
        vocab_size=700,
        special_tokens=_SPECIAL,
        unk_token="<unk>",
        initial_alphabet=letters,
        show_progress=False,
    )
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    threes = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_THREES), "isolated"), level])
    made = {
        "threes": trained(prose, models.BPE(), pairs, threes),
        "suffixes": trained(
            prose,
            models.BPE(),
            pairs,
            pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_SUFFIXES), "isolated"), level]),
        ),
        "unigram": trained(prose, models.Unigram(), pieces, pre_tokenizers.ByteLevel(add_prefix_space=False)),
        "marks each": trained(prose, models.BPE(), pairs, pre_tokenizers.ByteLevel(add_prefix_space=True)),
    }
    # As Llama 2's first one: no words at all, and a mark before each piece between special tokens.
    legacy = trained(prose, models.BPE(unk_token="<unk>"), pairs, pre_tokenizers.Metaspace())
    legacy.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    legacy.pre_tokenizer = pre_tokenizers.Split("\0", "isolated")
    made["legacy"] = legacy
    made["sticky"] = Tokenizer.from_str(made["threes"].to_str())
    made["sticky"].add_special_tokens([AddedToken("<|end|>\n"), AddedToken("<s>", rstrip=True)])
    wrapped = {
        name: PreTrainedTokenizerFast(
            tokenizer_object=each, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
        )
        for name, each in made.items()
    }
    return wrapped | {
        "tokenizer": tokenizer,
        "trimming": trimming,
        "sentencepiece_like": sentencepiece_like,
    }


def defined(spans: list[Span], tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[bool]]:
    """Ids and mask by the three encodings of the module's docstring; neighbouring spans differ in kind."""

    def ids_of(text: str) -> list[int]:
        return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids

    joined = list(accumulate(span.text for span in spans))
    whole, befores = ids_of(joined[-1]), [ids_of(text) for text in joined]
    alone = [ids_of(span.text) for span in spans]
    parts = [alone[0], *(ids_of(str(tokenizer.eos_token) + span.text)[1:] for span in spans[1:])]
    if [*chain(*alone)] == whole:
        ids, counts = whole, [len(part) for part in alone]
    elif all(whole[: len(before)] == before for before in befores):
        ids = whole
        counts = [len(b) - len(a) for a, b in zip([[], *befores], befores, strict=False)]
    else:
        ids, counts = [*chain(*parts)], [len(part) for part in parts]
    return ids, [span.is_target for span, count in zip(spans, counts, strict=True) for _ in range(count)]


def check(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> None:
    spans = [Span(text, bool(number % 2)) for number, text in enumerate(texts)]
    ((ids, mask),) = ready(tokenizer).encode([tuple(spans)])
    assert (ids.tolist(), mask.tolist()) == defined(spans, tokenizer)


@cache
def ready(tokenizer: PreTrainedTokenizerBase) -> SpanEncoder:
    return SpanEncoder(tokenizer)


_TEXT = st.one_of(
    st.text(min_size=1, max_size=20),
    st.text("\n a1.é", min_size=1, max_size=50),
    st.sampled_from(["<|end|>", "<|end|>\n", "</s>", "<s> ", "0" * 45, " " * 70, "a" * 70, "it", "'s"]),
)


@pytest.mark.parametrize("which", _NAMES)
@settings(max_examples=60)
@given(st.lists(st.lists(_TEXT, min_size=1, max_size=3).map("".join), min_size=2, max_size=4))
def test_any_spans_come_out_as_defined(encoders, which: str, texts: list[str]) -> None:
    check(texts, encoders[which])


@pytest.mark.parametrize("which", ["threes", "suffixes", "tokenizer"])
def test_contractions_on_both_sides_of_a_border(encoders, which: str) -> None:
    befores = ("it'm", "'m", "a'", "x'll", " a'll'm", "we'")
    behinds = ("'s'llaaaa", "s'tbbbb", "'s'm'll", "'re x", "m'saa'll", "'sit's'sit")
    for before, behind in product(befores, behinds):
        check([before, behind], encoders[which])
        check([f"so {before}", f"{behind} and so on"], encoders[which])


@pytest.mark.parametrize("which", _NAMES)
def test_prose_cut_anywhere_comes_out_as_defined(encoders, prose, which: str) -> None:
    draw = random.Random(0)
    for _ in range(60):
        text = draw.choice(prose)
        at = draw.randrange(len(text))
        cuts = [at, *accumulate((draw.randint(1, 120) for _ in range(3)), initial=at + 90)]
        parts = [text[a:b] for a, b in pairwise(cuts) if text[a:b]]
        if len(parts) > 1:
            check(parts, encoders[which])


@pytest.mark.parametrize("width", [(3, 3), (200, 200)])
def test_how_wide_a_window_is_changes_nothing(encoders, prose, monkeypatch, width: tuple[int, int]) -> None:
    from babygpt.data import borders

    monkeypatch.setattr(borders, "_WIDTHS", (width,))
    draw, suffixes = random.Random(1), encoders["suffixes"]
    for _ in range(60):
        text, other = draw.sample(prose, 2)
        at, until = draw.randrange(len(text)), draw.randrange(len(other))
        parts = [text[at : at + 90], other[until : until + draw.randint(1, 40)], text[at + 60 : at + 150]]
        check([part for part in parts if part], encoders[draw.choice(["threes", "tokenizer", "trimming"])])
        check(
            [text[at : at + 30] + " it", f"'{draw.choice(['mellow', 'reading', 'still'])} {other[:40]}"],
            suffixes,
        )


def test_equal_borders_are_looked_at_once(encoders, monkeypatch) -> None:
    from babygpt.data import borders

    windows = []
    encode = borders.encode_texts
    monkeypatch.setattr(
        borders, "encode_texts", lambda texts, tokenizer: windows.append(texts) or encode(texts, tokenizer)
    )
    encoder = ready(encoders["threes"])
    turns = [f"{word} asks<|end|>say\n" for word in ("One", "Two", "Three")]
    windows.clear()
    found = encoder.encode([(Span(turn, False), Span("Yes, they may.", True)) for turn in turns])
    assert [texts for texts in windows[1:] if texts] == [["say\n", "say\nYes, they may."]]
    assert [ids[-4:].tolist() for ids, _ in found] == [found[0][0][-4:].tolist()] * 3


def test_of_a_conversation_little_more_than_its_text_is_encoded(encoders, monkeypatch) -> None:
    from babygpt.data import borders

    sizes = []
    encode = borders.encode_texts

    def counted(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[object]:
        sizes.append(sum(map(len, texts)))
        return list(encode(texts, tokenizer))

    monkeypatch.setattr(borders, "encode_texts", counted)
    turn = "Some words of a longer answer. " * 30
    spans = [
        Span(turn + "<|end|>", bool(n % 2)) if n % 2 else Span(f"user: {turn}\n", False) for n in range(8)
    ]
    encoder = SpanEncoder(encoders["threes"])
    sizes.clear()
    encoder.encode([tuple(spans)] * 20)
    assert sum(sizes) < 1.1 * 20 * sum(len(span.text) for span in spans)
