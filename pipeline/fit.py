"""Whether a run fits: its sequences into the model and a micro-batch, its processes into this machine.

What can't fit is refused; what an estimate says might not is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipeline.config import Config, EvaluateStage, PreferenceStage, RewardModelStage, SftStage
from pipeline.memory import LIBRARIES, VLLM_GPU_SHARE, Longest, Needs
from pipeline.rundir import size
from pipeline.stage_kinds import judged_by
from rewards.errors import Refused
from workers.placement import Machine, Placement


def check_timeouts(config: Config) -> None:
    """A judge must have the time that its sources have: one that is cut off before them fails its whole group."""
    limit = config.cluster.timeout_s
    for name, stage in config.stages.items():
        if rewards := judged_by(stage):
            gold = {"gold": rewards.gold} if rewards.gold else {}
            for source, seat in (rewards.sources | gold).items():
                may = seat.timeout_s * (1 + seat.retries)
                if may >= limit:
                    raise Refused(
                        f"cluster.timeout_s: {limit:g} s, but reward source {source!r} of stage {name} may take "
                        f"{may:g} s (timeout_s {seat.timeout_s:g}, asked up to {1 + seat.retries} times); expected more"
                    )


def check_lengths(config: Config, positions: int | None, longest: Mapping[str, Longest]) -> None:
    """Sequences must fit into the model's context, and what is learned from into a micro-batch."""
    given = config.rollout.engine_args.get("max_model_len") if config.rollout.engine == "vllm" else None
    if given and positions and given > positions:
        raise Refused(
            f"rollout.engine_args.max_model_len: {given}, expected at most {positions} "
            "(the model's max_position_embeddings)"
        )
    key, takes = ("engine_args.max_model_len", given) if given else ("the model's max_position_embeddings", positions)
    for name, stage in config.stages.items():
        where = f"stages.{name}"
        on_file = isinstance(stage, RewardModelStage) and not stage.infers
        if isinstance(stage, SftStage | PreferenceStage) or on_file:
            compared = not isinstance(stage, SftStage)
            found = longest[name].answer if compared else longest[name].demonstration
            what = "answer" if compared else "demonstration"
            said = f"the longest tried prompt and {what} have {found} tokens together"
            if positions and found > positions:
                raise Refused(f"{where}.data: {said}, the model takes {positions}")
        else:
            prompt, new = longest[name].prompt, stage.rollout.max_new_tokens
            if stage.rollout.max_prompt_tokens:  # longer ones are dropped, or refused by name
                prompt = min(prompt, stage.rollout.max_prompt_tokens)
            found = prompt + new
            said = f"a sample may have {found} tokens (prompt {prompt}, rollout.max_new_tokens {new})"
            if takes and found > takes:
                raise Refused(
                    f"{where}.rollout.max_new_tokens: {new} and the longest tried prompt's {prompt} tokens make "
                    f"{found}, expected at most {takes} ({key})"
                )
        if isinstance(stage, PreferenceStage) or on_file:
            found = longest[name].answers
            said = f"the answers of a tried task, which are compared, have {found} tokens together with their prompts"
        if not isinstance(stage, EvaluateStage) and found > stage.learner.micro_batch_tokens:
            raise Refused(
                f"{where}.learner.micro_batch_tokens: {stage.learner.micro_batch_tokens}, but {said}; "
                f"expected {found} or more"
            )


def check_machine(config: Config, placement: Placement, needs: Needs, machine: Machine) -> list[str]:
    """What may become tight, in words. Raises `Refused` for what this machine does not have."""
    _check_counts(config, placement, machine)
    _check_vllm_share(config, needs, machine)
    warnings = []
    for device, free, held, work in _devices(config, needs, machine):
        if held > free:
            raise Refused(f"{device} {size(held)} without activations and caches, {size(free)} are free")
        if held + work > free:
            warnings.append(
                f"{device} {size(held)}, and up to {size(work)} for activations and caches; {size(free)} are free. "
                "learner.micro_batch_tokens and rollout.max_rows lower it."
            )
    return warnings


