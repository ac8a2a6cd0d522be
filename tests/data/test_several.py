from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from babygpt.data import several
from babygpt.data.joined import parts_of
from babygpt.data.prepared import PreparedData
from babygpt.data.several import names_of, prepare_several
from babygpt.data.store import prepare
from babygpt.errors import RecipeError, SpaceError
from babygpt.recipe import DataRecipe

PRESET = "preset:gpt2-1m"


@pytest.fixture
def sources(tmp_path: Path) -> tuple[str, ...]:
    """Two sources of documents, and one of a single text."""
    for name, count in (("web", 40), ("code", 25)):
        rows = [{"text": f"{name} {n} " + f"is {name}{n % 7} of {n}. " * (1 + n % 5)} for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "book.txt").write_text("Once there was a book. " * 60 + "Zyx! Zyx! Zyx! Zyx! " * 4)
    return tuple(str(tmp_path / name) for name in ("web.jsonl", "code.jsonl", "book.txt"))


@pytest.fixture
def prepared(sources: tuple[str, ...], tmp_path: Path) -> Callable[..., PreparedData]:
    def make(weights: tuple[float, ...] = (1, 1, 1), as_: str | None = None, **fields) -> PreparedData:
        recipe = DataRecipe(**{"path": sources, "weights": weights, "tokenizer": "train:300", **fields})
        return prepare_several(recipe, model_name=PRESET, cache=tmp_path / "cache", prepared_as=as_)

    return make


def test_what_was_prepared_before_changes_nothing(prepared, sources, tmp_path) -> None:
    """The common tokenizer is trained without what is left out, whatever the cache holds of it already."""
    with Path(sources[0]).open("a") as file:
        file.write((json.dumps({"text": "Quick jinx fog."}) + "\n") * 900)
    fresh = prepared(deduplicate="exact")
    everything = prepared()
    (tmp_path / "cache").rename(tmp_path / "first")
    prepared()
    again = prepared(deduplicate="exact")
    assert again.fingerprint == fresh.fingerprint
    assert again.tokenizer.get_vocab() == fresh.tokenizer.get_vocab() != everything.tokenizer.get_vocab()


def test_each_source_is_split_and_tokenised_apart_with_one_tokenizer(prepared, sources, tmp_path) -> None:
    data = prepared()
    ours = parts_of(data.train)
    assert len(ours) == len(parts_of(data.val)) == 3
    tokenizer = tmp_path / "saved"
    data.tokenizer.save_pretrained(tokenizer)
    for number, path in enumerate(sources):
        alone = prepare(
            DataRecipe(path=(path,), tokenizer=str(tokenizer)), model_name=PRESET, cache=tmp_path / "other"
        )
        assert ours[number].manifest == alone.train.manifest
        assert parts_of(data.val)[number].manifest == alone.val.manifest
    assert all(any(note.startswith(name) for note in data.notes) for name in names_of(sources))


def test_the_tokenizer_is_trained_on_all_sources_without_what_is_held_out(prepared) -> None:
    entries = prepared().tokenizer.get_vocab()
    assert any("web" in entry for entry in entries)
    assert any("code" in entry for entry in entries)
    assert any("book" in entry for entry in entries)
    assert not any("Zy" in entry for entry in entries), "the tail of the single text is held out"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_what_is_known_of_documents_lies_in_the_cache_and_a_full_disk_is_told(
    prepared, tmp_path, monkeypatch
) -> None:
    places: list[Path] = []

    def full(dir: Path) -> IO[bytes]:
        places.append(dir)
        return open("/dev/full", "w+b")

    with monkeypatch.context() as patched:
        patched.setattr("babygpt.data.choosing.tempfile.TemporaryFile", full)
        with pytest.raises(SpaceError, match=r"no space left on the device: .* Free some space"):
            prepared()
    tokenizers = tmp_path / "cache" / "tokenizers"
    assert [place.parent.parent for place in places] == [tokenizers]
    assert list(tokenizers.iterdir()) == []
    data = prepared()
    (folder,) = tokenizers.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "tokenizer"]
    assert data.tokenizer.get_vocab()


