"""Makes `cached.json`: the first outcome of 24 runs of each lab's first arm, seeds of their own, at the smallest scale.

python tests/labs/make_cached.py [LAB ...]
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path

import torch

from babygpt.labs.catalog import NAMES, load
from babygpt.labs.framework import SCALES

RUNS = 24
FILE = Path(__file__).parent / "cached.json"


def main(names: list[str]) -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch.babygpt").setLevel(logging.ERROR)
    for name in names or NAMES:
        lab, scale = load(name), SCALES["small"]
        torch.set_num_threads(scale.threads)
        outcome = lab.contrasts[0].outcome
        settings = [lab.setting(lab.baseline.name, scale, 100 + n) for n in range(RUNS)]
        values = [round(lab.run(setting).outcomes[outcome], 6) for setting in settings]
        # Read only now: another process may have added a lab's since this one began.
        known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
        known[name] = {"outcome": outcome, "ratio": lab.outcome(outcome).ratio, "values": values}
        FILE.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", encoding="utf-8")
        print(name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
