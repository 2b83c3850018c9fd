"""The audit log: append-only JSON lines in a hash chain, on disk before any action is released.

h_i = SHA-256(h_{i-1} || canonical JSON of record i); the first h is the hash of the log's name and policy. A chain
shows
edits, not truncation: export the head (`AuditLog.head`, `verify(expected_head=...)`) to notice a shortened file.
"""

import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diorama.agents.actions import canonical_json, parse_strict, sha256
from diorama.errors import InputError
from diorama.systems.agent_monitor.values import SECRET


class AuditError(InputError):
    """The log cannot be written or does not verify; nothing may be released."""


@dataclass(frozen=True)
class Check:
    """The result of `verify`: how many records hold, the head hash, and the first line that does not (1-based)."""

    records: int
    head: str
    bad_line: int | None = None
    problem: str = ""

    @property
    def holds(self) -> bool:
        return self.bad_line is None


def genesis(name: str, policy: str) -> str:
    """The hash before the first record."""
    return sha256(canonical_json({"log": name, "policy": policy}))


def chain(previous: str, record: Mapping[str, Any]) -> str:
    """The hash of a record in its place."""
    return sha256(previous.encode("ascii") + canonical_json(record))


class AuditLog:
    """One writer of one log file. `append` returns after the record is on disk; concurrent calls share one fsync.

    Raises AuditError when the file belongs to another writer, does not verify, or cannot be written. After a failed
    write the file is cut back to its last whole record and the next append tries again.
    """

    def __init__(self, path: str | Path, *, policy: str, fsync: bool = True, clock: Callable[[], float] = time.time):
        self.path, self.policy, self.clock, self._sync = Path(path), policy, clock, fsync
        self._lock, self._flush = threading.Lock(), threading.Lock()
        self._pending: list[bytes] = []
        self._ticket = self._durable = self._failed = 0
        self._file = self._open()
        try:
            self._recover()
            self._salt = self._read_salt()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> Any:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            file = os.fdopen(descriptor, "r+b", buffering=0)
        except OSError as error:
            raise AuditError(
                f"The log {self.path} cannot be opened ({error.strerror}). Name a writable place."
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise AuditError(
                f"The log {self.path} is in use by another monitor. Give each monitor its own log."
            ) from None
        return file

    def _recover(self) -> None:
        """Verify what is there; a last line without its end (a crash) is moved to '<log>.torn' and noted."""
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        torn = data[whole:]
        if torn:
            with self.path.with_name(self.path.name + ".torn").open("ab") as file:
                file.write(torn + b"\n")
            os.ftruncate(self._file.fileno(), whole)
        self._size = whole
        if whole:
            check = verify(self.path)
            if not check.holds:
                raise AuditError(
                    f"The log {self.path} does not verify at line {check.bad_line} ({check.problem}). "
                    "Keep it as evidence and start a new one."
                )
            self._head = self._durable_head = check.head
            self.append({"kind": "resumed", "policy": self.policy, "torn_bytes": len(torn)})
        else:
            self._head = self._durable_head = genesis(self.path.name, self.policy)
            self.append({"kind": "genesis", "log": self.path.name, "policy": self.policy})

    def _read_salt(self) -> bytes:
        path = self.path.with_name(self.path.name + ".salt")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_bytes()
        except OSError as error:
            raise AuditError(f"The salt {path} cannot be written ({error.strerror}). Name a writable place.") from None
        with os.fdopen(descriptor, "wb") as file:
            salt = secrets.token_bytes(16)
            file.write(salt)
        return salt

    @property
    def is_synced(self) -> bool:
        """Whether `append` waits for the disk."""
        return self._sync

    @property
    def head(self) -> str:
        """The hash of the last record on disk: keep it elsewhere to notice a shortened file."""
        return self._durable_head

    def append(self, record: Mapping[str, Any]) -> str:
        """Write one record, durably, and return its hash. Raises AuditError if it could not be written."""
        with self._lock:
            body = {**record, "time": self.clock()}
            try:
                digest = chain(self._head, body)
                line = canonical_json({"record": body, "hash": digest}) + b"\n"
            except InputError as error:
                raise AuditError(f"A record cannot be written: {error}") from None
            self._pending.append(line)
            self._head = digest
            self._ticket += 1
            ticket = self._ticket
        with self._flush:
            if self._durable >= ticket:
                return digest
            if ticket <= self._failed:
                raise AuditError(f"The log {self.path} could not be written, so nothing is released.")
            with self._lock:
                batch, self._pending, upto, head = self._pending, [], self._ticket, self._head
            self._write(b"".join(batch), upto, head)
        return digest

    def _write(self, data: bytes, upto: int, head: str) -> None:
        try:
            view = memoryview(data)
            while view:
                count = self._file.write(view)
                if not count:
                    raise OSError(28, "no bytes were written")
                view = view[count:]
            if self._sync:
                os.fsync(self._file.fileno())
        except (OSError, ValueError) as error:
            with self._lock:
                self._pending, self._head, self._failed = [], self._durable_head, self._ticket
            try:
                os.ftruncate(self._file.fileno(), self._size)
            except (OSError, ValueError):
                pass
            raise AuditError(f"The log {self.path} could not be written ({error}), so nothing is released.") from None
        self._size += len(data)
        self._durable, self._durable_head = upto, head

    def redact(self, text: str) -> str:
        """The text with everything that looks like a secret replaced by its salted digest."""
        return SECRET.sub(
            lambda match: f"<secret {sha256(self._salt + match.group().encode('utf-8', 'replace'))[:16]}>", text
        )

    def close(self) -> str:
        """Release the file and return the head hash."""
        self._file.close()
        return self._durable_head


def verify(path: str | Path, *, expected_head: str | None = None) -> Check:
    """Check a log line by line. With expected_head a log that lost its end is noticed too."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise AuditError(f"The log {path} cannot be read ({error.strerror}). Name an audit log.") from None
    head, count = "", 0
    lines = data.split(b"\n")
    tail = lines.pop()
    for number, line in enumerate(lines, 1):
        problem = ""
        try:
            entry = parse_strict(line)
            record, digest = entry["record"], entry["hash"]
            if number == 1:
                head = genesis(record["log"], record["policy"])
            if set(entry) != {"record", "hash"} or canonical_json(entry) != line:
                problem = "not in canonical form"
            elif chain(head, record) != digest:
                problem = "the hash does not follow from the line before"
        except (InputError, KeyError, TypeError):
            problem = "not a log record"
        if problem:
            return Check(count, head, number, problem)
        head, count = digest, number
    if tail:
        return Check(count, head, count + 1, "the last line is incomplete")
    if expected_head is not None and head != expected_head:
        return Check(count, head, count + 1, "the log ends before the expected head")
    return Check(count, head)
