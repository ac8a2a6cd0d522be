from __future__ import annotations

import json
import multiprocessing
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from babygpt.data.cache import default_cache
from babygpt.data.store import prepare
from babygpt.errors import DataError, ModelError, SpaceError, TokenizerError
from babygpt.presets import preset_config
from babygpt.recipe import DataRecipe
from sentences import WORDS, build, sentence, texts_of


def test_documents_are_split_by_content_and_nothing_is_lost(corpus: Path, tmp_path: Path) -> None:
    (corpus / "zz.txt").write_text(sentence(3))  # a copy
    data = build(tmp_path, corpus, val_fraction=0.3)
    train, val = texts_of(data, "train"), texts_of(data, "val")
    assert sorted(train + val) == sorted([sentence(n) for n in range(60)] + [sentence(3)])
    assert not set(train) & set(val)
    assert train == [t for t in [*map(sentence, range(60)), sentence(3)] if t in set(train)]  # order is kept
    assert any(f"validation: {len(val)} of 61 documents" in note for note in data.notes)
    target_bytes = data.val.manifest.bytes_per_target * data.val.manifest.num_targets
    assert target_bytes == pytest.approx(sum(map(len, val)))
    # Adding documents moves none from one side to the other.
    (corpus / "new.txt").write_text("something else")
    assert set(val) <= {*texts_of(build(tmp_path, corpus, val_fraction=0.3), "val"), "something else"}


def test_few_documents_hold_out_the_last_tokens(tmp_path: Path) -> None:
    text = "\n".join(map(sentence, range(300)))
    (tmp_path / "a.txt").write_text(text)
    data = build(tmp_path, tmp_path / "a.txt", val_fraction=0.1)
    assert texts_of(data, "train")[0] + texts_of(data, "val")[0] == text
    whole = data.train.num_tokens + data.val.num_tokens
    assert data.val.num_tokens == round(0.1 * whole)
    assert data.val.manifest.bytes_per_target * data.val.num_tokens == pytest.approx(
        len(texts_of(data, "val")[0])
    )
    assert any(
        "the last 10% of the tokens" in note and "only 1 different document" in note for note in data.notes
    )
    assert not (data.train.folder.parent / "whole").exists()
    copies = tmp_path / "copies.jsonl"
    copies.write_text((json.dumps({"text": text[:2000]}) + "\n") * 50)
    assert any("only 1 different" in note for note in build(tmp_path, copies).notes)


def test_given_validation_is_taken_and_its_overlap_told(corpus: Path, tmp_path: Path) -> None:
    val = tmp_path / "val.jsonl"
    val.write_text("".join(json.dumps({"text": t}) + "\n" for t in (sentence(1), "new", sentence(2))))
    data = build(tmp_path, corpus, val_path=(str(val),))
    assert texts_of(data, "val") == [sentence(1), "new", sentence(2)]
    assert len(data.train) == 60
    assert any("the 3 documents of data.val_path; 2 of them also stand" in note for note in data.notes)


def test_the_tokenizer_is_trained_on_training_text_only(corpus: Path, tmp_path: Path) -> None:
    val = tmp_path / "val.txt"
    val.write_text("zyzzyva " * 500)
    data = build(tmp_path, corpus, val_path=(str(val),), tokenizer="train:400")
    assert not any("zyz" in entry for entry in data.tokenizer.get_vocab())
    (tmp_path / "tail.txt").write_text("\n".join(map(sentence, range(300))) + "zyzzyva " * 100)
    tail = build(tmp_path, tmp_path / "tail.txt", val_fraction=0.3, tokenizer="train:400")
    assert not any("zyz" in entry for entry in tail.tokenizer.get_vocab())
    assert len(tail.tokenizer) <= 400
    assert any(note.startswith("tokenizer: ") for note in tail.notes)


