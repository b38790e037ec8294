"""The command line. A user's mistake is one line and exit status 2; a run that breaks is one line and status 1."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipeline import cluster_cli
from pipeline.cluster_cli import ConfigPath, Overrides
from rewards.errors import Refused, RunFailed

# Libraries speak when something is wrong, not before.
for _name, _value in {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONWARNINGS": "ignore",
}.items():
    os.environ.setdefault(_name, _value)

app = typer.Typer(
    name="assay",
    help="RLHF/RLVR post-training in which the reward is the experiment.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
UsageError: Any = typer.BadParameter.__base__  # click's; where it lives depends on typer's version
INTERRUPTED = 130  # what typer makes of Ctrl-C
AsJson = Annotated[bool, typer.Option("--json", help="The last line of standard output is the summary as JSON.")]


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where the run is kept; default runs/NAME-DATE-TIME.")] = None,
    as_json: AsJson = False,
) -> None:
    """Launch the run that CONFIG describes."""
    from pipeline import rundir
    from pipeline.config import load_config

    console = _console(as_json)
    settings = load_config(config, overrides or [])
    run_dir = run_dir or rundir.default_dir(config)
    rundir.check_free(run_dir, 0)
    # What is refused should be refused at once: the seconds that torch and Ray take to import come after.
    from pipeline.check import check

    with console.status("checking data, model and reward sources"):
        checked = check(settings)
    for warning in checked.warnings:
        console.print(f"[yellow]warning[/] {warning}")
    rundir.check_free(run_dir, checked.disk_bytes)
    from pipeline import driver, remote

    remote.join(settings, run_dir)
    rundir.create(run_dir, settings, config.stem)
    _drive(driver.Run(settings, run_dir, config.stem, checked.tasks, console), None, console, as_json)


@app.command()
def resume(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The directory of a run that was interrupted.")],
    as_json: AsJson = False,
) -> None:
    """Continue an interrupted run exactly where its last checkpoint stands."""
    from pipeline import rundir

    console = _console(as_json)
    rundir.check_holds_run(run_dir)
    summary = run_dir / "summary.json"
    if summary.exists() and json.loads(summary.read_text())["status"] == "done":
        raise Refused(f"{run_dir} is done; its report is {run_dir / 'report.html'}")
    from pipeline import driver, remote
    from pipeline.assemble import tasks_of
    from pipeline.config import load_config

    settings = load_config(run_dir / "config.yaml")
    environment = json.loads((run_dir / "environment.json").read_text())
    run_dir = run_dir.absolute()
    with contextlib.suppress(FileNotFoundError):
        os.chdir(environment["directory"])  # relative paths of data and models, and reward modules, are found there
    remote.join(settings, run_dir)
    again = driver.Run(settings, run_dir, environment["name"], tasks_of(settings), console)
    newest = again.checkpoints.newest(lambda text: again.files.event("warning", text))
    if newest is None:
        again.files.rewind({"metrics.jsonl": 0, "samples.jsonl": 0})
    _drive(again, newest, console, as_json)


@app.command()
def check(
    config: ConfigPath,
    overrides: Overrides = None,
    cluster: Annotated[str | None, typer.Option(help="Size it for this one: 2x8xH100, or a YAML file.")] = None,
    shape: Annotated[Path | None, typer.Option(help="A config.json's directory, in place of the model.")] = None,
) -> None:
    """Resolve and validate CONFIG, try its reward sources, print the plan; start nothing."""
    from pipeline.config import load_config

    console = _console(False)
    settings = load_config(config, overrides or [])
    from pipeline.spec import load_spec

    spec = load_spec(cluster) if cluster else None
    from pipeline.check import check as examine
    from pipeline.plan import shown

    with console.status("checking data, model and reward sources"):
        checked = examine(settings, spec, shape)
    console.print(shown(checked))
    console.print(f"[green]✓[/] {config} can run")


@app.command()
def ablate(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A YAML with `ablation:`, which names a run's config.")
    ],
    folder: Annotated[Path | None, typer.Option("--dir", help="Where the sweep is kept; default runs/NAME.")] = None,
    as_json: AsJson = False,
) -> None:
    """Launch the grid of runs that CONFIG describes, or go on with it; one report."""
    from pipeline.lab.ablate import ablate as do

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    summary = do(config, folder, _console(as_json))
    if as_json:
        print(json.dumps(summary))
    if summary["failed"]:
        raise RunFailed(f"{summary['failed']} of {summary['runs']} runs failed; {summary['report']} says why")


@app.command(hidden=True)
def cell() -> None:
    """One run of a sweep, as it is ordered on standard input."""
    from pipeline.lab.cell import alone, prepared, received

    order = received()
    with alone(Path(order.run_dir)):
        _drive(*prepared(order, _console(False)), _console(False), False)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="A run, a sweep, or several runs.")],
    to: Annotated[Path, typer.Option(help="Where the page of several runs goes.")] = Path("comparison.html"),
) -> None:
    """Write DIR/report.html anew; of several runs, one page that compares them."""
    from pipeline.lab.pages import write

    _console(False).print(str(write(folders, to)), soft_wrap=True)


@app.command()
def points(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Runs, or sweeps, that had `rewards.gold`.")],
) -> None:
    """Find the proxy points of reward sources, from which on their rise costs gold (for `combine: constrained`)."""
    from pipeline.lab.proxy_points import found

    _console(False).print(found(folders), soft_wrap=True, markup=False)


@app.command()
def serve(
    config: ConfigPath,
    overrides: Overrides = None,
    stage: Annotated[str | None, typer.Option(help="Whose rewards; default: the first stage that is judged.")] = None,
) -> None:
    """Serve CONFIG's reward panel over HTTP, to any trainer that has the token."""
    from pipeline.config import load_config

    settings = load_config(config, overrides or [])
    from pipeline.serve import serve as do

    do(settings, stage, _console(False))


