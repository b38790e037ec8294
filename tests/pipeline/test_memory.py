"""Bytes counted by hand, and the estimate of an update's work against what it really takes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from tiny_run import TINY

from pipeline.check import check
from pipeline.config import parse_config
from pipeline.memory import Longest, needs
from workers.models.create import ModelSizes

SIZES = ModelSizes(
    parameters=1000, vocabulary=50, hidden=8, intermediate=16, layers=2, kv_width=4, positions=64, query_width=8
)
KEPT_HERE = 24 * 8 + 16 * (8 + 4) + 16 * 16
LONGEST = dict.fromkeys(("warm_start", "before", "rl", "after"), Longest(prompt=10, demonstration=15))


@pytest.fixture(scope="module")
def tasks():
    return check(parse_config(yaml.safe_load(TINY), "tiny.yaml")).tasks


def found(tasks, sizes=SIZES, **sections):
    data = yaml.safe_load(TINY)
    for key, value in sections.items():
        data[key] = data.get(key, {}) | value
    return needs(parse_config(data, "tiny.yaml"), sizes, tasks, LONGEST)


def test_the_learner_by_hand(tasks):
    """16 demonstrations of 15 tokens, 5 of them its own; 16 samples of 10 + 12, 12 of them its own: 352 tokens."""
    learner = found(tasks).learner
    assert (learner.held, learner.asleep) == (5 * 4000, 4 * 4000)  # on the CPU only the gradients go
    assert learner.work == 16 * 12 * 50 * 3 * 4 + 352 * 2 * KEPT_HERE
    on_gpu = found(tasks, learner={"gpus": 1}).learner
    assert (on_gpu.held, on_gpu.asleep) == (5 * 4000, 2 * 4000)  # weights and reference stay
    small = found(tasks, learner={"micro_batch_tokens": 100}).learner
    assert small.work == 100 * 50 * 3 * 4 + 100 * 2 * KEPT_HERE
    halves = found(tasks, learner={"dtype": "bfloat16"}).learner
    assert halves.held == learner.held  # what is learned is kept in float32
    assert halves.work == 16 * 12 * 50 * 3 * 4 + 352 * 2 * (26 * 8 + 10 * 12 + 8 * 16) + 2000
    again = found(tasks, learner={"gradient_checkpointing": True}).learner
    assert again.work == 16 * 12 * 50 * 3 * 4 + 352 * (2 * 8 * 4 + KEPT_HERE)  # inputs, and one layer at a time
    halves = found(tasks, learner={"dtype": "bfloat16", "gradient_checkpointing": True}).learner
    assert halves.work == 16 * 12 * 50 * 3 * 4 + 352 * (2 * 8 * 2 + 26 * 8 + 10 * 12 + 8 * 16) + 1000
    half = found(tasks, learner={"ranks": 2}).learner
    assert (half.held, half.asleep) == (5 * 2000, 4 * 2000)
    gathered = 1000 + 2 * 50 * 8  # a layer and the next, the vocabulary on both ends
    assert half.work == 8 * 12 * 50 * 3 * 4 + 176 * 2 * KEPT_HERE + gathered * 4
    large = found(tasks, replace(SIZES, vocabulary=200_000)).learner
    assert large.work == 192 * 200_000 * 3 * 4 + 352 * 2 * KEPT_HERE


def test_a_critic_by_hand(tasks):
    """A second model beside the first, without a vocabulary; or a head, which is nothing."""
    rl = {"kind": "rl", "steps": 7, "groups_per_step": 4}

    def learner(trunk, **sections):
        algorithm = {"kind": "ppo", "group_size": 4, "kl_coefficient": 0.01, "critic": {"trunk": trunk}}
        return found(tasks, stages={"rl": rl | {"algorithm": algorithm}}, **sections).learner

    layers = 352 * 2 * KEPT_HERE
    assert (learner("separate").held, learner("separate").asleep) == (9 * 4000, 7 * 4000)
    assert learner("separate", learner={"gpus": 1}).asleep == 3 * 4000
    assert learner("separate").work == 16 * 12 * 50 * 3 * 4 + 2 * layers
    assert learner("shared") == found(tasks).learner


def test_a_rollout_worker_by_hand(tasks):
    """Evaluations ask for 20 completions at once, the RL stage for 16."""
    worker = found(tasks).rollout
    cache = 20 * (10 + 12) * 2 * 2 * 4 * 4
    assert (worker.held, worker.asleep, worker.work) == (4000, 0, cache * 3 // 2 + 20 * 50 * 4 * 4)
    assert found(tasks, rollout={"max_rows": 10}).rollout.work == worker.work // 2
    assert found(tasks, rollout={"workers": 2}).rollout.work == worker.work // 2
    assert found(tasks, rollout={"dtype": "bfloat16"}).rollout.held == 2000


def test_vllm_keeps_its_memory_on_the_cpu(tasks):
    arguments = {"kv_cache_memory_bytes": 5000}
    worker = found(tasks, rollout={"engine": "vllm", "engine_args": arguments}).rollout
    assert (worker.held, worker.asleep, worker.work) == (9000, 9000, 0)
    on_gpu = found(tasks, rollout={"engine": "vllm", "engine_args": arguments, "gpus": 1}).rollout
    assert (on_gpu.held, on_gpu.asleep, on_gpu.work) == (4000, 0, 5000)


UPDATE = """
import sys
from itertools import accumulate
import numpy as np, torch
from pipeline.algorithms import Sft
from pipeline.memory import CHUNKS
from pipeline.packing import plan
from workers.dealing import chunk_tokens
from workers.learner.engine_torch import TorchLearner
from workers.models.create import ModelInit, create
from workers.types import Credit, Optimization, Sample, Signals

