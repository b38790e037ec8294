"""What can't fit is refused in one line; what an estimate says might not is a warning."""

from __future__ import annotations

import re

import pytest
import yaml
from tiny_run import TINY

from pipeline.assemble import placement_of
from pipeline.check import check
from pipeline.config import parse_config
from pipeline.fit import check_lengths, check_machine, check_timeouts
from pipeline.memory import LIBRARIES, Longest, Need, Needs
from rewards.errors import Refused
from workers.placement import Gpu, Machine

GB = 10**9
LAPTOP = Machine(2, 24 * GB, ())


def config(**changes):
    data = yaml.safe_load(TINY)
    for key, value in changes.items():
        data[key] = data[key] | value if isinstance(data.get(key), dict) else value
    return parse_config(data, "tiny.yaml")


def gpus(*free):
    return Machine(16, 100 * GB, tuple(Gpu(n * GB, 80 * GB) for n in free))


def fit(machine, needs=None, **changes):
    settings = config(**changes)
    small = Need(GB // 100, 0, GB // 100)
    return check_machine(settings, placement_of(settings), needs or Needs(small, small, False), machine)


@pytest.mark.parametrize(
    ("changes", "machine", "line"),
    [
        ({"rollout": {"gpus": 1}}, LAPTOP, "rollout.gpus: 1 asked, this machine has 0 GPUs"),
        ({"learner": {"gpus": 1}}, LAPTOP, "learner.gpus: 1 asked, this machine has 0 GPUs"),
        (
            {"learner": {"gpus": 1}, "rollout": {"gpus": 1}},
            gpus(80),
            "learner.gpus: 1 asked, this machine has 1 GPUs; learner and 1 rollout workers need 2 together",
        ),
        ({"learner": {"cpus": 3}}, LAPTOP, "learner.cpus: 3 asked, this machine has 2 CPUs"),
        ({"rewards": {"cpus": 2.5}}, LAPTOP, "rewards.cpus: 2.5 asked, this machine has 2 CPUs"),
        (
            {"cluster": {"cpus": 2}},
            LAPTOP,
            "cluster.cpus: 2, but learner, rollout workers and judges ask for 3 together",
        ),
    ],
)
def test_what_the_machine_does_not_have(changes, machine, line):
    with pytest.raises(Refused, match=f"^{re.escape(line)}$"):
        fit(machine, **changes)


def test_what_fits_is_let_through():
    assert fit(LAPTOP) == []
    assert fit(LAPTOP, cluster={"cpus": 3}) == []
    shared = {"learner": {"gpus": 1}, "rollout": {"gpus": 1}, "cluster": {"placement": "shared"}}
    assert fit(gpus(80), **shared) == []


BIG = Needs(Need(28 * GB, 7 * GB, 4 * GB), Need(4 * GB, 0, 30 * GB), False)


def test_memory_on_the_host_adds_up():
    held = 32 * GB + 2 * LIBRARIES
    with pytest.raises(Refused, match=r"cluster: learner and rollout workers need 33 GB without .*, 24 GB are free"):
        fit(LAPTOP, BIG)
    (warning,) = fit(Machine(2, held + GB, ()), BIG)
    assert "up to 34 GB for activations and caches; 34 GB are free" in warning
    assert fit(Machine(2, held + 34 * GB, ()), BIG) == []


def test_in_turns_the_larger_of_both_counts():
    """Learner's turn: 28 held and 4 for its work. Engines' turn: 7 asleep, 4 and 30."""
    shared = {"cluster": {"placement": "shared"}}
    most = 41 * GB + 2 * LIBRARIES
    assert fit(Machine(2, most, ()), BIG, **shared) == []
    (warning,) = fit(Machine(2, most - 1, ()), BIG, **shared)
    assert warning.startswith("cluster.placement: while the engines work both need")
    with pytest.raises(Refused, match=r"while the learner works both need 29 GB without"):
        fit(Machine(2, 28 * GB, ()), BIG, **shared)


def test_each_gpu_has_room_of_its_own():
    both = {"learner": {"gpus": 1}, "rollout": {"gpus": 1}}
    assert fit(gpus(40, 80), BIG, **both) == []
    assert [w.partition(":")[0] for w in fit(gpus(33, 80), BIG, **both)] == ["rollout.gpus"]
    with pytest.raises(Refused, match=r"learner\.gpus: it needs on each GPU 28 GB without .*, 20 GB are free"):
        fit(gpus(20, 80), BIG, **both)
    shared = both | {"cluster": {"placement": "shared"}}
    assert fit(gpus(41), BIG, **shared) == []
    assert len(fit(gpus(40), BIG, **shared)) == 1


def test_vllm_takes_its_share_of_a_whole_gpu():
    vllm = {"learner": {"gpus": 1}, "rollout": {"gpus": 1, "engine": "vllm"}, "cluster": {"placement": "shared"}}
    line = r"gpu_memory_utilization: 0\.92 of 80 GB, but 79 GB are free and the learner keeps 7\.0 GB of them; .* 0\.9 "
    with pytest.raises(Refused, match=line):
        fit(gpus(79), BIG, **vllm)
    vllm["rollout"]["engine_args"] = {"gpu_memory_utilization": 0.9}
    assert fit(gpus(79), BIG, **vllm) == []


def test_sources_must_be_done_before_their_judge_is_given_up():
    seat = {"kind": "exact", "after": ".", "timeout_s": 30, "retries": 1}
    check_timeouts(config(rewards={"sources": {"slow": seat}}, cluster={"timeout_s": 61}))
    with pytest.raises(Refused, match=r"cluster\.timeout_s: 60 s, but reward source 'slow' .* may take 60 s"):
        check_timeouts(config(rewards={"sources": {"slow": seat}}, cluster={"timeout_s": 60}))


def test_sequences_fit_into_the_model():
    """TINY's model takes 64; the longest prompt of one-digit arithmetic has four characters."""
    prompt = max(len(task.messages[0].content) for task in check(config()).tasks["rl"].train)
    check(config(rollout={"max_new_tokens": 64 - prompt}))
    line = (
        rf"rollout\.max_new_tokens: {65 - prompt} and the longest tried prompt's {prompt} tokens make 65, .* at most 64"
    )
    with pytest.raises(Refused, match=line):
        check(config(rollout={"max_new_tokens": 65 - prompt}))


def test_sequences_fit_into_what_vllm_is_told_to_take():
    def lengths(most, new):
        vllm = {"engine": "vllm", "engine_args": {"max_model_len": most}, "max_new_tokens": new}
        settings = config(rollout=vllm)
        check_lengths(settings, 64, dict.fromkeys(settings.stages, Longest(4, 12)))

    lengths(64, 60)
    lengths(32, 28)
    with pytest.raises(Refused, match=r"make 33, expected at most 32 \(engine_args\.max_model_len\)$"):
        lengths(32, 29)
    line = r"^rollout\.engine_args\.max_model_len: 65, expected at most 64 \(the model's max_position_embeddings\)$"
    with pytest.raises(Refused, match=line):
        lengths(65, 8)


def test_samples_fit_into_a_micro_batch():
    prompt = max(len(task.messages[0].content) for task in check(config()).tasks["rl"].train)
    longest = prompt + 12
    check(config(learner={"micro_batch_tokens": longest}))
    with pytest.raises(
        Refused, match=rf"stages\..*\.learner\.micro_batch_tokens: {longest - 1}, but .* {longest} or more"
    ):
        check(config(learner={"micro_batch_tokens": longest - 1}))
    with pytest.raises(
        Refused, match=r"stages\.warm_start\.learner.* prompt and demonstration have \d+ tokens together"
    ):
        check(config(learner={"micro_batch_tokens": 5}))


def test_ranks_have_cpus_and_gpus_of_their_own():
    line = r"learner\.ranks: 4 of 1 CPUs each .* 2 CPUs; expected at most 2 ranks, or 0\.5 CPUs each"
    with pytest.raises(Refused, match=line):
        fit(LAPTOP, learner={"ranks": 4})
    assert fit(LAPTOP, learner={"ranks": 4, "cpus": 0.5}) == []
    with pytest.raises(Refused, match=r"learner\.ranks: 2 of one GPU each, this machine has 1 GPUs"):
        fit(gpus(80), learner={"ranks": 2, "gpus": 1})


def test_every_rank_has_something_to_learn_from():
    """TINY's rl stage: 4 groups of 4."""
    many = {"ranks": 17, "cpus": 0.01}
    line = r"stages\.warm_start\.groups_per_step: 16 makes 16 samples .* over learner\.ranks 17; .* at most 16 ranks"
    with pytest.raises(Refused, match=line):
        check(config(learner=many))
    check(config(learner=many | {"ranks": 16}))


def test_rollouts_that_labels_are_inferred_from_fit_too():
    stage = {"kind": "reward_model", "steps": 1, "groups_per_step": 2, "algorithm": {"kind": "process", "infer": {}}}
    settings = {"stages": {"judge": {**stage, "rollout": {"max_new_tokens": 80}}}}
    with pytest.raises(Refused, match=r"stages\.judge\.rollout\.max_new_tokens: 80 and the longest tried prompt's"):
        check(config(**settings))
    settings = {"stages": {"judge": {**stage, "learner": {"micro_batch_tokens": 9}}}}
    with pytest.raises(
        Refused, match=r"stages\.judge\.learner\.micro_batch_tokens: 9, but a sample may have 16 tokens"
    ):
        check(config(**settings))
