"""MLflow, from one background thread: the only file that imports it.

    training loop --put--> queue --(thread)--> _Remote --> SQLite or a tracking server

The training loop never waits: opening the store (seconds, for a new SQLite file), batching and uploading happen in the
thread. What fails is kept and sent again with the next item, and at the end; it never ends the run: `warn` is told,
and `finish` says what was lost. `RUN_DIR/mlflow.json` holds the run's id from the moment there is one, so a resumed run
continues the same MLflow run, and a step that MLflow already has is not sent twice.

Metrics are named "STAGE/group/name", so stages don't collide. Artifacts, at the end: the small files of the run
directory and, for a run that is done, a table of samples.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.stores.files import read_jsonl, spread

FINISH_TIMEOUT = 180.0  # seconds
ARTIFACTS = ("config.yaml", "environment.json", "summary.json", "report.html")
_STATUS = {"done": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
_MAX_NAME, _MAX_VALUE, _MAX_PARAMS, _MAX_METRICS = 250, 6000, 100, 1000  # MLflow's own limits
_MAX_TABLE_ROWS = 500
_LAST_TRIES = 3
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the default 7 retries of a dead server last four minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


class _Metric(NamedTuple):
    name: str
    value: float
    time: int  # ms
    step: int


class _Job(NamedTuple):
    what: str
    do: Callable[[], None]


def default_uri(run_dir: Path) -> str:
    """SQLite beside the run directory: one store for all runs of that parent."""
    return f"sqlite:///{run_dir.resolve().parent / 'mlflow.db'}"


class MlflowStore:
    """A run in MLflow. Construction and every call but `finish` return at once.

    run_dir   mlflow.json is kept there, and the artifacts are taken from there at the end
    uri       tracking URI; with sqlite:///DIR/x.db the artifacts lie in DIR/mlartifacts
    warn      is told one line per trouble, from the thread
    tags      the MLflow run's tags
    """

    def __init__(
        self,
        run_dir: Path,
        uri: str,
        experiment: str,
        run_name: str,
        warn: Callable[[str], None],
        tags: Mapping[str, str] | None = None,
    ) -> None:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        self._remote = _Remote(run_dir, uri, experiment, run_name, dict(tags or {}))
        self._warn, self._uri = warn, uri
        self._inbox: queue.SimpleQueue[_Metric | _Job | None] = queue.SimpleQueue()
        self._pending: deque[_Metric | _Job] = deque()
        self._ailing = False
        self._lost: list[str] = []
        self._thread = threading.Thread(target=self._serve, name="mlflow", daemon=True)
        self._thread.start()

    @property
    def identity(self) -> dict[str, str] | None:
        """{"uri", "run_id"}; None until MLflow has answered."""
        return self._remote.identity

    def params(self, params: Mapping[str, Any]) -> None:
        flat = flatten(params)
        self._inbox.put(_Job("parameters", lambda: self._remote.params(flat)))

    def metrics(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        for name, value in metrics.items():
            self._inbox.put(_Metric(entity_name(f"{stage}/{name}"), float(value), now, step))

    def samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Nothing yet: the table is made at the end, out of samples.jsonl."""

    def event(self, kind: str, text: str, stage: str | None = None) -> None:
        """MLflow has no place for events."""

    def finish(self, status: str) -> None:
        """Waits until MLflow has everything, at most FINISH_TIMEOUT; call it when report and summary are written."""
        self._inbox.put(_Job("artifacts", self._remote.artifacts))
        if status == "done":
            self._inbox.put(_Job("sample table", self._remote.table))
        self._inbox.put(_Job("status", lambda: self._remote.end(status)))
        self._inbox.put(None)
        self._thread.join(FINISH_TIMEOUT)
        if self._thread.is_alive():
            self._warn(f"MLflow at {self._uri} did not take everything within {FINISH_TIMEOUT:.0f} s")

    def _serve(self) -> None:
        """The thread: takes what has come together and sends it."""
        self._attempt(self._remote.open)
        more = True
        while more:
            items = [self._inbox.get()]
            while not self._inbox.empty():
                items.append(self._inbox.get())
            more = items[-1] is not None
            self._pending.extend(item for item in items if item is not None)
            self._send()
        for pause in range(1, _LAST_TRIES):
            if self._pending:
                time.sleep(pause)
                self._send()
        self._lost += [item.what if isinstance(item, _Job) else "metrics" for item in self._pending]
        if self._lost:
            self._warn(f"MLflow at {self._uri} lacks this run's {', '.join(dict.fromkeys(self._lost))}")

    def _send(self) -> None:
        """Empties `_pending` in order; stops where MLflow can't be reached, drops what it will never take."""
        while self._pending and self._attempt(self._remote.open):
            undone: list[_Metric | _Job] = [self._pending.popleft()]
            if isinstance(undone[0], _Metric):
                while len(undone) < _MAX_METRICS and self._pending and isinstance(self._pending[0], _Metric):
                    undone.append(self._pending.popleft())
            job = self._job(undone)
            if not self._attempt(job.do):
                if self._remote.refused:
                    self._lost.append(job.what)
                else:
                    self._pending.extendleft(reversed(undone))
                    return

    def _job(self, items: list[_Metric | _Job]) -> _Job:
        """One job out of a run of metrics, or the one job there is."""
        if isinstance(items[0], _Job):
            return items[0]
        batch = [item for item in items if isinstance(item, _Metric)]
        return _Job("metrics", lambda: self._remote.metrics(batch))

    def _attempt(self, do: Callable[[], None]) -> bool:
        """Whether it worked; the first of several troubles in a row is told."""
        try:
            do()
        except Exception as problem:  # noqa: BLE001  a border: no trouble with a tracking store ends a training run
            self._remote.refused = getattr(problem, "error_code", "") == "INVALID_PARAMETER_VALUE"
            if not self._ailing:
                self._warn(f"MLflow at {self._uri}: {type(problem).__name__}: {problem}".splitlines()[0][:500])
            self._ailing = True
            return False
        self._ailing = False
        return True


