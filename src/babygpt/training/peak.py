"""What a device multiplies at most, measured: the yardstick of a run's speed.

The makers' figures hold for no clock that a device keeps up, and none are told of processors; a product of two large
matrices comes as near to the device's own limit as a program can. A step's FLOPs over it are the share that the
literature calls model FLOPs utilisation.
"""

from __future__ import annotations

import time

import torch

__all__ = ["matrix_peak"]

_SIZES = {"cpu": (1024, 1), "cuda": (4096, 16)}  # of a matrix, and products on end before they are waited for
_OTHER = (2048, 4)
_SECONDS = 0.2
_FEWEST, _MOST = 3, 30
_TYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "64-true": torch.float64}


def matrix_peak(device: torch.device, precision: str) -> float:
    """Floating-point operations a second of a square matrix product, the fastest of some; takes about 0.3 s.

    Args:
        device: it is waited for, so that this is for the time before training.
        precision: Lightning's name of the run's.
    """
    size, products = _SIZES.get(device.type, _OTHER)
    dtype = _TYPES.get(precision, torch.float32)
    # Random numbers, since a chip multiplies equal ones at less power and so faster; not from the run's generator.
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.rand(size, size, generator=generator).to(device, dtype) for _ in range(2))
    _wait(left @ right)
    fastest, spent, done = float("inf"), 0.0, 0
    while done < _FEWEST or (spent < _SECONDS and done < _MOST):
        begun = time.perf_counter()
        for _ in range(products):
            product = left @ right
        _wait(product)
        took = time.perf_counter() - begun
        fastest, spent, done = min(fastest, took), spent + took, done + 1
    return 2 * products * size**3 / fastest


def _wait(product: torch.Tensor) -> None:
    """Until it is computed: reading a number of it waits on every kind of device."""
    product[0, 0].item()
