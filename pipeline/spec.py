"""What a cluster is made of, as said on the command line: 2x8xH100, or a YAML file.

nodes:
  - {count: 2, cpus: 192, memory_gb: 2000, gpus: 8, gpu: H100}
  - {count: 1, cpus: 64, memory_gb: 256}
network_gb_s: 50
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge
from pydantic import Field, ValidationError, model_validator

from pipeline.knobs import Knobs
from pipeline.refusals import refusal
from pipeline.sections import Count, Positive
from pipeline.yaml_files import read_yaml
from rewards.errors import Refused, nearest
from workers.cluster import Node

GB = 10**9
# Of a node given in short: as most have that hold eight.
CPUS_PER_GPU, MEMORY_PER_GPU = 24, 200


@dataclass(frozen=True, slots=True)
class Device:
    """memory: bytes; flops: of dense bfloat16 products, a second; bandwidth: of its memory, bytes a second."""

    memory: float
    flops: float
    bandwidth: float


# The makers' data sheets (SXM where there are several).
DEVICES = {
    "H100": Device(80 * GB, 989e12, 3350 * GB),
    "H200": Device(141 * GB, 989e12, 4800 * GB),
    "B200": Device(180 * GB, 2250e12, 8000 * GB),
    "A100-80G": Device(80 * GB, 312e12, 2039 * GB),
    "A100-40G": Device(40 * GB, 312e12, 1555 * GB),
    "L40S": Device(48 * GB, 362e12, 864 * GB),
    "A10G": Device(24 * GB, 70e12, 600 * GB),
}


class NodeKind(Knobs):
    """Nodes that are alike."""

    count: Count = 1
    """How many."""
    cpus: Positive
    """CPUs of each."""
    memory_gb: Positive
    """Memory of each, GB."""
    gpus: Annotated[int, Ge(0)] = 0
    """GPUs of each."""
    gpu: str | None = None
    """Their type, by Ray's name."""
    tflops: Positive | None = None
    """Measured: bfloat16 products of a GPU (float32 products of a CPU), TFLOP/s; default: the data sheet's."""
    bandwidth_gb_s: Positive | None = None
    """Measured: what a GPU (a CPU) reads of its memory, GB/s; default: the data sheet's."""

    @model_validator(mode="after")
    def _known(self) -> NodeKind:
        if self.gpus and self.gpu is None:
            raise ValueError(f"gpu: this key is needed beside gpus; {nearest('', DEVICES)}")
        if self.gpus and self.gpu not in DEVICES and not (self.tflops and self.bandwidth_gb_s):
            hint = nearest(str(self.gpu), DEVICES)
            raise ValueError(f"gpu: found {self.gpu!r}; {hint} (or say tflops and bandwidth_gb_s)")
        return self

    @property
    def device(self) -> Device | None:
        """Of its GPUs, or of a CPU where it has none; None where a CPU's rates are not said."""
        known = DEVICES.get(self.gpu or "", Device(self.memory_gb * GB, 0, 0))
        flops = self.tflops * 1e12 if self.tflops else known.flops
        bandwidth = self.bandwidth_gb_s * GB if self.bandwidth_gb_s else known.bandwidth
        return Device(known.memory, flops, bandwidth) if flops and bandwidth else None


class Spec(Knobs):
    """A cluster."""

    nodes: Annotated[tuple[NodeKind, ...], Field(min_length=1)]
    """Its nodes."""
    network_gb_s: Positive = 25.0
    """Between nodes, each way, GB/s."""

    @property
    def seats(self) -> list[Node]:
        """The nodes as Ray would know them."""
        out = []
        for kind in self.nodes:
            has = {
                "CPU": kind.cpus,
                "GPU": float(kind.gpus),
                **({f"accelerator_type:{kind.gpu}": 1.0} if kind.gpu else {}),
            }
            out += [Node(f"{kind.gpu or 'cpu'}-{i}", has) for i in range(kind.count)]
        return [Node(f"node-{i} ({node.name.rpartition('-')[0]})", node.resources) for i, node in enumerate(out)]

    def device(self, gpus: bool, gpu_type: str | None) -> Device | None:
        """What a process with (or without) GPUs of that type computes on: the first kind of node that fits."""
        fits = [k for k in self.nodes if bool(k.gpus) == gpus and (gpu_type is None or k.gpu == gpu_type)]
        fits = fits or [k for k in self.nodes if bool(k.gpus) == gpus]
        return fits[0].device if fits else None


def load_spec(text: str) -> Spec:
    """Raises `Refused` where it is neither NODESxGPUSxTYPE nor a file that says as much."""
    short = re.fullmatch(r"(\d+)x(\d+)x([A-Za-z][\w-]*)", text)
    if short is None:
        path = Path(text)
        if not path.exists():
            raise Refused(f"--cluster: {text!r}, expected NODESxGPUSxTYPE, such as 2x8xH100, or a YAML file")
        data = read_yaml(path)
    else:
        count, gpus, type_ = int(short[1]), int(short[2]), short[3]
        each = {"cpus": gpus * CPUS_PER_GPU, "memory_gb": gpus * MEMORY_PER_GPU, "gpus": gpus, "gpu": type_}
        data = {"nodes": [{"count": count, **each}]}
    try:
        return Spec.model_validate(data)
    except ValidationError as error:
        raise refusal(error, data, "--cluster") from None
