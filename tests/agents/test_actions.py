"""Strict JSON and the digest of an action."""

import pytest

from diorama.agents.actions import Action, ActionError, canonical_json, parse_strict
from diorama.agents.transcript import Transcript, calls_of, text_of


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"a": {"b": 1, "b": 1}}',
        "[NaN]",
        "[Infinity]",
        "[-Infinity]",
        "1e999",
        "",
        "{",
        '"\\ud800"',
        "[" * 100 + "]" * 100,
        b"\xff",
        "1" * 500,
        "nul",
    ],
)
def test_ambiguous_json_is_refused(text):
    with pytest.raises(ActionError):
        parse_strict(text)


def test_canonical_json_has_one_spelling():
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    with pytest.raises(ActionError):
        canonical_json({"a": float("nan")})


def test_arguments_keep_their_bytes():
    action = Action("t", '{ "a" : 1.0 }')
    assert action.parsed() == {"a": 1.0} and action.digest != Action("t", '{"a":1.0}').digest


@pytest.mark.parametrize("action", [Action("", "{}"), Action("t", "[]"), Action("t", "1"), Action(" ", "{}")])
def test_an_action_is_a_tool_and_an_object(action):
    with pytest.raises(ActionError):
        action.parsed()


CALLS = [
    {"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}},
    {"id": "1", "function": "f", "args": {"a": 1}},
    {"name": "f", "arguments": {"a": 1}},
]


@pytest.mark.parametrize("call", CALLS)
def test_calls_are_found_in_every_spelling(call):
    found = calls_of({"role": "assistant", "content": "hm", "tool_calls": [call]})
    assert [(a.tool, a.parsed(), a.thought) for a in found] == [("f", {"a": 1}, "hm")]


def test_a_step_never_sees_what_came_after_it():
    messages = (
        {"role": "user", "content": "go"},
        {"role": "assistant", "tool_calls": [CALLS[0]]},
        {"role": "tool", "content": "later"},
        {"role": "assistant", "tool_calls": [CALLS[1], CALLS[2]]},
        {"role": "tool", "content": "end"},
    )
    steps = list(Transcript("r", "go", messages).steps())
    assert [step.number for step in steps] == [0, 1, 2]
    assert [len(step.history) for step in steps] == [1, 3, 3]
    assert steps[1].previous() == ('f {"a": 1}', "later")


def test_content_may_come_in_parts():
    assert text_of([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]) == "a\nb"
    assert text_of(None) == "" and text_of(3) == "3"
