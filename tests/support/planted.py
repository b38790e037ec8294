"""A pytest plug-in that plants one sign error at a time into the algorithms' formulas and sees whether a test fails.

    python -m pytest -p planted -n 0 tests/pipeline/algorithms     (with tests/support on the path)

An error is a + made a -, a - made a +, or a unary minus left out, in a function of `FILES`. The function's code is
exchanged in place, whoever imported it, and the tests run until the first that fails; what is fast and near comes
first. Ends with a line for every error that no test noticed, and exit status 1 where there is one.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

# Each module of formulas, and the tests that are nearest to it.
FILES = {
    "estimators": [
        "test_estimators",
        "test_advantages_against_verl",
        "test_pairwise",
        "test_policy_gradient",
        "test_step_rewards",
    ],
    "gae": ["test_ppo"],
    "losses": ["test_losses_against_verl", "test_ratios", "test_estimators", "test_policy_gradient"],
    "critic": ["test_ppo"],
    "kl_control": ["test_ppo"],
    "ppo": ["test_ppo"],
    "policy_gradient": ["test_policy_gradient", "test_grpo", "test_advantages_against_verl", "test_step_rewards"],
    "grpo": ["test_grpo", "test_step_rewards", "test_advantages_against_verl"],
    "tp_grpo": ["test_tp_grpo"],
    "rloo": ["test_advantages_against_verl"],
    "reinforce_plus_plus": ["test_advantages_against_verl"],
    "remax": ["test_advantages_against_verl"],
    "gdpo": ["test_advantages_against_verl"],
    "pairwise": ["test_pairwise"],
    "campo": ["test_campo"],
    "stable_reinforce": ["test_estimators", "test_ratios"],
    "correction": ["test_correction"],
    "pairs": ["test_preference_losses"],
    "dpo": ["test_preference_losses", "test_preferences_against_trl"],
    "ipo": ["test_preference_losses", "test_preferences_against_trl"],
    "kto": ["test_preference_losses", "test_preferences_against_trl"],
    "simpo": ["test_preference_losses", "test_preferences_against_trl"],
    "reward_model": ["test_preference_losses", "test_process", "test_preferences_against_trl"],
    "collaborative": ["test_collaborative"],
    "process": ["test_process"],
    "step_labels": ["test_process"],
}
EPSILONS = (1e-6, 1e-8)  # what only keeps a division from going wrong shows in no figure
FLIPPED = {ast.Add: ast.Sub, ast.Sub: ast.Add}


class Signs(ast.NodeTransformer):
    """Exchanges the `wanted`-th sign of a module; without one, counts them."""

    def __init__(self, wanted: int | None = None):
        self.wanted, self.seen, self.places = wanted, 0, []

    def _here(self, node: Any) -> bool:
        self.seen += 1
        self.places.append((node.lineno, ast.unparse(node)))
        return self.seen - 1 == self.wanted

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        guard = any(isinstance(side, ast.Constant) and side.value in EPSILONS for side in (node.left, node.right))
        if type(node.op) in FLIPPED and not guard and self._here(node):
            node.op = FLIPPED[type(node.op)]()
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        index = isinstance(node.operand, ast.Constant)
        return node.operand if isinstance(node.op, ast.USub) and not index and self._here(node) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node  # what is said of a refusal is no formula


def codes(code: types.CodeType, name: str = "") -> Iterator[tuple[str, types.CodeType]]:
    """Every function's code in a module's or class's, by its qualified name."""
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield inner.co_qualname, inner
            yield from codes(inner, inner.co_qualname)


def functions(module: types.ModuleType) -> dict[str, Any]:
    """The live functions of a module, its classes' methods and properties included, by qualified name."""
    found: dict[str, Any] = {}
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        members = vars(value).values() if inspect.isclass(value) else [value]
        for member in members:
            function = member.fget if isinstance(member, property) else member
            if isinstance(function, types.FunctionType):
                found[function.__qualname__] = function
    return found


def mutants(name: str) -> Iterator[tuple[str, list[tuple[Any, types.CodeType]]]]:
    """(what is planted, the functions with their changed code) for every sign of a module's functions."""
    module = importlib.import_module(f"pipeline.algorithms.{name}")
    path = str(module.__file__)
    tree, live = ast.parse(Path(path).read_text()), functions(module)
    plain = dict(codes(compile(tree, path, "exec")))
    counted = Signs()
    counted.visit(copy.deepcopy(tree))
    for number, (line, text) in enumerate(counted.places):
        mutant = ast.fix_missing_locations(Signs(number).visit(copy.deepcopy(tree)))
        changed = dict(codes(compile(mutant, path, "exec")))
        swaps = [
            (live[function], code)
            for function, code in changed.items()
            if function in live and _bytes(code) != _bytes(plain[function])
        ]
        if swaps:
            yield f"{name}.py:{line}: the sign of {text}", swaps


def _bytes(code: types.CodeType) -> bytes:
    return code.co_code + repr(code.co_consts).encode()


def fails(items: list[pytest.Item], say: Callable[[str], None] = lambda text: None) -> bool:
    """Whether one of them does, which `say` is told; the rest is not run."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        reports = runtestprotocol(item, nextitem=following, log=False)
        if any(report.failed for report in reports):
            say("\n".join(report.longreprtext for report in reports))
            item.session._setupstate.teardown_exact(None)  # the following one is not run after all
            return True
    return False


def pytest_runtestloop(session: pytest.Session) -> bool:
    by_file: dict[str, list[pytest.Item]] = {}
    for item in session.items:
        by_file.setdefault(item.path.stem, []).append(item)
    say: Callable[[str], None] = lambda text: print(text, flush=True)  # noqa: E731
    planted, unnoticed = 0, []
    for name, near in FILES.items():
        items = [item for file in near for item in by_file.get(file, [])]
        assert items, f"no test of {name} was collected"
        assert not fails(items, say), f"the tests of {name} fail with nothing planted"
        for what, swaps in mutants(name):
            originals = [(function, function.__code__) for function, _ in swaps]
            try:
                for function, code in swaps:
                    function.__code__ = code
                planted += 1
                if not fails(items):
                    unnoticed.append(what)
                    say(f"\nunnoticed: {what}")
            finally:
                for function, code in originals:
                    function.__code__ = code
    say(f"\nplanted {planted} sign errors, {len(unnoticed)} unnoticed")
    session.testsfailed = len(unnoticed)
    return True
