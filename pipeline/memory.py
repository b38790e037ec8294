"""How much memory each process needs on its device: what it holds for certain, and an estimate of what its work takes.

The learner keeps weights, gradients, AdamW's two moments and the reference in float32, whatever it computes in; a
critic with a trunk of its own is a second model, without logits. Many ranks hold a share of all that each. Of the work
these are the big part: of the product with the vocabulary, three arrays of float32, a chunk of tokens x vocabulary; and
what the layers keep for the way back, which was counted from the tensors that autograd holds of a Qwen3 (`KEPT`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.config import Config, EvaluateStage, PreferenceStage, RewardModelStage, RlStage, SftStage, TrainStage
from pipeline.evaluate import WAVE
from pipeline.tasks import TaskSets
from workers.dealing import chunk_tokens

if TYPE_CHECKING:
    from workers.models.create import ModelSizes

BYTES = {"float32": 4, "bfloat16": 2}
# Python, torch and transformers, as measured; on the host, wherever the model is.
LIBRARIES = 400_000_000
# Joining rows copies the keys before the old ones are freed.
JOINING = 1.5
LOGITS = 4  # of an engine that samples
CHUNKS = 3  # of the learner: logits, log-probs, probabilities
# Bytes that a layer keeps of a token: for each number of the hidden size, of queries and keys, of the MLP's width.
# Norms compute, and keep, float32 whatever the products do.
KEPT = {"float32": (24, 16, 16), "bfloat16": (26, 10, 8)}
# vLLM's own defaults.
VLLM_GPU_SHARE, GIB = 0.92, 2**30


@dataclass(frozen=True, slots=True)
class Longest:
    """Of the tasks that were tried, in tokens: the longest prompt, the longest with its demonstration, the longest with
    one of its rated answers, and what all rated answers of a task come to, each with its prompt."""

    prompt: int
    demonstration: int
    answer: int = 0
    answers: int = 0


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of one process on its device.

    held    weights, gradients, optimizer, reference
    asleep  what is left of them while the other side has its turn
    work    caches and activations, estimated for the largest batch that the config allows
    parts   held and work by what they are for
    """

    held: int
    asleep: int
    work: int
    parts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Needs:
    """Of the run's processes. `reference`, `critic`: whether a stage keeps one."""

    learner: Need
    rollout: Need
    reference: bool
    critic: bool = False


def needs(config: Config, sizes: ModelSizes, tasks: Mapping[str, TaskSets], longest: Mapping[str, Longest]) -> Needs:
    """What the learner and one rollout worker need. Judges are not counted: what they hold is the sources' affair."""
    train = {name: stage for name, stage in config.stages.items() if isinstance(stage, TrainStage)}
    algorithms = [stage.algorithm.build() for stage in train.values() if isinstance(stage, RlStage | PreferenceStage)]
    watched = any(isinstance(stage, RlStage) and stage.rewards.gold for stage in train.values())
    reference = watched or any(algorithm.needs.logp_ref for algorithm in algorithms)
    critic = max((_critics(stage) for stage in train.values()), default=0)
    learner, copy, models = config.learner, sizes.parameters * BYTES["float32"], 1 + critic
    moves = _moving(config, sizes) * BYTES["float32"] + copy * critic if train else 0
    weights = copy * (models + (reference and learner.lora is None))  # with adapters it is one of them
    parts = [learner.ranks if learner.splits >= stage else 1 for stage in (1, 2, 3)]
    # DeepSpeed learns on a copy of its own.
    moments = (3 if learner.engine == "deepspeed" else 2) * moves // parts[0]
    gradients, weights = moves // parts[1], weights // parts[2]
    stays = weights + (0 if learner.gpus else moments)  # on the CPU moments stay
    works = [_learning(config, stage, sizes, longest[name]) for name, stage in train.items()]
    activations, logits = max(works, default=(0, 0), key=sum)
    held = {"weights": weights, "gradients": gradients, "optimizer": moments}
    work = {"activations": activations, "logits": logits}
    need = Need(sum(held.values()), stays, sum(work.values()), held | work)
    return Needs(need, _rollout(config, sizes, tasks, longest), reference, critic > 0)


