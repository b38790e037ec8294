"""Regex, numeric, schema and instructions: right, wrong, abstained, refused."""

from __future__ import annotations

import asyncio

import pytest

from rewards.panel import Panel, Seat
from rewards.selfcheck import selfcheck
from rewards.sources.checks import CHECKS
from rewards.sources.instructions import Instructions
from rewards.sources.numeric import Numeric, number
from rewards.sources.regex import Regex
from rewards.sources.schema import Schema
from rewards.types import Message, Task
from workers.judging.toolbox import ProcessToolbox


def run(use):
    async def go():
        tools = ProcessToolbox(1)
        try:
            return await use(tools)
        finally:
            tools.close()

    return asyncio.run(go())


def score(source, group):
    return run(lambda tools: source.score(group, tools))


def told(scores):
    return [s.value if s.failure is None else str(s.failure.kind) for s in scores]


def test_regex(make_group):
    texts = ["<answer>5</answer>", "no tags", "<answer>\n6</answer>"]
    assert told(score(Regex("<answer>.*</answer>"), make_group(texts))) == [1, 0, 1]
    assert told(score(Regex(r"<answer>(?P<answer>.*)</answer>"), make_group(texts, reference="6"))) == [0, 0, 1]
    assert told(score(Regex(r"(?P<answer>\d)"), make_group(texts))) == ["abstained"] * 3
    full = Regex(r"\d+", match="full")
    assert told(score(full, make_group(["12", "a12"]))) == [1, 0]
    assert score(full, make_group(["x"]))[0].explanation == r"nothing matches '\\d+'"
    last = Regex(r"= (?P<answer>\d+)")
    assert told(score(last, make_group(["= 1 = 2", "= 2 = 1"], reference="2"))) == [1, 0]


def test_a_pattern_that_takes_for_ever_is_a_failure_and_no_zero(make_group):
    source = Regex("(a+)+$", limit_s=0.5)
    [verdict] = run(lambda tools: Panel((Seat("r", source),)).judge(make_group(["a" * 60 + "b"]), tools)).verdicts
    assert str(verdict.failure) == "source:r timeout: no answer in 0.5 s"
    with pytest.raises(ValueError, match="is no regular expression"):
        Regex("(")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("so 5", 5),
        ("-1,000.5 km", -1000.5),
        ("1e3", 1000),
        (".5", 0.5),
        ("3 or 4.", 4),
        ("none", None),
        ("1e999", None),
    ],
)
def test_numbers_in_texts(text, value):
    assert number(text) == value


def test_numeric(make_group):
    texts = ["3.14", "it is 3.2", "three"]
    assert told(score(Numeric(absolute=0.05), make_group(texts, reference="3.14159"))) == [1, 0, 0]
    assert told(score(Numeric(relative=0.02), make_group(texts, reference="3.14159"))) == [1, 1, 0]
    found = score(Numeric(), make_group(["4"], reference="5"))[0]
    assert (found.value, found.parts, found.explanation) == (0, {"error": 1.0}, "4 is off 5 by 1, allowed 5e-06")
    assert told(score(Numeric(after="#"), make_group(["# 5", "5"], reference="5"))) == [1, 0]
    assert told(score(Numeric(), make_group(["5"], reference="five"))) == ["abstained"]
    assert told(score(Numeric(), make_group(["5"]))) == ["abstained"]


PERSON = {"type": "object", "required": ["name"], "properties": {"age": {"type": "integer", "minimum": 0}}}


def test_schema(make_group):
    texts = [
        '{"name": "a", "age": 3}',
        '{"age": 3}',
        '```json\n{"name": "a"}\n```',
        '{"name"',
        '{"name": 1, "age": -1}',
    ]
    found = score(Schema(PERSON), make_group(texts))
    assert told(found) == [1, 0, 1, 0, 0]
    assert found[1].explanation == "$: 'name' is a required property"
    assert found[4].explanation.startswith("$.age: -1 is less than the minimum")
    assert found[3].explanation.startswith("no JSON: Expecting ':' delimiter")
    own = make_group(["5", '"5"'], meta={"schema": {"type": "integer"}})
    assert told(score(Schema(), own)) == [1, 0]
    assert told(score(Schema(), make_group(["5"], meta={"schema": '{"type": "integer"}'}))) == [1]
    assert told(score(Schema(), make_group(["5"]))) == ["abstained"]
    assert told(score(Schema(), make_group(["5"], meta={"schema": {"type": "integre"}}))) == ["abstained"]
    assert told(score(Schema(), make_group(["[" * 100_000]))) == ["abstained"]
    assert told(score(Schema(PERSON), make_group(["[" * 100_000]))) == [0]
    with pytest.raises(ValueError, match=r"json_schema: \$\.type: 'integre' is not valid"):
        Schema({"type": "integre"})


