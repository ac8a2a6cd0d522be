"""Training throughput beside the peers: same shape, same tokens, same batch, each in its own environment.

    python benchmarks/throughput.py                       # the table: every contender, 3 rounds
    python benchmarks/throughput.py --quick               # does everything run? (a tiny shape, a few steps)
    python benchmarks/throughput.py --only babygpt,transformers --rounds 5 --steps 100

1. Environments are made from `requirements/` (once, in `--envs`).
2. Text, token ids, tokenizer and initial weights are written once; every contender reads them.
3. Rounds are interleaved (A B C A B C ...), each run a process of its own. A hook marks every optimiser step;
   rates are those of the steps after `--warmup`: start-up, compilation (its cache begins empty) and saving
   are left out.
4. Medians, spreads and ratios within each round go to the terminal and, as JSON and Markdown, to `--out`.

A contender whose held-out loss does not fall like the others' gets no ratio. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contestants import CONTENDERS, SHAPES, Contender
from environments import BENCHMARKS, PROJECT, interpreter
from tables import aligned, markdown, rows_of, summarise

_LIMIT = 3600.0  # seconds after which a run counts as failed


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, `--quick` resolved into the values it stands for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("--shape", choices=SHAPES, help="default gpt2-11m")
    parser.add_argument("--rounds", type=int, help="default 3")
    parser.add_argument("--steps", type=int, help="optimiser steps of a run, default 40")
    parser.add_argument("--warmup", type=int, help="of these, not measured, default 10")
    parser.add_argument("--batch", type=int, default=16, help="windows of one optimiser step")
    parser.add_argument("--micro-batch", type=int, help="windows of one forward pass, default the batch")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, help="of arithmetic; default is each contender's own choice")
    parser.add_argument("--only", default=",".join(names), help=f"some of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="a tiny shape, few steps, one round")
    parser.add_argument(
        "--envs", type=Path, help="folder of the environments, default a temporary one that is kept"
    )
    parser.add_argument("--out", type=Path, help="folder of the result files, default benchmarks/results")
    parser.add_argument("--name", help="of the result files, default the shape")
    parser.add_argument("--pip-args", default="", help='for pip install, as in "--index-url ..."')
    args = parser.parse_args(argv)
    defaults = ("tiny", 1, 12, 2) if args.quick else ("gpt2-11m", 3, 40, 10)
    for field, default in zip(("shape", "rounds", "steps", "warmup"), defaults, strict=True):
        if getattr(args, field) is None:
            setattr(args, field, default)
    args.micro_batch = args.micro_batch or args.batch
    args.only = args.only.split(",")
    unknown = sorted(set(args.only) - set(names))
    if unknown:
        parser.error(f"--only: no contender {', '.join(unknown)}")
    if not 1 <= args.warmup < args.steps:
        parser.error(f"--warmup {args.warmup} is not from 1 to {args.steps - 1}")
    if args.batch % args.micro_batch:
        parser.error(f"--batch {args.batch} is not a multiple of --micro-batch {args.micro_batch}")
    args.envs = args.envs or Path(tempfile.gettempdir()) / "babygpt-benchmark-environments"
    args.out = args.out or (Path(tempfile.gettempdir()) if args.quick else BENCHMARKS / "results")
    args.name = args.name or (f"quick-{args.shape}" if args.quick else args.shape)
    return args


def command_of(args: argparse.Namespace) -> str:
    """The command that repeats the measurement, defaults spelt out; folders and pip are the reader's own."""
    words = ["python", "benchmarks/throughput.py"]
    for name in ("shape", "rounds", "steps", "warmup", "batch", "micro_batch", "learning_rate", "threads"):
        value = getattr(args, name)
        words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    everyone = len(args.only) == len(CONTENDERS)
    return " ".join(words if everyone else [*words, "--only", ",".join(args.only)])


def machine_facts() -> dict[str, Any]:
    """What the numbers belong to; nothing that names the computer or its owner."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    flags: list[str] = []
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text(encoding="utf-8").splitlines())
        fields = {key.strip(): value.strip() for key, _, value in lines}
        model = fields.get("model name", model)
        wanted = {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile"}
        flags = sorted(wanted & set(fields.get("flags", "").split()))
    affinity = getattr(os, "sched_getaffinity", None)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "processor": model,
        "instructions": flags,
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def commit() -> str | None:
    """The working tree's commit, with a plus when it has changes; None outside of git."""

    def git(*words: str) -> str | None:
        done = subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    head = git("rev-parse", "--short=12", "HEAD")
    return head and head + ("+" if git("status", "--porcelain", "--", "src") else "")


