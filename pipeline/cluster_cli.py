"""The commands that reach beyond this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from rewards.errors import Refused

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="One YAML is one run.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Keys to change.")]
Name = Annotated[str | None, typer.Option(help="The run's name; default: the config's.")]
GpusPerNode = Annotated[int, typer.Option(min=1, help="GPUs of a node.")]
MemoryPerCpu = Annotated[int, typer.Option(min=1, help="GiB of memory for each CPU.")]

Address = Annotated[str, typer.Option(help="The head's dashboard, http://HEAD:8265.")]
Job = Annotated[str, typer.Argument(metavar="JOB", help="What `assay submit` called it.")]

job = typer.Typer(help="Look after what `assay submit` has sent.", no_args_is_help=True)
deploy = typer.Typer(help="Print what Kubernetes or Slurm runs CONFIG by.", no_args_is_help=True)


@deploy.command()
def kuberay(
    config: ConfigPath,
    overrides: Overrides = None,
    image: Annotated[str, typer.Option(help="An image of deploy/docker.")] = "assay:gpu",
    claim: Annotated[str, typer.Option(help="The volume claim, for many writers, that holds runs.")] = "assay-runs",
    namespace: Annotated[str, typer.Option(help="Kubernetes' namespace.")] = "default",
    name: Name = None,
    gpus_per_node: GpusPerNode = 8,
    memory_per_cpu: MemoryPerCpu = 8,
    standing: Annotated[bool, typer.Option(help="A RayCluster that stays, for `assay submit`; no RayJob.")] = False,
) -> None:
    """Manifests for KubeRay: `assay deploy kuberay CONFIG | kubectl apply -f -`."""
    from pipeline.config import load_config
    from pipeline.deploy.render import Kubernetes, Site
    from pipeline.deploy.render import kuberay as render

    settings = load_config(config, overrides or [])
    site = Site(_name(name, config), gpus_per_node, memory_per_cpu)
    print(render(settings, site, Kubernetes(image, claim, namespace), standing), end="")


@deploy.command()
def slurm(
    config: ConfigPath,
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where all nodes see it; default runs/NAME here.")] = None,
    name: Name = None,
    gpus_per_node: GpusPerNode = 8,
    memory_per_cpu: MemoryPerCpu = 8,
) -> None:
    """A script for sbatch: `assay deploy slurm CONFIG > run.sbatch`."""
    from pipeline.config import load_config
    from pipeline.deploy.render import Site
    from pipeline.deploy.render import slurm as render

    settings = load_config(config, overrides or [])
    site = Site(_name(name, config), gpus_per_node, memory_per_cpu)
    print(render(settings, site, str((run_dir or Path("runs") / site.name).absolute())), end="")


def submit(
    config: ConfigPath,
    address: Address,
    run_dir: Annotated[Path, typer.Option(help="Where the run is kept; a path that all nodes share.")],
    overrides: Overrides = None,
    env: Annotated[list[str] | None, typer.Option(help="A variable for the run: NAME=VALUE, or NAME as here.")] = None,
    follow: Annotated[bool, typer.Option(help="Show its log until it ends.")] = True,
) -> None:
    """Send the run that CONFIG describes to a cluster, with the current directory, and follow it."""
    from pipeline import remote
    from pipeline.config import load_config

    load_config(config, overrides or [])
    name = remote.send(address, config, overrides or [], run_dir, _variables(env or []))
    print(f"job {name}; `assay job status|logs|stop {name} --address {address}`", flush=True)
    if follow:
        remote.follow(address, name, _write)


@job.command()
def status(job: Job, address: Address) -> None:
    """How the job stands."""
    from workers.ray_jobs import Jobs

    state = Jobs(address).state(job)
    print(f"{state.status}  {state.message}")


@job.command()
def logs(job: Job, address: Address) -> None:
    """Follow the job's log until it ends."""
    from pipeline import remote

    remote.follow(address, job, _write)


@job.command()
def stop(job: Job, address: Address) -> None:
    """End the job, as Ctrl-C would; `assay resume` goes on from its last checkpoint."""
    from workers.ray_jobs import Jobs

    Jobs(address).stop(job)
    print(f"{job} was asked to stop")


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _variables(given: list[str]) -> dict[str, str]:
    out = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals and name not in os.environ:
            raise Refused(f"--env: {name} is not set here; expected NAME=VALUE")
        out[name] = value if equals else os.environ[name]
    return out


def _name(name: str | None, config: Path) -> str:
    """Becomes a directory's name, in scripts too."""
    name = name or config.stem
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise Refused(f"--name: {name!r}, expected letters, digits, dots, _ and - only")
    return name
