"""What the documents say is so: links resolve, commands and code run, the table of fields is the program's own.

Commands and code of a page run in the order they stand there, in one folder that holds what they name: some text,
conversations, a small pretrained model. Only their size is changed, by `quick`; sizes that need a network or minutes
have tests of their own. So have the labs of the course; its other commands and its code run in `make test-lab`, and so
do those of the guide to labs.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from babygpt.arguments import parse
from babygpt.cli import main
from babygpt.data.block import resolve_block
from babygpt.data.module import VALIDATION_TOKENS
from babygpt.data.sources import read_documents
from babygpt.planner import SHARE_OF_MEMORY, resolve_recipe
from babygpt.recipe import OptimRecipe, Recipe
from babygpt.verbs import VERBS
from command import with_short_samples
from modules import module_at

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_the_table_of_fields_is_up_to_date() -> None:
    made = module_at(ROOT / "docs" / "make_recipe.py").page()
    assert (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8") == made, "run python docs/make_recipe.py"


def test_the_guide_says_what_auto_takes() -> None:
    def taken(parameters: int, name: str = "preset:gpt2-4m", optimizer: Any = "auto") -> Recipe:
        recipe = Recipe(optim=OptimRecipe(name=optimizer))
        return resolve_recipe(recipe, model_name=name, parameters=parameters, block=2)

    def short(rate: Any) -> str:
        return f"{float(rate):.0e}".replace("e-0", "e-")

    def tokens(*of: Any) -> int:
        return 2 * int(taken(*of).data.global_batch_size)

    sizes = [tokens(n) for n in (20_000_000 - 1, 20_000_000, 100_000_000 - 1, 100_000_000)]
    small, middle, _, large = map("{:,}".format, sizes)
    pretrained = taken(124_000_000, "path/to/model")
    muon, adamw = taken(124_000_000), taken(124_000_000, optimizer="adamw")
    most = [taken(1_000, optimizer=name).optim.lr for name in ("muon", "adamw")]
    slope = math.log(float(taken(31_000_000).optim.lr) / float(muon.optim.lr), 4)
    guide = " ".join((ROOT / "docs" / "train.md").read_text(encoding="utf-8").split())
    assert sizes[1] == sizes[2]
    for said in (
        f"{small} tokens a step, from 20 million parameters on {middle}, from 100 million on {large};"
        f" from pretrained ones {tokens(124_000_000, 'path/to/model'):,}.",
        f"{short(pretrained.optim.lr)} for pretrained weights",
        f"with `muon` {float(muon.optim.lr) * 1e3:.1f}e-3 \u00d7 (124 M / N)^{slope:.2f} and {short(most[0])} at most,",
        f"with `adamw` {short(adamw.optim.lr)} \u00d7 √(124 M / N) and {short(most[1])} at most",
        f"{resolve_block('auto', 'preset:gpt2-124m')} tokens, or the model's positions where those are fewer;"
        f" of a preset with 512 positions, {resolve_block('auto', 'preset:gpt2-4m')} |",
        f"of about {VALIDATION_TOKENS:,} tokens each",
        f"fits into {SHARE_OF_MEMORY:.0%} of the memory that is free".replace("%", " %"),
    ):
        assert said in guide


# -- commands and code ---------------------------------------------------------------------------------------

_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def is_about_labs(page: Path) -> bool:
    """Whether running what stands there takes experiments."""
    return page.parent.name == "course" or page.name == "labs.md"


RUN = [
    pytest.param(page, marks=pytest.mark.lab if is_about_labs(page) else (), id=str(page.relative_to(ROOT)))
    for page in PAGES
    if page.parent.name != "benchmarks" and _BLOCK.search(page.read_text(encoding="utf-8"))
]


def blocks_of(page: Path) -> list[tuple[str, str]]:
    return [(m[1], m[2]) for m in _BLOCK.finditer(page.read_text(encoding="utf-8"))]


def quick(words: list[str]) -> list[str]:
    """A command's own words with a smaller model and batch and three steps; what it reads and writes stays."""
    if words[0] == "plan":
        return [*words, "--data.block", "64", "--data.global_batch_size", "8"]
    if words[0] != "train":
        return words
    text = re.sub(r" --budget\.\w+ \S+", "", shlex.join(words)).replace("preset:gpt2-11m", "preset:gpt2-1m")
    if "--resume" in words or "--config" in words:
        return shlex.split(text)
    small = {"--model.name": "preset:gpt2-1m", "--data.block": "64", "--data.global_batch_size": "8"}
    for name, value in small.items():
        text += "" if name in words else f" {name} {value}"
    return shlex.split(f"{text} --budget.steps 3")


@pytest.fixture
def workplace(tmp_path: Path, tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the documents' commands name."""
    monkeypatch.chdir(tmp_path)
    with_short_samples(monkeypatch)
    monkeypatch.setenv(
        "TORCHDYNAMO_DISABLE", "1"
    )  # of the doctor's processes: compiling takes a dozen seconds
    prose = [d.text or "" for d in read_documents(["builtin:prose"])]
    (tmp_path / "notes.txt").write_text("\n\n".join(prose[:30]))
    (tmp_path / "letters.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in prose[30:60])
    )
    turns = [
        [
            {"role": "user", "content": f"What is {n} and {n}?"},
            {"role": "assistant", "content": f"It is {2 * n}."},
        ]
        for n in range(40)
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps({"messages": turn}) + "\n" for turn in turns))
    model = shutil.copytree(tiny_gpt2, tmp_path / "path" / "to" / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(model)
    return tmp_path


def run_command(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Runs a line of a shell block; what is no command of ours is left to the build."""
    line, _, target = line.split("  #")[0].partition(" > ")
    words = shlex.split(line)
    # What starts several processes is started by tests/training/test_distributed.py and, with torchrun, by
    # tests/chaos/test_launches.py; here the arguments are looked at.
    if words[:1] == ["torchrun"] or "--machine.devices" in words:
        parse(VERBS["train"].syntax, words[words.index("train") + 1 :])
        return
    if words[:1] != ["babygpt"]:
        assert words[0] in ("make", "source", "python"), f"what is {words[0]}?"
        return
    capfd.readouterr()
    code = main(quick(words[1:]))
    out, err = capfd.readouterr()
    assert code == 0, f"{line}\n{err[-2000:]}"
    if target:
        Path(target.strip()).write_text(out)


def run_code(code: str) -> None:
    """Runs a Python block on what is at hand."""
    code = code.replace('model_name="gpt2"', 'model_name="preset:gpt2-1m"').replace(
        "max_epochs=3", "max_steps=3, logger=False"
    )
    if "babygpt-3.12" in code:
        (best,) = Path("runs/notes/checkpoints").glob("babygpt-*")
        code = code.replace("runs/first/checkpoints/babygpt-3.12", str(best))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        exec(compile(code, "documents", "exec"), {"__name__": "documents"})


@pytest.mark.parametrize("page", RUN)
def test_commands_and_code_run(page: Path, workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    blocks = blocks_of(page)
    if page.name == "README.md":  # the code that loads a run's best model stands before the run itself
        blocks.sort(key=lambda block: "babygpt-3.12" in block[1])
    for language, block in blocks:
        if language == "python":
            run_code(block)
        else:
            for line in block.splitlines():
                if line.strip() and not (page.parent.name == "course" and line.startswith("babygpt lab ")):
                    run_command(line, capfd)
