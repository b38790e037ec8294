"""The sections of a config: what every key means, its default, and what it may be. Light, as `pipeline.config` is."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import Discriminator, Field, Tag, model_validator

from pipeline.algorithms import ALGORITHMS
from pipeline.knobs import Knobs, PlugKnobs, knobs_from
from pipeline.refusals import OWN
from pipeline.tasks import DATA
from rewards.attack import Attack
from rewards.catalog import COMBINERS, SHAPERS, SOURCES
from rewards.errors import nearest
from rewards.noise import NOISES
from rewards.panel import OnFailure
from workers.models import Lora, ModelInit

Count = Annotated[int, Gt(0)]
Gpus = Annotated[int, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0)]


def one_of(table: Mapping[str, type]) -> Any:
    """The union of a table's plug-ins, told apart by `kind`."""
    models = [knobs_from(cls, kind=kind) for kind, cls in table.items()]
    union = functools.reduce(operator.or_, models)
    return union if len(models) == 1 else Annotated[union, Field(discriminator="kind")]


if TYPE_CHECKING:  # made from the plug-ins' dataclasses when this is imported; to a type checker they are anything
    ModelInitKnobs = AlgorithmKnobs = Data = NoiseKnobs = LoraKnobs = Any
else:
    ModelInitKnobs = knobs_from(ModelInit)
    LoraKnobs = knobs_from(Lora)
    AlgorithmKnobs = one_of(ALGORITHMS)
    Data = one_of(DATA)
    NoiseKnobs = one_of(NOISES)


class Model(Knobs):
    """The policy to start from: a directory or hub name, or a model made from scratch. Exactly one of the two."""

    path: str | None = None
    """A Hugging Face directory or hub name."""
    init: ModelInitKnobs | None = None
    """Architecture and tokenizer of a model made from scratch, seeded."""

    @model_validator(mode="after")
    def _one(self) -> Model:
        if (self.path is None) == (self.init is None):
            raise ValueError(f"{'neither' if self.path is None else 'both'} of `path` and `init` given, expected one")
        return self


class Cluster(Knobs):
    """Where the actors live."""

    address: str | None = None
    """A running Ray cluster; without one, Ray is started here for the length of the run."""
    cpus: Count | None = None
    """CPUs that the Ray started here may use; default: all of the machine's."""
    placement: Literal["split", "shared"] = "split"
    """split: learner and rollout workers have devices of their own; shared: they take turns, and one sleeps."""
    timeout_s: Positive = 600.0
    """How long any answer from another process may take before the run ends with that process's name."""


class Seats(Knobs):
    """Where a role's processes sit."""

    cpus: Positive = 1.0
    """CPUs of each process; also its number of threads."""
    gpu_type: str | None = None
    """Only GPUs of this type, by Ray's name for it (H100, A100-80G, L40S ...); default: any."""
    spread: bool = False
    """Over as many nodes as possible; default: on as few as possible."""


class Pool(Seats):
    """A role of many processes."""

    workers: Count = 1
    """Its processes."""
    min_workers: Count | None = None
    """The run starts with this many, goes on as long as it has them, and takes in more, up to `workers`, as nodes with
    room join the cluster; default: all."""

    @model_validator(mode="after")
    def _least(self) -> Pool:
        if self.min_workers and self.min_workers > self.workers:
            raise ValueError(f"min_workers: {self.min_workers}, expected at most workers ({self.workers})")
        return self


class Sampling(Knobs):
    """How completions are drawn."""

    max_new_tokens: Count = 256
    """Tokens a completion may have."""
    temperature: Annotated[float, Ge(0)] = 1.0
    """0 takes the likeliest token."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Draw from the smallest set of tokens that holds this share of the mass."""
    top_k: Annotated[int, Ge(0)] = 0
    """Draw from the k likeliest tokens; 0: from all."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion; the end-of-sequence tokens always do."""
    max_prompt_tokens: Count | None = None
    """Tokens a prompt may have; default: as many as the engine takes."""
    long_prompts: Literal["drop", "refuse"] = "drop"
    """A longer prompt: drop it (its rollouts count as failed), or refuse to go on."""


