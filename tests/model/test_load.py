"""Loading: what a model is after it, and a plain message for whatever cannot be loaded."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, BertConfig, BertForMaskedLM

from babygpt.errors import ModelError, RecipeError
from babygpt.model import load as load_module
from babygpt.model.load import (
    adopt_special_ids,
    load_config,
    load_model,
)


@pytest.fixture
def saved(tiny: Any, tmp_path: Path) -> Path:
    """A folder with a tiny Llama in bf16, as many on the hub are."""
    tiny("llama", attention_dropout=0.3).to(torch.bfloat16).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def _edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


class TestPreset:
    def test_same_seed_same_weights_and_random_numbers_untouched(self) -> None:
        before = torch.random.get_rng_state()
        one, two, other = (load_model("preset:gpt2-1m", seed=s).state_dict() for s in (3, 3, 4))
        assert torch.equal(torch.random.get_rng_state(), before)
        assert all(torch.equal(one[k], two[k]) for k in one)
        assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])

    def test_vocabulary_can_be_given(self) -> None:
        model = load_model("preset:gpt2-1m", vocab_size=300)
        assert model.get_input_embeddings().weight.shape == (300, 128)
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert load_config("preset:gpt2-1m", vocab_size=300).vocab_size == 300

    def test_special_ids_beyond_the_vocabulary_are_dropped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        values = {"model_type": "gpt2", "vocab_size": 50257, "eos_token_id": 50256, "bos_token_id": 7}
        monkeypatch.setattr(load_module, "preset_config", lambda name: values)
        config = load_config("preset:any", vocab_size=300)
        assert (config.eos_token_id, config.bos_token_id) == (None, 7)

    def test_state(self) -> None:
        model = load_model("preset:gpt2-1m", dropout=0.25)
        assert model.training
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}
        assert model.config._attn_implementation == "sdpa"

    def test_attention_is_honoured(self) -> None:
        assert load_model("preset:gpt2-1m", attention="eager").config._attn_implementation == "eager"

    def test_unknown_name(self) -> None:
        with pytest.raises(RecipeError, match="gpt2-1m"):
            load_model("preset:gpt2-1n")


class TestFolder:
    def test_fp32_train_mode_and_dropout(self, saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
        before = torch.random.get_rng_state()
        model = load_model(str(saved), dropout=0.1)
        weights = load_file(saved / "model.safetensors")
        assert model.training
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert all(torch.equal(v, weights[k].float()) for k, v in model.state_dict().items())
        assert model.config.attention_dropout == 0.1
        assert model.model.layers[0].self_attn.attention_dropout == 0.1
        assert torch.equal(torch.random.get_rng_state(), before)
        assert capfd.readouterr() == ("", "")

    def test_dropout_is_off_unless_asked(self, saved: Path) -> None:
        assert load_config(str(saved)).attention_dropout == 0.3
        assert load_model(str(saved)).config.attention_dropout == 0.0

    def test_isolated_packing_takes_eager_where_needed(self, tiny: Any, tmp_path: Path) -> None:
        tiny("gptj", "eager").save_pretrained(tmp_path)
        assert load_model(str(tmp_path), packing="isolated").config._attn_implementation == "eager"

    def test_missing_weights(self, saved: Path) -> None:
        weights = load_file(saved / "model.safetensors")
        weights.pop("model.layers.1.mlp.up_proj.weight")
        save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=r"1 weights .*layers\.1\.mlp\.up_proj.*would start at random"):
            load_model(str(saved))

    def test_weights_of_another_shape(self, saved: Path) -> None:
        _edit_config(saved, intermediate_size=40)
        with pytest.raises(ModelError, match=r"llama: .*"):
            load_model(str(saved))

    def test_unexpected_weights_are_told(self, saved: Path, caplog: pytest.LogCaptureFixture) -> None:
        weights = load_file(saved / "model.safetensors")
        save_file({**weights, "extra.weight": torch.ones(2)}, saved / "model.safetensors", {"format": "pt"})
        with caplog.at_level(logging.WARNING, logger="babygpt"):
            load_model(str(saved))
        assert "extra.weight" in caplog.text

    def test_damaged_weights(self, saved: Path) -> None:
        data = (saved / "model.safetensors").read_bytes()
        (saved / "model.safetensors").write_bytes(data[: len(data) // 2])
        with pytest.raises(ModelError, match="the weights cannot be loaded"):
            load_model(str(saved))

    def test_pickle_is_refused(self, saved: Path) -> None:
        torch.save(load_file(saved / "model.safetensors"), saved / "pytorch_model.bin")
        (saved / "model.safetensors").unlink()
        with pytest.raises(ModelError, match="no pickle is ever loaded"):
            load_model(str(saved))
        (saved / "pytorch_model.bin").unlink()
        with pytest.raises(ModelError, match="it holds no weights"):
            load_model(str(saved))

    def test_code_in_the_repository_is_refused(self, saved: Path) -> None:
        _edit_config(saved, model_type="mine", auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"})
        (saved / "modeling_mine.py").write_text("raise SystemExit('executed')")
        with pytest.raises(ModelError, match="no code from a checkpoint is ever run"):
            load_model(str(saved))

    def test_unknown_architecture(self, saved: Path) -> None:
        _edit_config(saved, model_type="mine")
        with pytest.raises(ModelError, match=r"does not know its architecture \(mine\)"):
            load_model(str(saved))

    def test_quantised_weights(self, saved: Path) -> None:
        _edit_config(saved, quantization_config={"quant_method": "gptq", "bits": 4})
        with pytest.raises(ModelError, match="quantised"):
            load_model(str(saved))

    @pytest.mark.parametrize("text", ["{", "[]", '"llama"'])
    def test_damaged_config(self, saved: Path, text: str) -> None:
        (saved / "config.json").write_text(text)
        with pytest.raises(ModelError, match="llama: "):
            load_model(str(saved))

    def test_config_with_a_field_of_a_wrong_type(self, saved: Path) -> None:
        _edit_config(saved, hidden_size="wide")
        with pytest.raises(ModelError, match="llama: "):
            load_model(str(saved))

    def test_no_config(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"holds no config\.json"):
            load_model(str(tmp_path))

    def test_run_folder_points_to_its_checkpoints(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoints" / "step-000120").mkdir(parents=True)
        (tmp_path / "checkpoints" / "step-000120" / "config.json").write_text("{}")
        with pytest.raises(ModelError, match="Give one of its checkpoints"):
            load_model(str(tmp_path))


class TestOtherKinds:
    def test_masked_language_model(self, tmp_path: Path) -> None:
        BertForMaskedLM(
            BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=50)
        ).save_pretrained(tmp_path)
        with pytest.raises(ModelError, match="BertForMaskedLM is not a causal language model"):
            load_model(str(tmp_path))

    def test_encoder_decoder(self, tmp_path: Path) -> None:
        config = AutoConfig.for_model(
            "t5", d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=50
        )
        AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path)
        with pytest.raises(ModelError, match="is not a causal language model"):
            load_model(str(tmp_path))

    def test_several_kinds_of_input(self, tmp_path: Path) -> None:
        AutoConfig.for_model("gemma3").save_pretrained(tmp_path)
        with pytest.raises(ModelError, match="text-only"):
            load_model(str(tmp_path))


def test_special_ids_come_from_the_tokenizer_where_the_model_has_none(tiny_gpt2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    model = load_model("preset:gpt2-1m", vocab_size=300)
    adopt_special_ids(model, tokenizer)
    for config in (model.config, model.generation_config):
        assert (config.eos_token_id, config.bos_token_id, config.pad_token_id) == (0, None, None)
    model.config.eos_token_id = 7
    adopt_special_ids(model, tokenizer)
    assert model.config.eos_token_id == 7
