"""A corpus on this computer's disk, damaged byte by byte and file by file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from babygpt.data.exporting import export
from babygpt.data.store import prepare
from babygpt.errors import DataError
from babygpt.recipe import DataRecipe
from babygpt.settings import VerifySettings
from babygpt.verify import CorpusVerified, verify


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus, not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    text = "".join(json.dumps({"text": f"document {n} " + "of words " * (n % 40)}) + "\n" for n in range(300))
    (folder / "text.jsonl").write_text(text)
    recipe = DataRecipe(path=(str(folder / "text.jsonl"),), tokenizer="train:300")
    data = prepare(recipe, model_name="preset:gpt2-1m", cache=folder / "cache")
    export(data.folder, folder / "corpus", {}, data.fingerprint, piece_bytes=512)
    return folder / "corpus"


@pytest.fixture
def corpus(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "corpus"))


def verified(corpus: Path) -> str:
    with pytest.raises(DataError) as error:
        verify(VerifySettings(str(corpus)))
    return str(error.value)


def opened(corpus: Path, tmp_path: Path) -> None:
    prepare(
        DataRecipe(path=(str(corpus / "corpus.json"),)),
        model_name="preset:gpt2-1m",
        cache=tmp_path / "cache",
    )


def files_of(corpus: Path) -> list[Path]:
    """What the corpus is made of; of `manifest.json` nobody reads anything."""
    beside = ("corpus.json", "manifest.json")
    return sorted(path for path in corpus.rglob("*") if path.is_file() and path.name not in beside)


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_a_whole_corpus_is_said_to_be_whole(corpus: Path) -> None:
    found = verify(VerifySettings(str(corpus)))
    assert isinstance(found, CorpusVerified)
    files = files_of(corpus)
    assert (found.files, found.bytes) == (len(files), sum(path.stat().st_size for path in files))
    assert verify(VerifySettings(str(corpus / "corpus.json"))) == found
    assert found.lines()[0].startswith(f"{corpus} is whole: {len(files)} files, ")


def test_every_byte_of_every_file_is_looked_at(corpus: Path, tmp_path: Path) -> None:
    for file in files_of(corpus):
        whole, name = file.read_bytes(), file.relative_to(corpus).as_posix()
        for at in (0, len(whole) // 2, len(whole) - 1):
            flip(file, at)
            assert f"{name} is damaged" in verified(corpus)
            file.write_bytes(whole)
    assert isinstance(verify(VerifySettings(str(corpus))), CorpusVerified)


def test_a_damaged_piece_is_named_by_its_place(corpus: Path) -> None:
    (shard,) = (corpus / "train").glob("*.arrow")
    flip(shard, 1500)
    assert f"train/{shard.name} is damaged in 1 piece of 512 bytes, first at byte 1,024. Copy it" in verified(
        corpus
    )
    (sums,) = (corpus / "train").glob("*.sums")
    flip(sums, 3)
    assert (
        f"train/{sums.name} is damaged: its checksum differs; train/{shard.name} cannot be checked"
        in verified(corpus)
    )


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda file: file.unlink(), "is missing"),
        (lambda file: file.write_bytes(file.read_bytes()[:-8]), "bytes instead of"),
        (lambda file: file.write_bytes(file.read_bytes() + b"\0"), "bytes instead of"),
    ],
    ids=["missing", "shorter", "longer"],
)
def test_a_start_compares_sizes(
    corpus: Path, tmp_path: Path, change: Callable[[Path], object], found: str
) -> None:
    opened(corpus, tmp_path)
    (shard,) = (corpus / "val").glob("*.arrow")
    change(shard)
    with pytest.raises(
        DataError, match=f"val/{shard.name} .*{found}.*babygpt checkpoint verify names all that differs"
    ):
        opened(corpus, tmp_path)
    assert f"val/{shard.name}" in verified(corpus)


def test_what_is_no_corpus_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus.json").write_text("[]")
    assert "corpus.json: not to be read as what babygpt data prepare --to writes. Copy it" in verified(
        tmp_path
    )