T, S, V = 4096, 16, 8192
folder = sys.argv[1]
sizes = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
             head_dim=32, tie_word_embeddings=True)
create(ModelInit(config=sizes), ["".join(map(chr, range(256, 256 + V - 3)))], folder, 0)
learner = TorchLearner(folder)
learner.begin(Optimization(10), Sft().losses, False)
ones, mask = np.ones(T // S - 1, np.float32), np.arange(T // S) > 0
ids = np.random.default_rng(0).integers(3, V, (S, T // S)).astype(np.int32)
samples = [Sample(i, 0, row, mask, np.zeros(T // S, np.float32)) for i, row in enumerate(ids)]
work = plan([Credit(sample, Signals(), ones, ones, 1.0) for sample in samples], T)
learner.update(work)
learner.sleep()
# Every block that is taken and given back: the process's size would show what the C library keeps, too.
with torch.profiler.profile(profile_memory=True) as seen:
    learner.update(work)
events = seen.profiler.kineto_results.events()
blocks = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
peak = max(accumulate(size for _, size in blocks))
logits = chunk_tokens(V) * V * CHUNKS * 4
print(peak / (logits + T * 2 * (24 * 64 + 16 * 128 + 16 * 128)))
"""


@pytest.mark.slow
def test_the_estimate_of_an_update_is_near_what_it_takes(tmp_path):
    command = [sys.executable, "-c", UPDATE, str(tmp_path / "model")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert found.returncode == 0, found.stderr
    assert 0.8 < float(found.stdout.split()[-1]) < 1.1


LAYER = """
import sys
import torch
from pipeline.memory import KEPT
from workers.models import ModelInit
from workers.models.attention import Packed, adopt
from workers.models.create import create
from workers.models.load import load_model

T, S = 352, 11

def kept(hidden, inner, heads, keys, layers, dtype):
    sizes = dict(hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
                 num_key_value_heads=keys, head_dim=64, tie_word_embeddings=True, max_position_embeddings=64)
    create(ModelInit("qwen3", config=sizes), ["0123456789"], sys.argv[1], 0)
    model = adopt(load_model(sys.argv[1])).eval().requires_grad_(True)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    shapes = {tuple(p.shape) for p in model.parameters()} | {tuple(p.shape)[::-1] for p in model.parameters()}
    found = {}

    def keep(tensor):
        cast = tensor.dtype == torch.bfloat16 and tuple(tensor.shape) in shapes  # a weight's copy, counted apart
        if tensor.untyped_storage().data_ptr() not in own and not cast:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids, position = torch.randint(3, 10, (1, T)), torch.arange(T // S).repeat(S)[None]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            attend = Packed(torch.full((S,), T // S))
            model(ids, position_ids=position, attend=attend, use_cache=False, logits_to_keep=torch.tensor([T - 1]))
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())

for dtype in (torch.float32, torch.bfloat16):
    for shape in ((128, 512, 4, 2), (320, 192, 3, 3)):
        measured = (kept(*shape, 3, dtype) - kept(*shape, 1, dtype)) / 2 / T
        hidden, inner, heads, keys = shape
        widths = (hidden, 64 * (heads + keys), inner)
        print(measured / sum(n * w for n, w in zip(KEPT[str(dtype).removeprefix("torch.")], widths)))
"""


@pytest.mark.slow
def test_what_a_layer_keeps_is_what_autograd_holds(tmp_path):
    command = [sys.executable, "-c", LAYER, str(tmp_path / "model")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert found.returncode == 0, found.stderr
    ratios = [float(line) for line in found.stdout.splitlines() if line[:1].isdigit()]  # libraries print as well
    assert len(ratios) == 4 and all(0.97 < ratio < 1.03 for ratio in ratios), ratios
