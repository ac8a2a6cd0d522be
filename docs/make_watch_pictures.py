"""Makes the picture of watch.md: python docs/make_watch_pictures.py CHROMIUM.

A small run is trained for it, a minute, while its live page is open. A screenshot of the whole page as on a phone goes
to the folder for temporary files, to be looked at.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from babygpt.recipe import Budget, DataRecipe, ModelRecipe, OptimRecipe, ValidateRecipe
from babygpt.report.live import LiveRuns, bound
from babygpt.settings import TrainSettings
from babygpt.train import train
from babygpt.training import progress
from browser import Browser

_STEPS = 240


def trained(name: str) -> None:
    """A run whose rate is too high, so that there is something to see."""
    settings = TrainSettings(
        model=ModelRecipe(name="preset:gpt2-1m"),
        data=DataRecipe(path=("builtin:prose",), block=64, global_batch_size=8),
        optim=OptimRecipe(name="adamw", lr=0.3),
        budget=Budget(steps=_STEPS),
        validate=ValidateRecipe(every_steps=50, batches=1),
        out=name,
    )
    train(settings)


def main() -> None:
    """Makes it."""
    folder = Path(tempfile.mkdtemp(prefix="babygpt-pictures-"))
    target = Path(__file__).resolve().parent / "pictures" / "watch.png"
    os.environ["BABYGPT_CACHE"] = str(folder / "cache")
    progress._WORTH_MEASURING = 0.0  # its peak is measured like that of a run of minutes
    os.chdir(folder)  # so that no path of this computer is to be seen
    run = threading.Thread(target=trained, args=("notes",))
    run.start()
    lines = folder / "notes" / "metrics.jsonl"
    while not (lines.exists() and lines.read_text().count("grad_norm") > _STEPS // 2):
        time.sleep(0.5)
    with bound(LiveRuns([Path("notes")], 1000), None) as server, Browser(sys.argv[1]) as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.open(f"http://127.0.0.1:{server.server_address[1]}/", width=1000, height=860)
        time.sleep(3)
        browser.screenshot(target)
        shot = folder / "phone.png"
        browser.open(f"http://127.0.0.1:{server.server_address[1]}/", width=390)
        time.sleep(1)
        browser.screenshot(shot, whole=True)
        sys.stdout.write(f"{shot}\n")
        server.shutdown()
    run.join()


if __name__ == "__main__":
    main()
