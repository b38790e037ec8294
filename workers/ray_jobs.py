"""Runs on a cluster from afar, as Ray jobs: sent over HTTP with the working directory, followed, stopped."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.job_submission import JobStatus, JobSubmissionClient

from rewards.errors import Refused
from rewards.failures import one_line

# Not shipped; nor is what .gitignore names.
EXCLUDES = (".git", ".venv", "runs", "mlruns", "**/__pycache__")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended, or stands: Ray's word for it, what Ray says of it, the driver's exit status where it has one."""

    status: str
    message: str
    exit_code: int | None

    @property
    def over(self) -> bool:
        return JobStatus(self.status).is_terminal()


class Jobs:
    """The jobs of the cluster whose dashboard answers at `address` (http://HEAD:8265).

    Raises `Refused` where nothing answers there, it wants a token, or runs another Ray.
    """

    def __init__(self, address: str):
        self.address = address
        if not address.startswith(("http://", "https://")):
            raise Refused(f"--address: {address!r}, expected the head's dashboard, such as http://HEAD:8265")
        try:
            self._client = JobSubmissionClient(address)
            found = self._client._server_ray_version
        except (ConnectionError, RuntimeError) as error:
            raise Refused(f"--address: {address} can't be used: {_why(error)}") from error
        if found != ray.__version__:
            raise Refused(f"--address: the cluster runs Ray {found}, here is {ray.__version__}; expected the same")

    def submit(self, name: str, command: Sequence[str], directory: str, env: Mapping[str, str]) -> str:
        """Send the directory, and run the command in it on the head; the job's id."""
        runtime: dict[str, Any] = {"working_dir": directory, "excludes": list(EXCLUDES), "env_vars": dict(env)}
        try:
            return self._client.submit_job(entrypoint=shlex.join(command), runtime_env=runtime, submission_id=name)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise Refused(f"the cluster took no job: {_why(error)}") from error

    def state(self, job: str) -> Ended:
        """Raises `Refused` where there is no such job."""
        try:
            info = self._client.get_job_info(job)
        except RuntimeError as error:
            known = [one.submission_id for one in self._client.list_jobs() if one.submission_id]
            raise Refused(f"job {job!r}: {self.address} knows none of that name; it has {known or 'none'}") from error
        return Ended(info.status.value, one_line(info.message or ""), info.driver_exit_code)

    def logs(self, job: str) -> AsyncIterator[str]:
        """What the driver writes, as it comes, until the job ends."""
        return self._client.tail_job_logs(job)

    def stop(self, job: str) -> None:
        """Ask the driver to end, as Ctrl-C does; the run can be resumed."""
        self.state(job)
        self._client.stop_job(job)


def _why(error: BaseException) -> str:
    text = one_line(error)
    if "401" in text or "403" in text or "uthenticat" in text:
        return "it wants a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    return text
