"""The gradient and the loss of a step, against a computation by hand over the whole batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from architectures import loss_alone, own_loss, plain, save_tiny
from babygpt import BabyGPT, LLMDataModule
from babygpt.errors import CheckError, RecipeError
from fits import Recorder, by_hand, trainer_of, weights_equal, worst

GLOBAL_BATCH = 8


@pytest.mark.parametrize(
    ("precision", "dtype", "bound"), [("64-true", torch.float64, 1e-10), ("32-true", torch.float32, 1e-5)]
)
@pytest.mark.parametrize("micro", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("packing", ["stream", "padded"])
def test_gradient_is_that_of_the_whole_batch(
    make_data: Callable[..., LLMDataModule],
    make_module: Callable[..., BabyGPT],
    pairs: Path,
    packing: str,
    micro: int,
    precision: Any,
    dtype: torch.dtype,
    bound: float,
) -> None:
    data = make_data(micro, path=str(pairs), packing=packing, global_batch_size=GLOBAL_BATCH)
    recorder = Recorder(gradients_of=0)
    accumulate = -(-GLOBAL_BATCH // micro)
    trainer = trainer_of(
        callbacks=[recorder], precision=precision, max_steps=1, accumulate_grad_batches=accumulate
    )
    trainer.fit(make_module(), datamodule=data)
    reference = by_hand(make_module(), data, 0, dtype)
    assert worst(recorder.gradients, reference) <= bound


@pytest.mark.parametrize(("packing", "micro"), [("padded", 1), ("stream", 3), ("padded", 8)])
def test_prompts_count_with_their_weight_over_the_whole_batch(
    make_data: Callable[..., LLMDataModule],
    make_module: Callable[..., BabyGPT],
    pairs: Path,
    packing: str,
    micro: int,
) -> None:
    """The weight is a number of fp32 exactly, in which batches hold it."""
    weight = 0.1875
    data = make_data(
        micro, path=str(pairs), packing=packing, global_batch_size=GLOBAL_BATCH, prompt_weight=weight
    )
    recorder, module = Recorder(gradients_of=0), make_module()
    trainer = trainer_of(
        callbacks=[recorder],
        precision="64-true",
        max_steps=1,
        accumulate_grad_batches=-(-GLOBAL_BATCH // micro),
        log_every_n_steps=1,
    )
    trainer.fit(module, datamodule=data)
    assert data.step_prompts(0) > 0
    reference = by_hand(make_module(), data, 0, torch.float64, weight)
    assert worst(recorder.gradients, reference) <= 1e-10
    assert worst(reference, by_hand(make_module(), data, 0, torch.float64)) > 1e-2, "the weight matters"
    (record,) = module.meter.drain()
    assert record.targets == data.step_targets(0)
    assert record.loss_weight == record.targets + weight * data.step_prompts(0)
    whole = make_data(8, path=str(pairs), packing=packing, prompt_weight=weight)
    whole.setup()
    batch, model = whole.micro_batch(0), make_module().model.double()
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]
    each = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), batch["input_ids"][:, 1:], reduction="none"
    )
    shares = torch.where(batch["labels"] != -100, 1.0, weight * batch["attention_mask"])[:, 1:]
    wanted = float((each * shares).sum() / shares.sum())
    assert record.train_loss == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize("packing", ["stream", "isolated"])
def test_prompts_that_count_as_much_as_targets_are_targets(
    make_data: Callable[..., LLMDataModule],
    make_module: Callable[..., BabyGPT],
    tmp_path: Path,
    packing: str,
) -> None:
    """To the bit what `train_on_prompts` trains, also where windows hold nothing but a prompt."""
    path = tmp_path / "long.jsonl"
    rows = [
        {"prompt": f"Question {n}: " + "why " * (n % 5 * 25), "completion": f"because {n}"} for n in range(25)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))

    def fitted(**kwargs: Any) -> tuple[BabyGPT, list[float], float, LLMDataModule]:
        data, module = make_data(4, path=str(path), packing=packing, **kwargs), make_module()
        trainer = trainer_of(max_epochs=1, log_every_n_steps=2, limit_val_batches=1.0)
        trainer.fit(module, datamodule=data)
        records = module.meter.drain()
        epoch = sum(r.train_loss * r.weight for r in records) / sum(r.weight for r in records)
        assert float(trainer.callback_metrics["train_loss_epoch"]) == pytest.approx(epoch, rel=1e-6)
        return module, [r.train_loss for r in records], float(trainer.callback_metrics["val_loss"]), data

    targets, wanted, val_of_all, _ = fitted(train_on_prompts=True)
    module, losses, val_loss, data = fitted(prompt_weight=1.0)
    assert (data.plan.windows.targets[:] == 0).any()
    assert losses == wanted
    assert weights_equal(targets, module)
    assert val_loss != val_of_all
    answers = make_data(4, path=str(path), packing=packing)
    (values,) = trainer_of(limit_val_batches=1.0).validate(module, datamodule=answers, verbose=False)
    assert values["val_loss"] == val_loss, "validation measures answers, whatever prompts count"


def test_partial_accumulation_window_at_an_epochs_end_is_whole(
    make_data: Callable[..., LLMDataModule], make_module: Callable[..., BabyGPT]
) -> None:
    """The last step of an epoch holds fewer windows; its gradient is still the mean over its own targets."""
    data = make_data(2, global_batch_size=GLOBAL_BATCH)
    data.setup()
    last = data.steps_per_epoch - 1
    assert 0 < len(data.plan.order.windows_of(last)) < GLOBAL_BATCH, "the corpus must leave a partial step"
    recorder = Recorder(gradients_of=last)
    trainer = trainer_of(
        callbacks=[recorder], precision="64-true", max_epochs=1, accumulate_grad_batches=GLOBAL_BATCH // 2
    )
    module = make_module(schedule="constant", warmup=0.0)
    before: dict[str, torch.Tensor] = {}

    def keep(*_: Any) -> None:
        if trainer.global_step == last and not before:
            before.update({k: v.detach().clone() for k, v in module.model.state_dict().items()})

    recorder.on_train_batch_start = keep  # type: ignore[method-assign]
    trainer.fit(module, datamodule=data)
    reference = make_module()
    reference.model.double().load_state_dict(before)
    assert worst(recorder.gradients, by_hand(reference, data, last, torch.float64)) <= 1e-10


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "gpt_neox", "gemma2"])
def test_the_loss_of_a_step_is_the_models_own(
    tiny_gpt2: Path, pairs: Path, tmp_path: Path, kind: str
) -> None:
    """Four micro-batches of two against the Hugging Face model's loss on all eight windows at once."""
    folder = save_tiny(kind, tiny_gpt2, tmp_path / kind)

    def data(size: int) -> LLMDataModule:
        return LLMDataModule(
            str(folder), size, path=str(pairs), block=32, packing="padded", global_batch_size=GLOBAL_BATCH
        )

    module, whole = BabyGPT(str(folder), 1e-3), data(GLOBAL_BATCH)
    trainer_of(max_steps=1, accumulate_grad_batches=4, log_every_n_steps=1).fit(module, datamodule=data(2))
    whole.setup()
    reference = own_loss(plain(folder), whole.micro_batch(0))
    assert module.meter.drain()[0].train_loss == pytest.approx(reference, rel=1e-6)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "gpt_neox"])