def _check_counts(config: Config, placement: Placement, machine: Machine) -> None:
    here = f"this machine has {machine.cpus} CPUs"
    for asks in placement.bundles:
        for ask in asks:
            if ask.cpus > machine.cpus:
                role = ask.name.partition("-")[0].replace("judge", "rewards")
                raise Refused(f"{role}.cpus: {ask.cpus:g} asked, {here}")
    ranks, cpus = config.learner.ranks, config.learner.cpus
    if ranks > 1 and ranks * cpus > machine.cpus:
        raise Refused(
            f"learner.ranks: {ranks} of {cpus:g} CPUs each (learner.cpus), {here}; "
            f"expected at most {int(machine.cpus / cpus)} ranks, or {int(100 * machine.cpus / ranks) / 100:g} CPUs each"
        )
    if config.learner.gpus and ranks > 1 and ranks > len(machine.gpus):
        raise Refused(f"learner.ranks: {ranks} of one GPU each, this machine has {len(machine.gpus)} GPUs")
    if config.cluster.cpus and config.cluster.cpus < placement.cpus:
        raise Refused(
            f"cluster.cpus: {config.cluster.cpus}, but learner, rollout workers and judges ask for "
            f"{placement.cpus:g} together"
        )
    if placement.gpus > len(machine.gpus):
        asked = {"learner.gpus": config.learner.gpus, "rollout.gpus": config.rollout.gpus}
        key = max(asked, key=lambda key: asked[key])
        together = f"; learner and {config.rollout.workers} rollout workers need {placement.gpus} together"
        raise Refused(
            f"{key}: {asked[key]} asked, this machine has {len(machine.gpus)} GPUs"
            + (together if placement.gpus > asked[key] else "")
        )


def _devices(config: Config, needs: Needs, machine: Machine) -> Iterator[tuple[str, int, int, int]]:
    """(who needs it, bytes free, held, work on top) of the host's memory and of each kind of GPU."""
    learner, rollout, workers = needs.learner, needs.rollout, config.rollout.workers
    room = min((gpu.free for gpu in machine.gpus), default=0)
    host = [("cluster: learner and rollout workers need", 0, 0)]
    if config.cluster.placement == "shared":
        n, ranks = (1, 1) if config.rollout.gpus else (workers, config.learner.ranks)
        turns = [
            ("the learner works", ranks * learner.held + n * rollout.asleep, ranks * learner.work),
            ("the engines work", ranks * learner.asleep + n * rollout.held, n * rollout.work),
        ]
        named = [(f"cluster.placement: while {who} both need", held, work) for who, held, work in turns]
        if config.rollout.gpus:
            yield from ((who, room, held, work) for who, held, work in named)
            host = [(host[0][0], 2 * (learner.held - learner.asleep) // 3, 0)]  # the moments, while the engines work
        else:
            host = named
    else:
        for key, need, n, gpus in (
            ("learner", learner, config.learner.ranks, config.learner.gpus),
            ("rollout", rollout, workers, config.rollout.gpus),
        ):
            if gpus:
                yield f"{key}.gpus: it needs on each GPU", room, need.held // gpus, need.work // gpus
            else:
                host = [(who, held + n * need.held, work + n * need.work) for who, held, work in host]
    for who, held, work in host:
        yield who, machine.memory, held + (config.learner.ranks + workers) * LIBRARIES, work


def _check_vllm_share(config: Config, needs: Needs, machine: Machine) -> None:
    """vLLM takes a share of the whole GPU when it starts, and does not start where less is free."""
    arguments = config.rollout.engine_args
    if config.rollout.engine != "vllm" or not config.rollout.gpus or "kv_cache_memory_bytes" in arguments:
        return
    share, gpu = arguments.get("gpu_memory_utilization", VLLM_GPU_SHARE), min(machine.gpus)
    beside = needs.learner.asleep if config.cluster.placement == "shared" else 0
    if share * gpu.total + beside > gpu.free:
        most = max(0.0, (gpu.free - beside) / gpu.total)
        raise Refused(
            f"rollout.engine_args.gpu_memory_utilization: {share:g} of {size(gpu.total)}, but {size(gpu.free)} are free"
            + (f" and the learner keeps {size(beside)} of them" if beside else "")
            + f"; expected {int(100 * most) / 100:g} or less"
        )