def test_auto_fits_the_preset_and_ids_fit_the_vocabulary(tmp_path: Path) -> None:
    data = build(tmp_path, "builtin:prose", model_name="preset:gpt2-1m")
    assert len(data.tokenizer) <= preset_config("gpt2-1m")["vocab_size"]
    assert int(data.train.ids(0, data.train.num_tokens).max()) < len(data.tokenizer)
    assert AutoTokenizer.from_pretrained(data.train.folder.parent / "tokenizer").eos_token_id == 0
    assert data.train.manifest.eos_id == 0


def test_a_models_own_tokenizer_is_used(
    tokenizer: PreTrainedTokenizerFast, corpus: Path, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path / "model")
    named = build(tmp_path, corpus, model_name=str(tmp_path / "model"))
    given = build(tmp_path, corpus, tokenizer=str(tmp_path / "model"))
    assert named.fingerprint == given.fingerprint
    assert named.train.folder == given.train.folder
    assert named.train.document(0)[:-1].tolist() == tokenizer(texts_of(named, "train")[0])["input_ids"]
    with pytest.raises(ModelError, match="no such folder"):
        build(tmp_path, corpus, model_name="./missing")
    with pytest.raises(TokenizerError, match="no usable tokenizer"):
        build(tmp_path, corpus, model_name=str(corpus))


