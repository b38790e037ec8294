import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rewards.errors import Refused
from workers.models import ModelInit
from workers.models.create import create
from workers.models.load import load_model, load_stop_ids, load_tokenizer, save_model

torch.set_num_threads(1)

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
SMALL = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}


@pytest.fixture
def made(tmp_path):
    create(ModelInit("qwen3", SMALL), ["abc"], tmp_path / "made", seed=0)
    return tmp_path / "made"


def refusal(call, *args):
    with pytest.raises(Refused) as refused:
        call(*args)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_saved_and_loaded_is_the_same(made, tmp_path, capfd):
    model, tokenizer = load_model(made), load_tokenizer(made)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.set_attn_implementation("eager")  # how this process computes is no part of the model
    save_model(model, tokenizer, tmp_path / "deep" / "saved")
    assert "eager" not in (tmp_path / "deep" / "saved" / "config.json").read_text()
    assert capfd.readouterr() == ("", "")
    again = load_model(tmp_path / "deep" / "saved")
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in model.state_dict().items())
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert load_tokenizer(tmp_path / "deep" / "saved").encode("cab") == tokenizer.encode("cab")
    assert load_stop_ids(tmp_path / "deep" / "saved") == (tokenizer.eos_token_id,)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "deep" / "saved").generation_config.pad_token_id == 0


def test_precision_and_mode(made):
    model = load_model(made, "bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not model.training
    assert "did you mean 'float32'" in refusal(load_model, made, "float33")


def test_directories_that_hold_no_model(made, tmp_path):
    assert "no such directory, did you mean 'made'?" in refusal(load_model, tmp_path / "mabe")
    assert "no such directory" in refusal(load_tokenizer, str(tmp_path / "other" / "x"))
    (tmp_path / "empty").mkdir()
    assert f"model '{tmp_path / 'empty'}': can't be loaded" in refusal(load_model, tmp_path / "empty")
    assert "can't be loaded" in refusal(load_tokenizer, tmp_path / "empty")
    assert load_stop_ids(tmp_path / "empty") == ()


def test_weights_that_are_not_there_are_not_drawn_at_random(made):
    weights = load_file(made / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    save_file({key: value for key, value in weights.items() if key != name}, made / "model.safetensors")
    assert f"1 weights missing or of another shape, {name} for one" in refusal(load_model, made)
    save_file({**weights, name: weights[name][:3].clone()}, made / "model.safetensors")
    assert name in refusal(load_model, made) or "size" in refusal(load_model, made)
    (made / "model.safetensors").write_bytes(b"nothing")
    assert "can't be loaded" in refusal(load_model, made)


def test_only_safetensors_are_read(made):
    torch.save(load_file(made / "model.safetensors"), made / "pytorch_model.bin")
    (made / "model.safetensors").unlink()
    assert "safetensors" in refusal(load_model, made)


def test_a_hub_name_that_cannot_be_reached(tmp_path):
    code = "from workers.models.load import load_model\n"
    code += "try: load_model('nobody/nothing-here')\n"
    code += "except ValueError as error: print(type(error).__name__, error)"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env, check=True
    )
    assert done.stdout.startswith("Refused model 'nobody/nothing-here': can't be loaded")
    assert done.stdout.count("\n") == 1 and done.stderr == ""