# (id, arguments, answers that follow it, answers that do not)
TABLE = [
    ("keywords:existence", {"keywords": ["apple", "pear"]}, ["An Apple, a PEAR."], ["apple only"]),
    ("keywords:forbidden_words", {"forbidden_words": ["bad"]}, ["a badge"], ["so bad."]),
    ("keywords:frequency", {"keyword": "so", "frequency": 2, "relation": "at least"}, ["so, SO"], ["so", "also so"]),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 2, "let_relation": "less than"}, ["he"], ["here"]),
    ("language:response_language", {"language": "ru"}, ["Привет, мир"], ["hello мир friends"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["it's two"], ["one two three"]),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, ["One. Two!"], ["One, two."]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["a\n***\nb"], ["a\n\nb", "a *** b *** c"]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        ["First a.\n\nThen b."],
        ["Then.\n\nFirst.", "one\n\ntwo\n\nthen"],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[name] of [city]"], ["[name]", "[]  []"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Hi.\nP.S. bye"], ["Hi P.S. bye"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, ["* a\n- b"], ["* a", "**a**\n* b"]),
    ("detectable_format:constrained_response", {}, ["My answer is yes."], ["yes"]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, ["*a* and **b**"], ["*a*", "* a\n* b"]),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb"],
        ["Section 1"],
    ),
    ("detectable_format:json_format", {}, ['{"a": 1}', '```json\n{"a": 1}\n```'], ["a: 1"]),
    ("detectable_format:title", {}, ["<<Joy>>\ntext"], ["<<>> text", "<Joy>"]),
    ("combination:two_responses", {}, ["one ****** two"], ["one", "one ****** one"]),
    ("combination:repeat_prompt", {}, ["How much? Five."], ["Five."]),
    ("startend:end_checker", {"end_phrase": "Bye."}, ['so: bye."'], ["Bye. Now"]),
    ("startend:quotation", {}, ['"all"'], ['"not" all', '"']),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["NO WAY"],
        ["NO"],
    ),
    ("change_case:english_capital", {}, ["YES, 5."], ["Yes", "5"]),
    ("change_case:english_lowercase", {}, ["yes, 5."], ["Yes"]),
    ("punctuation:no_comma", {}, ["a b"], ["a, b"]),
    ("repetition:no_repeated_sentences", {}, ["One. Two."], ["One. one."]),
]


def test_every_check_is_in_the_table():
    assert {row[0] for row in TABLE} == set(CHECKS)


@pytest.mark.parametrize(("name", "arguments", "right", "wrong"), TABLE, ids=[row[0] for row in TABLE])
def test_checks(name, arguments, right, wrong):
    assert [CHECKS[name](text, prompt="How much?", **arguments) for text in right] == [True] * len(right)
    assert [CHECKS[name](text, prompt="How much?", **arguments) for text in wrong] == [False] * len(wrong)


BOTH = [{"id": "punctuation:no_comma"}, {"id": "keywords:existence", "keywords": ["five"]}]


def test_instructions(make_group):
    group = make_group(["it is five", "five, yes", "a, b", ""], meta={"instructions": BOTH})
    found = score(Instructions(), group)
    assert told(found) == [1, 0.5, 0, 0]
    assert found[1].parts == {"punctuation:no_comma": 0.0, "keywords:existence": 1.0}
    assert found[1].explanation == "not followed: punctuation:no_comma"
    assert told(score(Instructions(every=True), group)) == [1, 0, 0, 0]
    ifeval = {"instruction_id_list": ["punctuation:no_comma", "keywords:existence"]}
    ifeval["kwargs"] = [{}, {"keywords": ["five"], "frequency": None}]
    assert told(score(Instructions(), make_group(["it is five", "a, b"], meta=ifeval))) == [1, 0]


def test_a_loose_reading_forgives_what_wraps_an_answer(make_group):
    group = make_group(["Sure, here it is:\nit is five", "five, yes"], meta={"instructions": BOTH})
    assert told(score(Instructions(every=True), group)) == [0, 0]
    assert told(score(Instructions(every=True, strictness="loose"), group)) == [1, 0]
    quoted = make_group(['Here:\n"all"'], meta={"instructions": [{"id": "startend:quotation"}]})
    assert told(score(Instructions(), quoted)) == [0]
    assert told(score(Instructions(strictness="loose"), quoted)) == [1]


@pytest.mark.parametrize(
    ("meta", "detail"),
    [
        ({}, "no instructions in column 'instructions', expected a list of sections with an `id`"),
        ({"instructions": []}, "no instructions in column"),
        ({"instructions": [{"id": "punctuation:no_coma"}]}, "did you mean 'punctuation:no_comma'?"),
        ({"instructions": ["no_comma"]}, "unknown instruction 'no_comma'"),
        ({"instructions": [{"id": "keywords:existence"}]}, "instruction 'keywords:existence' with {}: "),
        ({"instructions": [{"id": "language:response_language", "language": "en"}]}, "shares its script with others"),
        (
            {"instructions": [{"id": "keywords:frequency", "keyword": "a", "frequency": 1, "relation": "around"}]},
            "relation 'around', expected one of: at least, less than, exactly",
        ),
    ],
)
def test_what_can_not_be_checked_is_an_abstention_with_the_reason(make_group, meta, detail):
    [found] = score(Instructions(), make_group(["five"], meta=meta))
    assert found.failure is not None and found.failure.kind == "abstained"
    assert detail in found.failure.detail


@pytest.mark.parametrize(
    ("source", "task"),
    [
        (Regex("yes", gold="yes", foil="no"), Task("t", ())),
        (Numeric(after="=", absolute=3.0), Task("t", (), "1,000")),
        (Schema(PERSON, gold='{"name": "a"}', foil="{}"), Task("t", ())),
        (Instructions(), Task("t", (Message("user", "?"),), "five", meta={"instructions": BOTH})),
    ],
)
def test_gold_is_above_foil(source, task):
    assert run(lambda tools: selfcheck(Seat("s", source), [task], tools)) == 1
