"""The repetition critic against a brute-force search for loops, and what it takes from a reward."""

from __future__ import annotations

import time

import numpy as np
import pytest
from tiny import fresh

from pipeline.algorithms import Campo
from pipeline.algorithms.estimators import group_relative
from rewards.repetition import loop_share
from workers.types import Sample, Signals


def tokens(text):
    return [ord(c) for c in text]


def brute(text):
    """The longest run of two or more copies of one phrase that the text ends in, as a share of it."""
    n, best = len(text), 0
    for p in range(1, n // 2 + 1):
        phrase, copies = text[n - p :], 1
        while (copies + 1) * p <= n and text[n - (copies + 1) * p : n - copies * p] == phrase:
            copies += 1
        if copies >= 2:
            best = max(best, copies * p)
    return best / n


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("abcabcabc", 1.0),
        ("xyzabcabcabc", 0.75),
        ("bcabcabcabc", 9 / 11),
        ("abcdef", 0.0),
        ("abcabcx", 0.0),
        ("a", 0.0),
        ("aa", 1.0),
        ("so the answer is 11", 2 / 19),
    ],
)
def test_by_hand(text, share):
    assert loop_share(tokens(text)) == pytest.approx(share)


def test_against_brute_force():
    rng = fresh()
    for _ in range(400):
        text = "".join(rng.choice(list("ab"), int(rng.integers(1, 25))))
        text += "".join(rng.choice(list("abc"), int(rng.integers(1, 7)))) * int(rng.integers(0, 5))
        assert loop_share(tokens(text)) == pytest.approx(brute(text))


def test_the_earlier_the_loop_the_worse():
    shares = [loop_share(tokens("0123456789"[:start] + "ab" * 10)) for start in range(10)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]


def test_a_long_response_takes_no_quadratic_time():
    start = time.perf_counter()
    assert loop_share([*range(7)] * 5000) == 1.0
    assert loop_share([1] * 30000) == 1.0
    assert time.perf_counter() - start < 5


def test_it_is_taken_from_the_reward_before_the_groups_mean():
    texts, prompt = ["abcd", "abab", "xaaa"], 2
    samples = []
    for i, text in enumerate(texts):
        ids = np.array(tokens("aa") + tokens(text), np.int32)  # the prompt's own loop is not the policy's
        mask = np.arange(len(ids)) >= prompt
        samples.append(Sample(0, i, ids, mask, np.zeros(len(ids), np.float32), 1.0))
    found, _ = Campo().credit(samples, [Signals()] * 3)
    expected = group_relative(np.array([1.0, 0.0, 0.25]), scale=True)
    np.testing.assert_allclose([c.advantage[0] for c in found], expected, rtol=1e-5)