class Rollout(Sampling, Pool):
    """Rollout workers and how they sample."""

    engine: Literal["torch", "vllm"] = "torch"
    """What generates."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM's, by its own names."""
    pause: Literal["keep", "wait", "abort"] = "keep"
    """What sequences in flight do when new weights come: go on with them, finish first, or begin anew."""
    gpus: Gpus = 0
    """GPUs of each; 0: it generates on the CPU."""
    max_rows: Count = 256
    """Sequences that one worker generates at once."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of its weights."""


class Optimizer(Knobs):
    """How a stage moves the weights: AdamW."""

    lr: Positive = 1e-6
    """Peak learning rate."""
    betas: tuple[Share, Share] = (0.9, 0.95)
    """AdamW's moments."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """On matrices only."""
    warmup: Annotated[int, Ge(0)] = 0
    """Updates of linear warm-up."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the rate falls to zero."""
    decay_share: Annotated[float, Gt(0), Le(1)] = 1.0
    """The last share of the updates over which it falls."""
    clip_grad_norm: Positive = 1.0
    """The largest gradient norm."""
    micro_batch_tokens: Count = 16384
    """Tokens computed at once; it changes memory and speed, never the gradient."""


class Learner(Optimizer, Seats):
    """The learner's processes and how they learn."""

    engine: Literal["torch", "deepspeed"] = "torch"
    """What computes gradients: torch (one process, or FSDP2 over many) or DeepSpeed (ZeRO)."""
    ranks: Count = 1
    """Processes among which weights, gradients and samples are split."""
    gpus: Gpus = 0
    """GPUs of each; 0: it learns on the CPU."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format that it computes in and publishes; what it learns is kept in float32."""
    gradient_checkpointing: bool = False
    """Keep each layer's inputs alone, and compute the rest once more on the way back: less memory, more work."""
    lora: LoraKnobs | None = None
    """Adapters that learn in the policy's place; default: all weights learn."""
    zero_stage: Annotated[int, Ge(0), Le(3)] | None = None
    """DeepSpeed's: what is split over the ranks, moments (1), gradients too (2), weights too (3); default: 2."""
    offload: bool = False
    """DeepSpeed's: AdamW's moments, and its work, on the host."""

    @property
    def splits(self) -> int:
        """What is split over the ranks, as `zero_stage` counts; FSDP2 splits all of it."""
        return 3 if self.engine == "torch" else 2 if self.zero_stage is None else self.zero_stage


class AskedKnobs(PlugKnobs):
    """What everyone who judges has beside its own keys."""

    timeout_s: Positive = 60.0
    """Seconds one question about a group may take."""
    retries: Annotated[int, Ge(0)] = 0
    """How often rollouts without a score are asked about again."""


class SeatKnobs(AskedKnobs):
    """What every reward source has beside its own keys."""

    weight: float = 1.0
    """Its factor in the reward; 0 watches without rewarding."""
    on_failure: OnFailure = "mask"
    """What then: mask the rollout, drop_group, substitute a value, or abort the run."""
    substitute: float = 0.0
    """The value that stands in, with on_failure: substitute."""


class GoldKnobs(AskedKnobs):
    """What the gold source has beside its own keys."""

    share: Annotated[float, Gt(0), Le(1)] = 0.1
    """The share of every step's rollouts that it is asked about; in an evaluation it is asked about all."""


class OwnKnobs(Knobs):
    """A reward source of your own by import path: a function (in TRL's or verl's signature) or a source class."""

    kind: str
    """package.module:name."""
    params: dict[str, Any] = Field(default_factory=dict)
    """The fields of a source class; of a function: `conversational`, `limit_s`, `gold` and `foil`."""


class PathSeat(OwnKnobs, SeatKnobs):
    """A reward source of your own by import path: a function (in TRL's or verl's signature) or a source class."""


class PathGold(OwnKnobs, GoldKnobs):
    """A gold source of your own by import path."""


def _seat_tag(value: Any) -> str | None:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return OWN if isinstance(kind, str) and ":" in kind else None if kind is None else str(kind)


