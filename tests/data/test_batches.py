from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from babygpt.data.batches import EMPTY_ROW, BatchPlan, ValidationPlan, WindowDataset, make_batch
from babygpt.data.order import Order
from babygpt.data.packing import pack
from babygpt.errors import RecipeError

PAD = 999
documents_drawn = st.lists(st.integers(1, 30), min_size=3, max_size=25)
packings = st.sampled_from(["stream", "isolated", "padded"])
lenient = partial(settings, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def numbered(lengths, masked):
    """Documents whose ids are their positions, so that a batch tells which tokens it holds; and masks."""
    ends = np.cumsum(lengths)
    documents = [list(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
    masks = [[p % 3 != 1 for p in document] for document in documents] if masked else None
    return documents, masks


@lenient(max_examples=60)
@given(documents_drawn, st.integers(2, 12), packings, st.booleans(), st.integers(1, 9), st.data())
def test_an_epoch_is_exact_whatever_the_layout(
    make_store, lengths, block, packing, masked, batch, data
) -> None:
    documents, masks = numbered(lengths, masked)
    store = make_store(documents, masks)
    try:
        windows = pack(store.offsets, block, packing, store.target_cumsum(), may_be_short=True)
    except ValueError:
        return  # nothing but documents of one token
    order = Order(len(windows), batch, seed=data.draw(st.integers(0, 99)))
    plan = BatchPlan(order, windows, data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3)))
    met: list[int] = []
    for step in range(order.steps_per_epoch):
        in_step, seen = 0, []
        for micro in range(plan.micro_batches):
            for rank in range(plan.world_size):
                rows = plan.rows(step, micro, rank)
                assert rows.shape == (plan.micro_batch,)
                seen += rows.tolist()
                made = make_batch(store, windows, rows, PAD)
                labels = made["labels"]
                assert labels.shape == (plan.micro_batch, block)
                assert (labels[:, 0] == -100).all()
                kept = labels[labels != -100]
                assert (made["input_ids"][labels != -100] == kept).all()
                met += kept.tolist()
                in_step += len(kept)
        assert in_step == plan.step_targets(step)
        # In the order of slots, ranks and micro-batches give the step's windows and then only empty rows.
        held = order.windows_of(step).tolist()
        assert seen == held + [EMPTY_ROW] * (len(seen) - len(held))
    firsts = {0} if packing == "stream" else {document[0] for document in documents}
    everything = [p for document in documents for p in document if p not in firsts]
    assert sorted(met) == [p for p in everything if not masked or p % 3 != 1]


def test_a_stream_batch_in_full(make_store) -> None:
    store = make_store([[10, 11, 12, 0], [20, 21, 0]])
    windows = pack(store.offsets, 5, "stream")
    made = make_batch(store, windows, np.array([0, 1, EMPTY_ROW]), PAD)
    assert set(made) == {"input_ids", "attention_mask", "labels"}
    assert all(tensor.dtype == torch.int64 for tensor in made.values())
    assert made["input_ids"].tolist() == [[10, 11, 12, 0, 20], [20, 21, 0, PAD, PAD], [PAD] * 5]
    assert made["labels"].tolist() == [
        [-100, 11, 12, 0, 20],
        [-100, 21, 0, -100, -100],
        [-100] * 5,
    ]
    assert made["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]


def test_padding_is_told_by_length_so_end_of_text_stays_a_target(make_store) -> None:
    store = make_store([[10, 11, 0], [20, 0]])
    windows = pack(store.offsets, 5, "padded")
    made = make_batch(store, windows, np.array([0, 1]), 0)
    assert made["input_ids"].tolist() == [[10, 11, 0, 0, 0], [20, 0, 0, 0, 0]]
    assert made["labels"].tolist() == [[-100, 11, 0, -100, -100], [-100, 0, -100, -100, -100]]


def test_an_isolated_batch_in_full(make_store) -> None:
    store = make_store([[10, 11, 12, 13, 14, 15, 0], [20, 21, 0], [30, 0]])
    windows = pack(store.offsets, 6, "isolated")
    made = make_batch(store, windows, np.arange(len(windows)), PAD)
    assert set(made) == {"input_ids", "position_ids", "labels"}
    # The long document is cut with one token of overlap; its rest shares a window with the second document.
    no = -100
    assert made["input_ids"].tolist() == [
        [10, 11, 12, 13, 14, 15],
        [15, 0, 20, 21, 0, PAD],
        [30, 0, PAD, PAD, PAD, PAD],
    ]
    assert made["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 2, 0], [0, 1, 0, 1, 2, 3]]
    assert made["labels"].tolist() == [
        [no, 11, 12, 13, 14, 15],
        [no, 0, no, 21, 0, no],
        [no, 0, no, no, no, no],
    ]


def test_masks_reach_the_labels(make_store) -> None:
    store = make_store([[10, 11, 12, 0]], [[False, False, True, True]])
    windows = pack(store.offsets, 4, "padded", store.target_cumsum())
    assert make_batch(store, windows, np.array([0]), 0)["labels"].tolist() == [[-100, -100, 12, 0]]


def test_the_plan_fills_up_with_empty_rows(make_store) -> None:
    store = make_store([list(range(100))])
    windows = pack(store.offsets, 11, "stream")
    plan = BatchPlan(Order(len(windows), 6, 0), windows, micro_batch=2, world_size=2)
    assert len(windows) == 10
    assert plan.micro_batches == 2
    assert (plan.rows(1, 1, 1) == EMPTY_ROW).all()
    with pytest.raises(ValueError, match="no micro-batch 2"):
        plan.rows(0, 2, 0)
    with pytest.raises(RecipeError):
        BatchPlan(plan.order, windows, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(make_store, workers: int) -> None:
    dataset = WindowDataset.of(make_store([list(range(200))]), 8, "stream", PAD)
    plan = BatchPlan(Order(len(dataset), 8, 0), dataset.windows, 3)
    rows = [plan.rows(step, micro) for step in range(3) for micro in range(plan.micro_batches)]
    loader = DataLoader(dataset, batch_size=None, sampler=rows, num_workers=workers)
    for loaded, wanted in zip(loader, rows, strict=True):
        for name, tensor in make_batch(dataset.store, dataset.windows, wanted, PAD).items():
            assert torch.equal(loaded[name], tensor)


def test_the_dataset_is_picklable(make_store) -> None:
    dataset = WindowDataset.of(make_store([list(range(50))]), 8, "stream", PAD)
    content = pickle.dumps(dataset)
    again = pickle.loads(content)
    assert torch.equal(again[np.array([2])]["input_ids"], dataset[np.array([2])]["input_ids"])


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    limit=st.none() | st.integers(1, 80),
    micro=st.integers(1, 9),
    world=st.integers(1, 4),
)
def test_validation_reads_the_same_windows_however_they_are_shared(
    sizes: list[int], limit: int | None, micro: int, world: int
) -> None:
    plan = ValidationPlan(tuple(sizes), limit)
    ids = plan.window_ids()
    wanted = sum(sizes) if limit is None else min(max(limit, len(sizes)), sum(sizes))
    assert len(set(ids.tolist())) == len(ids) == wanted
    source = np.repeat(np.arange(len(sizes)), sizes)
    read = np.bincount(source[ids], minlength=len(sizes))
    assert read.tolist() == plan.read()
    # Two sources that have windows left over are read alike, to one window.
    more = [n for n, size in zip(read.tolist(), sizes, strict=True) if n < size]
    assert not more or max(more) - min(more) <= 1
    assert not more or all(n <= max(more) for n in read.tolist())
    ranks = [plan.rows(micro, rank, world) for rank in range(world)]
    assert len({len(rows) for rows in ranks}) == 1, "every rank has as many batches"
    seen = np.concatenate([row for rows in ranks for row in rows])
    assert sorted(seen[seen >= 0].tolist()) == sorted(ids.tolist())
    for rows in ranks:
        for row, own in zip(rows, plan.sources(micro, world), strict=True):
            assert (source[row[row >= 0]] == own).all()


@lenient(max_examples=30)
@given(
    documents_drawn, st.integers(2, 12), packings, st.integers(1, 9), st.sampled_from([1e-6, 0.1, 0.5, 1.0])
)
def test_every_token_that_could_be_predicted_counts_with_its_weight_once(
    make_store, lengths, block, packing, batch, weight
) -> None:
    """As often as it is a target of the same documents without masks; a step's divisor is the sum of its weights."""
    documents, masks = numbered(lengths, masked=True)
    store, unmasked = make_store(documents, masks), make_store(documents)
    packed = partial(pack, store.offsets, block, packing, may_be_short=True)
    try:
        plain, windows = packed(None), packed(store.target_cumsum(), with_prompts=True)
    except ValueError:
        return
    order = Order(len(windows), batch, seed=3)
    plan = BatchPlan(order, windows, 2, 2, prompt_weight=weight)
    for step in range(order.steps_per_epoch):
        sums = [0.0, 0]
        for rows in (plan.rows(step, m, r) for m in range(plan.micro_batches) for r in (0, 1)):
            made, whole = (
                make_batch(store, windows, rows, PAD, weight),
                make_batch(unmasked, plain, rows, PAD),
            )
            wanted = np.zeros((2, block))
            for row, position in (whole["labels"] != -100).nonzero().tolist():
                is_target = whole["labels"][row, position] % 3 != 1
                wanted[row, position] = 1 if is_target else weight
                assert (made["labels"][row, position] != -100) == is_target
            assert made["loss_weights"].dtype == torch.float32
            np.testing.assert_array_equal(made["loss_weights"], wanted.astype(np.float32))
            assert torch.equal(made["input_ids"], whole["input_ids"])
            sums = [
                sums[0] + float(made["loss_weights"].double().sum()),
                sums[1] + int((wanted == weight).sum()),
            ]
        assert plan.step_weight(step) == pytest.approx(sums[0], rel=1e-12)
        assert plan.step_targets(step) == sum(int(windows.targets[w]) for w in order.windows_of(step))
        if weight < 1:
            assert plan.step_prompts(step) == sums[1]


def test_without_a_weight_nothing_is_added(make_store) -> None:
    documents, masks = numbered([5, 7], masked=True)
    store = make_store(documents, masks)
    windows = pack(store.offsets, 6, "stream", store.target_cumsum())
    assert set(make_batch(store, windows, np.array([0]), PAD)) == {"input_ids", "labels", "attention_mask"}
    plan = BatchPlan(Order(len(windows), 2, 0), windows, 1)
    assert (plan.step_weight(0), plan.step_prompts(0)) == (plan.step_targets(0), 0)
    assert type(plan.step_weight(0)) is int
