"""The review queue: held actions in one SQLite file, decided by people, used once, denied when time runs out.

An approval is bound to the digest of the exact bytes that were shown and to one use, so neither approving and then
swapping nor approving once and repeating works. Every question about time is answered against the caller: a clock that
went backwards expires the item.
"""

import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diorama.errors import InputError
from diorama.systems.agent_monitor.records import SEVERITIES, Severity

State = Literal["pending", "approved", "denied", "expired", "used", "cancelled"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS held (
    ticket TEXT PRIMARY KEY, digest TEXT NOT NULL, run TEXT NOT NULL, step INTEGER NOT NULL, tool TEXT NOT NULL,
    shown TEXT NOT NULL, task TEXT NOT NULL, score REAL NOT NULL, severity INTEGER NOT NULL, reasons TEXT NOT NULL,
    state TEXT NOT NULL, created REAL NOT NULL, expires REAL NOT NULL, lease_by TEXT NOT NULL DEFAULT '',
    lease_until REAL NOT NULL DEFAULT 0, decided_by TEXT NOT NULL DEFAULT '', decided REAL, note TEXT NOT NULL DEFAULT
    '');
CREATE INDEX IF NOT EXISTS held_state ON held (state);
"""


class ReviewError(InputError):
    """The queue cannot do what was asked: unknown ticket, decided already, expired, or the file is unusable."""


class QueueFull(ReviewError):
    """No room for another held action; the caller denies."""


@dataclass(frozen=True)
class Held:
    """One held action as a reviewer sees it. created and expires are Unix seconds."""

    ticket: str
    digest: str
    run: str
    step: int
    tool: str
    shown: str
    task: str
    score: float
    severity: Severity
    reasons: str
    state: State
    created: float
    expires: float
    lease_by: str
    lease_until: float
    decided_by: str
    note: str


LEASE_SECONDS = 120.0
"""How long an item that a reviewer looks at is kept from the others."""
_COLUMNS = "ticket, digest, run, step, tool, shown, task, score, severity, reasons, state, created, expires, lease_by, lease_until, decided_by, note"  # noqa: E501


class ReviewQueue:
    """A queue file shared by monitors, the command line and the page. Safe across threads and processes."""

    def __init__(self, path: str | Path, *, capacity: int = 200, clock: Callable[[], float] = time.time):
        self.path, self.capacity, self.clock = Path(path), capacity, clock
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=5, isolation_level=None, check_same_thread=False)
            self._db.executescript("PRAGMA journal_mode=WAL;" + _SCHEMA)
            self.path.chmod(0o600)
        except (sqlite3.Error, OSError) as error:
            raise ReviewError(f"The queue {path} cannot be opened ({error}). Name a writable SQLite file.") from None

    def _run(self, sql: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        try:
            with self._lock:
                return self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise ReviewError(f"The queue {self.path} cannot be used ({error}). The action stays denied.") from None

    def _expire(self) -> None:
        now = self.clock()
        self._run(
            "UPDATE held SET state='expired' WHERE state IN ('pending', 'approved') AND (expires <= ? OR created > ?)",
            (now, now + 1),
        )

    def hold(
        self,
        *,
        digest: str,
        run: str,
        step: int,
        tool: str,
        shown: str,
        task: str,
        score: float,
        severity: Severity,
        reasons: str,
        expires_seconds: float,
    ) -> str:
        """Put an action into the queue and return its ticket. Raises QueueFull at capacity."""
        self._expire()
        now, ticket = self.clock(), secrets.token_hex(8)
        done = self._run(
            "INSERT INTO held (ticket, digest, run, step, tool, shown, task, score, severity, reasons, state, "
            "created, expires) "
            "SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?, ? WHERE (SELECT count(*) FROM held "
            "WHERE state='pending') < ?",
            (
                ticket,
                digest,
                run,
                step,
                tool,
                shown,
                task[:4000],
                score,
                SEVERITIES.index(severity),
                reasons,
                now,
                now + expires_seconds,
                self.capacity,
            ),
        )
        if done.rowcount != 1:
            raise QueueFull(
                f"The queue holds {self.capacity} undecided actions, its limit. Decide some; this action is denied."
            )
        return ticket

    def pending(self) -> list[Held]:
        """Undecided actions, worst severity first, then lowest score, then oldest."""
        self._expire()
        return self._select("state='pending' ORDER BY severity, score, created")

    def all(self) -> list[Held]:
        """Every action the queue ever held, newest first."""
        self._expire()
        return self._select("1 ORDER BY created DESC")

    def _select(self, where: str, values: tuple[object, ...] = ()) -> list[Held]:
        rows = self._run(f"SELECT {_COLUMNS} FROM held WHERE {where}", values).fetchall()
        names = _COLUMNS.replace(" ", "").split(",")
        found = [dict(zip(names, row, strict=True)) for row in rows]
        return [Held(**{**values, "severity": SEVERITIES[values["severity"]]}) for values in found]

    def show(self, ticket: str) -> Held:
        """One item. Raises ReviewError for an unknown ticket; a unique beginning of four characters or more is
        enough."""
        self._expire()
        found = self._select("ticket=?", (ticket,))
        if not found and len(ticket) >= 4 and ticket.isalnum():
            found = self._select("ticket LIKE ? || '%'", (ticket,))
        if len(found) != 1:
            many = f"{len(found)} items that begin with" if found else "no item"
            raise ReviewError(f"The queue has {many} {ticket!r}. `queue list` shows the tickets.")
        return found[0]

    def lease(self, ticket: str, reviewer: str, seconds: float) -> None:
        """Reserve an item for one reviewer for some seconds. Raises ReviewError while another one has it."""
        now = self.clock()
        done = self._run(
            "UPDATE held SET lease_by=?, lease_until=? WHERE ticket=? AND state='pending' AND (lease_until<=? OR "
            "lease_by=?)",
            (reviewer, now + seconds, self.show(ticket).ticket, now, reviewer),
        )
        if done.rowcount != 1:
            raise ReviewError(f"The item {ticket!r} is with another reviewer or decided. Wait for its lease to end.")

    def decide(self, ticket: str, approve: bool, reviewer: str, *, digest: str | None = None, note: str = "") -> Held:
        """Approve or deny a pending item. Raises ReviewError if it is decided, expired, leased by another, or of
        another digest."""
        item = self.show(ticket)
        if digest is not None and digest != item.digest:
            raise ReviewError(f"The item {ticket!r} is not the action you saw (its digest differs). Look at it again.")
        now = self.clock()
        done = self._run(
            "UPDATE held SET state=?, decided_by=?, decided=?, note=? WHERE ticket=? AND state='pending' AND "
            "expires>? AND digest=? "
            "AND (lease_until<=? OR lease_by='' OR lease_by=?)",
            ("approved" if approve else "denied", reviewer, now, note, item.ticket, now, item.digest, now, reviewer),
        )
        if done.rowcount != 1:
            current = self.show(item.ticket)
            raise ReviewError(
                f"The item {item.ticket!r} is {current.state}"
                + (f", leased by {current.lease_by}" if current.state == "pending" else "")
                + ", so it cannot be decided now."
            )
        return self.show(item.ticket)

    def state(self, ticket: str) -> State:
        """The state of an item; one that is not there counts as denied."""
        self._expire()
        found = self._select("ticket=?", (ticket,))
        return found[0].state if found else "denied"

    def consume(self, ticket: str, digest: str) -> bool:
        """Use an approval, once, for exactly these bytes. False whatever else is the case."""
        self._expire()
        now = self.clock()
        return (
            self._run(
                "UPDATE held SET state='used' WHERE ticket=? AND digest=? AND state='approved' AND expires>? AND "
                "created<=?",
                (ticket, digest, now, now + 1),
            ).rowcount
            == 1
        )

    def cancel(self, ticket: str) -> None:
        """Take a held action out of the queue; whoever asked for it has gone."""
        self._run("UPDATE held SET state='cancelled' WHERE ticket=? AND state IN ('pending', 'approved')", (ticket,))

    def labels(self) -> list[tuple[float, bool]]:
        """(score, was it approved) of every decided item: the material for a new threshold."""
        rows = self._run("SELECT score, state FROM held WHERE state IN ('approved', 'used', 'denied')").fetchall()
        return [(float(score), state != "denied") for score, state in rows]

    def close(self) -> None:
        with self._lock:
            self._db.close()
