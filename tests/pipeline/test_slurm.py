"""The script for Slurm on a real Slurm of one node: munged, slurmctld and slurmd, started here and ended here."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from tiny_run import ASSAY, metric_rows, write_config

pytestmark = pytest.mark.slow
CPUS = 4

CONF = """
ClusterName=assay
SlurmctldHost={host}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=16000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def slurm():
    """The environment in which sbatch finds a Slurm of its own."""
    missing = [name for name in ("munged", "slurmctld", "slurmd") if not shutil.which(name)]
    if missing or os.geteuid():
        pytest.skip(f"{', '.join(missing) or 'root'} needed (Debian packages slurm-wlm and munge, as root)")
    folder = Path(tempfile.mkdtemp(prefix="assay-slurm-"))
    folder.chmod(0o755)  # munged is another user, and pytest's folders are its own alone
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir()
    key = folder / "munge/key"
    key.write_bytes(os.urandom(128))
    for path in (key, key.parent):
        shutil.chown(path, "munge", "munge")
    key.chmod(0o400)
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=socket.gethostname(), folder=folder, ports=free_ports(2), cpus=CPUS))
    env = {**os.environ, "SLURM_CONF": str(conf), "PATH": f"{ASSAY.parent}:{os.environ['PATH']}"}
    munged = ["munged", "--foreground", "--key-file=key", "--socket=socket", "--pid-file=pid", "--seed-file=seed"]
    munged = [word.replace("=", f"={folder}/munge/") for word in munged] + [f"--log-file={folder}/munge/log", "--force"]
    started = [subprocess.Popen(["runuser", "-u", "munge", "--", *munged], stderr=subprocess.DEVNULL)]
    try:
        wait_for(lambda: (folder / "munge/socket").exists(), 30)
        started += [
            subprocess.Popen([daemon, "-D"], env=env, stderr=subprocess.DEVNULL) for daemon in ("slurmctld", "slurmd")
        ]
        wait_for(lambda: "idle" in told(env, "sinfo", "--noheader", "--format=%T"), 120)
        yield env
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(done, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.2)


def told(env, *command) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout


def test_a_run_on_a_real_slurm(slurm, tmp_path):
    config, run_dir = write_config(tmp_path), tmp_path / "run"
    script = tmp_path / "run.sbatch"
    command = [ASSAY, "deploy", "slurm", config, "stages.warm_start.steps=4", "stages.rl.steps=2", "--memory-per-cpu=1"]
    text = subprocess.run([*map(str, command), f"--run-dir={run_dir}"], capture_output=True, text=True, check=True)
    script.write_text(text.stdout)
    sent = subprocess.run(["sbatch", "--parsable", script], env=slurm, cwd=tmp_path, capture_output=True, text=True)
    assert sent.returncode == 0, sent.stderr
    job = sent.stdout.strip()

    def state() -> str:
        return told(slurm, "scontrol", "show", "job", job).partition("JobState=")[2].split()[0]

    try:
        wait_for(lambda: state() not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"), 300)
    finally:
        subprocess.run(["scancel", job], env=slurm, check=False)
    log = (tmp_path / f"tiny-{job}.log").read_text()
    assert state() == "COMPLETED", log
    assert json.loads((run_dir / "summary.json").read_text())["status"] == "done"
    assert "address: auto" in (run_dir / "config.yaml").read_text()
    assert len([row for row in metric_rows(run_dir) if row["stage"] == "rl"]) == 2