def _seats(base: type[PlugKnobs], own: type[OwnKnobs]) -> Any:
    named = [Annotated[knobs_from(cls, base, kind), Tag(kind)] for kind, cls in SOURCES.items()]
    return Annotated[functools.reduce(operator.or_, [*named, Annotated[own, Tag(OWN)]]), Discriminator(_seat_tag)]


if TYPE_CHECKING:
    SeatEntry = GoldEntry = Combine = Shape = AttackKnobs = Any
else:
    SeatEntry, GoldEntry = _seats(SeatKnobs, PathSeat), _seats(GoldKnobs, PathGold)
    AttackKnobs = knobs_from(Attack)
    Combine = one_of(COMBINERS)
    Shape = one_of(SHAPERS)


class Rewards(Pool):
    """Who judges."""

    sources: Annotated[dict[str, SeatEntry], Field(min_length=1)]
    """The reward sources by name."""
    noise: NoiseKnobs | None = None
    """Errors put into the scores of stages that learn, on purpose; the clean scores are kept beside them."""
    combine: Combine = Field({"kind": "weighted"}, validate_default=True)
    """How their values become one reward; default: their weighted sum."""
    shape: tuple[Shape, ...] = ()
    """What is done to the reward, or to step rewards, one after the other; evaluations go by the reward before it."""
    attack: AttackKnobs | None = None
    """Answers that say nothing, put before the sources of stages that learn; one that they fool is refused."""
    gold: GoldEntry | None = None
    """What the reward stands for: judged on a slice of the rollouts beside the KL, and never learned from."""
    failure_budget: Share = 0.5
    """The run ends when more than this share of the last `failure_window` rollouts could not be judged."""
    failure_window: Count = 512
    """Rollouts over which the failed share is taken."""

    @model_validator(mode="after")
    def _compared(self) -> Rewards:
        """The reward must not be the gold source's own."""
        rewarding = [(name, seat) for name, seat in self.sources.items() if seat.weight]
        if self.gold is not None and len(rewarding) == 1 and self.noise is None:
            name, seat = rewarding[0]
            apart = {*AskedKnobs.model_fields, *SeatKnobs.model_fields, *GoldKnobs.model_fields}
            if seat.model_dump(exclude=apart) == self.gold.model_dump(exclude=apart):
                said = f"equal to the source {name!r}, which alone is the reward: there is nothing to compare"
                raise ValueError(f"gold: {said}; expected another source, or noise on that one")
        return self

    @model_validator(mode="after")
    def _disturbed(self) -> Rewards:
        for name in self.noise.sources if self.noise else ():
            if name not in self.sources:
                raise ValueError(f"noise.sources: no source {name!r}; {nearest(name, self.sources)}")
        return self

    @model_validator(mode="after")
    def _combined(self) -> Rewards:
        try:
            self.combine.build().check({name: seat.weight for name, seat in self.sources.items()})
        except ValueError as error:
            raise ValueError(f"combine.{error}") from None
        return self


class Checkpoints(Knobs):
    """When the state of the run is kept."""

    every: Count = 20
    """Steps between checkpoints; every stage's end is one too."""
    keep: Count = 2
    """How many of the last ones stay."""


class Tracking(Knobs):
    """Where metrics go beside the run directory's own files."""

    mlflow: bool = True
    """Log to MLflow."""
    uri: str | None = None
    """Any MLflow tracking URI; default: an SQLite file beside the run directory."""
    experiment: str = "assay"
    """MLflow experiment."""
    samples_per_step: Annotated[int, Ge(0)] = 4
    """Rollouts of every step that are kept to be read."""


class Serve(Knobs):
    """The panel as a web service (`assay serve`)."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Ge(0), Le(65535)] = 8765
    """Port to listen on; 0: any free one."""
    token_env: str = "ASSAY_TOKEN"
    """Environment variable that holds the token every request has to carry."""
    answers: Count = 256
    """Answers that one request may have."""
    request_bytes: Count = 4_000_000
    """Bytes that its body may have."""
    requests_per_s: Positive = 200.0
    """Requests a second, on average."""
    waiting: Count = 1024
    """Requests that may wait for a judge."""
