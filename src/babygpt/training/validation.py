"""A validation's sums: total loss over total targets, of everything and of each source.

val_loss is the total over all windows that are read. Of several sources the same number of windows is read of each,
and all of one that has fewer (`ValidationPlan`), whatever their weights in training: so that it means the same when
weights change, and every source is told as exactly. Bits per byte divide by the bytes that these very targets have on
average in their source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from babygpt.data.joined import parts_of
from babygpt.data.module import LLMDataModule

__all__ = ["ValidationSums", "sums_of"]


class ValidationSums:
    """Adds up batches, each of one source.

    Args:
        names: of the sources; none where there is but one.
        batches: the source of each batch; empty where there is but one.
        bytes_per_target: of each source; none where they are not known.
    """

    def __init__(
        self, names: Sequence[str] = (), batches: Sequence[int] = (), bytes_per_target: Sequence[float] = ()
    ) -> None:
        self._names, self._batches = names, batches
        self._bytes_per_target = torch.tensor(bytes_per_target, dtype=torch.float64)
        self._sums: list[list[torch.Tensor]] = [[] for _ in range(max(1, len(names)))]

    def add(self, batch: int, nll: torch.Tensor, targets: torch.Tensor) -> None:
        """Adds a batch's summed loss and target count; waits for no device."""
        source = self._batches[batch] if self._batches else 0
        self._sums[source].append(torch.stack([nll.detach().float(), targets.float()]))

    def metrics(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """What is logged; nothing where no token is a target.

        Args:
            reduce: sums over the ranks.
        """
        none = torch.zeros(2, dtype=torch.float64)
        each = [torch.stack(sums).cpu().double().sum(dim=0) if sums else none for sums in self._sums]
        sums = reduce(torch.stack(each)).cpu()
        nll, targets = sums.sum(dim=0).tolist()
        if not targets:
            return {}
        loss = nll / targets
        found = {"val_loss": loss, "val_perplexity": math.exp(min(loss, 80.0))}
        if len(self._bytes_per_target):
            num_bytes = float((sums[:, 1] * self._bytes_per_target).sum())
            found["val_bits_per_byte"] = nll / math.log(2) / num_bytes
        for name, (own, count) in zip(self._names, sums.tolist(), strict=False):
            if count:
                found[f"val_loss/{name}"] = own / count
        return found


def sums_of(data: LLMDataModule | None) -> ValidationSums:
    """The sums of a validation that is about to begin; `data` is None with somebody's own loader."""
    if data is None:
        return ValidationSums()
    names = data.sources
    batches = data.validation.sources(data.batch_size, data.world_size) if names else []
    return ValidationSums(names, batches, [s.manifest.bytes_per_target for s in parts_of(data.prepared.val)])
