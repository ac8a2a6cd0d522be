"""Windows to tensors, and which windows each rank's micro-batches hold.

A step's windows are laid out in slots: p = micro * (world_size * micro_batch) + rank * micro_batch + row
holds the step's p-th window. Slots beyond the step's windows are empty rows (-1) that hold no target, so
every rank runs the same number of micro-batches and shapes never change. Ranks, micro-batches and workers
slice the order and never alter it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from babygpt.data.arrow import TokenStore
from babygpt.data.labels import IGNORED
from babygpt.data.mixture import Mixture
from babygpt.data.order import Order, permute
from babygpt.data.packing import Packing, Windows, pack
from babygpt.errors import RecipeError

__all__ = [
    "EMPTY_ROW",
    "BatchPlan",
    "ValidationPlan",
    "WindowDataset",
    "make_batch",
    "pad_id_of",
]

EMPTY_ROW = -1  # in place of a window number
_VALIDATION_SEED = 0

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BatchPlan:
    """The windows of each (step, micro-batch, rank), and the true target count of each step.

    Attributes:
        order: which windows each optimiser step holds.
        windows: the windows themselves, for their target counts.
        micro_batch: rows of one forward pass on one rank.
        world_size: number of ranks.
        prompt_weight: how much a token counts that is predicted and no target; those of targets is 1.
    """

    order: Order | Mixture
    windows: Windows
    micro_batch: int
    world_size: int = 1
    prompt_weight: float = 0.0
    _counted: dict[int, tuple[int, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.micro_batch < 1 or self.world_size < 1:
            raise RecipeError(
                f"a micro-batch of {self.micro_batch} rows on {self.world_size} ranks holds nothing",
                where="machine.micro_batch",
            )
        assert self.order.num_windows == len(self.windows)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one optimiser step: the same on every rank and in every step."""
        return -(-self.order.global_batch_size // (self.micro_batch * self.world_size))

    @property
    def counted_share(self) -> float:
        """Of the tokens of all windows, the share whose loss counts: targets, and prompts where they have a weight."""
        counted = self.windows.predicted() if self.prompt_weight else int(self.windows.targets.sum())
        return counted / (len(self.windows) * self.windows.block)

    def rows(self, step: int, micro: int, rank: int = 0) -> Int64s:
        """Window numbers of a micro-batch, int64 [micro_batch]; `EMPTY_ROW` (-1) beyond the step's last."""
        if not (0 <= micro < self.micro_batches and 0 <= rank < self.world_size):
            raise ValueError(f"no micro-batch {micro} on rank {rank} in this plan")
        rows: Int64s = self.step_rows(step, rank)[micro]
        return rows

    def step_rows(self, step: int, rank: int) -> Int64s:
        """The rows of every micro-batch of a step on a rank, int64 [micro_batches, micro_batch]."""
        windows = self.order.windows_of(step)
        slots = np.full(self.micro_batches * self.world_size * self.micro_batch, EMPTY_ROW, dtype=np.int64)
        slots[: len(windows)] = windows
        return slots.reshape(self.micro_batches, self.world_size, self.micro_batch)[:, rank]

    def step_targets(self, step: int) -> int:
        """Target tokens of step `step`, all ranks and micro-batches."""
        return self._counts(step)[0]

    def step_prompts(self, step: int) -> int:
        """Of the same step the tokens that count with `prompt_weight`; 0 where that is 0."""
        return self._counts(step)[1]

    def step_weight(self, step: int) -> float:
        """The sum of its tokens' weights, what the summed loss is divided by: its targets if prompts count nothing."""
        targets, prompts = self._counts(step)
        return targets + _rounded(self.prompt_weight) * prompts if prompts else targets

    def _counts(self, step: int) -> tuple[int, int]:
        """Targets and prompts. Every micro-batch of a step asks for them, so that the last answer is kept."""
        if step not in self._counted:
            self._counted.clear()
            windows = self.order.windows_of(step)
            targets = int(self.windows.targets[windows].sum())
            prompts = self.windows.predicted(windows) - targets if self.prompt_weight else 0
            self._counted[step] = targets, prompts
        return self._counted[step]


def make_batch(
    store: TokenStore, windows: Windows, rows: Int64s, pad_id: int, prompt_weight: float = 0.0
) -> dict[str, torch.Tensor]:
    """Read windows into tensors ready for `model(**batch)`.

    Args:
        store: the tokens.
        windows: where each window's pieces lie in the store.
        rows: int [micro_batch] window numbers; `EMPTY_ROW` (-1) makes a row without targets.
        pad_id: id put behind the tokens. Any valid id will do: padding is told by length, never by id.
        prompt_weight: how much tokens count that are no targets but could be: all but a piece's first.

    Returns:
        int64 tensors [micro_batch, block]: `input_ids`, `labels` (-100 where a token is no target, else the
        token itself; models shift them) and, when packed in isolation, `position_ids` that restart with every
        piece, else `attention_mask`. A bare Hugging Face model isolates them only under `use_cache=False`, which
        `BabyGPT` sees to. The labels' targets number exactly `windows.targets[rows].sum()`.
        With a prompt weight also `loss_weights`, float32: 1 for targets, that weight for prompts, 0 for the rest;
        which the loss of `BabyGPT` takes, and no Hugging Face model.
    """
    shape = (len(rows), windows.block)
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    labels = np.full(shape, IGNORED, dtype=np.int64)
    # 1 on an empty row's first position: a row that may attend to nothing gives NaN in the softmax.
    attention_mask = np.zeros(shape, dtype=np.int64)
    attention_mask[:, 0] = 1
    position_ids = np.empty(shape if windows.isolated else (0, 0), dtype=np.int64)
    weights = np.zeros(shape if prompt_weight else (0, 0), dtype=np.float32)
    for row, window in enumerate(rows.tolist()):
        at = 0
        if window != EMPTY_ROW:
            for piece in range(int(windows.offsets[window]), int(windows.offsets[window + 1])):
                start, length = int(windows.starts[piece]), int(windows.lengths[piece])
                ids = store.ids(start, length)
                input_ids[row, at : at + length] = ids
                _fill_labels(labels[row, at : at + length], store, start, ids)
                if windows.isolated:
                    position_ids[row, at : at + length] = np.arange(length)
                if prompt_weight:
                    is_target = labels[row, at + 1 : at + length] != IGNORED
                    weights[row, at + 1 : at + length] = np.where(is_target, 1, prompt_weight)
                at += length
        if windows.isolated:
            # What is left is a piece of its own, which no document attends to.
            position_ids[row, at:] = np.arange(windows.block - at)
        attention_mask[row, :at] = 1
    batch = {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}
    if windows.isolated:
        batch["position_ids"] = torch.from_numpy(position_ids)
    else:
        batch["attention_mask"] = torch.from_numpy(attention_mask)
    if prompt_weight:
        batch["loss_weights"] = torch.from_numpy(weights)
    return batch


def _rounded(weight: float) -> float:
    """As it stands in `loss_weights`."""
    return float(np.float32(weight))


def _fill_labels(labels: Int64s, store: TokenStore, start: int, ids: npt.NDArray[np.unsignedinteger]) -> None:
    """Labels of one piece: every target but its first token, which nothing in the piece predicts."""
    if store.has_targets:
        is_target = store.target_mask(start + 1, len(ids) - 1)
        labels[1:] = np.where(is_target, ids[1:].astype(np.int64), IGNORED)
    else:
        labels[1:] = ids[1:]


class WindowDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Window numbers to a whole micro-batch: give the loader rows as its sampler and no collation.

    Picklable: the store goes to a worker as its folder and is mapped again there.
    """

    def __init__(self, store: TokenStore, windows: Windows, pad_id: int, prompt_weight: float = 0.0) -> None:
        self.store, self.windows, self.pad_id, self.prompt_weight = store, windows, pad_id, prompt_weight

    @classmethod
    def of(
        cls, store: TokenStore, block: int, packing: Packing, pad_id: int, *, may_be_short: bool = False
    ) -> WindowDataset:
        """Pack a whole store; arguments and errors as of `packing.pack`."""
        windows = pack(store.offsets, block, packing, store.target_cumsum(), may_be_short=may_be_short)
        return cls(store, windows, pad_id)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, rows: Int64s) -> dict[str, torch.Tensor]:
        return make_batch(self.store, self.windows, np.atleast_1d(rows), self.pad_id, self.prompt_weight)


@dataclass(frozen=True)
class ValidationPlan:
    """Which validation windows are read: a fixed sample in a fixed order, whatever the batch size.

    Of several sources as many windows are read of each, and all of one that has fewer; a batch holds windows of one.

    Args:
        sizes: validation windows of each source; those of a source are numbered behind those before it.
        limit: at most so many are read, but one of each source (None: all).
    """

    sizes: tuple[int, ...]
    limit: int | None

    def read(self) -> list[int]:
        """How many windows of each source are read."""
        left = sum(self.sizes) if self.limit is None else max(self.limit, len(self.sizes))
        read = [0] * len(self.sizes)
        for done, number in enumerate(sorted(range(len(read)), key=lambda n: self.sizes[n])):
            read[number] = min(self.sizes[number], left // (len(read) - done))
            left -= read[number]
        return read

    def window_ids(self) -> Int64s:
        """int64 [read]: the windows read, in order."""
        return np.concatenate(self._ids())

    def rows(self, micro_batch: int, rank: int, world_size: int) -> list[Int64s]:
        """The rows of each batch of one rank; every rank has the same number of batches, filled with -1."""
        slots = micro_batch * world_size
        rows: list[Int64s] = []
        for ids in self._ids():
            batches = -(-len(ids) // slots)
            padded = np.full(batches * slots, EMPTY_ROW, dtype=np.int64)
            padded[: len(ids)] = ids
            rows.extend(padded.reshape(batches, world_size, micro_batch)[:, rank])
        return rows

    def sources(self, micro_batch: int, world_size: int) -> list[int]:
        """Which source each batch of `rows` is of."""
        slots = micro_batch * world_size
        return [number for number, read in enumerate(self.read()) for _ in range(-(-read // slots))]

    def _ids(self) -> list[Int64s]:
        """The windows read of each source."""
        found, first = [], 0
        for read, size in zip(self.read(), self.sizes, strict=True):
            ids = np.arange(read, dtype=np.int64)
            found.append(first + (ids if read == size else permute(ids, size, _VALIDATION_SEED, 0)))
            first += size
        return found


def pad_id_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills short windows; labels mask it by length, so that it may well be end-of-text."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(candidate, int):
            return candidate
    return 0
