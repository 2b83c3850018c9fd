"""The gate: verdicts are monotone, held actions wait for people, budgets add up, runs end after repeated denials."""

import asyncio
import importlib.util
import json
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diorama.agents.actions import Action, ActionError, parse_strict
from diorama.agents.transcript import Step
from diorama.systems.agent_monitor.aggregation import aggregate
from diorama.systems.agent_monitor.audit import AuditError, AuditLog, verify
from diorama.systems.agent_monitor.pipeline import Refused
from diorama.systems.agent_monitor.policy import (
    Budgets,
    Policy,
    PolicyError,
    Review,
    Thresholds,
    Tools,
    load_policy,
    parse_policy,
)
from diorama.systems.agent_monitor.records import DECISIONS, Finding

spec = importlib.util.spec_from_file_location("agent_monitor_fixtures", Path(__file__).with_name("conftest.py"))
fixtures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fixtures)
step = fixtures.step

findings = st.builds(
    Finding,
    st.sampled_from("abc"),
    st.none() | st.floats(0, 100),
    st.none() | st.sampled_from(DECISIONS),
    st.sampled_from(("critical", "unsafe", "off-task", "unsure", "none")),
)


@given(st.lists(findings, max_size=5), findings)
def test_a_further_detector_can_only_lower_the_score(before, added):
    one, two = aggregate(before, Thresholds()), aggregate([*before, added], Thresholds())
    assert two.score <= one.score
    assert DECISIONS.index(two.decision) >= DECISIONS.index(one.decision)


@pytest.mark.parametrize(
    ("score", "decision"), [(68, "deny"), (68.01, "hold"), (75, "hold"), (75.01, "allow"), (0, "deny"), (100, "allow")]
)
def test_thresholds_are_the_papers(score, decision):
    assert aggregate([Finding("x", score)], Thresholds()).decision == decision


@pytest.mark.parametrize("approve", [True, False])
def test_a_held_action_waits_for_a_person(make_gate, approve):
    gate = make_gate(Policy(ranker=False, tools=Tools(hold=("*",)), review=Review(expires_seconds=5)))

    async def play():
        work = asyncio.ensure_future(gate.submit(step()))
        while not gate.queue.pending():
            await asyncio.sleep(0.01)
        assert not work.done()
        gate.queue.decide(gate.queue.pending()[0].ticket, approve, "test")
        return await work

    release = asyncio.run(play())
    assert release.is_allowed is approve
    assert gate.queue.all()[0].state == ("used" if approve else "denied")
    if approve:
        release.take(step().action)
    with pytest.raises(Refused):
        release.take(step().action)  # once only


def test_other_bytes_than_the_judged_ones_are_refused(make_gate):
    release = asyncio.run(make_gate().submit(step()))
    with pytest.raises(Refused):
        release.take(step(path="other.txt").action)
    release.take(step().action)


def test_a_call_withdrawn_while_it_is_queued_leaves_nothing_to_approve(make_gate, monkeypatch):
    gate = make_gate(Policy(ranker=False, tools=Tools(hold=("*",))))
    written, answered, hold = threading.Event(), threading.Event(), gate.queue.hold

    def slow(**held):
        ticket = hold(**held)
        written.set()
        answered.wait(10)
        return ticket

    monkeypatch.setattr(gate.queue, "hold", slow)

    async def play():
        work = asyncio.ensure_future(gate.submit(step()))
        await asyncio.to_thread(written.wait, 10)
        work.cancel()
        await asyncio.sleep(0.01)
        answered.set()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(play())
    assert [item.state for item in gate.queue.all()] == ["cancelled"]


def test_a_withdrawn_call_leaves_the_queue(make_gate):
    gate = make_gate(Policy(ranker=False, tools=Tools(hold=("*",))))

    async def play():
        work = asyncio.ensure_future(gate.submit(step()))
        while not gate.queue.pending():
            await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(play())
    assert not gate.queue.pending()
    assert gate.queue.all()[0].state == "cancelled"


def test_three_denials_end_the_run_and_say_nothing_about_why(make_gate):
    gate = make_gate(Policy(ranker=False, tools=Tools(deny=("bad",))))

    async def play():
        found = [await gate.submit(step("bad", number=n)) for n in range(3)]
        return found, await gate.submit(step()), await gate.submit(step(run="another"))

    refused, after, other = asyncio.run(play())
    assert [r.verdict.decision for r in refused] == ["deny", "deny", "stop"]
    assert after.verdict.decision == "stop" and other.is_allowed
    assert all("denies" not in r.message for r in refused)


