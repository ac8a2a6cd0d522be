"""A program for tests: the command, which also writes down the rows of token ids that it trains on.

python rows.py FILE ARGS...        rank R appends a line of hashes, one a row, to FILE.R for each micro-batch
"""

from __future__ import annotations

import hashlib
import os
import sys
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from babygpt.cli import main


def watch(path: str, vocabulary: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def before(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings == vocabulary and module.training:
            rows = [hashlib.sha256(repr(row).encode()).hexdigest()[:16] for row in inputs[0].tolist()]
            os.write(descriptor, (" ".join(rows) + "\n").encode())

    register_module_forward_pre_hook(before)


if __name__ == "__main__":
    watch(f"{sys.argv[1]}.{os.environ.get('LOCAL_RANK', '0')}", 257)
    sys.exit(main(sys.argv[2:]))
