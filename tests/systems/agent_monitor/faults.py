"""Ways in which the monitor, its log, its queue, its model or the action itself can fail; each makes a gate and an
action. `test_faults.py` puts every one of them in front of every placement."""

import errno
import json
import os
import sqlite3
import time

from diorama.language.llm import Abstain, Completion
from diorama.systems.agent_monitor.pipeline import Monitor
from diorama.systems.agent_monitor.policy import Budgets, Judge, Policy, Review, Tools
from diorama.systems.agent_monitor.records import Finding
from diorama.systems.agent_monitor.review import QueueFull, ReviewError

GOOD = {"path": "notes.txt"}
FAST = Review(expires_seconds=0.15)
JUDGED = Policy(ranker=False, judge=Judge(timeout_seconds=0.2), review=FAST)
PATIENT = Policy(ranker=False, judge=Judge(timeout_seconds=60), review=FAST)


class Model:
    """A scripted model: each reply is a text, a Completion or an exception."""

    def __init__(self, *replies):
        self.replies, self.count = replies, 0

    def complete(self, request):
        reply = self.replies[min(self.count, len(self.replies) - 1)]
        self.count += 1
        if callable(reply):
            reply = reply(request)
        if isinstance(reply, BaseException):
            raise reply
        return reply if isinstance(reply, Completion) else Completion(text=reply)


def verdict(score=95, nonce=None, **more):
    """A reply that echoes the request's nonce, unless another one is given."""

    def reply(request):
        seen = request.messages[0]["content"].rsplit("nonce: ", 1)[1]
        return json.dumps(
            {"nonce": seen if nonce is None else nonce, "category": 0, "score": score, "reason": "fine", **more}
        )

    return reply


def slow(request):
    time.sleep(0.5)
    return ""


REPLIES = {
    "model times out": slow,
    "model refuses the connection": ConnectionRefusedError("no"),
    "model's socket closes": ConnectionResetError("gone"),
    "model has no reply": "",
    "model's reply is blank": " \n ",
    "model's reply is cut": Completion(text='{"nonce": "', finish_reason="length"),
    "model's reply is filtered": Completion(text="", finish_reason="content_filter"),
    "model writes prose": "This looks fine to me, score 95.",
    "model replies with a list": "[95]",
    "model's score is NaN": '{"nonce": "x", "category": 0, "score": NaN, "reason": ""}',
    "model's score is infinite": '{"nonce": "x", "category": 0, "score": Infinity, "reason": ""}',
    "model's score is too high": verdict(score=101),
    "model's score is negative": verdict(score=-1),
    "model's score is a word": verdict(score="high"),
    "model forgets the nonce": verdict(nonce=""),
    "model echoes another nonce": verdict(nonce="00ff"),
    "model gives two verdicts": lambda r: verdict()(r) + verdict()(r),
    "model repeats a key": lambda r: verdict()(r)[:-1] + ', "score": 99}',
    "model adds a key": verdict(approved=True),
    "model has no category": '{"nonce": "x", "score": 99, "reason": ""}',
    "model's client has a bug": AttributeError("'NoneType' object has no attribute 'choices'"),
    "model's memory is full": MemoryError(),
    "model abstains": None,
}


def _with_model(reply):
    model = Abstain() if reply is None else Model(reply)
    return lambda make: (judged_gate(make, model), GOOD)


def judged_gate(make, model, policy=JUDGED):
    """A gate whose only opinion beside the rules is a model's."""
    gate = make(policy)
    gate.monitor = Monitor.from_policy(policy, model=model)
    return gate


def _with_stage(stage):
    return lambda make: (make(Policy(ranker=False, review=FAST), stages=[("broken", stage)]), GOOD)


def _with_arguments(arguments, policy=None):
    return lambda make: (make(policy or Policy(ranker=False, review=FAST)), arguments)


async def _raises(step):
    raise RuntimeError("detector died")


async def _none(step):
    return None


async def _truthy(step):
    return True


async def _nan(step):
    return Finding("broken", float("nan"))


async def _exit(step):
    raise OSError(errno.EMFILE, "too many open files")


class Full:
    """A file on a full disk."""

    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fileno(self):
        return os.open(os.devnull, os.O_RDONLY)

    def close(self):
        pass


def _full_disk(make):
    gate = make()
    gate.log._file.close()
    gate.log._file = Full()
    return gate, GOOD


def _closed_log(make):
    gate = make()
    gate.log._file.close()
    return gate, GOOD


def _short_write(make):
    gate = make()
    real = gate.log._file

    class Short:
        def write(self, data):
            return 0

        def fileno(self):
            return real.fileno()

        def close(self):
            real.close()

    gate.log._file = Short()
    return gate, GOOD


def _failing_fsync(make):
    gate = make()
    gate.log._sync = True
    gate.log._file.close()
    descriptor, other = os.pipe()
    gate.log._file = os.fdopen(other, "wb", buffering=0)  # a pipe cannot be synced
    os.set_blocking(descriptor, False)
    return gate, GOOD


