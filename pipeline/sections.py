"""The sections of a config: what every key means, its default, and what it may be. Light, as `pipeline.config` is."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import Field, model_validator

from pipeline.algorithms import ALGORITHMS
from pipeline.knobs import Knobs, knobs_from
from pipeline.tasks import DATA
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
    ModelInitKnobs = AlgorithmKnobs = Data = LoraKnobs = Any
else:
    ModelInitKnobs = knobs_from(ModelInit)
    LoraKnobs = knobs_from(Lora)
    AlgorithmKnobs = one_of(ALGORITHMS)
    Data = one_of(DATA)


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

    def contradiction(self) -> str | None:
        """Which key excludes another, and what was expected."""
        if self.gpus > 1:
            return f"gpus: {self.gpus}, expected 0 or 1 for each of learner.ranks"
        for key, given in (("zero_stage", self.zero_stage is not None), ("offload", self.offload)):
            if given and self.engine == "torch":
                return f"{key}: is DeepSpeed's, expected none or learner.engine: deepspeed"
        if self.offload and self.zero_stage == 0:
            return "offload: zero_stage 0 splits nothing off to be moved, expected stage 1, 2 or 3"
        return None

    @property
    def splits(self) -> int:
        """What is split over the ranks, as `zero_stage` counts; FSDP2 splits all of it."""
        return 3 if self.engine == "torch" else 2 if self.zero_stage is None else self.zero_stage


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
