"""Makes the picture of report.md: python docs/make_report_pictures.py CHROMIUM.

Two small runs are trained for it, a few minutes. Screenshots of the whole page, light, dark and as on a phone, go to
the folder for temporary files, to be looked at.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from babygpt.recipe import Budget, DataRecipe, ModelRecipe, OptimRecipe, ValidateRecipe
from babygpt.report.verb import report
from babygpt.settings import ReportSettings, TrainSettings
from babygpt.train import train
from browser import Browser

_LOOKS = ((1100, False), (1100, True), (390, False))


def trained(name: str, lr: float) -> str:
    """A run folder."""
    settings = TrainSettings(
        model=ModelRecipe(name="preset:gpt2-1m"),
        data=DataRecipe(path=("builtin:prose",), block=64, global_batch_size=8),
        optim=OptimRecipe(lr=lr),
        budget=Budget(steps=60),
        validate=ValidateRecipe(every_steps=10, batches=1),
        out=name,
    )
    train(settings)
    return name


def main() -> None:
    """Makes it."""
    folder = Path(tempfile.mkdtemp(prefix="babygpt-pictures-"))
    target = Path(__file__).resolve().parent / "pictures" / "report.png"
    os.environ["BABYGPT_CACHE"] = str(folder / "cache")
    os.chdir(folder)  # so that no path of this computer is to be seen
    page = Path(report(ReportSettings((trained("notes", 0.009), trained("slower", 0.001)), "page.html")).page)
    with Browser(sys.argv[1]) as browser:
        browser.open(page, width=1000, height=860)
        browser.screenshot(target)
        for width, dark in _LOOKS:
            shot = folder / f"page-{width}-{'dark' if dark else 'light'}.png"
            browser.open(page, width=width, dark=dark)
            browser.screenshot(shot, whole=True)
            sys.stdout.write(f"{shot}\n")


if __name__ == "__main__":
    main()