def _moving(config: Config, sizes: ModelSizes) -> int:
    """Numbers of the policy that learn: all, or adapters on the seven matrices of each layer."""
    lora = config.learner.lora
    if lora is None:
        return sizes.parameters
    return lora.rank * sizes.layers * (8 * sizes.hidden + 3 * (sizes.hidden + sizes.intermediate))


def _critics(stage: TrainStage) -> int:
    """How many trunks of critics, or reward models, it keeps beside the policy's."""
    if isinstance(stage, RewardModelStage):
        return stage.algorithm.build().scalar.peers
    scalar = stage.algorithm.build().needs.critic if isinstance(stage, RlStage) else None
    return 0 if scalar is None or scalar.shared else scalar.peers


def _learning(config: Config, stage: TrainStage, sizes: ModelSizes, longest: Longest) -> tuple[int, int]:
    """Of the stage's largest micro-batch: what the layers keep, and the product with the vocabulary."""
    if isinstance(stage, RlStage):
        n, own = stage.groups_per_step * stage.algorithm.group_size, stage.rollout.max_new_tokens
        whole = longest.prompt + own
    else:
        n = stage.groups_per_step
        whole = longest.demonstration if isinstance(stage, SftStage) else longest.answers
        own = 0 if isinstance(stage, RewardModelStage) else whole - longest.prompt
    ranks, dtype = config.learner.ranks, config.learner.dtype
    tokens = min(stage.learner.micro_batch_tokens, -(-n * whole // ranks))
    chunk = min(tokens, -(-n * own // ranks), chunk_tokens(sizes.vocabulary))
    logits = chunk * sizes.vocabulary * CHUNKS * BYTES["float32"]
    widths = (sizes.hidden, sizes.query_width + sizes.kv_width, sizes.intermediate)
    every = sum(n * width for n, width in zip(KEPT[dtype], widths, strict=True))
    layers = tokens * sizes.layers * every
    cast = sizes.parameters * BYTES[dtype] if dtype != "float32" else 0
    if config.learner.gradient_checkpointing:  # each layer's input, and one layer at a time as it is without
        layers = tokens * (sizes.layers * sizes.hidden * BYTES[dtype] + every)
        cast //= sizes.layers
    # Where weights are spread, what computes is whole: a layer and the next one, the vocabulary on both ends.
    spread = ranks > 1 and config.learner.splits == 3
    gathered = 2 * sizes.parameters // sizes.layers + 2 * sizes.vocabulary * sizes.hidden if spread else 0
    return (layers + cast + gathered * BYTES["float32"]) * (1 + _critics(stage)), logits


def _rollout(config: Config, sizes: ModelSizes, tasks: Mapping[str, TaskSets], longest: Mapping[str, Longest]) -> Need:
    rollout, width = config.rollout, BYTES[config.rollout.dtype]
    weights, work = sizes.parameters * width, (0, 0)
    for name, stage in config.stages.items():
        if isinstance(stage, RlStage):
            asked = stage.groups_per_step * stage.algorithm.group_size * (stage.max_staleness + 1)
        elif isinstance(stage, EvaluateStage):
            asked = min(WAVE, len(tasks[name].held_out[: stage.limit])) * stage.samples
        else:
            continue
        rows = min(rollout.max_rows, -(-asked // rollout.workers))
        cache = rows * (longest[name].prompt + stage.rollout.max_new_tokens) * sizes.layers * 2 * sizes.kv_width * width
        work = max(work, (int(cache * JOINING), rows * sizes.vocabulary * LOGITS * BYTES["float32"]), key=sum)
    if rollout.engine == "torch":
        return Need(weights, 0, sum(work), {"weights": weights, "KV cache": work[0], "logits": work[1]})
    given = rollout.engine_args.get("kv_cache_memory_bytes")
    cache = given or int(os.environ.get("VLLM_CPU_KVCACHE_SPACE", 1)) * GIB
    # On a GPU vLLM takes its share of all there is, on the CPU it has no sleep mode.
    if rollout.gpus:
        return Need(weights, 0, given or 0, {"weights": weights, "KV cache": given or int(work[0] / JOINING)})
    return Need(weights + cache, weights + cache, 0, {"weights": weights, "KV cache": cache})
