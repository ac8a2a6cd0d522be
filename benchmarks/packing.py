"""How long `isolated` packing takes and how much of its windows is padding, on lengths as web text has them.

Lengths are log-normal, their tail the heavier the larger sigma: at 1.0 and a mean of 300 tokens the median is 182 and
one document in a hundred is longer than 1,850. Run it in the package's own environment.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from babygpt.data.efficiency import packing_statistics
from babygpt.data.packing import isolated_windows


def lengths(documents: int, mean: float, sigma: float) -> np.ndarray:
    """Tokens of each document, int64 [documents], at least 1."""
    drawn = np.random.default_rng(0).lognormal(np.log(mean) - sigma**2 / 2, sigma, documents)
    return np.maximum(1, np.rint(drawn)).astype(np.int64)


def main() -> None:
    """Prints a row of a table for each sigma."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--mean", type=float, default=300.0)
    parser.add_argument("--block", type=int, default=1024)
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.8, 1.0, 1.3])
    asked = parser.parse_args()
    print("| sigma | longest document | seconds | padding | cut documents | statistics, seconds |")
    for sigma in asked.sigmas:
        offsets = np.concatenate([[0], np.cumsum(lengths(asked.documents, asked.mean, sigma))])
        begun = time.perf_counter()
        windows = isolated_windows(offsets, asked.block)
        packed = time.perf_counter()
        found = packing_statistics(offsets, windows, "isolated")
        counted = time.perf_counter()
        print(
            f"| {sigma:g} | {found.quantiles[-1][1]:,} | {packed - begun:.2f} | {found.padding_share:.3%}"
            f" | {found.documents_cut / found.documents:.1%} | {counted - packed:.2f} |"
        )
    print(f"largest resident size: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
