"""How fast documents become ids, beside the tokenizers library's own `encode_batch`.

    python benchmarks/tokenising.py
    python benchmarks/tokenising.py --characters 500 --rounds 9
    python benchmarks/tokenising.py --chat chatml
    python benchmarks/tokenising.py --chat marks
    python benchmarks/tokenising.py --chat sentencepiece

Both get the same documents, from memory, in the same batches, and give their ids; the library's as the lists that it
makes. BabyGPT's `encode` gives arrays with end-of-text and targets, and the hash of each document's content. Rounds are
interleaved; medians of wall and processor seconds are printed as one JSON object, with the ratios library / BabyGPT
(the rounds' median, least and largest) by wall clock and by processor time. The text is the standard library of the
Python that runs.

With `--chat` the documents are conversations of four turns, and the library is given their rendered text. Then there
are two ratios:

    tokenising     `encode` with each conversation's rendering and turns at hand, as the library has them
    with_template  `encode` as it is: the template renders, and the turns are found

`template_share` is the processor time of rendering and finding the turns, of the library's own; `ceiling` is
1 / (1 + that): what `with_template` would be with tokenising at the library's speed. The tokenizer and template are

    chatml         byte-level BPE, ChatML without generation marks: a rendering for each border of a turn
    marks          the same with generation marks: one rendering
    sentencepiece  BPE with a mark for spaces and bytes for the unknown, [INST] for turns, as Llama 2's
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

from babygpt.data import encoding  # noqa: E402
from babygpt.data.chat import Rendered, Specials, render_all  # noqa: E402
from babygpt.data.sources import Document, read_documents  # noqa: E402
from babygpt.data.tokenizers import train_tokenizer  # noqa: E402

_BATCH = 2_000_000  # characters given to the library at once

MARKS = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=8)
    parser.add_argument("--characters", type=int, default=2000, help="of a document; 0 takes whole files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chat", choices=("chatml", "marks", "sentencepiece"))
    asked = parser.parse_args()
    texts = documents_of(asked.megabytes * 1e6, asked.characters)
    tokenizer = tokenizer_for(asked.chat, texts[::3])
    documents = [Document(str(n), text=text) for n, text in enumerate(texts)]
    if asked.chat:
        documents = [Document(d.id, messages=talk(d.text or "")) for d in documents]
        texts = [
            str(tokenizer.apply_chat_template(list(d.messages or ()), tokenize=False)) for d in documents
        ]
    batches = in_batches(texts)

    def library() -> int:
        found = (
            tokenizer.backend_tokenizer.encode_batch(batch, add_special_tokens=False) for batch in batches
        )
        return sum(len(encoded.ids) for batch in found for encoded in batch)

    def ours() -> int:
        return sum(len(encoded.ids) for encoded in encoding.encode(documents, tokenizer))

    def template() -> int:
        return len(render_all(documents, tokenizer, Specials(tokenizer)))

    runs = {"library": library, "tokenising": ours}
    if asked.chat:
        rendered = render_all(documents, tokenizer, Specials(tokenizer))
        at_hand = {document.id: each for document, each in zip(documents, rendered, strict=True)}
        runs |= {"tokenising": lambda: without_template(ours, at_hand), "with_template": ours}
        runs["template"] = template
    made = {name: run() for name, run in runs.items()}  # once before it counts
    rounds = [{name: timed(run) for name, run in runs.items()} for _ in range(asked.rounds)]
    seconds = {name: [statistics.median(each[name][n] for each in rounds) for n in (0, 1)] for name in runs}
    said: dict[str, object] = {
        "documents": len(documents),
        "megabytes": round(sum(len(text.encode()) for text in texts) / 1e6, 1),
        "tokens": {name: made[name] for name in ("library", "tokenising")},
        "seconds": {name: [round(value, 2) for value in found] for name, found in seconds.items()},
    }
    for name in ("tokenising", "with_template"):
        if name in runs:
            wall, processor = ([each["library"][n] / each[name][n] for each in rounds] for n in (0, 1))
            said[name] = {"wall_ratio": spread(wall), "cpu_ratio": spread(processor)}
    if asked.chat:
        shares = [each["template"][1] / each["library"][1] for each in rounds]
        said["template_share"] = spread(shares)
        said["ceiling"] = round(1 / (1 + statistics.median(shares)), 3)
    print(json.dumps(said))


def without_template(run: Callable[[], int], at_hand: dict[str, Rendered]) -> int:
    """What `run` gives where every document's rendering, by its id, is known."""

    def looked_up(documents: Sequence[Document], *args: object, **settings: object) -> list[Rendered]:
        return [at_hand[document.id] for document in documents]

    with mock.patch.object(encoding, "render_all", looked_up):
        return run()


def spread(ratios: list[float]) -> list[float]:
    """Their median, least and largest."""
    return [round(value, 3) for value in (statistics.median(ratios), min(ratios), max(ratios))]


def tokenizer_for(chat: str | None, texts: list[str]) -> PreTrainedTokenizerFast:
    if chat != "sentencepiece":
        tokenizer = train_tokenizer(texts, 8192, chat=chat is not None)
        if chat == "marks":
            tokenizer.chat_template = MARKS
        return tokenizer
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=8192, special_tokens=special, limit_alphabet=500, show_progress=False
    )
    backend.train_from_iterator(texts, trainer=trainer)
    state = json.loads(backend.to_str())  # bytes are ordinary entries
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < 3]
    backend = Tokenizer.from_str(json.dumps(state))
    made: PreTrainedTokenizerFast = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    made.chat_template = INST
    return made


def documents_of(size: float, characters: int) -> list[str]:
    texts: list[str] = []
    for document in read_documents(["builtin:python"]):
        whole = document.text or ""
        step = characters or len(whole)
        texts += [whole[at : at + step] for at in range(0, len(whole), step)]
        size -= len(whole)
        if size <= 0:
            break
    return texts


def talk(text: str) -> tuple[dict[str, str], ...]:
    quarter = max(1, len(text) // 4)
    parts = [text[at : at + quarter] for at in range(0, 4 * quarter, quarter)]
    return tuple({"role": ("user", "assistant")[n % 2], "content": part} for n, part in enumerate(parts))


def in_batches(texts: list[str]) -> list[list[str]]:
    batches: list[list[str]] = [[]]
    size = 0
    for text in texts:
        batches[-1].append(text)
        size += len(text)
        if size >= _BATCH:
            batches.append([])
            size = 0
    return [batch for batch in batches if batch]


def timed(run: Callable[[], int]) -> tuple[float, float]:
    wall, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - used


if __name__ == "__main__":
    main()
