"""Small stores and tokenizers that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import web_server
from babygpt.data.arrow import TokenStore, open_store
from babygpt.data.corpus import read_corpus
from babygpt.data.corpus_index import Place
from babygpt.data.exporting import export
from babygpt.data.sources import read_documents
from babygpt.data.tokenizers import train_tokenizer
from babygpt.data.writing import StoreWriter
from babygpt.files import write_json_atomic
from sentences import sentence

MakeStore = Callable[..., TokenStore]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    texts = [document.text or "" for document in read_documents(["builtin:prose"])]
    return train_tokenizer(texts, 1000)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Sixty files of a sentence each."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02}.txt").write_text(sentence(number))
    return folder


@pytest.fixture(scope="session")
def prose() -> list[str]:
    return [document.text or "" for document in read_documents(["builtin:prose"])]


@pytest.fixture(scope="session")
def sentencepiece_like(prose: list[str]) -> PreTrainedTokenizerFast:
    """As Llama 2's: nothing but a mark for spaces, also put at a text's start; BOS before, EOS behind."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme="first"), decoders.ByteFallback()])
    special = ["<unk>", "<s>", "</s>"]
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=[*special, *alphabet], show_progress=False)
    # Line by line: the real one has no entry with a line end in it, only its byte.
    backend.train_from_iterator((line for text in prose for line in text.splitlines()), trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="session")
def trimming(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """As GPT-2's: offsets that leave out white space."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


@pytest.fixture
def make_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeStore:
    """Documents (lists of ids), and masks or None, to a store cut into chunks of about `chunk` tokens."""
    made = []

    def make(
        documents: Sequence[Sequence[int]],
        masks: Sequence[Sequence[bool] | None] | None = None,
        *,
        chunk: int = 7,
        vocab_size: int = 1000,
    ) -> TokenStore:
        monkeypatch.setattr("babygpt.data.writing._BATCH_TOKENS", chunk)
        folder = tmp_path / f"store{len(made)}"
        made.append(folder)
        masked = any(mask is not None for mask in masks or ())
        with StoreWriter(
            folder, vocab_size=vocab_size, eos_id=0, tokenizer_identity="none", masked=masked
        ) as writer:
            for number, ids in enumerate(documents):
                mask = masks[number] if masks else None
                writer.add(np.array(ids), None if mask is None else np.array(mask, dtype=bool), 3 * len(ids))
        return open_store(folder)

    return make


@pytest.fixture
def serve(web: web_server.WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Place]:
    """Two stores to a corpus on the web server, and where it is; connections stay open."""
    web.stays = True
    monkeypatch.setattr("babygpt.data.corpus_index.WRONG_PAUSE", 0.0)
    monkeypatch.setattr("babygpt.data.pieces.WRONG_PAUSE", 0.0)
    monkeypatch.setattr("babygpt.data.exporting.load_tokenizer", lambda folder: None)
    monkeypatch.setattr("babygpt.data.exporting.tokenizer_identity", lambda tokenizer: "none")
    made: list[Path] = []

    def place(train: TokenStore, val: TokenStore | None = None, *, most: int = 10**9, **sizes: int) -> Place:
        folder, name = tmp_path / f"prepared{len(made)}", f"corpus{len(made)}"
        made.append(folder)
        folder.mkdir()
        for side, store in (("train", train), ("val", val or train)):
            (folder / side).symlink_to(store.folder)
        (folder / "tokenizer").mkdir()
        _notes_in(folder)
        export(folder, tmp_path / name, {}, "f" * 64, **sizes)
        put(web, tmp_path / name, f"/{name}")
        url = web.url(f"/{name}/corpus.json")
        corpus = read_corpus(url, tmp_path / "cache")
        assert corpus is not None
        cache = tmp_path / "cache"
        return Place(url, corpus, cache / "corpora" / corpus.key, cache / "pieces", most)

    return place


def _notes_in(folder: Path) -> None:
    """What the cache's own folders have, for the notes."""
    write_json_atomic(folder / "manifest.json", {"format": 1, "facts": {"notes": ["a note"]}, "files": {}})


def put(web: web_server.WebServer, folder: Path, path: str) -> None:
    """Serves a folder."""
    for file in folder.rglob("*"):
        if file.is_file():
            web.files[f"{path}/{file.relative_to(folder).as_posix()}"] = file.read_bytes()