def test_packed_documents_are_as_they_are_alone(
    tiny_gpt2: Path, corpus: Path, tmp_path: Path, kind: str
) -> None:
    folder = save_tiny(kind, tiny_gpt2, tmp_path / kind)
    data = LLMDataModule(
        str(folder), 4, path=str(corpus), block=256, packing="isolated", val_fraction=0.2, val_batches=None
    )
    module, model = BabyGPT(str(folder)), plain(folder, "sdpa")
    (values,) = trainer_of(limit_val_batches=1.0).validate(module, datamodule=data, verbose=False)
    val = data.prepared.val
    documents = [torch.from_numpy(val.document(n).astype("int64")) for n in range(len(val))]
    assert values["val_loss"] == pytest.approx(loss_alone(model, documents), rel=1e-6)
    batch = data.micro_batch(0)
    starts = [(row, at) for row in range(4) for at in range(256) if batch["position_ids"][row, at] == 0]
    assert len(starts) > 4
    with torch.no_grad():
        packed = module.eval()(**batch).logits
        assert torch.equal(packed, module.model(**batch, use_cache=False).logits)
        for (row, at), (after, to) in pairwise([*starts, (4, 0)]):
            piece = slice(at, to if after == row else 256)
            alone = model(input_ids=batch["input_ids"][row, piece][None]).logits[0]
            torch.testing.assert_close(packed[row, piece], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["opt", "bloom"])
