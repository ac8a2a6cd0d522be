"""Writes what every contender starts from: text, its token ids, a tokenizer and the initial weights, once.

The text is the source files of the running Python's standard library without its tests: nothing is
downloaded. It is one document: its first part is for training, its last twentieth is held out. Ids are what
the tokenizer makes of each part plus one end-of-text, so that contenders that read text and contenders that
read ids see the same.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
from pathlib import Path

import numpy as np
import torch
from probe import Spec, count_parameters, hugging_face_loss, read_spec
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

_END = "<|endoftext|>"
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3"}
_CHARS = 8_000_000
_HELD_OUT = 0.05


def corpus() -> str:
    """Source text of the standard library, files sorted by path, cut at about 8 million characters."""
    root = Path(sysconfig.get_paths()["stdlib"])
    parts, size = [], 0
    for path in sorted(root.rglob("*.py")):
        if _LEFT_OUT & set(path.relative_to(root).parts):
            continue
        try:
            text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError:
            continue
        parts.append(text)
        size += len(text)
        if size > _CHARS:
            break
    return "\n".join(parts)


def train_tokenizer(text: str, vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with exactly `vocab_size` entries, end-of-text included."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_END, pad_token=_END)


def initial_model(spec: Spec, eos: int) -> GPT2LMHeadModel:
    """GPT-2 of the spec's shape with random fp32 weights and no dropout."""
    torch.manual_seed(spec.seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=spec.vocab_size,
            n_positions=spec.block,
            n_embd=spec.width,
            n_layer=spec.layers,
            n_head=spec.heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=eos,
            eos_token_id=eos,
        )
    )


def main() -> None:
    """Writes the files and a result with their checksums."""
    spec = read_spec()
    text = corpus()
    cut = text.rindex("\n", 0, int(len(text) * (1 - _HELD_OUT))) + 1
    tokenizer = train_tokenizer(text[:cut], spec.vocab_size)
    eos = tokenizer.convert_tokens_to_ids(_END)
    facts: dict[str, object] = {}
    for name, part in (("train", text[:cut]), ("held_out", text[cut:])):
        ids = np.array([*tokenizer.encode(part, add_special_tokens=False), eos], dtype=np.uint16)
        (spec.work / f"{name}.txt").write_text(part, encoding="utf-8", newline="\n")
        np.save(spec.work / f"{name}.npy", ids)
        facts[f"{name}_tokens"] = len(ids)
        facts[f"{name}_sha256"] = hashlib.sha256(ids.tobytes()).hexdigest()
    model = initial_model(spec, eos)
    model.save_pretrained(spec.model)
    tokenizer.save_pretrained(spec.model)
    facts |= {"parameters": count_parameters(model), "held_out_loss": hugging_face_loss(model, spec)}
    spec.result.write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
