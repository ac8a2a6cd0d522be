"""The verb `checkpoint verify`."""

from __future__ import annotations

import pytest

from babygpt.errors import CheckpointError
from babygpt.files import publish_folder
from babygpt.settings import VerifySettings
from babygpt.verify import verify


def checkpoint(parent, step):
    def fill(folder):
        (folder / "model.safetensors").write_bytes(b"x" * 100 * step)
        (folder / "training").mkdir()
        (folder / "training" / "state.json").write_text("{}")

    return publish_folder(parent, f"step-{step:06d}", fill, {"step": step})


@pytest.fixture
def run(tmp_path):
    out = tmp_path / "run"
    for step in (1, 2, 3):
        checkpoint(out / "checkpoints", step)
    (out / "recipe.yaml").write_text("seed: 0\n")
    (out / "checkpoints" / "last").symlink_to("step-000003")
    (out / "checkpoints" / ".partial-x").mkdir()
    return out


def found(path):
    return [(c.step, c.files, c.bytes) for c in verify(VerifySettings(str(path))).checkpoints]


def test_one_checkpoint(run):
    assert found(run / "checkpoints" / "step-000002") == [(2, 2, 202)]
    assert found(run / "checkpoints" / "last") == [(3, 2, 302)]


def test_last_as_a_one_line_file(run):
    (run / "checkpoints" / "last").unlink()
    (run / "checkpoints" / "last").write_text("step-000003\n")
    assert found(run / "checkpoints" / "last") == [(3, 2, 302)]


def test_a_run_is_all_of_its_checkpoints(run):
    every = [(1, 2, 102), (2, 2, 202), (3, 2, 302)]
    assert found(run) == every
    assert found(run / "checkpoints") == every


def test_result(run):
    result = verify(VerifySettings(str(run / "checkpoints" / "step-000001")))
    path = str(run / "checkpoints" / "step-000001")
    assert result.lines() == [f"{path} is whole: 2 files, 102 bytes"]
    assert result.to_dict() == {
        "path": path,
        "checkpoints": [{"path": path, "step": 1, "files": 2, "bytes": 102}],
    }


def test_damage_is_named(run):
    (run / "checkpoints" / "step-000002" / "model.safetensors").write_bytes(b"y" * 200)
    with pytest.raises(CheckpointError, match=r"step-000002: model\.safetensors is damaged"):
        verify(VerifySettings(str(run)))
    assert found(run / "checkpoints" / "step-000001") == [(1, 2, 102)]


def test_every_damaged_checkpoint_is_named(run):
    (run / "checkpoints" / "step-000002" / "model.safetensors").write_bytes(b"y" * 200)
    (run / "checkpoints" / "step-000003" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"step-000002.*step-000003.*never finished"):
        verify(VerifySettings(str(run)))


def test_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="is no folder"):
        verify(VerifySettings(str(tmp_path / "no")))
    with pytest.raises(CheckpointError, match="never finished"):
        verify(VerifySettings(str(tmp_path)))
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
        verify(VerifySettings(str(tmp_path)))
