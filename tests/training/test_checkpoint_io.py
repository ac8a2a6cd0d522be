"""Lightning's own trainer and ModelCheckpoint, over checkpoint folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from babygpt.checkpoints import discover, link_last, load_state
from babygpt.errors import CheckpointError, InputError
from babygpt.files import verify_folder
from babygpt.training.checkpoint_io import PAYLOAD, FolderCheckpointIO, HFPayload

# Lightning warns about small data, few workers and its own use of deprecated parts of torch.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small only lose by more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Tiny(L.LightningModule):
    """A two-layer GPT-2 that gives the folder writer what it needs."""

    def __init__(self, gives: bool = True) -> None:
        super().__init__()
        self.save_hyperparameters({"lr": 0.01, "betas": (0.9, 0.95), "gives": gives})
        torch.manual_seed(0)
        self.model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=40,
                n_embd=16,
                n_layer=2,
                n_head=2,
                n_positions=16,
                bos_token_id=1,
                eos_token_id=1,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
            )
        ).train()
        self.seen = torch.nn.Buffer(torch.tensor(0))
        self.restored: dict[str, Any] | None = None

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        self.seen += 1
        return self.model(input_ids=batch, labels=batch).loss

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        self.log("val_loss", self.model(input_ids=batch, labels=batch).loss)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01, betas=(0.9, 0.95))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.hparams["gives"]:
            loss = self.trainer.callback_metrics.get("val_loss")
            facts = {"step": self.trainer.global_step, "val_loss": None if loss is None else float(loss)}
            checkpoint[PAYLOAD] = HFPayload(self.model, None, facts)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.restored = checkpoint


def rows() -> torch.Tensor:
    return torch.randint(0, 40, (8, 12), generator=torch.Generator().manual_seed(3))


def loader() -> DataLoader[torch.Tensor]:
    return DataLoader(rows(), batch_size=2)  # type: ignore[arg-type]


def trainer(folder: Path, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    settings: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "callbacks": list(callbacks),
        "enable_checkpointing": bool(callbacks),
        "plugins": [FolderCheckpointIO()],
    }
    return L.Trainer(**{**settings, **options})


def weights(module: L.LightningModule) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        assert one[key].dtype == other[key].dtype, key
        assert torch.equal(one[key], other[key]), key


def trained(tmp_path: Path, name: str = "a.ckpt", epochs: int = 1) -> tuple[L.Trainer, Tiny, Path]:
    module, runner = Tiny(), trainer(tmp_path, max_epochs=epochs)
    runner.fit(module, loader(), loader())
    runner.save_checkpoint(tmp_path / name)
    return runner, module, tmp_path / name


def test_a_saved_folder_loads_in_hugging_face_and_holds_all_lightning_gave(tmp_path: Path) -> None:
    runner, module, path = trained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(path)
    assert_equal(dict(model.state_dict()), dict(module.model.state_dict()))
    given = runner._checkpoint_connector.dump_checkpoint()
    given.pop(PAYLOAD)
    state = load_state(path)
    assert state.keys() == given.keys()
    assert_equal(state["state_dict"], dict(given["state_dict"]))
    for mine, theirs in zip(state["optimizer_states"], given["optimizer_states"], strict=True):
        assert mine["param_groups"] == theirs["param_groups"]
        for index, entry in theirs["state"].items():
            assert_equal(mine["state"][index], entry)
    for key in ("epoch", "global_step", "loops", "lr_schedulers", "hyper_parameters"):
        assert state[key] == given[key], key


@pytest.mark.parametrize("name", ["a.ckpt", "epoch=0-step=4", "deep/er/one"])
def test_stopping_and_going_on_ends_at_the_same_bits(tmp_path: Path, name: str) -> None:
    whole = Tiny()
    trainer(tmp_path, max_epochs=3).fit(whole, loader(), loader())
    _, _, path = trained(tmp_path, name)
    again = Tiny()
    runner = trainer(tmp_path, max_epochs=3)
    runner.fit(again, loader(), loader(), ckpt_path=path)
    assert runner.global_step == 12
    assert_equal(weights(again), weights(whole))


def test_it_resumes_under_either_answer_to_weights_only(tmp_path: Path) -> None:
    _, module, path = trained(tmp_path)
    for weights_only in (None, True, False):
        again = Tiny()
        trainer(tmp_path, max_epochs=1).fit(again, loader(), ckpt_path=str(path), weights_only=weights_only)
        assert_equal(weights(again), weights(module))


def test_validate_and_test_take_a_folder(tmp_path: Path) -> None:
    _, module, path = trained(tmp_path)
    here = trainer(tmp_path).validate(module, loader(), verbose=False)
    there = trainer(tmp_path).validate(Tiny(), loader(), ckpt_path=path, verbose=False)
    assert here == there


def test_lightnings_own_checkpoint_callback_keeps_best_and_last(tmp_path: Path) -> None:
    callback = ModelCheckpoint(
        tmp_path / "kept", "babygpt-{val_loss:.2f}", "val_loss", save_top_k=2, save_last=True,
        auto_insert_metric_name=False,
    )  # fmt: skip
    module, runner = Tiny(), trainer(tmp_path, callback, max_epochs=4)
    runner.fit(module, loader(), loader())
    found = sorted(os.listdir(tmp_path / "kept"))
    assert "last.ckpt" in found
    assert len([n for n in found if n.startswith("babygpt-")]) == 2
    assert not [n for n in found if n.startswith(".")]
    for checkpoint in discover(tmp_path / "kept"):
        verify_folder(checkpoint.path)
    assert load_state(tmp_path / "kept" / "last.ckpt")["global_step"] == 16
    assert Path(callback.best_model_path).is_dir()
    assert float(callback.best_model_score) == pytest.approx(
        runner.validate(Tiny(), loader(), ckpt_path="best", verbose=False)[0]["val_loss"]
    )
    assert_equal(weights(module), load_state(tmp_path / "kept" / "last.ckpt")["state_dict"])


@pytest.mark.parametrize("save_last", [True, "link"])
def test_ckpt_path_last_goes_on_and_overwrites_last(tmp_path: Path, save_last: Any) -> None:
    def callback() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / "kept", monitor="val_loss", save_last=save_last)

    trainer(tmp_path, callback(), max_epochs=2).fit(Tiny(), loader(), loader())
    last = tmp_path / "kept" / "last.ckpt"
    assert last.is_symlink() == (save_last == "link")
    again, whole = Tiny(), Tiny()
    runner = trainer(tmp_path, callback(), max_epochs=4)
    runner.fit(again, loader(), loader(), ckpt_path="last")
    trainer(tmp_path, max_epochs=4).fit(whole, loader(), loader())
    assert_equal(weights(again), weights(whole))
    assert load_state(last)["global_step"] == 16


def test_callback_state_comes_back(tmp_path: Path) -> None:
    first = ModelCheckpoint(tmp_path / "kept", monitor="val_loss")
    trainer(tmp_path, first, max_epochs=2).fit(Tiny(), loader(), loader())
    second = ModelCheckpoint(tmp_path / "kept", monitor="val_loss")
    module = Tiny()
    trainer(tmp_path, second, max_epochs=2).fit(module, loader(), loader(), ckpt_path=first.best_model_path)
    assert second.best_model_path == first.best_model_path
    assert torch.equal(second.best_model_score, first.best_model_score)
    assert second.best_k_models.keys() == first.best_k_models.keys()
    assert module.restored is not None
    assert PAYLOAD not in module.restored


def test_weights_only_saves_a_folder_to_validate_and_not_to_resume(tmp_path: Path) -> None:
    module, runner = Tiny(), trainer(tmp_path, max_epochs=1)
    runner.fit(module, loader(), loader())
    runner.save_checkpoint(tmp_path / "light", weights_only=True)
    trainer(tmp_path).validate(Tiny(), loader(), ckpt_path=tmp_path / "light", verbose=False)
    with pytest.raises(KeyError, match="only the model"):
        trainer(tmp_path).fit(Tiny(), loader(), ckpt_path=tmp_path / "light")


def test_a_last_file_stands_for_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, module, path = trained(tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no links")

    monkeypatch.setattr(os, "symlink", refuse)
    link_last(tmp_path, path)
    again = Tiny()
    trainer(tmp_path, max_epochs=1).fit(again, loader(), ckpt_path=tmp_path / "last")
    assert_equal(weights(again), weights(module))


def test_tensors_go_where_map_location_says(tmp_path: Path) -> None:
    _, _, path = trained(tmp_path)
    state = FolderCheckpointIO().load_checkpoint(path, map_location="meta")
    assert state["state_dict"]["seen"].device.type == "meta"
    assert state["optimizer_states"][0]["state"][0]["exp_avg"].device.type == "meta"
    assert state["hyper_parameters"]["betas"] == (0.9, 0.95)


# -- refused ---------------------------------------------------------------------------------------


def test_a_module_that_gives_no_model_is_told_so(tmp_path: Path) -> None:
    runner = trainer(tmp_path, max_epochs=1)
    runner.fit(Tiny(gives=False), loader())
    with pytest.raises(CheckpointError, match=r"no Hugging Face model.*Train BabyGPT"):
        runner.save_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "a.ckpt").exists()


def test_a_damaged_folder_stops_the_fit(tmp_path: Path) -> None:
    _, _, path = trained(tmp_path)
    with open(path / "training" / "state.json", "a") as file:
        file.write(" ")
    with pytest.raises(CheckpointError, match=r"training/state\.json has"):
        trainer(tmp_path).fit(Tiny(), loader(), ckpt_path=path)


def test_other_kinds_of_paths_get_a_plain_message(tmp_path: Path) -> None:
    io = FolderCheckpointIO()
    (tmp_path / "pickle.ckpt").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(CheckpointError, match=r"is a file.*without this plugin"):
        io.load_checkpoint(tmp_path / "pickle.ckpt")
    with pytest.raises(CheckpointError, match="is no folder"):
        io.load_checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="no local path"):
        io.load_checkpoint("s3://bucket/one")
    module = Tiny()
    checkpoint = {PAYLOAD: HFPayload(module.model, None, {}), "state_dict": dict(module.state_dict())}
    with pytest.raises(InputError, match="no name"):
        io.save_checkpoint(checkpoint, tmp_path / ".hidden")
    with pytest.raises(TypeError, match="storage_options"):
        io.save_checkpoint({}, tmp_path / "a", storage_options={})


# -- removed ---------------------------------------------------------------------------------------


def test_removing_takes_checkpoints_and_links_only(tmp_path: Path) -> None:
    io = FolderCheckpointIO()
    _, _, path = trained(tmp_path, "one")
    (tmp_path / "last").symlink_to("one")
    io.remove_checkpoint(tmp_path / "last")
    verify_folder(path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.warns(UserWarning, match="not deleted"):
        io.remove_checkpoint(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
    (tmp_path / "old.ckpt").write_text("a file of Lightning's own writer")
    io.remove_checkpoint(str(tmp_path / "old.ckpt"))
    io.remove_checkpoint(path)
    io.remove_checkpoint(path)
    shutil.rmtree(tmp_path / "mine")
    assert os.listdir(tmp_path) == []
