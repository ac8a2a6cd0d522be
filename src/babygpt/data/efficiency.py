"""What a packing makes of documents: how long they are, how full the windows, what is cut.

Arithmetic on the documents' offsets and the windows: O(documents log documents), half a second for a million.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from babygpt.data.packing import Packing, Windows

__all__ = ["PackingStatistics", "packing_statistics"]

_QUANTILES = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PackingStatistics:
    """Lengths of documents, and the efficiency of the windows made of them.

    Attributes:
        packing: `stream`, `isolated` or `padded`.
        block: tokens of a full window.
        documents: in all.
        tokens: of all documents.
        mean_length: tokens a document.
        quantiles: (share, length) pairs: so many documents are at most so long, in tokens.
        windows: in all.
        padding: positions of the windows that hold no token.
        targets: tokens that the loss counts, in an epoch.
        documents_cut: that more than one window, or one window in several pieces, holds.
        pieces_cut: pieces of those documents beyond each one's first; 0 where nothing is cut.
        tokens_cut: tokens of those documents.
        documents_left_out: that are in no window: of one token or none, masked whole, or dropped as too long.
        tokens_left_out: in no window: theirs, and what was cut off or masked.
    """

    packing: Packing
    block: int
    documents: int
    tokens: int
    mean_length: float
    quantiles: tuple[tuple[float, int], ...]
    windows: int
    padding: int
    targets: int
    documents_cut: int
    pieces_cut: int
    tokens_cut: int
    documents_left_out: int
    tokens_left_out: int

    @property
    def positions(self) -> int:
        """Of all windows: what a forward pass costs."""
        return self.windows * self.block

    @property
    def padding_share(self) -> float:
        """Of the positions, those that hold no token."""
        return self.padding / max(1, self.positions)

    @property
    def target_share(self) -> float:
        """Of the positions, those that teach."""
        return self.targets / max(1, self.positions)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, the shares among them."""
        return {**asdict(self), "padding_share": self.padding_share, "target_share": self.target_share}

    def note(self) -> str:
        """What padding and cuts cost, in one sentence."""
        return (
            f"packing {self.packing}: {self.windows:,} windows of {self.block:,}, {self.padding_share:.2%} padding;"
            f" {_cut(self)}{_left_out(self)}"
        )

    def lines(self) -> list[str]:
        """For people."""
        lengths = ", ".join(f"{_quantile(share)} {length:,}" for share, length in self.quantiles)
        rows = [
            ("documents", f"{self.documents:,} of {self.tokens:,} tokens{_left_out(self)}"),
            ("length", f"mean {self.mean_length:,.1f}; {lengths}"),
            ("windows", f"{self.windows:,} of {self.block:,} tokens, {self.packing}"),
            ("padding", f"{self.padding:,} positions ({self.padding_share:.2%})"),
            ("split", _cut(self)),
            ("targets", f"{self.targets:,} ({self.target_share:.2%} of the positions)"),
        ]
        return [f"{name:>14}  {value}" for name, value in rows]


def _quantile(share: float) -> str:
    return {0.0: "shortest", 0.5: "median", 1.0: "longest"}.get(share) or f"{share:.0%} up to"


def _cut(found: PackingStatistics) -> str:
    if not found.documents_cut:
        return "no document is split"
    return (
        f"{found.pieces_cut:,} split{'s' * (found.pieces_cut > 1)} in {found.documents_cut:,} of {found.documents:,}"
        f" documents ({found.tokens_cut / found.tokens:.1%} of the tokens)"
    )


def _left_out(found: PackingStatistics) -> str:
    if not found.tokens_left_out:
        return ""
    return f"; {found.tokens_left_out:,} tokens and {found.documents_left_out:,} whole documents are in no window"


def packing_statistics(document_offsets: Int64s, windows: Windows, packing: Packing) -> PackingStatistics:
    """Count what a packing makes of documents.

    Args:
        document_offsets: int64 [documents + 1], from 0 to the number of tokens.
        windows: what `packing.pack` made of them.
        packing: how.
    """
    lengths = np.diff(document_offsets)
    pieces = _windows_of_documents(document_offsets, windows, stream=packing == "stream")
    cut = pieces > 1
    found = (
        np.quantile(lengths, _QUANTILES, method="inverted_cdf") if len(lengths) else np.zeros(len(_QUANTILES))
    )
    return PackingStatistics(
        packing=packing,
        block=windows.block,
        documents=len(lengths),
        tokens=int(lengths.sum()),
        mean_length=float(lengths.mean()) if len(lengths) else 0.0,
        quantiles=tuple(zip(_QUANTILES, map(int, found), strict=True)),
        windows=len(windows),
        padding=len(windows) * windows.block - int(windows.lengths.sum()),
        targets=int(windows.targets.sum()),
        documents_cut=int(cut.sum()),
        pieces_cut=int((pieces[cut] - 1).sum()),
        tokens_cut=int(lengths[cut].sum()),
        documents_left_out=int((pieces == 0).sum()),
        tokens_left_out=int(lengths.sum()) - _tokens_held(windows),
    )


def _windows_of_documents(document_offsets: Int64s, windows: Windows, *, stream: bool) -> Int64s:
    """In how many windows, or pieces of them, each document may have targets: int64 [documents]."""
    first, after = document_offsets[:-1], document_offsets[1:]
    if not stream:
        document = np.searchsorted(document_offsets, np.asarray(windows.starts), side="right") - 1
        return np.bincount(document, minlength=len(first)).astype(np.int64)
    # A stream's window has its targets from its second token on, and they come in order; with masks some windows
    # are missing.
    begins = np.asarray(windows.starts) + 1
    ends = begins + np.asarray(windows.lengths) - 1
    pieces = np.searchsorted(begins, after, side="left") - np.searchsorted(ends, first, side="right")
    return np.where(after > first, np.maximum(pieces, 0), 0).astype(np.int64)


def _tokens_held(windows: Windows) -> int:
    """Tokens of which some window holds one copy or more: pieces overlap by one at most."""
    starts, lengths = np.asarray(windows.starts), np.asarray(windows.lengths)
    in_order = np.argsort(starts)
    ends = (starts + lengths)[in_order]
    return int(lengths.sum() - (ends[:-1] > starts[in_order][1:]).sum())