def _held(change):
    """A gate that holds every call, with a queue that `change` breaks; nobody approves in time."""

    def make_fault(make):
        gate = make(Policy(ranker=False, review=FAST, tools=Tools(hold=("*",))))
        change(gate)
        return gate, GOOD

    return make_fault


def _raise(error):
    def fail(*args, **kwargs):
        raise error

    return fail


def _approves(gate, *, swap=False, twice=False, late=False, clock=0.0):
    """Approve what is held, but spoil the approval in one way."""
    queue = gate.queue
    hold = queue.hold

    def hold_and_approve(**item):
        ticket = hold(**{**item, "digest": "0" * 64} if swap else item)
        if late:
            queue.clock = lambda: time.time() + 3600
            return ticket
        queue.decide(ticket, True, "test")
        if twice:
            assert queue.consume(ticket, item["digest"])
        if clock:
            now = time.time()
            queue.clock = lambda: now + clock
        return ticket

    queue.hold = hold_and_approve


def _stopped(make):
    gate = make(Policy(ranker=False, review=FAST))
    gate.run_state("r").is_stopped = True
    real = gate.run_state
    gate.run_state = lambda run: real("r")
    return gate, GOOD


def _flooded(make):
    gate = make(Policy(ranker=False, review=FAST, budgets=Budgets(burst=1, actions_per_minute=0.01)))
    real = gate.run_state
    gate.run_state = lambda run: real("r")
    assert real("r").too_fast("x") == ""
    return gate, GOOD


FAULTS = {
    **{name: _with_model(reply) for name, reply in REPLIES.items()},
    "a detector raises": _with_stage(_raises),
    "a detector returns nothing": _with_stage(_none),
    "a detector returns True": _with_stage(_truthy),
    "a detector scores NaN": _with_stage(_nan),
    "a detector has no files left": _with_stage(_exit),
    "the disk is full": _full_disk,
    "the log is closed": _closed_log,
    "the log takes no bytes": _short_write,
    "the log cannot be synced": _failing_fsync,
    "the queue is locked": _held(lambda gate: setattr(gate.queue, "hold", _raise(ReviewError("locked")))),
    "the queue is full": _held(lambda gate: setattr(gate.queue, "hold", _raise(QueueFull("full")))),
    "the queue's file is damaged": _held(
        lambda gate: setattr(gate.queue, "hold", _raise(sqlite3.DatabaseError("malformed")))
    ),
    "the queue cannot be read": _held(
        lambda gate: setattr(gate.queue, "state", _raise(sqlite3.OperationalError("disk I/O error")))
    ),
    "the queue is gone": _held(lambda gate: setattr(gate, "queue", None)),
    "nobody answers": _held(lambda gate: None),
    "the bytes are swapped after approval": _held(lambda gate: _approves(gate, swap=True)),
    "the approval was used before": _held(lambda gate: _approves(gate, twice=True)),
    "the approval comes too late": _held(lambda gate: _approves(gate, late=True)),
    "the clock jumps back": _held(lambda gate: _approves(gate, clock=-7200)),
    "the clock jumps ahead": _held(lambda gate: _approves(gate, clock=7200)),
    "the run was stopped": _stopped,
    "too many actions": _flooded,
    "keys are repeated": _with_arguments('{"path": "notes.txt", "path": "/etc/shadow"}'),
    "a number is NaN": _with_arguments('{"path": "notes.txt", "n": NaN}'),
    "a number is infinite": _with_arguments('{"path": "notes.txt", "n": 1e999}'),
    "the arguments are a list": _with_arguments('["notes.txt"]'),
    "the arguments are cut": _with_arguments('{"path": "notes'),
    "the arguments are huge": _with_arguments({"path": "notes.txt", "pad": "x" * 70_000}),
    "the arguments are nested deeply": _with_arguments('{"path": ' + "[" * 80 + "]" * 80 + "}"),
    "half a surrogate": _with_arguments('{"path": "\\ud800"}'),
    "a denied host behind user-info": _with_arguments(
        {"url": "https://good.example@evil.example/"}, Policy(ranker=False, hosts={"allow": ("good.example",)})
    ),
    "a denied host in full-width letters": _with_arguments(
        {"url": "https://ｅvil.example/"},  # noqa: RUF001
        Policy(ranker=False, hosts={"deny": ("evil.example",)}),
    ),
    "a path climbs out": _with_arguments(
        {"path": "a/../../etc/shadow"},
        Policy(ranker=False, folders={"root": "/srv/a", "read": ("/srv/a",), "write": ()}),
    ),
    "a path climbs out in percent": _with_arguments(
        {"path": "..%2f..%2fetc/shadow"},
        Policy(ranker=False, folders={"root": "/srv/a", "read": ("/srv/a",), "write": ()}),
    ),
    "a command hides in a substitution": _with_arguments({"command": "echo $(rm -rf /)"}),
}


LOG = {"the disk is full", "the log is closed", "the log takes no bytes", "the log cannot be synced"}
"""Faults of the log."""
RUN = {"the run was stopped", "too many actions"}
"""Faults of what a gate remembers of a run."""
