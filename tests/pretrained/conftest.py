"""The real pretrained model, converted once."""

from __future__ import annotations

from pathlib import Path

import pytest

from smollm2 import smollm2_folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct in fp32 with its tokenizer and chat template: a folder never to be written in."""
    return smollm2_folder()
