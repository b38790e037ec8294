"""A described cluster: what may be said of it, what a step costs by hand, and what is refused."""

from __future__ import annotations

import re

import pytest
import yaml
from rich.console import Console
from tiny_run import TINY

from pipeline.check import check
from pipeline.config import parse_config
from pipeline.memory import Longest
from pipeline.plan import shown
from pipeline.spec import DEVICES, Device, load_spec
from pipeline.step_time import MFU, PREFILL, READ, Rates, step_time
from rewards.errors import Refused
from workers.models.create import ModelSizes


def config(**changes):
    data = yaml.safe_load(TINY)
    for key, value in changes.items():
        data[key] = data[key] | value if isinstance(data.get(key), dict) else value
    return parse_config(data, "tiny.yaml")


GPUS = {"learner": {"gpus": 1}, "rollout": {"gpus": 1, "workers": 2}}


def test_a_cluster_in_short_and_in_full(tmp_path):
    short = load_spec("2x8xH100")
    path = tmp_path / "cluster.yaml"
    path.write_text("nodes: [{count: 2, cpus: 192, memory_gb: 1600, gpus: 8, gpu: H100}]\n")
    assert load_spec(str(path)) == short
    assert [node.resources for node in short.seats] == [{"CPU": 192, "GPU": 8, "accelerator_type:H100": 1}] * 2
    assert short.device(True, "H100") == DEVICES["H100"]
    assert short.device(False, None) is None
    path.write_text("nodes: [{cpus: 2, memory_gb: 24, tflops: 0.05, bandwidth_gb_s: 10}]\n")
    assert load_spec(str(path)).device(False, None) == Device(24e9, 0.05e12, 10e9)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("8 H100", "--cluster: '8 H100', expected NODESxGPUSxTYPE"),
        ("2x8xH10", "--cluster: nodes.0: gpu: found 'H10'; did you mean 'H100'?"),
        ("nodes: [{cpu: 2, memory_gb: 4}]", "--cluster: nodes.0.cpus: this key is needed"),
        ("nodes: [{cpus: 2, memory_gb: 4, gpus: 1}]", "--cluster: nodes.0: gpu: this key is needed beside gpus"),
    ],
)
def test_what_is_no_cluster(tmp_path, text, line):
    if text.startswith("nodes"):
        path = tmp_path / "cluster.yaml"
        path.write_text(text)
        text = str(path)
    with pytest.raises(Refused, match=f"^{re.escape(line)}"):
        load_spec(text)


def test_a_step_by_hand():
    """16 samples of 10 + 12 tokens on two workers, which take all 8 at once: memory is what they wait for."""
    sizes = ModelSizes(
        parameters=1000, vocabulary=50, hidden=8, intermediate=16, layers=2, kv_width=4, positions=64, query_width=8
    )
    settings = config(rollout={"workers": 2, "max_new_tokens": 12})
    rates = Rates(Device(1, 1e9, 1e3), 1, Device(1, 1e6, 1), 4, 1e4)
    found = step_time(settings, settings.stages["rl"], sizes, Longest(10, 15), rates)
    keys = 8 * (10 + 6) * 2 * 2 * 4 * 4
    assert found.generate == pytest.approx(12 * (4000 + keys) / (1e3 * READ) + 2 * 1000 * 8 * 10 / (1e9 * PREFILL))
    products = 6 + 2  # the reference is asked once, and one update needs no old log-probs
    assert settings.stages["rl"].algorithm.build().needs.logp_ref
    products += 2 * settings.stages["rl"].algorithm.build().needs.logp_old
    attention = 2 * 2 * 8 * 22 * products / 6
    assert found.learn == pytest.approx(16 * 22 * (products * 1000 + attention) / (4e6 * MFU))
    assert found.publish == pytest.approx(4000 / 1e4)
    assert found.whole == pytest.approx(found.generate + found.learn + found.publish)


def test_the_plan_says_who_would_sit_where():
    checked = check(config(**GPUS), load_spec("1x4xL40S"))
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(shown(checked))
    text = console.export_text()
    assert "node-0 (L40S)  learner, rollout-0, rollout-1, judge-0" in text
    for word in ("gradients", "optimizer", "activations", "KV cache", "logits", "the GPU has", "a step"):
        assert word in text
    parts = checked.sizing.held[0].parts
    assert parts["optimizer"] == 2 * parts["gradients"] == 8 * checked.parameters
    assert sum(parts.values()) == checked.needs.learner.held + checked.needs.learner.work


@pytest.mark.parametrize(
    ("spec", "changes", "line"),
    [
        ("1x2xL40S", GPUS, "--cluster: no room for rollout: 1 x (1 CPU + 1 GPU)"),
        (
            "1x4xA10G",
            GPUS | {"rollout": {"gpus": 1, "max_rows": 10**9, "max_new_tokens": 40}, "data": {"held_out": 20}},
            None,
        ),
    ],
)
def test_a_described_cluster_that_is_too_small(spec, changes, line):
    if line is None:
        assert check(config(**changes), load_spec(spec)).sizing is not None
        return
    with pytest.raises(Refused, match=f"^{re.escape(line)}"):
        check(config(**changes), load_spec(spec))


def test_a_model_that_no_gpu_of_it_holds(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(
        "nodes: [{cpus: 8, memory_gb: 64, gpus: 4, gpu: toy, tflops: 1, bandwidth_gb_s: 1}]\nnetwork_gb_s: 1\n"
    )
    spec = load_spec(str(path))
    tight = spec.model_copy()
    with pytest.raises(Refused, match=r"--cluster: learner would need .* on each GPU \(weights .*\), which has 1 B"):
        object.__setattr__(tight, "device", lambda gpus, gpu_type: Device(1, 1e12, 1e9))
        check(config(**GPUS), tight)


def test_a_shape_stands_in_for_a_model_that_is_not_at_hand(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, '
        '"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 512}'
    )
    settings = config(model={"path": "owner/not-at-hand", "init": None})
    checked = check(settings, load_spec("1x4xL40S"), tmp_path)
    assert 150_000 < checked.parameters < 250_000
