"""The monitor as an MCP stdio proxy: the real server runs as a child, its only way in or out leads through here."""

import asyncio
import ctypes
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import BinaryIO

from diorama.errors import InputError
from diorama.systems.agent_monitor.rpc import RpcGuard

MAX_LINE = 16 * 1024 * 1024
LAST_ANSWERS_SECONDS = 30.0
"""How long calls under way may take after the client has closed its side."""


def _die_with_parent() -> None:
    """On Linux the kernel ends the child when this process ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


async def serve_stdio(
    guard: RpcGuard, command: Sequence[str], *, source: BinaryIO | None = None, sink: BinaryIO | None = None
) -> int:
    """Run a server command behind the guard until either side closes; returns the server's exit code.

    Nothing but protocol is written to the sink. The client's messages are read from the source line by line; a held
    call
    does not keep back later messages. Raises InputError when the command cannot be started.
    """
    if not command:
        raise InputError("No server command was given, so there is nothing to guard. Put it after `--`.")
    try:
        child = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, limit=MAX_LINE, preexec_fn=_die_with_parent
        )
    except OSError as error:
        raise InputError(
            f"The server command {command[0]!r} cannot be started ({error.strerror}). Check its path."
        ) from None
    reader = await _pipe_reader(source or sys.stdin.buffer)
    write = _writer(sink or sys.stdout.buffer)
    from_client = asyncio.ensure_future(_client_side(guard, reader, child, write))
    from_server = asyncio.ensure_future(_server_side(guard, child, write))
    try:
        await asyncio.wait({from_client, from_server}, return_when=asyncio.FIRST_COMPLETED)
        if from_client.done() and not from_server.done():  # the client closed: let the server finish its answers
            await asyncio.wait({from_server}, timeout=LAST_ANSWERS_SECONDS)
    finally:
        for task in (from_client, from_server):
            task.cancel()
        await asyncio.gather(from_client, from_server, return_exceptions=True)
        code = await _end(child)
    return code


async def _pipe_reader(source: BinaryIO) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=MAX_LINE)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(source.fileno()), "rb")
    )
    return reader


def _writer(sink: BinaryIO) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        sink.write(data + b"\n")
        sink.flush()

    return write


async def _line(reader: asyncio.StreamReader) -> bytes | None:
    """The next line without its end, None at the end of the stream or when a line is over the limit."""
    try:
        line = await reader.readline()
    except ValueError:
        return None
    return line.rstrip(b"\r\n") if line.endswith(b"\n") else None


async def _client_side(
    guard: RpcGuard, reader: asyncio.StreamReader, child: Process, write: Callable[[bytes], None]
) -> None:
    assert child.stdin is not None
    tasks: set[asyncio.Task[None]] = set()
    gate = asyncio.Lock()

    async def one(line: bytes) -> None:
        forward, answer = await guard.from_client(line)
        if forward is not None and child.stdin is not None:
            async with gate:
                child.stdin.write(forward + b"\n")
                await child.stdin.drain()
        if answer is not None:
            write(answer)

    try:
        while (line := await _line(reader)) is not None:
            if not line:
                continue
            task = asyncio.ensure_future(one(line))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(0)  # plain messages leave in the order they came
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_ANSWERS_SECONDS):
                await asyncio.gather(*tasks, return_exceptions=True)
                while guard.is_waiting and child.returncode is None:
                    await asyncio.sleep(0.02)
    except (BrokenPipeError, ConnectionResetError):
        return
    finally:
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        child.stdin.close()


async def _server_side(guard: RpcGuard, child: Process, write: Callable[[bytes], None]) -> None:
    assert child.stdout is not None
    while (line := await _line(child.stdout)) is not None:
        if line:
            write(await guard.from_server(line))


async def _end(child: Process) -> int:
    for stop in (None, child.terminate, child.kill):
        if stop is not None and child.returncode is None:
            stop()
        try:
            return await asyncio.wait_for(child.wait(), 2)
        except TimeoutError:
            continue
    return -9
