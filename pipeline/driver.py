"""A whole run, from a checked config to summary and report; and the same run taken up again after it was killed.

start   -> run directory, workers -> stages in order, a checkpoint every few steps and after each -> model/, report
resume  -> newest whole checkpoint -> files rewound to it -> the same road from there
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.assemble import Hands, hands, texts_of
from pipeline.checkpoint import Checkpoints, State
from pipeline.config import Config, EvaluateStage, RewardModelStage, TrainStage
from pipeline.lab.report import write_report
from pipeline.progress import Progress
from pipeline.rundir import write_json
from pipeline.stages import Recorder, Resumed, run_stage
from pipeline.stores import Stores
from pipeline.stores.files import FileStore
from pipeline.stores.mlflow import MlflowStore, default_uri
from pipeline.tasks import TaskSets
from rewards.errors import RunFailed


@dataclass
class Run:
    """What the driver holds in its hands while the stages go by.

    tags         of the run in MLflow
    stage_ended  hears the name of every stage that has ended, its checkpoint made
    """

    config: Config
    run_dir: Path
    name: str
    tasks: dict[str, TaskSets]
    console: Console
    tags: Mapping[str, str] = field(default_factory=dict)
    stage_ended: Callable[[str], None] | None = None
    began: float = field(default_factory=time.monotonic)
    state: State = field(default_factory=lambda: State(0, None, 0))
    stage_began: float = 0.0

    def __post_init__(self) -> None:
        self.files = FileStore(self.run_dir)
        self.mlflow = self._mlflow()
        # MLflow first: its last warnings go into the files.
        self.store = Stores(*([self.mlflow] if self.mlflow else []), self.files)
        self.checkpoints = Checkpoints(self.run_dir, self.config.checkpoints.keep)

    def _mlflow(self) -> MlflowStore | None:
        tracking = self.config.tracking
        if not tracking.mlflow:
            return None
        uri = tracking.uri or default_uri(self.run_dir)
        warn = partial(self.files.event, "warning")
        name = self.tags.get("mlflow.runName", self.run_dir.name)
        return MlflowStore(self.run_dir, uri, tracking.experiment, name, warn, self.tags)

    @property
    def seconds(self) -> float:
        """What the run has taken, the time before it was resumed included."""
        return self.state.seconds + time.monotonic() - self.began


def drive(run: Run, resumed: tuple[State, Path] | None = None) -> dict[str, Any]:
    """Do the run; its summary. Raises `RunFailed` with one line, after summary, report and stores are written."""
    status, error = "failed", ""
    try:
        asyncio.run(_drive(run, resumed))
        status = "done"
    except KeyboardInterrupt:
        status, error = "killed", "stopped by the user"
        raise RunFailed(f"stopped; `assay resume {run.run_dir}` goes on from the last checkpoint") from None
    except BaseException as failure:
        error = str(failure) or type(failure).__name__
        (run.run_dir / "error.txt").write_text(traceback.format_exc())
        raise
    finally:
        if error:
            run.files.event("failed", error)
        summary = _finish(run, status, error)
    return summary


def _finish(run: Run, status: str, error: str) -> dict[str, Any]:
    identity = run.mlflow.identity if run.mlflow else None
    summary = {
        "status": status,
        **({"error": error} if error else {}),
        "name": run.name,
        "seed": run.config.seed,
        "seconds": run.seconds,
        "run_dir": str(run.run_dir),
        "report": str(run.run_dir / "report.html"),
        "mlflow": identity,
        "stages": run.state.finished,
    }
    write_json(run.run_dir / "summary.json", summary)
    write_report(run.run_dir)
    run.store.finish(status)
    return summary


async def _drive(run: Run, resumed: tuple[State, Path] | None) -> None:
    if resumed is not None:
        run.state = resumed[0]
        run.files.rewind(run.state.files)
        run.files.event("resumed", f"from checkpoint {resumed[1].name}", run.state.stage)
    run.store.params(run.config.model_dump(mode="json"))
    with Progress(run.console) as progress:
        progress.note("starting the workers")
        crew = await hands(run.config, run.run_dir, texts_of(run.tasks))
        gc.freeze()  # tasks and modules stay to the end: no collection during a step need look at them
        try:
            await _stages(run, crew, progress, resumed)
            await _save_result(run, crew)
        finally:
            await crew.close()


async def _stages(run: Run, crew: Hands, progress: Progress, resumed: tuple[State, Path] | None) -> None:
    pool = crew.rollouts
    recorder = Recorder(run.config, run.store, progress, _Stepped(run, crew), {}, pool.restarts, pool.present)
    if resumed is not None and run.state.stage is None:
        await crew.learner.load(resumed[1].absolute())
    for name, stage in run.config.stages.items():
        if name in run.state.finished:
            continue
        in_hand = resumed is not None and run.state.stage == name
        if stage.start is not None and not in_hand:
            await crew.learner.load_model(run.run_dir.absolute() / "stages" / stage.start)
        progress.stage(name, stage.kind, getattr(stage, "steps", None) or _evaluated(stage, run.tasks[name]))
        run.files.event("stage_started", stage.kind, name)
        run.stage_began = time.monotonic() - (run.state.stage_seconds if in_hand else 0.0)
        takes_up = _resumed(resumed, crew) if resumed is not None and in_hand else None
        results = await run_stage(name, crew, run.tasks[name], recorder, takes_up)
        seconds = time.monotonic() - run.stage_began
        run.state.finished[name] = {"kind": stage.kind, "seconds": seconds, **results}
        if isinstance(stage, RewardModelStage) or any(later.start == name for later in run.config.stages.values()):
            await crew.learner.save_model(run.run_dir.absolute() / "stages" / name)
        await _checkpoint(run, crew, None, 0, [], {})
        if run.stage_ended is not None:
            await asyncio.to_thread(run.stage_ended, name)
        run.files.event("stage_done", told(results), name)
        progress.stage_done(name, told(results))


async def _save_result(run: Run, crew: Hands) -> None:
    """model/: what the last stage that learns made. A reward model lies there already: the learner of a run that was
    resumed after its stage holds the policy alone."""
    learned = [name for name, stage in run.config.stages.items() if isinstance(stage, TrainStage)]
    model = run.run_dir.absolute() / "model"
    if learned and isinstance(run.config.stages[learned[-1]], RewardModelStage):
        shutil.copytree(run.run_dir / "stages" / learned[-1], model, dirs_exist_ok=True)
    else:
        await crew.learner.save_model(model)


def _evaluated(stage: Any, tasks: TaskSets) -> int | None:
    return len(tasks.held_out[: stage.limit]) if isinstance(stage, EvaluateStage) else None


def _resumed(resumed: tuple[State, Path], crew: Hands) -> Resumed:
    state, path = resumed
    return Resumed(state.step, state.failures, state.memory, lambda: crew.learner.load(path.absolute()))


@dataclass
class _Stepped:
    """Makes a checkpoint every so many steps; the last step's is the stage's own."""

    run: Run
    crew: Hands

    async def __call__(self, stage: str, step: int, failures: list[str | None], memory: dict[str, float]) -> float:
        began = time.monotonic()
        steps = getattr(self.run.config.stages[stage], "steps", 0)
        if step % self.run.config.checkpoints.every or step >= steps:
            return 0.0
        await _checkpoint(self.run, self.crew, stage, step, failures, memory)
        return time.monotonic() - began


async def _checkpoint(
    run: Run, crew: Hands, stage: str | None, step: int, failures: list[str | None], memory: dict[str, float]
) -> None:
    spent = time.monotonic() - run.stage_began if stage else 0.0
    state = State(
        run.state.number + 1,
        stage,
        step,
        dict(run.state.finished),
        run.files.position(),
        failures,
        run.seconds,
        spent,
        memory,
    )
    await run.checkpoints.save(state, lambda path: crew.learner.save(path.absolute()))
    run.state, run.began = state, time.monotonic()


def told(results: dict[str, Any]) -> str:
    """A stage's results in a few words."""
    if "accuracy" in results:
        low, high = results["interval"]
        return f"accuracy {results['accuracy']:.3f} [{low:.3f}, {high:.3f}], n={results['n']}"
    return ", ".join(f"{name} {value:.4g}" for name, value in results.items() if isinstance(value, int | float))