def run_script(
    python: Path, script: str, spec: dict[str, Any], folder: Path, threads: int | None
) -> dict[str, Any]:
    """Runs one script of `contenders/` in a fresh folder.

    Returns:
        what it reported, or `error`: the last lines of its log.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    result, log = folder / "result.json", folder / "log.txt"
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",  # processor time is the measure, so the processor has to do the work
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "datasets"),
        "TOKENIZERS_PARALLELISM": "false",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "BENCH_STARTED": str(time.time()),
    }
    environment.pop("PYTHONPATH", None)
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [str(python), str(BENCHMARKS / "contenders" / f"{script}.py"), "spec.json", "result.json"]
    with log.open("wb") as stream:
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdout=stream,
                stderr=stream,
                timeout=_LIMIT,
                check=False,
            )
            code: int | str = done.returncode
        except subprocess.TimeoutExpired:
            code = f"stopped after {_LIMIT:.0f} s"
    if code == 0 and result.exists():
        reported: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return reported
    tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:]
    return {"error": f"exit {code}", "log": tail}


def spec_of(args: argparse.Namespace, work: Path, contender: Contender | None) -> dict[str, Any]:
    """What a script is told; `contenders/probe.py` reads it back as `Spec`."""
    return {
        **asdict(SHAPES[args.shape]),
        "work": str(work),
        "batch": args.batch,
        "micro_batch": args.micro_batch,
        "learning_rate": args.learning_rate,
        "steps": args.steps,
        "warmup": args.warmup,
        "seed": 0,
        "variant": contender.variant if contender else "",
    }


def write(args: argparse.Namespace, result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Writes both result files and gives the table's rows."""
    summary = summarise(result)
    rows = rows_of(summary)
    result["summary"] = [
        {key: asdict(value) if hasattr(value, "median") else value for key, value in row.items()}
        for row in summary
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{args.name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (args.out / f"{args.name}.md").write_text(f"{heading(result)}\n\n{markdown(rows)}\n", encoding="utf-8")
    return rows


def heading(result: dict[str, Any]) -> str:
    """What was measured on what, a paragraph each."""
    machine, setting, data = result["machine"], result["setting"], result["data"]
    shape = setting["shape"]
    task = (
        f"GPT-2: {shape['layers']} layers, {shape['width']} wide, {shape['heads']} heads, ",
        f"block {shape['block']}, vocabulary {shape['vocab_size']}, ",
        f"{data['parameters'] / 1e6:.1f} M parameters. {setting['batch']} windows a step; ",
        f"steps {setting['warmup'] + 1} to {setting['steps']} are measured; ",
        f"interleaved rounds: {setting['rounds']}. Median (lowest-highest). ",
        "Ratios are to the transformers Trainer at its defaults in the same round. ",
        f"Loss: held-out, after the same tokens; {data['held_out_loss']:.3f} before training.",
    )
    computer = (
        f"{machine['processor']}, {machine['cores']} cores ({', '.join(machine['instructions'])}), ",
        f"{machine['memory_gib']} GiB, {machine['system']}, {machine['date']}.",
    )
    return "\n\n".join(("".join(task), "".join(computer), f"`{result['command']}`"))


def compete(args: argparse.Namespace, pythons: dict[str, Path], work: Path, result: dict[str, Any]) -> None:
    """All rounds; the result files are written anew after every run, so that an interruption loses one."""
    contenders = [contender for contender in CONTENDERS if contender.name in args.only]
    for number in range(args.rounds):
        for contender in contenders:
            spec = spec_of(args, work, contender)
            folder = work / "runs" / f"{number}-{contender.name}"
            reported = run_script(
                pythons[contender.environment], contender.script, spec, folder, args.threads
            )
            log = reported.pop("log", [])
            result["runs"].append({"contender": contender.name, "round": number, **reported})
            if "error" in reported:
                print(f"round {number + 1}  {contender.name}: {reported['error']}", *log, sep="\n    ")
            else:
                speed, per_cpu = (reported["tokens"] / reported[key] for key in ("seconds", "cpu_seconds"))
                rates = f"{speed:9.0f} tokens/s {per_cpu:9.0f} tokens/CPU-s"
                loss = f"loss {reported['held_out_loss']:.3f}"
                print(f"round {number + 1}  {contender.name:<24}{rates}  {loss}", flush=True)
                shutil.rmtree(folder)
            write(args, result)


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the table, and gives 1 if any run failed."""
    args = arguments(argv)
    needed = {contender.environment for contender in CONTENDERS if contender.name in args.only} | {
        "transformers"
    }
    pythons = {name: interpreter(name, args.envs, args.pip_args.split()) for name in sorted(needed)}
    with tempfile.TemporaryDirectory(prefix="babygpt-benchmark-") as folder:
        work = Path(folder)
        data = run_script(
            pythons["transformers"],
            "prepare",
            spec_of(args, work, None),
            work / "runs" / "prepare",
            args.threads,
        )
        if "error" in data:
            print(f"the data could not be prepared: {data['error']}", *data["log"], sep="\n", file=sys.stderr)
            return 1
        result: dict[str, Any] = {
            "command": command_of(args),
            "commit": commit(),
            "machine": machine_facts(),
            "setting": {
                "shape": asdict(SHAPES[args.shape]),
                **{
                    key: getattr(args, key)
                    for key in ("batch", "micro_batch", "learning_rate", "steps", "warmup")
                },
                **{key: getattr(args, key) for key in ("rounds", "threads")},
            },
            "data": data,
            "runs": [],
        }
        compete(args, pythons, work, result)
        rows = write(args, result)
    print(f"\n{heading(result)}\n\n{aligned(rows)}\n\nwritten to {args.out / args.name}.json and .md")
    return int(any("error" in run for run in result["runs"]))


if __name__ == "__main__":
    sys.exit(main())