class _Remote:
    """One run on the MLflow side; used by the thread alone, but for `identity`."""

    def __init__(self, run_dir: Path, uri: str, experiment: str, run_name: str, tags: dict[str, str]) -> None:
        self.identity: dict[str, str] | None = None
        self.refused = False
        self._run_dir, self._uri, self._experiment = run_dir, uri, experiment
        self._run_name, self._tags = run_name, tags
        self._client: Any = None
        self._run_id = ""
        self._resumed = False
        self._sent: dict[str, int] = {}  # of a resumed run: name -> the last step that MLflow already has

    def open(self) -> None:
        """Continues the run that mlflow.json names, or makes one; nothing to do once that has worked."""
        if self.identity is not None:
            return
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # also where others imported it before us
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # `warn` tells of an unreachable server
        self._client = MlflowClient(tracking_uri=self._uri)
        if run_id := self._recorded():
            self._run_id, self._resumed = run_id, True
            self._client.update_run(run_id, status="RUNNING")
            for name in self._client.get_run(run_id).data.metrics:
                self._sent[name] = max(point.step for point in self._client.get_metric_history(run_id, name))
        else:
            run = self._client.create_run(self._experiment_id(), run_name=self._run_name, tags=self._tags)
            self._run_id = run.info.run_id
            part = self._run_dir / "mlflow.json.part"
            part.write_text(json.dumps({"uri": self._uri, "run_id": self._run_id}) + "\n")
            part.replace(self._run_dir / "mlflow.json")
        self.identity = {"uri": self._uri, "run_id": self._run_id}

    def params(self, params: dict[str, str]) -> None:
        if self._resumed:  # MLflow has them, and refuses to change any
            return
        from mlflow.entities import Param

        entities = [Param(name, value) for name, value in params.items()]
        for i in range(0, len(entities), _MAX_PARAMS):
            self._client.log_batch(self._run_id, params=entities[i : i + _MAX_PARAMS])

    def metrics(self, batch: Sequence[_Metric]) -> None:
        from mlflow.entities import Metric

        new = [Metric(*point) for point in batch if point.step > self._sent.get(point.name, -1)]
        if new:
            self._client.log_batch(self._run_id, metrics=new)

    def artifacts(self) -> None:
        for name in ARTIFACTS:
            if (self._run_dir / name).exists():
                self._client.log_artifact(self._run_id, str(self._run_dir / name))

    def table(self) -> None:
        rows = [table_row(row) for row in spread(read_jsonl(self._run_dir / "samples.jsonl"), _MAX_TABLE_ROWS)]
        if rows:
            columns = dict.fromkeys(name for row in rows for name in row)
            table = {name: [row.get(name) for row in rows] for name in columns}
            self._client.log_table(self._run_id, table, "samples.json")

    def end(self, status: str) -> None:
        self._client.set_terminated(self._run_id, _STATUS[status])

    def _recorded(self) -> str | None:
        """The id in mlflow.json, where it is of this store and the store still knows it."""
        from mlflow.exceptions import MlflowException

        note = self._run_dir / "mlflow.json"
        known = json.loads(note.read_text()) if note.exists() else {}
        if known.get("uri") != self._uri:
            return None
        try:
            return self._client.get_run(known["run_id"]).info.run_id
        except MlflowException as missing:
            if missing.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _experiment_id(self) -> str:
        if found := self._client.get_experiment_by_name(self._experiment):
            return found.experiment_id
        artifacts = None
        if self._uri.startswith("sqlite:///"):
            artifacts = (Path(self._uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri()
        return self._client.create_experiment(self._experiment, artifact_location=artifacts)


def entity_name(name: str) -> str:
    """The name with what MLflow does not take in one replaced by "_"."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:_MAX_NAME]


def flatten(tree: Any, path: str = "") -> dict[str, str]:
    """{"a": {"b": [1]}} -> {"a.b.0": "1"}; values as text, cut to MLflow's limit."""
    if isinstance(tree, Mapping) and tree:
        children = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple) and any(isinstance(value, Mapping | list | tuple) for value in tree):
        children = [(str(i), value) for i, value in enumerate(tree)]
    else:
        return {entity_name(path): str(tree)[:_MAX_VALUE]}
    flat: dict[str, str] = {}
    for key, value in children:
        flat |= flatten(value, f"{path}.{key}" if path else key)
    return flat


def table_row(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample as a flat row: each source's value stands in a column of its own."""
    row = {name: value for name, value in sample.items() if name != "scores"}
    scores = sample.get("scores") or {}
    row |= {f"score/{source}": score.get("value") for source, score in scores.items()}
    return row | {
        "explanations": "\n".join(f"{s}: {v['explanation']}" for s, v in scores.items() if v.get("explanation"))
    }