def test_a_tokenizer_that_does_not_give_text_back_is_refused(corpus: Path, tmp_path: Path) -> None:
    backend = Tokenizer(models.BPE(unk_token="?"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["?", "<end>"], show_progress=False)
    backend.train_from_iterator(map(sentence, range(60)), trainer=trainer)
    lossy = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?", eos_token="<end>")
    lossy.save_pretrained(tmp_path / "lossy")
    with pytest.raises(TokenizerError, match="does not give text back: 'Sentence"):
        build(tmp_path / "cache", corpus, tokenizer=str(tmp_path / "lossy"))
    assert not [f for f in (tmp_path / "cache" / "data").rglob("*") if f.is_file()], "nothing is half-written"


def test_the_cache_is_keyed_by_content(corpus: Path, tmp_path: Path) -> None:
    first = build(tmp_path, corpus)
    assert not any("reused" in note for note in first.notes)
    again = build(tmp_path, corpus)
    assert again.train.folder == first.train.folder
    assert again.fingerprint == first.fingerprint
    assert again.notes[:-1] == first.notes
    assert "reused" in again.notes[-1]
    moved = corpus.rename(tmp_path / "moved")
    assert "reused" in build(tmp_path, moved).notes[-1]
    keys = {first.train.folder}
    for fields in ({"val_fraction": 0.2}, {"tokenizer": "train:300"}, {"tokenizer": "train:301"}):
        keys.add(build(tmp_path, moved, **fields).train.folder)
    (moved / "00.txt").write_text("changed")
    keys.add(build(tmp_path, moved).train.folder)
    assert len(keys) == 5
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == sorted(k.parent.name for k in keys)


def test_packing_and_block_do_not_matter_to_the_cache(corpus: Path, tmp_path: Path) -> None:
    one = build(tmp_path, corpus, block=16, packing="isolated")
    assert one.train.folder == build(tmp_path, corpus, block=32, global_batch_size=4).train.folder


def test_a_damaged_cache_is_built_again(corpus: Path, tmp_path: Path) -> None:
    first = build(tmp_path, corpus)
    (first.train.folder / "data-00000-of-00001.arrow").write_bytes(b"x")
    again = build(tmp_path, corpus)
    assert again.fingerprint == first.fingerprint
    assert again.train.folder == first.train.folder
    shutil.rmtree(again.val.folder)
    assert build(tmp_path, corpus).val.num_tokens == first.val.num_tokens


def test_masks_and_plain_text_mix(tmp_path: Path) -> None:
    texts = [{"text": sentence(n)} for n in range(30)]
    pairs = [{"prompt": f"What is {n}?", "completion": f" It is {WORDS[n % 12]}."} for n in range(30)]
    for name, rows in (("text", texts), ("pairs", pairs)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = build(tmp_path, tmp_path / "text.jsonl", tmp_path / "pairs.jsonl", val_fraction=0.2)
    assert data.train.has_targets
    borders = list(pairwise(data.train.offsets.tolist()))
    kinds = [bool(data.train.target_mask(start, end - start).all()) for start, end in borders]
    assert any(kinds)
    assert not all(kinds)
    target_bytes = 0
    for n, (start, end) in enumerate(borders):
        mask = data.train.target_mask(start, end - start)
        text = str(data.tokenizer.decode(data.train.document(n)[mask], skip_special_tokens=True))
        assert kinds[n] or re.fullmatch(r" It is \w+\.", text)
        target_bytes += len(text)
    manifest = data.train.manifest
    assert manifest.bytes_per_target * manifest.num_targets == pytest.approx(target_bytes)


def test_progress_is_told(corpus: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    prepare(
        DataRecipe(path=(str(corpus),)),
        model_name="preset:gpt2-1m",
        cache=tmp_path,
        progress=lambda stage, done, total: told.append((stage, done, total)),
    )
    assert told[-1] == ("encoding", 60, 60)
    assert [stage for stage, done, _ in told if done == 60] == ["reading", "sampling", "encoding"]


def test_a_failure_leaves_nothing_behind(corpus: Path, tmp_path: Path) -> None:
    bad = corpus / "zz.jsonl"
    bad.write_text('{"messages": [{"role": "assistant", "tool_calls": [3]}]}\n')
    with pytest.raises(DataError, match=r"zz\.jsonl:1: .*refuses the conversation"):
        build(tmp_path / "cache", corpus)
    assert list((tmp_path / "cache" / "data").iterdir()) == []
    (tmp_path / "tiny.txt").write_text("a")
    with pytest.raises(DataError, match="too few to train on"):
        build(tmp_path / "cache", tmp_path / "tiny.txt")


def _build(corpus: Path, cache: Path, barrier: object, results: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    results.put(build(cache, corpus).fingerprint)  # type: ignore[attr-defined]


def test_two_processes_at_once_agree(corpus: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    both = [
        context.Process(target=_build, args=(corpus, tmp_path / "cache", barrier, results)) for _ in range(2)
    ]
    for process in both:
        process.start()
    prints = {results.get(timeout=60) for _ in both}
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert len(prints) == 1
    assert len([p for p in (tmp_path / "cache" / "data").iterdir() if not p.name.startswith(".")]) == 1


@pytest.mark.parametrize("few", [False, True])
def test_the_result_is_the_same_however_many_cores_encode(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: bool
) -> None:
    paths = sorted(corpus.iterdir())[: 5 if few else 60]
    found = []
    for parallel in ("false", "true"):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", parallel)
        data = build(tmp_path / parallel, *paths)
        files = sorted(p for p in data.folder.rglob("*") if p.is_file())
        found.append({p.relative_to(data.folder): p.read_bytes() for p in files})
    assert found[0] == found[1]


def test_a_full_disk_is_told_before_anything_is_written(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build(tmp_path / "whole", corpus)
    asked = []

    def no_space(path: Path, needed: int, what: str) -> None:
        asked.append(needed)
        raise SpaceError(f"{what} needs {needed}")

    with monkeypatch.context() as patch:
        patch.setattr("babygpt.data.building.ensure_space", no_space)
        with pytest.raises(SpaceError, match="the tokenised data needs"):
            build(tmp_path / "full", corpus)
    size = sum(
        (whole.folder / side / "data-00000-of-00001.arrow").stat().st_size for side in ("train", "val")
    )
    assert 0.3 * size < asked[0] < 1.5 * size
    (left,) = (p for p in (tmp_path / "full" / "data").iterdir() if p.is_dir())
    assert sorted(p.name for p in (left / "store").iterdir()) == ["tokenizer"], "what was finished is kept"
    assert build(tmp_path / "full", corpus).fingerprint == whole.fingerprint


def test_the_cache_stands_where_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.delenv("BABYGPT_CACHE", raising=False)
    assert default_cache() == tmp_path / "x" / "babygpt"
    monkeypatch.setenv("BABYGPT_CACHE", str(tmp_path / "y"))
    assert default_cache() == tmp_path / "y"


def test_conversations_give_a_trained_tokenizer_their_template(tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    talks = [
        [{"role": "user", "content": sentence(n)}, {"role": "assistant", "content": sentence(n + 1)}]
        for n in range(30)
    ]
    file.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    for kind in ("", "unigram:"):
        data = build(tmp_path / "cache", file, tokenizer=f"train:{kind}400")
        assert data.tokenizer.eos_token_id == 2
        assert any("with ChatML as its template" in note for note in data.notes)
        document = data.val.document(0)
        told = str(data.tokenizer.decode(document[data.val.target_mask(0, len(document))]))
        assert told in {talk[1]["content"] + "<|im_end|>" for talk in talks}
    everything = build(tmp_path / "cache", file, tokenizer="train:400", train_on_prompts=True)
    assert not everything.train.has_targets
    assert everything.key != build(tmp_path / "cache", file, tokenizer="train:400").key


def test_equal_documents_are_left_out_of_training_on_request(corpus: Path, tmp_path: Path) -> None:
    whole = build(tmp_path, corpus, val_fraction=0.3)
    held_out = texts_of(whole, "val")
    for number in (3, 5, 7, 9, 11):
        for copy in range(2):
            (corpus / f"zz{number}-{copy}.txt").write_text(sentence(number))
    thinned = build(tmp_path, corpus, val_fraction=0.3, deduplicate="exact")
    assert texts_of(thinned, "train") == texts_of(whole, "train")  # the first of each stays where it was
    assert thinned.train.manifest.bytes_per_target == whole.train.manifest.bytes_per_target
    copies = [sentence(n) for n in (11, 3, 5, 7, 9) for _ in range(2) if sentence(n) in held_out]
    assert texts_of(thinned, "val") == [*held_out, *copies]
    as_it_is = build(tmp_path, corpus, val_fraction=0.3)
    left_out = 10 - len(copies)
    assert as_it_is.train.num_documents == whole.train.num_documents + left_out
    assert as_it_is.key != thinned.key
    assert f"duplicates: {left_out} of {as_it_is.train.num_documents} training documents are equal" in str(
        thinned.notes
    )
    assert build(tmp_path, corpus, val_fraction=0.3, deduplicate="exact").key == thinned.key


def test_what_was_read_otherwise_is_not_taken_from_the_cache(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = build(tmp_path, corpus)
    monkeypatch.setattr("babygpt.data.store.READING_VERSION", 1)
    before = build(tmp_path, corpus)
    assert before.key != now.key
    assert not before.reused
    assert before.fingerprint == now.fingerprint  # by which a run that goes on knows its data


def test_where_the_tail_is_held_out_the_whole_is_thinned(tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl"
    texts = [sentence(n) for n in (1, 2, 1, 3, 2)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = build(tmp_path, path, val_fraction=0.3, deduplicate="exact")
    assert "".join(texts_of(data, "train") + texts_of(data, "val")) == "".join(sentence(n) for n in (1, 2, 3))


def test_nearly_equal_documents_are_left_out_on_request(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("rensa")
    long = [" ".join(f"w{(n * k * k) % 977}" for k in range(200)) for n in range(1, 25)]
    for number, text in enumerate(long):
        (corpus / f"long{number:02}.txt").write_text(text)
    before = build(tmp_path, corpus, deduplicate="near")
    trained = [t for t in long if t in texts_of(before, "train")]
    for number, text in enumerate(trained[:6]):
        (corpus / f"zz{number}.txt").write_text(text + " and a few words more")
    after = build(tmp_path, corpus, deduplicate="near")
    assert texts_of(after, "train") == texts_of(before, "train")
    found = 6 - (len(after.val) - len(before.val))  # some may be held out, by their content
    assert found > 3
    assert f"{found} nearly so; {found} left out" in str(after.notes)
