"""GPUs and instructions as the system tells of them, without torch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["gpus_of_the_system", "has_amx", "hidden_by_the_environment"]

_NVIDIA = Path("/proc/driver/nvidia/gpus")
_AMD = Path("/dev/kfd")
_CPU = Path("/proc/cpuinfo")


def gpus_of_the_system() -> str:
    """The GPUs that the system has, in words; empty where it has none that can train."""
    with_driver = len(list(_NVIDIA.iterdir())) if _NVIDIA.is_dir() else 0
    if with_driver:
        return f"{with_driver} NVIDIA GPU{'s' * (with_driver > 1)}"
    if shutil.which("nvidia-smi") and os.path.exists("/dev/nvidiactl"):
        return "an NVIDIA GPU"
    return "an AMD GPU" if _AMD.exists() else ""


def hidden_by_the_environment() -> bool:
    """Whether CUDA_VISIBLE_DEVICES leaves no GPU."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles")


def has_amx() -> bool:
    """Whether the processor multiplies bf16 matrices in hardware of its own."""
    try:
        return "amx_bf16" in _CPU.read_text(encoding="utf-8")
    except OSError:
        return False