def test_attention_that_leaks_is_refused_when_isolated(
    tiny_gpt2: Path, corpus: Path, tmp_path: Path, kind: str
) -> None:
    folder = save_tiny(kind, tiny_gpt2, tmp_path / kind)
    data = LLMDataModule(str(folder), 4, path=str(corpus), block=64, packing="isolated")
    with pytest.raises(CheckError, match="documents see each other"):
        trainer_of(max_steps=1).fit(BabyGPT(str(folder)), datamodule=data)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_validation_loss_does_not_depend_on_the_batch_size(
    make_data: Callable[..., LLMDataModule],
    make_module: Callable[..., BabyGPT],
    pairs: Path,
    batch_size: int,
) -> None:
    def loss(size: int) -> float:
        data = make_data(size, path=str(pairs), packing="padded", val_fraction=0.3, val_batches=None)
        (values,) = trainer_of(limit_val_batches=1.0).validate(make_module(), datamodule=data, verbose=False)
        return float(values["val_loss"])

    assert loss(batch_size) == pytest.approx(loss(5), abs=1e-6)


def test_training_loss_logged_is_the_steps_own(
    make_data: Callable[..., LLMDataModule], make_module: Callable[..., BabyGPT], pairs: Path
) -> None:
    """Each record is total loss over total targets of its step, not a mean of micro-batches' means."""
    data = make_data(2, path=str(pairs), packing="padded", global_batch_size=GLOBAL_BATCH)
    module = make_module()
    trainer = trainer_of(max_steps=1, accumulate_grad_batches=4, log_every_n_steps=1)
    trainer.fit(module, datamodule=data)
    (record,) = module.meter.drain()
    fresh = make_module().model.eval()
    windows = data.plan.order.windows_of(0)
    with torch.no_grad():
        batches = [data._windows.train[[w]] for w in windows]
        counts = [int((b["labels"] != -100).sum()) for b in batches]
        sums = [float(fresh(**b).loss) * n for b, n in zip(batches, counts, strict=True)]
    assert record.targets == sum(counts)
    assert record.train_loss == pytest.approx(sum(sums) / sum(counts), rel=1e-5)
    assert float(trainer.callback_metrics["train_loss"]) == pytest.approx(record.train_loss, rel=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_order_is_the_plans_whatever_the_workers(
    make_data: Callable[..., LLMDataModule], make_module: Callable[..., BabyGPT], workers: int
) -> None:
    data = make_data(2, global_batch_size=4, workers=workers)
    recorder = Recorder()
    trainer_of(callbacks=[recorder], max_steps=6, accumulate_grad_batches=2).fit(
        make_module(), datamodule=data
    )
    wanted = [data.micro_batch(n)["input_ids"].tolist() for n in range(12)]
    assert recorder.seen == wanted


def test_schedule_moves_every_step_over_the_real_length(
    make_data: Callable[..., LLMDataModule], make_module: Callable[..., BabyGPT]
) -> None:
    module = make_module()
    trainer_of(max_steps=10, log_every_n_steps=1).fit(module, datamodule=make_data(4))
    rates = [r.lr for r in module.meter.drain()]
    assert len(rates) == 10
    assert len(set(rates)) == 10
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.2 * rates[0]


def test_another_loader_counts_its_own_targets(make_module: Callable[..., BabyGPT], caplog: Any) -> None:
    """Plain tensors from somebody's DataLoader train too; the module says what it divides by."""
    rows = torch.randint(0, 300, (8, 16), generator=torch.Generator().manual_seed(0))
    loader = torch.utils.data.DataLoader(
        [{"input_ids": r, "labels": r} for r in rows],
        batch_size=4,
        shuffle=False,  # type: ignore[arg-type]
    )
    module = make_module()
    recorder = Recorder(gradients_of=0)
    trainer_of(callbacks=[recorder], max_steps=1).fit(
        module, train_dataloaders=loader, val_dataloaders=loader
    )
    fresh = make_module().model.train()
    fresh(input_ids=rows[:4], labels=rows[:4]).loss.backward()
    reference = {n: p.grad for n, p in fresh.named_parameters() if p.grad is not None}
    assert worst(recorder.gradients, reference) <= 1e-5


def test_loaders_whose_prompts_count_need_their_data_module(
    make_data: Callable[..., LLMDataModule], make_module: Callable[..., BabyGPT], pairs: Path
) -> None:
    data = make_data(4, path=str(pairs), prompt_weight=0.5)
    data.setup()
    with pytest.raises(RecipeError, match=r"^data\.prompt_weight: .*Give the trainer datamodule="):
        trainer_of(max_steps=1).fit(make_module(), data.train_dataloader(), data.val_dataloader())
