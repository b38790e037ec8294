"""exact, math and function, one by one; the helper processes are real."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.errors import Refused
from rewards.sources.exact import Exact
from rewards.sources.function import Function
from rewards.sources.math import Math, plain_number, same_number
from rewards.types import Task
from workers.judging.toolbox import ProcessToolbox

NO_TOOLS: Any = None


def score(source, group, processes=2):
    async def ask():
        tools = ProcessToolbox(processes, source.helper_imports)
        try:
            return await source.score(group, tools)
        finally:
            tools.close()

    return asyncio.run(ask())


def told(scores):
    return [s.value if s.failure is None else s.failure.kind for s in scores]


def test_exact(make_group):
    group = make_group(["...7", ".8.7 ", "7", "8.", ". 7\n"], reference=" 7")
    scores = asyncio.run(Exact(after=".").score(group, NO_TOOLS))
    assert told(scores) == [1, 1, 0, 0, 1]
    assert scores[2].explanation == "no '.' in the answer"
    assert told(asyncio.run(Exact().score(group, NO_TOOLS))) == [0, 0, 1, 0, 0]
    assert told(asyncio.run(Exact().score(make_group(["7"]), NO_TOOLS))) == ["abstained"]


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("1,000", "1000", True),
        ("$18", "18", True),
        ("\\$18.00", "18", True),
        ("-$5", "-5", True),
        ("$-5.", "-5", True),
        ("18%", "18.0 %", True),
        ("18", "19", False),
        ("0", "-0", True),
        ("18%", "18", None),
        ("0.3333", "0.33333", None),
        ("1,00", "100", None),
        ("1/2", "0.5", None),
        ("--5", "5", None),
        ("-$-5", "5", None),
        ("", "5", None),
    ],
)
def test_plain_numbers_are_compared_at_once(answer, reference, same):
    assert same_number(answer, reference) is same


@given(
    st.integers(-(10**7), 10**7), st.integers(-(10**7), 10**7), st.sampled_from(["{}", "${}", "{:,}", "{}.00", "{}."])
)
@settings(max_examples=40, deadline=None)
def test_the_short_way_agrees_with_math_verify(left, right, form):
    from rewards.sources.symbolic import equal

    for other in (left, right):
        short = same_number(form.format(left), str(other))
        assert short is (left == other)
        assert equal([form.format(left)], str(other), True) == [short]


def test_math_takes_equal_expressions_for_equal(make_group):
    texts = [
        "so #### 1/2",
        "#### \\frac{1}{2}",
        "#### $0.5$\nand so on #2",
        "#### 2/3",
        "1/2",
        "#### \\boxed{\\frac{2}{4}}",
    ]
    assert told(score(Math(after="####"), make_group(texts, reference="0.5"))) == [1, 1, 1, 0, 0, 1]
    texts = ["I think the answer is $\\frac{\\sqrt{8}}{2}$.", "It is \\boxed{1.5}", "sqrt of two"]
    assert told(score(Math(), make_group(texts, reference="\\sqrt{2}"))) == [1, 0, 0]
    assert told(score(Math(), make_group(["$(1, 2)$", "$\\{2, 1\\}$"], reference="(1,2)"))) == [1, 0]


def test_math_abstains_without_a_reference(make_group):
    assert told(score(Math(), make_group(["1"]))) == ["abstained"]
    [failed] = score(Math(), make_group(["1"], reference="()"))
    assert failed.failure.detail == "the reference '()' is no mathematical expression"


def test_an_expression_that_takes_for_ever_fails_alone(make_group):
    scores = score(Math(after="=", limit_s=1.0), make_group(["=9^{9^{9^{9}}}+1/3", "=1/3+0", "=4"], reference="1/3"))
    assert told(scores) == ["timeout", 1, 0]
    assert scores[0].failure.detail == "no answer in 1 s"


def test_cases_of_exact_and_math():
    task = Task("t", (), "1,234.5")
    for source in (Exact(after="#"), Math(after="#")):
        case = source.case(task)
        assert case and case.gold == "#1,234.5" and case.foil.startswith("#") and case.foil != case.gold
        assert source.case(Task("t", ())) is None
    assert Math().case(Task("t", (), "x^2")).foil == "-98765.4321"  # type: ignore[union-attr]
    assert plain_number("1,234.5")[0] + 1 == plain_number(Math().case(task).foil)[0]  # type: ignore[index, union-attr]


def test_function_in_trls_signature(make_group):
    assert told(score(Function("faulty:letters"), make_group(["ab", "a", ""], reference="ab"))) == [1, 0.5, 0]
    group = make_group(["four", "six..."], reference="r", meta={"level": 3})
    assert told(score(Function("faulty:columns_seen"), group)) == [4, 6]
    assert told(score(Function("faulty:first_message", conversational=True), group)) == [4, 6]
    assert told(score(Function("faulty:slowly"), group)) == [1, 1]


def test_a_bad_item_fails_alone_a_bad_list_fails_whole(make_group):
    scores = score(Function("faulty:odd_numbers"), make_group(list("1234567")))
    assert told(scores) == [1, "abstained", "malformed", "malformed", "malformed", 0.5, 1]
    assert scores[2].failure.detail == "expected a finite number, not nan"
    assert told(score(Function("faulty:too_few"), make_group(["1", "2"]))) == ["malformed", "malformed"]


def test_a_hanging_trl_function_is_killed(make_group):
    with pytest.raises(TimeoutError, match=r"no answer in 0\.5 s"):
        score(Function("faulty:hangs", limit_s=0.5), make_group(["1"]))


def test_function_in_verls_signature(make_group):
    texts = ["4", "5", "hang", "exit", "kill", "sys.exit", "raise", "none", "scoreless", "4"]
    meta = {"data_source": "sums", "extra_info": {"index": 3}}
    scores = score(Function("faulty:compute_score", limit_s=1.0), make_group(texts, reference="4", meta=meta))
    assert told(scores) == [1, -1, "timeout", "died", "died", "error", "error", "abstained", "malformed", 1]
    assert scores[0].parts == {"acc": 1.0}
    assert scores[3].failure.detail == "the helper process ended with status 7"
    assert scores[5].failure.detail == "RuntimeError: SystemExit: enough"
    assert scores[6].failure.detail == "RuntimeError: Awkward: bad and worse"


def test_a_function_of_no_known_signature_is_refused():
    with pytest.raises(Refused, match=r"'faulty:neither' takes \(answer, truth\): expected TRL's"):
        Function("faulty:neither")
    with pytest.raises(Refused, match="'os:sep': expected a function, found str"):
        Function("os:sep")


@pytest.mark.parametrize("source", [Exact("."), Math("#", 2.0), Function("faulty:letters", gold="a", foil="b")])
def test_sources_are_plain_values(source):
    assert pickle.loads(pickle.dumps(source)) == source
    assert hash(source) == hash(pickle.loads(pickle.dumps(source)))
