"""MLflow for real: a SQLite store in this process, and a tracking server in another."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from pipeline.stores.files import FileStore
from pipeline.stores.mlflow import MlflowStore, default_uri, entity_name, flatten

CONFIG = {"seed": 0, "stages": {"rl": {"kind": "rl", "betas": [0.9, 0.95], "prompt": "x" * 9000}}, "empty": {}}


def fill(run_dir, count, first=0):
    """What a run leaves for the artifacts."""
    files = FileStore(run_dir)
    score = {"exact": {"value": 1.0, "explanation": "equal", "failure": None}}
    for step in range(first, first + count):
        files.samples([{"stage": "rl", "step": step, "completion": f"<b>{step}</b>", "reward": 1.0, "scores": score}])
    for name in ("config.yaml", "report.html", "summary.json"):
        (run_dir / name).write_text(name)


def check(uri, identity, n):
    import mlflow

    mlflow.set_tracking_uri(uri)  # load_table searches there, whatever the client's own
    client = mlflow.MlflowClient()
    run = client.get_run(identity["run_id"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "quickstart"
    assert run.data.tags["assay.seed"] == "0"
    assert run.data.params["stages.rl.betas"] == "[0.9, 0.95]"
    assert len(run.data.params["stages.rl.prompt"]) == 6000
    for stage in ("sft", "rl"):
        points = client.get_metric_history(identity["run_id"], f"{stage}/reward/mean")
        assert [(p.step, p.value) for p in points] == [(i, i + (stage == "rl")) for i in range(n)]
    names = {artifact.path for artifact in client.list_artifacts(identity["run_id"])}
    assert names == {"config.yaml", "report.html", "summary.json", "samples.json"}
    table = client.load_table(run.info.experiment_id, "samples.json", [identity["run_id"]])
    assert list(table["completion"]) == [f"<b>{i}</b>" for i in range(n)]
    assert list(table["score/exact"]) == [1.0] * n


def log(store, steps):
    for step in steps:
        store.metrics("sft", step, {"reward/mean": step})
        store.metrics("rl", step, {"reward/mean": step + 1})


def test_sqlite_store_and_a_resumed_run(tmp_path, capfd):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    uri, warnings = default_uri(run_dir), []
    assert uri == f"sqlite:///{tmp_path}/mlflow.db"

    start = time.perf_counter()
    store = MlflowStore(run_dir, uri, "assay", "quickstart", warnings.append, {"assay.seed": "0"})
    store.params(CONFIG)
    log(store, range(1000))
    assert time.perf_counter() - start < 1.0, "the loop never waits for the store"
    store.finish("failed")
    first = json.loads((run_dir / "mlflow.json").read_text())
    assert first == store.identity

    fill(run_dir, 1010)
    store = MlflowStore(run_dir, uri, "assay", "quickstart", warnings.append)
    store.params(CONFIG)
    log(store, range(990, 1010))  # the last checkpoint was made at step 990
    store.finish("done")
    assert store.identity == first
    assert warnings == []
    assert (tmp_path / "mlartifacts").is_dir()
    assert capfd.readouterr() == ("", "")

    from mlflow import MlflowClient

    points = MlflowClient(tracking_uri=uri).get_metric_history(first["run_id"], "rl/reward/mean")
    assert [p.step for p in points] == list(range(1010))


def test_small_run_in_sqlite_is_complete(tmp_path):
    run_dir = tmp_path / "a run"
    run_dir.mkdir()
    uri, warnings = default_uri(run_dir), []
    store = MlflowStore(run_dir, uri, "assay", "quickstart", warnings.append, {"assay.seed": "0"})
    store.params(CONFIG)
    log(store, range(5))
    fill(run_dir, 5)
    store.finish("done")
    assert warnings == []
    check(uri, store.identity, 5)


def test_a_run_the_store_does_not_know_is_made_anew(tmp_path):
    uri, warnings = default_uri(tmp_path), []
    (tmp_path / "mlflow.json").write_text(json.dumps({"uri": uri, "run_id": "0" * 32}))
    store = MlflowStore(tmp_path, uri, "assay", "again", warnings.append)
    store.finish("killed")
    assert warnings == []
    assert store.identity is not None
    assert store.identity["run_id"] != "0" * 32


def test_what_mlflow_refuses_is_reported_and_the_rest_arrives(tmp_path):
    uri, warnings = default_uri(tmp_path), []
    store = MlflowStore(tmp_path, uri, "assay", "run", warnings.append)
    store.params({"a": 1})
    store.params({"a": 2})  # MLflow does not let a parameter change
    store.metrics("rl", 0, {"reward/mean": 1.0})
    store.finish("done")
    assert len(warnings) == 2
    assert "MLflow at sqlite" in warnings[0]
    assert warnings[1].endswith("lacks this run's parameters")

    from mlflow import MlflowClient

    assert MlflowClient(tracking_uri=uri).get_run(store.identity["run_id"]).data.metrics == {"rl/reward/mean": 1.0}


def test_an_unusable_store_costs_the_run_nothing_but_a_warning(tmp_path):
    files, uri = FileStore(tmp_path), "sqlite:////proc/nowhere/mlflow.db"
    store = MlflowStore(tmp_path, uri, "assay", "run", lambda text: files.event("warning", text))
    store.params(CONFIG)
    log(store, range(3))
    store.finish("done")
    assert store.identity is None
    events = [json.loads(line)["text"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert len(events) == 2
    assert uri in events[0]
    assert events[1].endswith("lacks this run's parameters, metrics, artifacts, sample table, status")


def test_names_and_params_fit_mlflow():
    assert entity_name("rl/reward/source/a+b(c)/mean") == "rl/reward/source/a_b_c_/mean"
    assert len(entity_name("x" * 400)) == 250
    assert flatten({"a": {"b": None, "c": []}, "d": [{"e": 1}, [2]]}) == {
        "a.b": "None",
        "a.c": "[]",
        "d.0.e": "1",
        "d.1": "[2]",
    }


def test_importing_the_store_does_not_import_mlflow():
    script = "import pipeline.stores.mlflow, sys; assert not {'mlflow', 'sqlalchemy', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.fixture
def server(tmp_path):
    """A real tracking server: its URI, and a way to start it late."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path / "server"
    home.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{home}/db.sqlite",
        "--artifacts-destination",
        str(home / "artifacts"),
    ]
    running = []

    def start():
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "PATH": os.environ["PATH"], "HOME": str(home)}
        with (home / "log").open("w") as out:
            process = subprocess.Popen(command, cwd=home, env=quiet, stdout=out, stderr=out, start_new_session=True)
        running.append(process)

    yield f"http://127.0.0.1:{port}", start
    for process in running:
        os.killpg(process.pid, 15)
        process.wait(30)


@pytest.mark.slow
def test_a_tracking_server_that_comes_up_late_gets_everything(tmp_path, server, capfd):
    uri, start = server
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    warnings = []
    store = MlflowStore(run_dir, uri, "assay", "quickstart", warnings.append, {"assay.seed": "0"})
    store.params(CONFIG)
    log(store, range(2))
    deadline = time.monotonic() + 60
    while not warnings and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "Max retries exceeded" in warnings[0] or "Connection" in warnings[0]
    start()
    while store.identity is None and time.monotonic() < deadline + 60:
        store.metrics("eval", 0, {"eval/n": 1})
        time.sleep(0.5)
    log(store, range(2, 6))
    fill(run_dir, 6)
    store.finish("done")
    assert len(warnings) == 1
    check(uri, store.identity, 6)
    assert capfd.readouterr() == ("", "")
