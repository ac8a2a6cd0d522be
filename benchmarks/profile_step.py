"""Where the time of one optimiser step goes, and its share of the measured matrix peak.

    python benchmarks/profile_step.py                                  the shape gpt2-11m of the benchmark
    python benchmarks/profile_step.py --shape small --precision bf16-mixed --compile
    python benchmarks/profile_step.py --model preset:llama-5m --optimizer muon
    python benchmarks/profile_step.py --model preset:llama-160m --batch 4 --ignored 0.6   as of conversations

1. The package's own step on random ids: its loading, loss, clipping and optimiser, without Lightning.
2. Steps timed without a profiler (median of wall and processor seconds), page faults counted.
3. Steps under torch's profiler; each operator's own time goes to one line of the table.
4. The peak: products of 2,048 x 2,048 (512 x 512 where these take seconds) in fp32 and in bf16, the fastest of several.

The model FLOPs are those of `babygpt.model.cost`; their share of a peak is what the literature calls model FLOPs
utilisation; those of the head's rows without a target, which are passed over, are counted too. Run it in the
package's own environment.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from contestants import SHAPES
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import AutoConfig, AutoModelForCausalLM

from babygpt.computer import keep_freed_memory
from babygpt.data.labels import IGNORED
from babygpt.model.attention import model_inputs
from babygpt.model.blocks import compile_blocks
from babygpt.model.cost import model_cost
from babygpt.model.load import load_model
from babygpt.model.loss import find_head, sum_nll
from babygpt.optim.groups import parameter_groups
from babygpt.optim.optimizers import OPTIMIZERS, build_optimizer

_UPDATE, _CLIP = "the update", "the norm of the gradient"
# The first line that fits an operator's name.
_LINES = (
    ("matrix products", ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn")),
    ("attention", ("scaled_dot_product", "_flash_attention")),
    (
        "log-softmax and loss",
        ("log_softmax", "logsumexp", "scatter_add", "aten::gather", "_NLL", "aten::exp"),
    ),
    ("norms", ("layer_norm", "rms_norm", "aten::rsqrt", "aten::mean", "aten::pow")),
    ("activation", ("gelu", "silu", "tanh")),
    ("embeddings", ("embedding", "index_put", "aten::index")),
    ("compiled kernels", ("Torch-Compiled", "CompiledFunction", "## Call", "cpp_fused")),
    ("copies", ("aten::copy_", "aten::cat", "aten::stack", "aten::clone", "aten::fill_", "aten::zero_")),
    ("other elementwise", ("aten::mul", "aten::add", "aten::sub", "aten::div", "aten::neg", "aten::sum")),
)


def line_of(event: Any) -> str:
    """The table's line for an operator."""
    above = event
    while above is not None:
        if above.name in (_UPDATE, _CLIP):
            return str(above.name)
        above = above.cpu_parent
    return next((line for line, names in _LINES if any(n in event.name for n in names)), "everything else")


def model_of(asked: argparse.Namespace) -> Any:
    """A model as a run would load it."""
    if asked.model:
        return load_model(asked.model)
    shape = SHAPES[asked.shape]
    config = AutoConfig.for_model(
        "gpt2",
        vocab_size=shape.vocab_size,
        n_positions=shape.block,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        bos_token_id=None,
        eos_token_id=None,
    )
    with tempfile.TemporaryDirectory(prefix="babygpt-profile-") as folder:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        return load_model(folder)


def step_of(model: Any, asked: argparse.Namespace, block: int) -> Callable[[], None]:
    """One optimiser step on the same random ids each time."""
    head, bf16 = find_head(model), asked.precision == "bf16-mixed"
    groups = parameter_groups(model, OPTIMIZERS[asked.optimizer], 0.1)
    optimizer = build_optimizer(asked.optimizer, groups, 1e-4, (0.9, 0.95), bf16=bf16)
    rows = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(rows, (asked.batch, block), generator=torch.Generator().manual_seed(0))

    masked = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < asked.ignored
    labels = ids.masked_fill(masked, IGNORED)
    size = asked.micro_batch or asked.batch
    parts = list(zip(ids.split(size), labels.split(size), strict=True))

    def passes(part: torch.Tensor, wanted: torch.Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            nll = sum_nll(model, model_inputs({"input_ids": part}, isolated=False), wanted, head)
        (nll / ids.numel()).backward()

    if asked.compile:
        compile_blocks(model, lambda: passes(*parts[0]))

    def step() -> None:
        for part in parts:
            passes(*part)
        with record_function(_CLIP):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with record_function(_UPDATE):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def timed(step: Callable[[], None], count: int) -> dict[str, float]:
    """Medians of some steps."""
    wall, used, faults = [], [], []
    for _ in range(count):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        begun, cpu = time.perf_counter(), time.process_time()
        step()
        wall.append(time.perf_counter() - begun)
        used.append(time.process_time() - cpu)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return {
        "seconds": statistics.median(wall),
        "cpu_seconds": statistics.median(used),
        "page_faults": statistics.median(faults),
    }


def profiled(step: Callable[[], None], count: int) -> dict[str, float]:
    """Each line's share of the operators' own time."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(count):
            step()
    lines: dict[str, float] = defaultdict(float)
    for event in found.events():
        lines[line_of(event)] += event.self_cpu_time_total
    whole = sum(lines.values())
    return {name: t / whole for name, t in sorted(lines.items(), key=lambda item: -item[1])}


def peak(dtype: torch.dtype, products: int = 8, most: float = 5.0) -> float:
    """FLOP/s of a square matrix product, the fastest of some.

    Args:
        dtype: of the factors.
        products: how many.
        most: seconds of one; where it would take longer, a product a fourth as wide is taken.
    """

    def fastest(size: int) -> float:
        left, right = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
        seconds = []
        for _ in range(products):
            begun = time.perf_counter()
            left @ right
            seconds.append(time.perf_counter() - begun)
        return 2 * size**3 / min(seconds)

    small = fastest(512)
    return fastest(2048) if 2 * 2048**3 / small < most else small


def main() -> None:
    """Prints the tables, or one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="gpt2-11m")
    parser.add_argument("--model", help="a preset or folder instead of a shape")
    parser.add_argument("--block", type=int, help="default the shape's, or 256")
    parser.add_argument("--batch", type=int, default=16, help="windows of the step")
    parser.add_argument("--micro-batch", type=int, help="windows of one forward pass, default the batch")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--optimizer", choices=list(OPTIMIZERS), default="adamw")
    parser.add_argument("--compile", action="store_true", help="the blocks")
    parser.add_argument("--ignored", type=float, default=0.0, help="share of tokens that are no targets")
    parser.add_argument("--steps", type=int, default=7, help="timed, and 2 of them profiled")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    keep_freed_memory()
    block = asked.block or (256 if asked.model else SHAPES[asked.shape].block)
    model = model_of(asked)
    flops = model_cost(model.config).flops_per_token(block) * asked.batch * block
    step = step_of(model, asked, block)
    for _ in range(2):
        step()
    found: dict[str, Any] = timed(step, asked.steps)
    # ru_maxrss is in KiB but for macOS.
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found["gflop"] = flops / 1e9
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        most = peak(dtype)
        found[f"peak_{name}_gflops"] = most / 1e9
        found[f"share_of_{name}_peak"] = flops / found["seconds"] / most
    found["lines"] = profiled(step, 2)
    if asked.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        if name != "lines":
            print(f"{name:>20}  {value:,.3f}")
    for name, share in found["lines"].items():
        print(f"| {name:<24} | {share:6.1%} |")


if __name__ == "__main__":
    main()