def test_concurrent_calls_cannot_share_the_last_of_a_budget(make_gate):
    gate = make_gate(
        Policy(ranker=False, provenance=False, review=Review(expires_seconds=0.05), budgets=Budgets(deletions=3))
    )

    async def play():
        return await asyncio.gather(
            *(gate.submit(step("delete_file", "Delete the files", path=f"f{n}.txt", number=n)) for n in range(8))
        )

    assert sum(release.is_allowed for release in asyncio.run(play())) == 3


def test_a_slow_drip_of_money_is_held(make_gate):
    gate = make_gate(
        Policy(ranker=False, provenance=False, review=Review(expires_seconds=0.05), budgets=Budgets(money=100))
    )

    async def play():
        return [
            (await gate.submit(step("send_money", "Pay", recipient="x", amount=30.0, number=n))).is_allowed
            for n in range(5)
        ]

    assert asyncio.run(play()) == [True, True, True, False, False]


def test_the_log_verifies_and_any_flipped_byte_is_found(make_gate, tmp_path):
    gate = make_gate()
    asyncio.run(gate.submit(step()))
    asyncio.run(gate.outcome(step(), is_error=False, size=3))
    head = gate.log.close()
    data = gate.log.path.read_bytes()
    assert verify(gate.log.path, expected_head=head).holds
    lines = data.split(b"\n")
    for number in range(len(lines) - 1):
        for place in (3, len(lines[number]) // 2, len(lines[number]) - 4):
            changed = list(lines)
            row = bytearray(changed[number])
            row[place] ^= 1
            changed[number] = bytes(row)
            copy = tmp_path / "changed.jsonl"
            copy.write_bytes(b"\n".join(changed))
            assert verify(copy).bad_line == number + 1
    gate.log.path.write_bytes(b"\n".join(lines[:-2]) + b"\n")
    assert verify(gate.log.path).holds and not verify(gate.log.path, expected_head=head).holds


def test_the_log_survives_a_crash_at_any_byte(tmp_path):
    path = tmp_path / "log.jsonl"
    log = AuditLog(path, policy="p", fsync=False)
    for number in range(3):
        log.append({"kind": "test", "n": number})
    log.close()
    data = path.read_bytes()
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        again = AuditLog(path, policy="p", fsync=False)
        again.append({"kind": "after"})
        again.close()
        assert verify(path).holds


def test_two_writers_cannot_share_a_log(tmp_path):
    log = AuditLog(tmp_path / "log.jsonl", policy="p")
    with pytest.raises(AuditError, match="in use"):
        AuditLog(tmp_path / "log.jsonl", policy="p")
    log.close()


def test_a_record_is_on_disk_before_the_release(make_gate):
    gate = make_gate()
    release = asyncio.run(gate.submit(step()))
    rows = [json.loads(line)["record"] for line in gate.log.path.read_text().splitlines()]
    assert rows[-1]["kind"] == "verdict" and rows[-1]["verdict"]["action"] == release.verdict.action


def test_secrets_are_not_written_in_clear_text(make_gate):
    gate = make_gate(Policy(ranker=False, tools=Tools(hold=("*",)), review=Review(expires_seconds=0.05)))
    asyncio.run(gate.submit(step(key="AKIAABCDEFGHIJKLMNOP", path="x")))
    assert "AKIAABCDEFGHIJKLMNOP" not in gate.log.path.read_text() + gate.queue.all()[0].shown


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("toolz: {}", "tools"),
        ("tools: {alow: []}", "allow"),
        ("thresholds: {stop: 80, review: 70}", "review"),
        ("budgets: {money: lots}", "money"),
        ("- 1", "mapping"),
        ("a: 1\na: 2", "twice"),
        ("{", "line"),
    ],
)
def test_a_wrong_policy_is_answered_with_what_is_right(tmp_path, text, says):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(PolicyError, match=says):
        load_policy(tmp_path / "p.yaml")


def test_the_policy_hash_changes_with_the_policy():
    assert parse_policy({}).hash == Policy().hash != parse_policy({"name": "x"}).hash


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_strict_parsing_agrees_with_json_where_both_can_read(value):
    text = json.dumps(value)
    try:
        assert parse_strict(text) == value
    except ActionError:
        pytest.fail("plain JSON was refused")


def test_the_digest_depends_on_every_byte():
    assert Action("t", '{"a":1}').digest != Action("t", '{"a": 1}').digest != Action("T", '{"a": 1}').digest


def test_without_a_known_task_the_ranker_has_no_opinion(make_gate):
    gate = make_gate(Policy())
    release = asyncio.run(gate.submit(Step("r", 0, "", Action.of("read_file", {"path": "a.txt"}))))
    assert "ranker" not in release.verdict.detectors