def test_other_weights_and_a_source_more_tokenise_nothing_again(
    prepared, sources, tmp_path, monkeypatch
) -> None:
    two = {"path": sources[:2], "tokenizer": "train:300"}
    prepared((1, 2), **two)
    data = prepared()
    folders = {p.name for p in (tmp_path / "cache" / "data").iterdir() if not p.name.startswith(".")}
    with monkeypatch.context() as patch:
        patch.setattr(several, "train_tokenizer", lambda *_: pytest.fail("trained again"))
        again = prepared((5, 0, 1))
        assert again.fingerprint == data.fingerprint
        assert again.key == data.key
        assert prepared((3, 1), **two).fingerprint != data.fingerprint
    kept = {p.name for p in (tmp_path / "cache" / "data").iterdir() if not p.name.startswith(".")}
    assert kept == folders
    # With a tokenizer that is there, the sources of a mixture are what they are in any other.
    saved = str(tmp_path / "saved")
    data.tokenizer.save_pretrained(saved)
    before = prepared((1, 1), path=sources[:2], tokenizer=saved)
    more = prepared((1, 1, 1), path=sources, tokenizer=saved)
    assert more.key.startswith(before.key + "+")


def test_known_stores_are_taken_without_a_look_at_the_paths(prepared, sources) -> None:
    data = prepared()
    for path in sources:
        Path(path).unlink()
    assert prepared(as_=data.key).fingerprint == data.fingerprint
    with pytest.raises(ValueError, match=r"web\.jsonl"):
        prepared(as_=f"{data.key[:-1]}x")


def test_validation_data_of_ones_own_for_each_source(prepared, sources, tmp_path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"{name} is validated on. " * 9)
    own = (str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))
    data = prepared((1, 1), path=sources[:2], val_path=own)
    texts = [data.tokenizer.decode(part.document(0).tolist()) for part in parts_of(data.val)]
    assert [text[0] for text in texts] == ["a", "b"]
    assert data.sources is not None
    assert [listing.path for listing in data.sources.path.listings] == list(sources[:2])
    assert [listing.path for listing in data.sources.val_path.listings] == list(own)


def test_a_damaged_tokenizer_is_made_again(prepared, tmp_path) -> None:
    key = prepared().key
    (folder,) = (p for p in (tmp_path / "cache" / "tokenizers").iterdir() if not p.name.startswith("."))
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    assert prepared().key == key


def test_a_tokenizer_of_what_was_read_otherwise_is_not_taken(prepared, tmp_path, monkeypatch) -> None:
    prepared()
    monkeypatch.setattr("babygpt.data.several.READING_VERSION", 1)
    prepared()
    assert len([path for path in (tmp_path / "cache" / "tokenizers").iterdir() if path.is_dir()]) == 2


def test_names_are_the_last_components_made_unique_and_safe() -> None:
    paths = (
        "data/web.jsonl",
        "other/web.jsonl",
        "builtin:python",
        "org/set/",
        "s3://b/a b?key=secret",
        "*.txt",
        "C:\\x\\y",
    )
    assert names_of(paths) == ("web.jsonl", "web.jsonl-2", "python", "set", "a_b", "_.txt", "y")
    assert names_of(("a", "a-2", "x/a", "y/a")) == ("a", "a-2", "a-3", "a-4")
    assert names_of(("/", "?")) == ("source", "source-2")
    assert names_of(("-", "x/\u6570\u636e", "stdin")) == ("stdin", "source", "stdin-2")


def test_no_tokenizer_is_trained_on_what_is_tokenised(sources, prepared, tmp_path: Path) -> None:
    (tmp_path / "ids.bin").write_bytes(bytes(range(1, 61)) * 20)
    with pytest.raises(RecipeError, match="tokenised already, and not said with what"):
        prepared(path=(*sources[:2], str(tmp_path / "ids.bin")))


def test_what_was_left_out_on_purpose_stays_so_in_stores_found_by_their_keys(prepared, tmp_path) -> None:
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So.", "weight": 0}]
    path = tmp_path / "talks.jsonl"
    path.write_text((json.dumps({"messages": turns * 2}) + "\n") * 30)
    fields = {"path": (str(tmp_path / "web.jsonl"), str(path)), "weights": (1, 1)}
    keys = prepared(**fields).key
    assert prepared(**fields, as_=keys).key == keys
    with pytest.raises(RecipeError, match=r"may be more than prompts: .*talks\.jsonl:1: message 1"):
        prepared(**fields, as_=keys, prompt_weight=0.1)
