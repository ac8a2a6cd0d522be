"""How long `babygpt train --resume` takes to its first new step, on a store of a billion tokens that takes no space.

    python benchmarks/resume_at_scale.py
    python benchmarks/resume_at_scale.py --tokens 2e9 --files 100000
    python benchmarks/resume_at_scale.py --masked --packing isolated
    python benchmarks/resume_at_scale.py --tokens 1e7 --files 10 --steps 1e6

1. A short run on many small files, in an empty cache.
2. Its training store is exchanged for one of the asked size, whose ids are holes in the file, and its last checkpoint
   is removed.
3. It is resumed twice, each time in a new process: the first may have to lay out the windows, the second finds them.

Prints one JSON object a resumption: seconds of imports, seconds from there to the end of the first new optimiser step
(and of processor time, for a machine that is not quiet), and the process's peak memory. The training itself is the
smallest preset on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Runs the command in a process that notes when imports were done and when the first update was.
_WATCHED = """
import json, resource, sys, time
begun = time.monotonic()
from torch.optim.optimizer import register_optimizer_step_post_hook
import babygpt.cli, babygpt.train
imported = time.monotonic()
first = []
register_optimizer_step_post_hook(lambda *_: first.append((time.monotonic(), time.process_time())))
used = time.process_time()
code = babygpt.cli.main(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"imports_s": round(imported - begun, 2), "first_step_s": round(first[0][0] - imported, 2),
                  "first_step_cpu_s": round(first[0][1] - used, 2),
                  "peak_gb": round(peak / 1e9, 2)}))
sys.exit(code)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=float, default=1e9)
    parser.add_argument("--files", type=int, default=10_000, help="data files of the run")
    parser.add_argument("--document", type=int, default=1000, help="tokens of a document of the store")
    parser.add_argument("--steps", type=float, default=0, help="more steps that the run's metrics tell of")
    parser.add_argument("--packing", default="stream", choices=["stream", "isolated", "padded"])
    parser.add_argument(
        "--masked", action="store_true", help="half of the tokens are no targets; takes --tokens bytes"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="babygpt-scale-") as name:
        measure(asked, Path(name))


def measure(asked: argparse.Namespace, folder: Path) -> None:
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "helpers")]
    from sparse import write_sparse_store

    environment = {**os.environ, "BABYGPT_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    out, data = folder / "run", folder / "data"
    for number in range(asked.files):
        file = data / f"{number % 100:02}" / f"{number:06}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"This is the text of file {number}, which is short.\n")
        os.utime(file, (1_600_000_000, 1_600_000_000))
    fields = {
        "model.name": "preset:gpt2-1m",
        "data.path": data,
        "data.packing": asked.packing,
        "budget.steps": 3,
        "data.global_batch_size": 4,
        "machine.device": "cpu",
        "machine.compile": "false",
        "checkpoint.every_steps": 1,
        "out": out,
    }
    command = [
        sys.executable,
        "-m",
        "babygpt",
        "train",
        *(f"--{key}={value}" for key, value in fields.items()),
    ]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for checkpoint in (out / "checkpoints").iterdir():
        manifest = checkpoint / "manifest.json"
        if checkpoint.is_symlink() or json.loads(manifest.read_text())["facts"]["step"] == 3:
            checkpoint.unlink() if checkpoint.is_symlink() else shutil.rmtree(checkpoint)
    prepared = folder / "cache" / "data" / json.loads((out / "data.json").read_text())["store"]
    fingerprint = json.loads((prepared / "train" / "babygpt.json").read_text())["fingerprint"]
    shutil.rmtree(prepared / "train")
    shutil.rmtree(prepared / "windows", ignore_errors=True)
    write_sparse_store(
        prepared / "train",
        int(asked.tokens),
        document=asked.document,
        masked=asked.masked,
        fingerprint=fingerprint,
        vocab_size=8192,
    )
    size = sum(file.stat().st_size for file in (prepared / "train").iterdir())
    shown = {
        "tokens": int(asked.tokens),
        "files": asked.files,
        "packing": asked.packing,
        "steps": int(asked.steps),
        "store_gb": round(size / 1e9, 2),
    }
    for number in ("first", "second"):
        copy = folder / f"run-{number}"
        shutil.copytree(out, copy, symlinks=True)
        lengthen(copy / "metrics.jsonl", int(asked.steps))
        begun = time.monotonic()
        found = subprocess.run(
            [sys.executable, "-c", _WATCHED, "train", "--resume", str(copy)],
            env=environment,
            check=False,
            text=True,
            capture_output=True,
        )
        if found.returncode:
            sys.exit(found.stderr)
        print(
            json.dumps(
                {
                    "resumption": number,
                    **shown,
                    **json.loads(found.stdout.splitlines()[-1]),
                    "whole_process_s": round(time.monotonic() - begun, 2),
                }
            )
        )


def lengthen(metrics: Path, steps: int) -> None:
    """Puts the line of step 1 before the others, so many times."""
    lines = metrics.read_text().splitlines(keepends=True)
    (first,) = (line for line in lines if '"train_loss"' in line and json.loads(line)["step"] == 1)
    with metrics.open("w") as file:
        file.writelines(first for _ in range(steps))
        file.writelines(lines)


if __name__ == "__main__":
    main()
