import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rewards.errors import Refused
from workers.models import ModelInit, TokenizerInit
from workers.models.create import create, model_sizes

torch.set_num_threads(1)

TEXTS = ["47+38=7+8=15,4+3+1=8.85", "9-6"]
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "tie_word_embeddings": True,
}
INITS = {
    "qwen3": ModelInit("qwen3", SMALL),
    "llama": ModelInit("llama", {**SMALL, "tie_word_embeddings": False}, TokenizerInit("bpe", 260)),
    "gpt2": ModelInit("gpt2", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
}


@pytest.mark.parametrize("name", INITS)
def test_a_directory_that_loads_anywhere(name, tmp_path):
    create(INITS[name], TEXTS, tmp_path, seed=0)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.model_type == name
    assert model.config.vocab_size == len(tokenizer) and model.config.bos_token_id is None
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == model.config.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert (tmp_path / "model.safetensors").exists() and not list(tmp_path.glob("*.bin"))
    assert all(weight.dtype == torch.float32 for weight in load_file(tmp_path / "model.safetensors").values())
    prompt = tokenizer(TEXTS[0], return_tensors="pt")
    assert tokenizer.decode(prompt.input_ids[0]) == TEXTS[0]
    out = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert out.shape[1] > prompt.input_ids.shape[1]


@pytest.mark.parametrize("name", INITS)
def test_parameters_are_counted_without_weights(name, tmp_path):
    create(INITS[name], TEXTS, tmp_path, seed=0)
    counted = sum(weight.numel() for weight in load_file(tmp_path / "model.safetensors").values())
    assert model_sizes(tmp_path).parameters == counted
    (tmp_path / "model.safetensors").unlink()
    assert model_sizes(str(tmp_path)).parameters == counted
    if INITS[name].tokenizer.kind == "chars":
        assert model_sizes(INITS[name], TEXTS).parameters == counted


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    torch.manual_seed(5)
    create(INITS["llama"], TEXTS, tmp_path / "a", seed=0)
    after = torch.rand(1)
    torch.manual_seed(6)
    create(INITS["llama"], TEXTS, tmp_path / "b", seed=0)
    create(INITS["llama"], TEXTS, tmp_path / "c", seed=1)
    torch.manual_seed(5)
    assert after == torch.rand(1)  # the process's own stream is left as it was
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    weights = "model.safetensors"
    assert (tmp_path / "a" / weights).read_bytes() != (tmp_path / "c" / weights).read_bytes()


BAD = [
    ("qwen4", {}, "model.init.architecture: 'qwen4' is no decoder of transformers, did you mean 'qwen3'?"),
    ("t5", {}, "'t5' is no decoder of transformers, expected one such as"),
    ("bert", {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1}, "'bert' sees later tokens"),
    (
        "qwen3",
        {**SMALL, "hidden_sise": 3},
        "model.init.config.hidden_sise: unknown for qwen3, did you mean 'hidden_size'",
    ),
    ("gpt2", {"num_layers": 3}, "model.init.config.num_layers: unknown for gpt2, did you mean 'n_layer'"),
    ("qwen3", {"vocab_size": 3}, "model.init.config.vocab_size: comes from the tokenizer"),
    ("qwen3", {**SMALL, "hidden_size": "x"}, "expected int, got str"),
    ("qwen3", {**SMALL, "num_key_value_heads": 3}, "qwen3 can't be built with it"),
    ("qwen3", {**SMALL, "hidden_act": "silly"}, "silly"),
    ("qwen3", {**SMALL, "num_attention_heads": 0}, "qwen3 can't be built with it"),
    ("gpt2", {"n_embd": 63}, "divisible"),
]


@pytest.mark.parametrize(("architecture", "config", "message"), BAD)
def test_configs_that_make_no_model(architecture, config, message, tmp_path):
    with pytest.raises(Refused) as refused:
        create(ModelInit(architecture, config), TEXTS, tmp_path / "model", seed=0)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "model").exists()


def test_what_a_config_says_about_models_is_light():
    code = "import json, sys, workers.models; print(json.dumps(sorted(sys.modules)))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert not {"torch", "transformers", "ray", "tokenizers"} & set(json.loads(done.stdout))