@app.command()
def audit(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A run's YAML, or one that holds `rewards` alone.")],
    overrides: Overrides = None,
    data: Annotated[Path, typer.Option(help="Labelled answers: JSONL or JSON.")] = ...,  # type: ignore[assignment]
    out: Annotated[Path | None, typer.Option(help="Where the cards go; default audits/NAME-DATE-TIME.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask CONFIG's reward sources about labelled answers; write their report cards."""
    from pipeline.config import load_rewards
    from pipeline.lab.audit import audit as examine
    from pipeline.lab.audit import write_audit
    from pipeline.lab.labelled import read_labelled
    from pipeline.rundir import default_dir

    console = _console(as_json)
    rewards = load_rewards(config, overrides or [])
    rows = read_labelled(data)
    with console.status(f"asking about {len(rows):,} tasks"):
        cards = examine(rewards, rows)
    page = write_audit(out or Path("audits") / default_dir(config).name, data, config, cards)
    for name, card in cards.items():
        right = f"{card['pairs']['value']:.1%} of {card['pairs']['n']:,} pairs right" if card["pairs"] else "no pairs"
        console.print(f"[bold]{name}[/]  {right}, {card['failed']['value']:.1%} failed")
        for warning in card["warnings"]:
            console.print(f"  [yellow]warning[/] {warning['text']}", soft_wrap=True)
    console.print(f"report  {page}", soft_wrap=True)
    if as_json:
        print(json.dumps(cards))


@app.command()
def schema() -> None:
    """Print the config's JSON schema, for editors."""
    from pipeline.config import schema as config_schema

    print(json.dumps(config_schema(), indent=1))


@app.command()
def doctor() -> None:
    """What this machine can run."""
    from pipeline.doctor import examine, shown

    _console(False).print(shown(examine()))


app.command()(cluster_cli.submit)
app.add_typer(cluster_cli.job, name="job")
app.add_typer(cluster_cli.deploy, name="deploy")


def _console(as_json: bool) -> Console:
    """People read standard output, unless a program does."""
    return Console(stderr=as_json, highlight=False)


def _drive(run: Any, newest: Any, console: Console, as_json: bool) -> None:
    from pipeline import driver
    from pipeline.progress import summary_table

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's way of saying Ctrl-C
    summary = driver.drive(run, newest)
    console.print(summary_table(summary))
    console.print(f"report  {summary['report']}", soft_wrap=True)
    if summary["mlflow"]:
        console.print(f"MLflow  {summary['mlflow']['uri']}  run {summary['mlflow']['run_id']}", soft_wrap=True)
    if as_json:
        print(json.dumps(summary))


def main(args: Sequence[str] | None = None) -> None:
    """Entry point: turns what went wrong into one line and an exit status."""
    given = list(sys.argv[1:] if args is None else args)
    try:
        if app(given or ["--help"], standalone_mode=False) == INTERRUPTED:
            _exit(1, "stopped")
    except Refused as error:
        _exit(2, str(error))
    except UsageError as error:
        _exit(2, f"{error.format_message().rstrip('.')}; `assay --help` lists what there is")
    except RunFailed as error:
        _exit(1, str(error))
    except (KeyboardInterrupt, typer.Abort):
        _exit(1, "stopped")
    except Exception as error:  # noqa: BLE001 - the border to the user: one line, the traceback is in error.txt
        _exit(1, f"{type(error).__name__}: {error}")


def _exit(status: int, message: str) -> None:
    sys.stdout.flush()
    print("assay: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(status)
