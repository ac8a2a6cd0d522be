"""Stop, resume, end: the same bits as a run that was never stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoModelForCausalLM

from babygpt import BabyGPT, LLMDataModule
from babygpt.errors import CheckpointError
from babygpt.files import read_manifest
from fits import Recorder, StopHereError, trainer_of, weights_equal

STEPS = 18


class Runs:
    """Fits that can be stopped after a step and gone on with."""

    def __init__(self, make_data: Any, make_module: Any, folder: Path, **limits: Any) -> None:
        self.make_data, self.make_module = make_data, make_module
        self.folder, self.limits = folder, limits

    def fit(self, stop: int | None = None, start: Path | None = None, micro: int = 2) -> Any:
        data = self.make_data(micro, global_batch_size=4)
        module = self.make_module(dropout=0.1, seed=3)  # random numbers have to be the same, too
        path = self.folder / f"at-{stop}"
        recorder = Recorder(stop_after=stop, save_to=path if stop is not None else None)
        trainer = trainer_of(
            callbacks=[recorder], accumulate_grad_batches=-(-4 // micro), log_every_n_steps=3, **self.limits
        )
        try:
            trainer.fit(module, datamodule=data, ckpt_path=None if start is None else str(start))
        except StopHereError:
            return path
        return module, recorder, trainer, data


@pytest.fixture
def runs(make_data: Any, make_module: Any, tmp_path: Path) -> Callable[..., Runs]:
    return lambda **limits: Runs(make_data, make_module, tmp_path, **limits)


def test_mid_epoch_with_accumulation_twice_in_a_row(runs: Callable[..., Runs]) -> None:
    run = runs(max_steps=STEPS)
    whole, _, _, data = run.fit()
    assert data.steps_per_epoch < STEPS, "the run must cross an epoch's end"
    first = run.fit(stop=3)
    second = run.fit(stop=5, start=first)
    resumed, recorder, trainer, _ = run.fit(start=second)
    assert trainer.global_step == STEPS
    assert recorder.seen == [data.micro_batch(n)["input_ids"].tolist() for n in range(10, 2 * STEPS)]
    assert weights_equal(whole, resumed)


def test_where_prompts_count(make_data: Any, make_module: Any, pairs: Path, tmp_path: Path) -> None:
    def data(micro: int, **kwargs: Any) -> LLMDataModule:
        weighed = {"path": str(pairs), "prompt_weight": 0.1, **kwargs}
        return make_data(micro, **weighed)

    run = Runs(data, make_module, tmp_path, max_steps=4)
    whole, *_ = run.fit()
    saved = run.fit(stop=2)
    resumed, *_ = run.fit(start=saved)
    assert weights_equal(whole, resumed)
    run.make_data = lambda micro, **kwargs: data(micro, **{**kwargs, "prompt_weight": 0.2})
    with pytest.raises(CheckpointError, match=r"prompt_weight is 0.2 here and was 0.1"):
        run.fit(start=saved)


def test_at_an_epochs_end_twice_in_a_row_under_max_epochs(runs: Callable[..., Runs]) -> None:
    run = runs(max_epochs=3)
    whole, _, trainer, data = run.fit()
    epoch = data.steps_per_epoch
    assert trainer.global_step == 3 * epoch
    first = run.fit(stop=epoch)
    second = run.fit(stop=2 * epoch, start=first)
    resumed, recorder, trainer, _ = run.fit(start=second)
    assert trainer.global_step == 3 * epoch
    assert len(recorder.seen) == 2 * epoch
    assert weights_equal(whole, resumed)


def test_mid_epoch_under_max_epochs(runs: Callable[..., Runs]) -> None:
    run = runs(max_epochs=2)
    whole, _, trainer, data = run.fit()
    resumed, _, again, _ = run.fit(start=run.fit(stop=data.steps_per_epoch + 2))
    assert again.global_step == trainer.global_step == 2 * data.steps_per_epoch
    assert weights_equal(whole, resumed)


def test_in_a_copied_folder(runs: Callable[..., Runs], tmp_path: Path) -> None:
    run = runs(max_steps=STEPS)
    whole, *_ = run.fit()
    saved = run.fit(stop=4)
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(saved, copy)
    shutil.rmtree(saved)
    resumed, *_ = run.fit(start=copy)
    assert weights_equal(whole, resumed)


def test_another_micro_batch_keeps_the_order(make_data: Any, make_module: Any, tmp_path: Path) -> None:
    run = Runs(make_data, make_module, tmp_path, max_steps=STEPS)
    saved = run.fit(stop=5)
    _, recorder, trainer, data = run.fit(start=saved, micro=1)
    assert trainer.global_step == STEPS
    assert recorder.seen == [data.micro_batch(n)["input_ids"].tolist() for n in range(20, 4 * STEPS)]


def test_lightnings_own_writer_goes_on_too(
    make_data: Callable[..., LLMDataModule], make_module: Callable[..., BabyGPT], tmp_path: Path
) -> None:
    def fit(stop: int | None, start: Path | None) -> Any:
        recorder = Recorder(stop_after=stop, save_to=tmp_path / "plain.ckpt" if stop else None)
        trainer = trainer_of(callbacks=[recorder], max_steps=STEPS, accumulate_grad_batches=2, plugins=[])
        module = make_module(dropout=0.1)
        try:
            trainer.fit(module, datamodule=make_data(2, global_batch_size=4), ckpt_path=start)
        except StopHereError:
            return None
        return module

    whole = fit(None, None)
    fit(5, None)
    assert (tmp_path / "plain.ckpt").is_file()
    assert weights_equal(whole, fit(None, tmp_path / "plain.ckpt"))


def test_a_new_run_from_a_checkpoint_starts_at_its_loss(
    make_data: Any, make_module: Any, tmp_path: Path
) -> None:
    module, data = make_module(), make_data(4)
    trainer = trainer_of(max_steps=6, limit_val_batches=1.0)
    trainer.fit(module, datamodule=data)
    (ended,) = trainer.validate(module, datamodule=data, verbose=False)
    trainer.save_checkpoint(tmp_path / "saved")
    folder = str(tmp_path / "saved")
    again = LLMDataModule(folder, 4, path=data.recipe.path, block=data.block)
    (began,) = trainer_of(limit_val_batches=1.0).validate(BabyGPT(folder), datamodule=again, verbose=False)
    assert began["val_loss"] == pytest.approx(ended["val_loss"], abs=1e-6)


def test_weights_that_change_at_a_checkpoint_stay_changed(
    make_data: Any, make_module: Any, corpus: Path, pairs: Path, tmp_path: Path
) -> None:
    """Stopped at 3, gone on with other weights, stopped at 6: as if it had been told of the change at the beginning."""
    from babygpt.data.mixture import Stretch

    def fit(
        name: str, weights: list[float], start: Path | None = None, stop: int | None = None, **more: Any
    ) -> Any:
        data = make_data(2, global_batch_size=4, path=[str(corpus), str(pairs)], weights=weights, **more)
        recorder = Recorder(stop_after=stop, save_to=None if stop is None else tmp_path / name)
        trainer = trainer_of(callbacks=[recorder], accumulate_grad_batches=2, max_steps=9)
        module = make_module(seed=3)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=None if start is None else str(start))
        except StopHereError:
            return tmp_path / name
        return module, recorder

    whole, all_seen = fit("whole", [3, 1], reweighted=[Stretch(3, (1.0, 3.0))])
    first = fit("first", [3, 1], stop=3)
    second = fit("second", [1, 3], first, stop=6)
    resumed, seen = fit("resumed", [1, 3], second)
    assert seen.seen == all_seen.seen[12:]
    assert weights_equal(whole, resumed)


class Weights(L.Callback):
    """The weights of each validation, by completed steps."""

    def __init__(self) -> None:
        self.at: dict[int, dict[str, torch.Tensor]] = {}

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        held = pl_module.model.state_dict()
        self.at[trainer.global_step] = {k: v.detach().clone() for k, v in held.items()}


def test_the_best_checkpoint_is_a_plain_model_with_the_same_bits(
    make_data: Any, make_module: Any, tmp_path: Path
) -> None:
    """At a rate at which the last weights are not the best."""
    keeper = ModelCheckpoint(
        tmp_path, "babygpt-{val_loss:.2f}", "val_loss", auto_insert_metric_name=False, save_last=True
    )
    weights, module = Weights(), make_module(schedule="constant", warmup=0.0)
    module.hparams["lr"] = 0.3
    trainer = trainer_of(
        callbacks=[weights, keeper],
        enable_checkpointing=True,
        max_steps=12,
        limit_val_batches=1.0,
        val_check_interval=2,
        check_val_every_n_epoch=None,
    )
    trainer.fit(module, datamodule=make_data(4))
    best = Path(keeper.best_model_path)
    assert best.name == f"babygpt-{float(keeper.best_model_score):.2f}.ckpt"  # type: ignore[arg-type]
    step = read_manifest(best).facts["step"]
    assert step != 12
    model = AutoModelForCausalLM.from_pretrained(best).eval()
    ids = torch.arange(32)[None]
    module.model.load_state_dict(weights.at[step])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, module.model.eval()(ids).logits)


def test_other_data_is_refused(make_data: Any, make_module: Any, tmp_path: Path) -> None:
    from babygpt.errors import CheckpointError

    saved = Runs(make_data, make_module, tmp_path, max_steps=STEPS).fit(stop=2)
    with pytest.raises(CheckpointError, match="global_batch_size is 8 here and was 4"):
        trainer_of(max_steps=STEPS, accumulate_grad_batches=4).fit(
            make_module(), datamodule=make_data(2, global_batch_size=8), ckpt_path=str(saved)
        )


def test_other_text_is_told_by_its_size(
    make_data: Any, make_module: Any, corpus: Path, tmp_path: Path
) -> None:
    from babygpt.errors import CheckpointError

    saved = Runs(make_data, make_module, tmp_path, max_steps=STEPS).fit(stop=2)
    was = make_data(2).prepared.train.num_tokens
    other = tmp_path / "other.jsonl"
    other.write_text(corpus.read_text() + '{"text": "one more"}\n')
    data = make_data(2, global_batch_size=4, path=str(other))
    with pytest.raises(CheckpointError) as caught:
        trainer_of(max_steps=STEPS, accumulate_grad_batches=2).fit(
            make_module(), datamodule=data, ckpt_path=str(saved)
        )
    message = str(caught.value)
    assert f"{other} here gives {data.prepared.train.num_tokens:,} tokens in" in message
    assert f"and was {was:,} tokens in" in message
    assert "data_fingerprint" not in message
