"""The public names: all there, loaded when asked for, the same whatever was imported before."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

import babygpt

PUBLIC = [
    "BabyGPT", "BabyGPTError", "Budget", "CheckpointPlan", "DataRecipe", "EvalSettings",
    "FolderCheckpointIO", "GenerateSettings", "InputError", "InspectSettings", "LLMDataModule", "MachinePlan",
    "MachineRequest", "ModelRecipe", "OptimRecipe", "Recipe", "ReportSettings", "ScheduleRecipe", "Stopped",
    "TrainSettings", "ValidateRecipe", "evaluate", "fit", "generate", "inspect_data", "report", "train", "validate",
]  # fmt: skip


def test_all_is_what_is_promised():
    assert babygpt.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(babygpt))


@pytest.mark.parametrize("name", PUBLIC)
def test_each_name_is_there(name):
    value = getattr(babygpt, name)
    assert value.__name__ == name
    assert callable(value)
    assert value.__doc__


def test_version():
    assert babygpt.__version__ == "0.1.0"


def test_version_is_the_installed_one():
    try:
        installed = importlib.metadata.version("babygpt")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed")
    assert installed == babygpt.__version__


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'babygpt' has no attribute 'nothing'"):
        _ = babygpt.nothing


def fresh(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, timeout=60
    )


def test_import_is_light():
    done = fresh(
        "import sys, babygpt\n"
        "babygpt.Recipe, babygpt.TrainSettings, babygpt.MachineRequest, babygpt.InputError\n"
        "assert not {'torch', 'transformers', 'lightning', 'jsonargparse', 'rich'} & set(sys.modules)\n"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "before",
    [
        "from babygpt import generate",
        "import babygpt.generate",
        "from babygpt.generate import GenerateResult",
        "import babygpt; babygpt.generate; import babygpt.generate",
    ],
)
def test_a_verb_is_the_function_whatever_came_before(before):
    """The file and the function have one name, and importing a file binds it to its package."""
    done = fresh(
        f"{before}\n"
        "import babygpt, types\n"
        "from babygpt import generate\n"
        "from babygpt.generate import GenerateResult, generate as same\n"
        "assert isinstance(generate, types.FunctionType)\n"
        "assert generate is same is babygpt.generate\n"
    )
    assert done.returncode == 0, done.stderr
