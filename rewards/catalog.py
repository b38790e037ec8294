"""Which reward sources, combiners and shaping steps there are: the whole tables, and the way in for a user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from rewards.compose.constrained import Constrained
from rewards.compose.ensemble import Ensemble
from rewards.compose.fusion import Fusion
from rewards.compose.gated import Gated
from rewards.compose.hierarchical import Hierarchical
from rewards.compose.hybrid import Hybrid
from rewards.compose.weighted import Weighted
from rewards.errors import Refused, nearest
from rewards.imports import load
from rewards.shaping.budget import Budget
from rewards.shaping.clip import Clip
from rewards.shaping.delta import Delta
from rewards.shaping.exploration import Exploration
from rewards.shaping.normalise import BatchNormalise, GroupNormalise, RunningNormalise
from rewards.shaping.overlong import Overlong
from rewards.shaping.pattern import Calibrate, Pattern
from rewards.shaping.repetition import Repetition
from rewards.sources.code import Code
from rewards.sources.exact import Exact
from rewards.sources.function import style
from rewards.sources.generative import Generative
from rewards.sources.instructions import Instructions
from rewards.sources.listwise import Listwise
from rewards.sources.math import Math
from rewards.sources.numeric import Numeric
from rewards.sources.pairwise import PairwiseJudge
from rewards.sources.process import Process, StepJudge
from rewards.sources.regex import Regex
from rewards.sources.remote import Remote
from rewards.sources.rubric import Rubric
from rewards.sources.scalar import Scalar
from rewards.sources.schema import Schema
from rewards.sources.step_function import StepFunction
from rewards.sources.tooled import Tooled

SOURCES: dict[str, type] = {
    "exact": Exact,
    "math": Math,
    "numeric": Numeric,
    "regex": Regex,
    "schema": Schema,
    "instructions": Instructions,
    "code": Code,
    "scalar": Scalar,
    "generative": Generative,
    "pairwise": PairwiseJudge,
    "listwise": Listwise,
    "rubric": Rubric,
    "process": Process,
    "step_judge": StepJudge,
    "remote": Remote,
    "tooled": Tooled,
    "step_function": StepFunction,
}
# How the sources' values become one reward.
COMBINERS: dict[str, type] = {
    "weighted": Weighted,
    "hierarchical": Hierarchical,
    "gated": Gated,
    "hybrid": Hybrid,
    "ensemble": Ensemble,
    "constrained": Constrained,
    "fusion": Fusion,
}
# What is done to a reward, or to step rewards, afterwards.
SHAPERS: dict[str, type] = {
    "clip": Clip,
    "delta": Delta,
    "overlong": Overlong,
    "budget": Budget,
    "repetition": Repetition,
    "exploration": Exploration,
    "pattern": Pattern,
    "calibrate": Calibrate,
    "group_normalise": GroupNormalise,
    "batch_normalise": BatchNormalise,
    "running_normalise": RunningNormalise,
}


def resolve(kind: str) -> type | Callable[..., Any]:
    """The class of a kind; or the class or plain function at `package.module:name` (`Function(path=kind)` hosts it).

    Raises `Refused` for an unknown kind, a path that does not import, a class without `score`, and a function
    whose signature is none of TRL's, verl's and OpenRLHF's.
    """
    if ":" not in kind:
        if kind not in SOURCES:
            raise Refused(f"unknown reward source {kind!r}; {nearest(kind, SOURCES)} (or package.module:name)")
        return SOURCES[kind]
    found = load(kind)
    if not inspect.isclass(found):
        style(found, kind)
    elif not inspect.iscoroutinefunction(getattr(found, "score", None)):
        raise Refused(f"reward source {kind!r}: class {found.__name__} has no `async def score(self, group, tools)`")
    return found
