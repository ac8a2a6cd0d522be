"""Tiny numeric runs on every device, in a process of their own: `python -m babygpt.doctor.probe numerics|compile`.

What is broken may end the process, so that it says before each run which comes next, and each finding as soon as it
is there: one JSON object a line. Cost: the imports, about five seconds, and half a second a device.

Bounds: a product of inner length k with unit roundoff u differs from the exact one by at most k u |A||B| (Higham,
Accuracy and Stability of Numerical Algorithms, 3.13), however its sums are ordered; in bf16 the sums are fp32 and the
result is rounded, twice at most where it is added up in parts.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from babygpt.doctor.findings import Finding, fault, ok, warning

__all__ = ["PACKAGES", "attention", "compiled", "devices", "imported", "main", "optimizer", "products"]

PACKAGES = ("numpy", "torch", "safetensors", "tokenizers", "pyarrow", "transformers", "datasets", "lightning")
_INNER = 256
_FP32, _BF16 = 2.0**-24, 2.0**-8  # unit roundoffs
_OTHER_BUILD = "Install the build of torch for this device, as pytorch.org/get-started says"
_PROBE_SEED = 20_250_102


def imported() -> Iterator[Finding]:
    """Whether every heavy package can be imported."""
    for package in PACKAGES:
        try:
            importlib.import_module(package)
        except Exception as error:
            # A broken installation raises whatever its first lines happen to meet.
            lines = str(error).strip().splitlines() or [""]
            yield fault(
                package,
                f"cannot be imported: {type(error).__name__}: {lines[0]}",
                f"pip install --force-reinstall --no-deps {package}, in the version of the constraints",
            )
            return
    yield ok("imports", f"all {len(PACKAGES)} heavy packages can be imported")


def devices() -> Iterator[Finding]:
    """What torch computes on, and whether it sees the GPU that the system has."""
    import torch

    from babygpt.computer import detect
    from babygpt.doctor.devices import gpus_of_the_system, hidden_by_the_environment

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        facts = detect()
    yield ok("device", facts.describe())
    gpus = gpus_of_the_system()
    if not gpus or facts.cuda_count:
        return
    if hidden_by_the_environment():
        yield warning("gpu", f"CUDA_VISIBLE_DEVICES hides {gpus}: training is on the CPU", "Unset it")
    elif torch.version.cuda is None and torch.version.hip is None:
        yield warning("gpu", f"this build of torch ({torch.__version__}) cannot use {gpus}", _OTHER_BUILD)
    else:
        reason = "; ".join(str(each.message).splitlines()[0] for each in said) or "it says no reason"
        yield fault(
            "gpu",
            f"torch finds no GPU, and the system has {gpus}: {reason}",
            f"Update the driver. {_OTHER_BUILD}",
        )


def threads() -> Iterator[Finding]:
    """Whether torch computes with as many threads as it may use cores."""
    import torch

    from babygpt.computer import usable_cores
    from babygpt.doctor.environment import check_threads

    yield from check_threads(torch.get_num_threads(), usable_cores())


def products(device: str) -> Iterator[Finding]:
    """Whether products are right in fp32 and bf16, and whether bf16 is fast where the processor has it."""
    import torch

    from babygpt.computer import detect
    from babygpt.doctor.devices import has_amx

    left, right = (_draw(torch, (_INNER, _INNER), n) for n in range(2))
    allowed = {torch.float32: 2 * _INNER * _FP32, torch.bfloat16: 2 * _BF16}
    for dtype, tolerance in allowed.items():
        a, b = left.to(dtype), right.to(dtype)
        exact = a.double() @ b.double()
        error = (torch.mm(a.to(device), b.to(device)).cpu().double() - exact).abs()
        worst = float((error / (a.double().abs() @ b.double().abs())).max())
        name = str(dtype).removeprefix("torch.")
        if not worst <= tolerance:
            yield fault(
                device,
                f"products in {name} are wrong: off by {worst:.2g} of their terms, {tolerance:.2g} at most is rounding",
                f"Train with --machine.precision {'32-true' if dtype == torch.bfloat16 else '64-true'}. {_OTHER_BUILD}",
            )
            return
    kind = device.partition(":")[0]
    if detect().bf16(kind):
        yield ok(device, "products are right in fp32 and bf16, and bf16 is faster")
    elif kind == "cpu" and has_amx():
        yield warning(
            device,
            "the processor has AMX, and bf16 is not faster than fp32",
            "Unset ONEDNN_MAX_CPU_ISA and ATEN_CPU_CAPABILITY, and let no other program run",
        )
    else:
        yield ok(device, "products are right in fp32 and bf16; bf16 is no faster, and fp32 is used")


def attention(device: str) -> Iterator[Finding]:
    """Whether the fused causal attention and its gradient are what the formula says, in fp64."""
    import torch
    from torch.nn import functional

    heads, length, width = 2, 128, 32
    drawn = [_draw(torch, (1, heads, length, width), n) for n in range(4)]
    for dtype in (torch.float32, torch.bfloat16):
        small = [each.to(dtype) for each in drawn]
        exact = _gradients(torch, _formula, [each.double() for each in small])
        found = _gradients(
            torch,
            lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True),
            [each.to(device) for each in small],
        )
        # Scores carry an error of width u |q||k|, the weights and their gradients a few times that, on either side
        # of one more product; a wrong mask or scale moves them by their own size.
        roundoff = 64 * _FP32 * width if dtype == torch.float32 else 16 * _BF16
        worst = max(
            float((f.cpu().double() - e).abs().max() / e.abs().max())
            for f, e in zip(found, exact, strict=True)
        )
        if not worst <= roundoff:
            yield fault(
                "attention",
                f"scaled_dot_product_attention is wrong on {device} in {str(dtype)[6:]}: off by {worst:.2g}",
                f"Train with --model.attention eager. {_OTHER_BUILD}",
            )
            return
    yield ok("attention", f"the fused kernels on {device} agree with the formula, gradients too")


def optimizer(device: str) -> Iterator[Finding]:
    """Whether fused AdamW does the update of its definition."""
    import torch

    start, gradient = (_draw(torch, (512,), n) for n in range(2))
    parameter = torch.nn.Parameter(start.clone().to(device))
    parameter.grad = gradient.to(device)
    lr, decay, eps = 1e-2, 0.1, 1e-8
    torch.optim.AdamW([parameter], lr=lr, weight_decay=decay, eps=eps, fused=True).step()
    # At the first step both moments, corrected, are the gradient's own.
    g = gradient.double()
    exact = start.double() * (1 - lr * decay) - lr * g / (g.abs() + eps)
    worst = float((parameter.detach().cpu().double() - exact).abs().max())
    # A dozen roundings of numbers of size 4.
    if not worst <= 12 * 4 * _FP32:
        yield fault("optimizer", f"fused AdamW is wrong on {device}: off by {worst:.2g}", _OTHER_BUILD)
    else:
        yield ok("optimizer", f"fused AdamW on {device} does the update of its definition")


def compiled(device: str) -> Iterator[Finding]:
    """Whether torch.compile works, and computes what eager does."""
    import torch
    from torch.nn import functional

    def function(x: Any) -> Any:
        return functional.gelu(functional.layer_norm(x, (64,))).square().sum(-1)

    x = _draw(torch, (32, 64)).to(device)
    eager = function(x)
    worst = float(((torch.compile(function)(x) - eager) / eager).abs().max())
    # Sums of 64 positive terms, and a few roundings in each.
    if not worst <= (64 + 16) * 2 * _FP32:
        yield fault(
            "compile",
            f"torch.compile computes something else than eager on {device}: off by {worst:.2g}",
            "Train with --machine.compile false",
        )
    else:
        yield ok("compile", f"torch.compile works on {device}, and agrees with eager")


def _draw(torch: Any, shape: tuple[int, ...], number: int = 0) -> Any:
    """Normal numbers, the same in every process."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(_PROBE_SEED + number))


