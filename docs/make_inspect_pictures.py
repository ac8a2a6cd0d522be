"""Makes the picture of data.md: python docs/make_inspect_pictures.py [CHROMIUM].

With a Chromium given it also takes screenshots of the page, light and dark, wide and as on a phone, to be looked at:
they go to the folder for temporary files, not into the documents.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from transformers import GPT2Config

from babygpt.data.sources import read_documents
from babygpt.data.tokenizers import train_tokenizer
from babygpt.inspect_data import inspect_data
from babygpt.inspection import InspectResult
from babygpt.recipe import DataRecipe, ModelRecipe
from babygpt.settings import InspectSettings

_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
_SHOTS = ((1100, 900, "light"), (1100, 900, "dark"), (390, 1100, "light"), (390, 1100, "dark"))


def inspected(folder: Path) -> InspectResult:
    """What there is to see of forty small conversations; the page lies beside them."""
    tokenizer = train_tokenizer((d.text or "" for d in read_documents(["builtin:prose"])), 2000)
    tokenizer.chat_template = _TEMPLATE
    os.chdir(folder)  # so that no path of this computer is to be seen
    model, data = Path("model"), Path("chat.jsonl")
    tokenizer.save_pretrained(model)
    config = GPT2Config(vocab_size=2000, n_positions=128, n_embd=8, n_layer=1, n_head=1)
    config.bos_token_id = config.eos_token_id = 0
    config.save_pretrained(model)
    turns = [
        [
            {"role": "user", "content": f"What is {n} times {n}? Say it in two lines."},
            {
                "role": "assistant",
                "content": f"It is {n * n},\nand the root of that is {n}.{chr(7) * (n == 5)}",
            },
        ]
        for n in range(40)
    ]
    data.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns), encoding="utf-8")
    recipe = DataRecipe(path=(str(data),), packing="isolated", block=64, global_batch_size=8)
    return inspect_data(InspectSettings(ModelRecipe(str(model)), recipe, windows=2, html="page.html"))


def picture(found: InspectResult) -> str:
    """The terminal's view as SVG that loads nothing."""
    console = Console(
        record=True, width=80, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    for line in found.lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    svg = console.export_svg(
        title="babygpt data inspect", theme=SVG_EXPORT_THEME, unique_id="inspect", font_aspect_ratio=0.6
    )
    return re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code,", "")


def main() -> None:
    """Makes it."""
    folder = Path(tempfile.mkdtemp(prefix="babygpt-pictures-"))
    target = Path(__file__).resolve().parent / "pictures" / "inspect.svg"
    os.environ["BABYGPT_CACHE"] = str(folder / "cache")
    found = inspected(folder)
    target.write_text(picture(found), encoding="utf-8")
    for width, height, scheme in _SHOTS if len(sys.argv) > 1 else ():
        shot = folder / f"page-{width}-{scheme}.png"
        command = [sys.argv[1], "--headless", "--no-sandbox", "--disable-gpu", f"--screenshot={shot}"]
        command += [
            f"--window-size={width},{height}",
            f"--blink-settings=preferredColorScheme={scheme == 'light':d}",
        ]
        subprocess.run([*command, (folder / "page.html").as_uri()], check=True, capture_output=True)
        sys.stdout.write(f"{shot}\n")


if __name__ == "__main__":
    main()
