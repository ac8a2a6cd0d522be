"""Publishing checkpoints in the order that a run does, with the shim's help killed or failed on the way."""

from __future__ import annotations

import ctypes
import hashlib
import io
import tempfile
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import GPT2Config, GPT2LMHeadModel

from babygpt.checkpoints import (
    best_name,
    copy_checkpoint,
    discover,
    keep,
    link_last,
    load_state,
    newest,
    publish,
    step_name,
)
from babygpt.errors import InputError

# As in shim.c.
KINDS = {
    name: number
    for number, name in enumerate(
        (
            "open",
            "write",
            "truncate",
            "fsync",
            "rename",
            "link",
            "symlink",
            "unlink",
            "mkdir",
            "rmdir",
            "mark",
        )
    )
}
RECORD, KILL, TEAR, FAIL_ONCE, FAIL_FROM = range(5)
NAMES = ("open", "mkdir", "rename", "link", "symlink", "unlink", "rmdir")
ALL = (*NAMES, "write", "truncate", "fsync")
_LOSSES = {1: 3.0, 3: 2.0, 4: 2.5}  # a new best at steps 1 and 3, none at 4
_NAME = "the-only-one"


@dataclass(frozen=True)
class Arm:
    """What the shim does below the folder: at operation number `at` of these kinds, counted from 0."""

    folder: str
    mode: int = RECORD
    at: int = -1
    error: int = 0
    kinds: tuple[str, ...] = ALL
    log: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Shim:
    """The preloaded library, in a child."""

    def __init__(self, arm: dict[str, Any]) -> None:
        self._library = ctypes.CDLL(None)
        bits = sum(1 << KINDS[kind] for kind in arm["kinds"])
        self._library.shim_arm(
            arm["folder"].encode(),
            arm["mode"],
            ctypes.c_long(arm["at"]),
            arm["error"],
            bits,
            arm["log"].encode(),
        )

    def disarm(self) -> None:
        self._library.shim_disarm()

    def mark(self, text: str) -> None:
        """Puts a line into the record."""
        self._library.shim_mark(text.encode())

    @property
    def count(self) -> int:
        self._library.shim_count.restype = ctypes.c_long
        return int(self._library.shim_count())


# -- a state for each step -------------------------------------------------------------------------------------------


def model_at(step: int) -> GPT2LMHeadModel:
    torch.set_num_threads(1)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=16, n_embd=8, n_layer=1, n_head=1, n_positions=8, bos_token_id=0, eos_token_id=0
        )
    )
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    return model


def state_at(model: GPT2LMHeadModel, step: int) -> dict[str, Any]:
    moments = {
        number: {"step": torch.tensor(float(step)), "exp_avg": parameter.detach() * step}
        for number, parameter in enumerate(model.parameters())
    }
    return {
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
        "optimizer_states": [{"state": moments, "param_groups": [{"lr": 1 / step}]}],
        "global_step": step,
    }


def digest(state: Any) -> str:
    """Of every tensor's bits and every number, whatever the order of the keys."""
    found = hashlib.sha256()

    def walk(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.update(
                f"{value.dtype} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes()
            )
        elif isinstance(value, dict):
            for key in sorted(value, key=repr):
                found.update(repr(key).encode())
                walk(value[key])
        elif isinstance(value, list | tuple):
            for inner in value:
                walk(inner)
        else:
            found.update(repr(value).encode())

    walk(state)
    return found.hexdigest()


def digest_at(step: int) -> str:
    return digest(state_at(model_at(step), step))


# -- the two ways to publish -----------------------------------------------------------------------------------------


def save_of_a_run(parent: Path, step: int) -> None:
    """A step's checkpoint, a copy of it when it is the best, `last`, and what is superseded goes."""
    loss = _LOSSES.get(step)
    model = model_at(step)
    path = publish(
        parent,
        step_name(step),
        model=model,
        tokenizer=None,
        state=state_at(model, step),
        facts={"step": step, "val_loss": loss},
        replace=True,
    )
    print(f"published {step}", flush=True)
    link_last(parent, path)
    keep(parent, newest=2, say=print)
    if loss is not None and loss <= min(_LOSSES[s] for s in _LOSSES if s <= step):
        copy_checkpoint(path, best_name(loss))
        keep(parent, newest=2, say=print)


def save_under_one_name(parent: Path, step: int) -> None:
    """Each checkpoint takes the place of the one before, as Lightning's own callback asks for."""
    model = model_at(step)
    publish(
        parent,
        _NAME,
        model=model,
        tokenizer=None,
        state=state_at(model, step),
        facts={"step": step},
        replace=True,
    )
    print(f"published {step}", flush=True)


WAYS = {"run": save_of_a_run, "one name": save_under_one_name}


def warm_up() -> None:
    """Does everything once, so that what is loaded on first use is there."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        save_of_a_run(Path(folder), 1)
        load_state(Path(folder, step_name(1)))


# -- in a child ------------------------------------------------------------------------------------------------------


def publish_steps(way: str, parent: str, first: int, last: int, arm: dict[str, Any]) -> int:
    """Publishes the steps; prints `published N` after each and the number of operations at the end."""
    shim = Shim(arm)
    for step in range(first, last + 1):
        WAYS[way](Path(parent), step)
        shim.mark(f"published {step}")
    shim.disarm()
    print(f"operations {shim.count}", flush=True)
    return 0


def publish_through_failure(way: str, parent: str, first: int, last: int, arm: dict[str, Any]) -> int:
    """The same; a failure is printed, what is there then is looked at, the fault mended, and the step done again."""
    folder = Path(parent)
    shim = Shim(arm)
    step, failed = first, 0
    while step <= last:
        try:
            WAYS[way](folder, step)
        except (InputError, OSError, SafetensorError) as error:
            failed += 1
            print(f"failed at {step} {type(error).__name__}: {error}", flush=True)
            found = newest(folder, print)
            shim.disarm()
            assert failed == 1, "it fails after the fault was mended"
            assert found is not None, "the checkpoint before is gone"
            there = int(load_state(found)["global_step"])
            print(f"there {there}", flush=True)
            assert there in (step - 1, step), there
            if there == step:
                link_last(folder, found)
                step += 1
        else:
            step += 1
    shim.disarm()
    print(f"operations {shim.count}", flush=True)
    assert [c.step for c in discover(folder) if c.path.name.startswith("step-")][:1] in ([last], [])
    return 0