def _formula(q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    hidden = scores.new_ones(scores.shape[-2:]).triu(1).bool()
    return scores.masked_fill(hidden, -math.inf).softmax(-1) @ v


def _gradients(torch: Any, attend: Callable[..., Any], tensors: list[Any]) -> list[Any]:
    """The output for queries, keys and values, and their gradients where the output's is the fourth."""
    *inputs, upstream = tensors
    inputs = [each.detach().requires_grad_() for each in inputs]
    output = attend(*inputs)
    return [output.detach(), *torch.autograd.grad(output, inputs, upstream)]


# -- the process ---------------------------------------------------------------------------------------------


def _runs(what: str) -> Iterator[tuple[str, Callable[[], Iterable[Finding]]]]:
    """Name and work of each run; devices are asked for once torch has been imported."""
    if what == "numerics":
        yield "imports", imported
        yield "device", devices
        yield "threads", threads
    from babygpt.computer import detect

    facts = detect()
    for device in facts.devices:
        for name in [f"cuda:{i}" for i in range(facts.cuda_count)] if device == "cuda" else [device]:
            if what == "compile":
                yield "compile", partial(compiled, name)
                return
            yield name, partial(products, name)
            yield "attention", partial(attention, name)
            yield "optimizer", partial(optimizer, name)


def main(what: str, say: Callable[[dict[str, Any]], None]) -> None:
    """Does the runs of a kind.

    Args:
        what: `numerics` or `compile`.
        say: is told `{"begun": name}` before each run, then each finding as plain values.
    """
    for name, run in _runs(what):
        say({"begun": name})
        try:
            found = list(run())
        except Exception as error:
            # Whatever a kernel, a driver or a compiler raises is what is wrong.
            first = next((line for line in str(error).splitlines() if line.strip()), "")
            found = [fault(name, f"{type(error).__name__}: {first}", _mend(str(error)))]
        for finding in found:
            say(asdict(finding))
        if name == "imports" and any(finding.status == "fault" for finding in found):
            return


def _mend(message: str) -> str:
    """What helps against an error, as far as its words tell."""
    for words, mend in (
        ("Python.h", "Install Python's headers (Debian, Ubuntu: apt install python3-dev)"),
        ("no kernel image", _OTHER_BUILD),
        (
            "ompiler",
            "Install a C++ compiler (Debian, Ubuntu: apt install g++), or train with --machine.compile false",
        ),
        ("out of memory", "End other programs that use the device"),
    ):
        if words in message:
            return mend
    return f"Leave the device out with --machine.device. {_OTHER_BUILD}"


def _as_process(what: str) -> None:
    out = sys.stdout

    def say(value: dict[str, Any]) -> None:
        out.write(json.dumps(value) + "\n")
        out.flush()

    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is no finding
        main(what, say)


if __name__ == "__main__":
    _as_process(sys.argv[1])
