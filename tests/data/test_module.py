"""LLMDataModule without a trainer: batches, counts, validation rows, identity, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from babygpt import LLMDataModule
from babygpt.data.batches import pad_id_of
from babygpt.data.block import resolve_block
from babygpt.errors import CheckpointError, DataError, RecipeError
from babygpt.model.load import load_model

BLOCK = 32


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "text.jsonl"
    rows = [{"text": f"Document {n}. " + f"word{n % 7} is {n}. " * (1 + n % 9)} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def module_of(corpus: Path, batch_size: int = 4, **kwargs: Any) -> LLMDataModule:
    defaults = {"path": str(corpus), "block": BLOCK, "tokenizer": "train:300"}
    made = LLMDataModule("preset:gpt2-1m", batch_size, **{**defaults, **kwargs})
    made.prepare_data()
    made.setup("fit")
    return made


@pytest.mark.parametrize(
    ("packing", "keys"),
    [
        ("stream", {"input_ids", "attention_mask", "labels"}),
        ("padded", {"input_ids", "attention_mask", "labels"}),
        ("isolated", {"input_ids", "position_ids", "labels"}),
    ],
)
def test_a_batch_is_ready_for_the_model(corpus: Path, packing: str, keys: set[str]) -> None:
    data = module_of(corpus, packing=packing)
    batch = next(iter(data.train_dataloader()))
    assert set(batch) == keys
    for value in batch.values():
        assert value.dtype == torch.int64
        assert value.shape == (4, BLOCK)
    model = load_model("preset:gpt2-1m", vocab_size=300, packing=packing)
    assert torch.isfinite(model(**batch).loss)


@pytest.mark.parametrize("packing", ["stream", "isolated", "padded"])
def test_an_epoch_holds_every_window_once_and_counts_its_targets(corpus: Path, packing: str) -> None:
    data = module_of(corpus, 2, packing=packing, global_batch_size=6)
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader()) == data.steps_per_epoch * data.micro_batches
    for step in range(data.steps_per_epoch):
        own = batches[step * data.micro_batches : (step + 1) * data.micro_batches]
        # A model shifts labels by one, so that a row's first is never a target.
        assert data.step_targets(step) == sum(int((b["labels"][:, 1:] != -100).sum()) for b in own)
    stream_targets = sum(data.step_targets(s) for s in range(data.steps_per_epoch))
    if packing == "stream":
        assert stream_targets == data.prepared.train.num_tokens - 1


def test_a_mask_of_ones_is_dropped_before_the_transfer_and_another_kept(corpus: Path) -> None:
    batch = module_of(corpus).micro_batch(0)
    ones = {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}
    assert "attention_mask" not in module_of(corpus).on_before_batch_transfer(ones, 0)
    padded = module_of(corpus, packing="padded").micro_batch(0)
    assert "attention_mask" in module_of(corpus).on_before_batch_transfer(padded, 0)
    assert module_of(corpus).on_before_batch_transfer("not ours", 0) == "not ours"


def test_identity_refuses_other_data_and_says_what_differs(corpus: Path) -> None:
    saved = module_of(corpus).state_dict()
    module_of(corpus, 2, global_batch_size=4).load_state_dict(saved)
    with pytest.raises(CheckpointError, match=r"block is 16 here and was 32"):
        module_of(corpus, block=16).load_state_dict(saved)
    with pytest.raises(CheckpointError, match=r"seed is 1 here and was 0"):
        module_of(corpus, seed=1).load_state_dict(saved)


@pytest.mark.parametrize("name", ["plan", "steps_per_epoch"])
def test_before_setup_it_says_so(corpus: Path, name: str) -> None:
    with pytest.raises(RuntimeError, match="setup"):
        getattr(LLMDataModule("preset:gpt2-1m", path=str(corpus)), name)


def test_the_window_that_auto_takes(tiny_gpt2: Path) -> None:
    assert resolve_block("auto", "preset:gpt2-1m") == 128
    assert resolve_block("auto", "preset:gpt2-124m") == 512
    assert resolve_block("auto", str(tiny_gpt2)) == 128, "a pretrained model's own positions"
    assert resolve_block(77, "preset:gpt2-1m") == 77


def test_refusals(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="batch_size: must be at least 1"):
        LLMDataModule("preset:gpt2-1m", 0)
    with pytest.raises(RecipeError, match="longer than the 512 positions"):
        LLMDataModule("preset:gpt2-1m", block=513)
    (tmp_path / "short.txt").write_text("a few words only, not a window of them")
    with pytest.raises(DataError):
        module_of(tmp_path / "short.txt", block=512)


def test_short_text_can_be_validated_on_and_not_trained_on(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a few words only, not a window of them")
    data = LLMDataModule("preset:gpt2-1m", path=str(tmp_path / "short.txt"), block=512, tokenizer="train:300")
    data.setup("validate")
    assert len(list(data.val_dataloader())) == 1
    with pytest.raises(DataError, match="one window needs 512"):
        data.setup("fit")


def test_padding_is_some_id_of_the_tokenizer(tiny_gpt2: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    assert pad_id_of(tokenizer) == tokenizer.eos_token_id
    tokenizer.pad_token = "a"
    assert pad_id_of(tokenizer) == tokenizer.convert_tokens_to_ids("a")
    tokenizer.pad_token = tokenizer.eos_token = None
    assert pad_id_of(tokenizer) == 0


# -- several sources -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{"prompt": f"Question {n}: why? ", "completion": "because " * (1 + n % 6)} for n in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mixed(corpus: Path, pairs: Path, batch_size: int = 5, **kwargs: Any) -> LLMDataModule:
    paths = [str(corpus), str(pairs)]
    return module_of(corpus, batch_size, **{"path": paths, "weights": [0.6, 0.4], **kwargs})


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_share_of_tokens_that_count_is_that_of_an_epoch(pairs: Path, weight: float) -> None:
    data = module_of(pairs, block=32, packing="isolated", prompt_weight=weight)
    data.setup("fit")
    batches = [data.micro_batch(n) for n in range(data.steps_per_epoch * data.micro_batches)]
    counted = [b["loss_weights"] > 0 if weight else b["labels"] != -100 for b in batches]
    windows = len(data.plan.windows)
    assert data.plan.counted_share == pytest.approx(sum(int(c.sum()) for c in counted) / (windows * 32))


def test_prompts_of_one_source_count_beside_text_that_has_none(corpus: Path, pairs: Path) -> None:
    data = mixed(corpus, pairs, packing="isolated", prompt_weight=0.25)
    assert [n for n in data.notes if "prompt_weight" in n] == [
        "text.jsonl: there are no prompts in these data: data.prompt_weight 0.25 changes nothing"
    ]
    for step, batch in enumerate(data.train_dataloader()):
        assert data.step_weight(step) == float(batch["loss_weights"].double().sum())
        assert data.step_targets(step) == int((batch["labels"] != -100).sum())
        assert data.step_prompts(step) == int((batch["loss_weights"] == 0.25).sum()) > 0
    assert all("loss_weights" not in batch for batch in data.val_dataloader())


def test_a_checkpoint_without_a_prompt_weight_had_none(corpus: Path) -> None:
    saved = module_of(corpus).state_dict()
    del saved["prompt_weight"]
    module_of(corpus).load_state_dict(saved)
    with pytest.raises(CheckpointError, match=r"prompt_weight is 0.5 here and was 0.0"):
        module_of(corpus, prompt_weight=0.5).load_state_dict(saved)


@pytest.mark.parametrize("packing", ["stream", "isolated"])
def test_every_step_holds_the_sources_in_their_shares(corpus: Path, pairs: Path, packing: str) -> None:
    data = mixed(corpus, pairs, packing=packing)
    assert data.sources == ("text.jsonl", "pairs.jsonl")
    batches = list(data.train_dataloader())
    assert len(batches) == data.steps_per_epoch
    border = len(data.plan.windows) - data.plan.order.sizes[1]  # type: ignore[union-attr]
    for step, batch in enumerate(batches):
        assert data.step_targets(step) == int((batch["labels"] != -100).sum())
        windows = data.windows_of(step)
        assert (windows < border).sum() == 3
        # Plain text is told whole, and of pairs the completions only.
        text = data.tokenizer.decode([i for row in batch["labels"].tolist() for i in row if i >= 0])
        assert " is " in text
        assert "because" in text
        assert "Question" not in text


def test_a_batch_of_validation_is_of_one_source(corpus: Path, pairs: Path) -> None:
    data = mixed(corpus, pairs, 2, val_batches=None)
    of = data.validation.sources(2, 1)
    batches = list(data.val_dataloader())
    assert len(of) == len(batches)
    for source, batch in zip(of, batches, strict=True):
        text = data.tokenizer.decode(batch["input_ids"].flatten().tolist())
        assert ("because" in text) == (source == 1)


def test_validation_data_that_too_long_drops_whole_are_named(tmp_path: Path) -> None:
    train, val = tmp_path / "train.txt", tmp_path / "val.txt"
    train.write_text("a b c")
    val.write_text("d e f " * 100)
    with pytest.raises(DataError, match=r"of the validation data: not one of the \d+ tokens is a target in"):
        module_of(train, val_path=str(val), packing="isolated", too_long="drop", block=32)


@pytest.mark.parametrize(("name", "word"), [("deduplicate", "all"), ("too_long", "shorten")])
def test_an_unknown_word_passes_for_no_known_one(corpus: Path, name: str, word: str) -> None:
    with pytest.raises(RecipeError, match=rf"data\.{name}: '{word}' is none of"):
        module_of(corpus, packing="isolated", **{name: word})


def test_weights_may_differ_from_a_checkpoints_and_hold_from_its_step_on(corpus: Path, pairs: Path) -> None:
    from babygpt.data.mixture import Stretch

    saved = mixed(corpus, pairs).state_dict()
    assert json.loads(json.dumps(saved)) == saved
    here = mixed(corpus, pairs, weights=[0.2, 0.8])
    here.load_state_dict({**saved, "data_step": 7})
    told = mixed(corpus, pairs, reweighted=[Stretch(7, (0.2, 0.8))])
    before = mixed(corpus, pairs)
    for step in range(20):
        assert here.windows_of(step).tolist() == told.windows_of(step).tolist()
        assert (step >= 7) or here.windows_of(step).tolist() == before.windows_of(step).tolist()
    # And again from there: what was before is in the checkpoint.
    later = mixed(corpus, pairs, weights=[0.2, 0.8])
    later.load_state_dict({**here.state_dict(), "data_step": 12})
    assert later.windows_of(9).tolist() == told.windows_of(9).tolist()
    # A run that was told of a change ahead of its checkpoint makes it there.
    told.load_state_dict({**saved, "data_step": 3})
    assert told.windows_of(6).tolist() == before.windows_of(6).tolist()
    assert told.windows_of(7).tolist() == here.windows_of(7).tolist()


def test_refusals_of_several_sources(corpus: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.weights: 3 weights for 2 paths"):
        mixed(corpus, pairs, weights=[1, 2, 3])
    with pytest.raises(RecipeError, match=r"data\.weights: nan is not a number"):
        mixed(corpus, pairs, weights=[float("nan"), 1])
    with pytest.raises(CheckpointError, match="weights here, unlike there"):
        mixed(corpus, pairs, path=[str(corpus)], weights=[1]).load_state_dict(module_of(corpus).state_dict())
    (tmp_path / "short.txt").write_text("a few words only, not a window of them")
    with pytest.raises(DataError, match=r"short\.txt: the data has .* one window needs 64"):
        mixed(corpus, tmp_path / "short.txt", block=64)


def test_too_long_documents_are_told_of_and_part_of_the_identity(corpus: Path) -> None:
    split, cut = (module_of(corpus, packing="padded", too_long=choice) for choice in ("split", "cut"))
    assert [note for note in module_of(corpus).notes if "longer than a window" in note] == []
    (said,) = [note for note in cut.notes if note.startswith("training: ")]
    assert "cut to their first 32 tokens" in said
    assert sum(map(cut.step_targets, range(cut.steps_per_epoch))) < sum(
        map(split.step_targets, range(split.steps_per_epoch))
    )
    with pytest.raises(CheckpointError, match="too_long is split here and was cut"):
        split.load_state_dict(cut.state_dict())
    with pytest.raises(DataError, match=r"data\.too_long"):
        module_of(corpus, packing="padded", too_long="refuse")
    with pytest.raises(
        RecipeError, match=r"data\.too_long: cut has no meaning where data\.packing is stream"
    ):
        module_of(corpus, too_long="cut")
