"""The two ways in which Assay says no.

`Refused`   the user asked for something that can't be: one line, exit status 2, nothing started.
`RunFailed` the run itself broke: one line that names the culprit, exit status 1, and the run can be resumed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Refused(ValueError):
    """A mistake in what the user gave. The message is one line: where, what was found, what was expected."""


class RunFailed(RuntimeError):
    """A run that can't go on. The message is one line that names the part at fault."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """The hint after an unknown name: the nearest valid one, or all of them where none is near."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"expected one of: {', '.join(valid)}"
