"""Manifests and scripts as text, from a config and what is to be known of the site."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files

import jinja2

from pipeline.assemble import placement_of
from pipeline.config import Config
from pipeline.deploy.pods import groups_of, nodes_of, pods_of
from pipeline.rundir import as_yaml

KUBERNETES_NAME = 40  # KubeRay adds to it, and 63 is the end


@dataclass(frozen=True, slots=True)
class Site:
    """What a config doesn't say.

    name           of the run; its directory's too
    gpus_per_node  how many GPUs a node has
    memory         GiB of memory for each CPU
    """

    name: str
    gpus_per_node: int = 8
    memory: int = 8


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """image: Assay and its libraries; claim: a PersistentVolumeClaim that many pods may write, mounted at /runs."""

    image: str
    claim: str
    namespace: str


def kuberay(config: Config, site: Site, where: Kubernetes, standing: bool) -> str:
    """ConfigMap and RayJob; or, `standing`, a RayCluster alone, which runs are submitted to."""
    name = re.sub(r"[^a-z0-9]+", "-", site.name.lower()).strip("-")[:KUBERNETES_NAME].strip("-") or "run"
    return _template("kuberay.yaml.j2").render(
        name=name,
        run_dir=f"/runs/{site.name}",
        config=as_yaml(joining(config)),
        groups=groups_of(pods_of(placement_of(config), site.gpus_per_node)),
        site=site,
        where=where,
        standing=standing,
        ray_version=version("ray"),
    )


def slurm(config: Config, site: Site, run_dir: str) -> str:
    """A script for sbatch: Ray over the job's nodes, and the run on it."""
    nodes = nodes_of(pods_of(placement_of(config), site.gpus_per_node), site.gpus_per_node)
    cpus = max(node.whole_cpus for node in nodes)
    return _template("slurm.sh.j2").render(
        name=site.name,
        run_dir=run_dir,
        config=as_yaml(joining(config)),
        nodes=len(nodes),
        cpus=cpus,
        gpus=max(node.gpus for node in nodes),
        gpu_type=nodes[0].gpu_type,
        memory=cpus * site.memory,
    )


def joining(config: Config) -> Config:
    """The config of a run that joins the Ray it is started in."""
    return config.model_copy(update={"cluster": config.cluster.model_copy(update={"address": "auto", "cpus": None})})


def _template(name: str) -> jinja2.Template:
    def source(name: str) -> str:
        return files("pipeline.deploy").joinpath(name).read_text()

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(source),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    ).get_template(name)
