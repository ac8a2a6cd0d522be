"""Environment variables that contradict each other, slow a run down or weaken what keeps it safe."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from babygpt.doctor.findings import Finding, fault, ok, warning

__all__ = ["check_threads", "check_variables", "compiling_is_off", "is_true"]

_TRUE = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class _Rule:
    """A variable that is better not set so.

    Args:
        name: of the variable.
        values: that it should not have; empty for any value.
        is_fault: whether a run fails or goes wrong; else it is slower or less safe.
        what: is so then.
        mend: of it.
    """

    name: str
    values: tuple[str, ...]
    is_fault: bool
    what: str
    mend: str


_RULES = (
    _Rule("CUDA_LAUNCH_BLOCKING", _TRUE, False, "each kernel is waited for: training is slow", "Unset it"),
    _Rule("TORCHDYNAMO_DISABLE", _TRUE, False, "torch.compile does nothing", "Unset it"),
    _Rule("TORCH_COMPILE_DISABLE", _TRUE, False, "torch.compile does nothing", "Unset it"),
    _Rule("NVIDIA_TF32_OVERRIDE", ("1",), False, "fp32 products keep 10 bits only", "Unset it"),
    _Rule("ATEN_CPU_CAPABILITY", ("default", "avx2"), False, "torch leaves vector instructions unused", "Unset it"),
    _Rule("ONEDNN_MAX_CPU_ISA", (), False, "products may leave the fastest instructions unused", "Unset it"),
    _Rule("DNNL_MAX_CPU_ISA", (), False, "products may leave the fastest instructions unused", "Unset it"),
    _Rule(
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", _TRUE, True,
        "torch.load runs whatever code a foreign checkpoint holds", "Unset it",
    ),
    _Rule("USE_HUB_KERNELS", _TRUE, False, "transformers downloads compiled code and runs it", "Unset it"),
    _Rule("HF_HUB_DISABLE_SSL_VERIFICATION", _TRUE, True, "nobody checks who answers as the hub", "Unset it"),
    _Rule("CURL_CA_BUNDLE", ("",), True, "empty, it switches the check of certificates off", "Unset it"),
    _Rule("TRANSFORMERS_CACHE", (), False, "it is no longer read", "Set HF_HOME to the folder instead"),
    _Rule("PYTORCH_TRANSFORMERS_CACHE", (), False, "it is no longer read", "Set HF_HOME to the folder instead"),
)  # fmt: skip
_ABOUT = "environment"
_FILES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK")


def is_true(value: str | None) -> bool:
    """Whether a variable's value means yes."""
    return (value or "").strip().lower() in _TRUE


def compiling_is_off() -> bool:
    """Whether the environment switches torch.compile off."""
    return any(is_true(os.environ.get(name)) for name in ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE"))


def check_variables() -> Iterator[Finding]:
    """Every variable that is set and better were not."""
    found = [*_by_rule(os.environ), *_contradictions(os.environ)]
    yield from found or [ok(_ABOUT, "no variable is in the way")]


def _by_rule(environ: Mapping[str, str]) -> Iterator[Finding]:
    for rule in _RULES:
        value = environ.get(rule.name)
        if value is None or (rule.values and value.strip().lower() not in rule.values):
            continue
        if value or "" in rule.values:
            found = fault if rule.is_fault else warning
            yield found(_ABOUT, f"{rule.name}={value}: {rule.what}", rule.mend)


def _contradictions(environ: Mapping[str, str]) -> Iterator[Finding]:
    hub, transformers = environ.get("HF_HUB_OFFLINE"), environ.get("TRANSFORMERS_OFFLINE")
    if hub is not None and transformers is not None and is_true(hub) != is_true(transformers):
        yield warning(
            _ABOUT,
            f"HF_HUB_OFFLINE is {hub} and TRANSFORMERS_OFFLINE is {transformers}",
            "Set only HF_HUB_OFFLINE, to 1 for no network",
        )
    for name in _FILES:
        if environ.get(name) and not Path(environ[name]).exists():
            yield fault(
                _ABOUT, f"{name}={environ[name]} is not there: no download works", "Unset or correct it"
            )
    endpoint = environ.get("HF_ENDPOINT", "")
    if endpoint and not endpoint.startswith("https://"):
        yield warning(
            _ABOUT,
            f"HF_ENDPOINT={endpoint} is not https: a token can be read on its way",
            "Give an https address",
        )
    launched = [name for name in _LAUNCHED if environ.get(name, "") not in ("", "0")]
    if environ.get("WORLD_SIZE") == "1" and launched == ["WORLD_SIZE"]:
        launched = []
    if launched and not environ.get("MASTER_ADDR") and not environ.get("SLURM_PROCID"):
        said = ", ".join(f"{name}={environ[name]}" for name in launched)
        yield fault(
            _ABOUT,
            f"{said} without MASTER_ADDR: a run takes itself for one process of several and does not find the others",
            f"unset {' '.join(name for name in _LAUNCHED if name in environ)}",
        )


def check_threads(threads: int, cores: int) -> Iterator[Finding]:
    """Whether torch computes with as many threads as it may use cores.

    Args:
        threads: of torch's arithmetic.
        cores: that this process may use.
    """
    name = next((n for n in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(n)), None)
    said = f"{threads} threads for {cores} usable cores" + (f" ({name}={os.environ[name]})" if name else "")
    both = {os.environ[n] for n in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(n)}
    if name and not all(value.split(",")[0].strip().isdigit() for value in both):
        yield warning("threads", f"{name}={os.environ[name]} is no number", f"Set it to {cores}, or unset it")
    elif threads > cores:
        yield warning("threads", f"{said}: they wait for each other", f"Set OMP_NUM_THREADS={cores}")
    elif 2 * threads <= cores and name:
        yield warning("threads", f"{said}: most of the processor idles", f"Unset it, or set it to {cores}")
    elif len(both) > 1:
        yield warning("threads", "OMP_NUM_THREADS and MKL_NUM_THREADS differ", "Unset MKL_NUM_THREADS")
    else:
        yield ok("threads", said)
