"""`init`: a commented policy, with the tools that an MCP server offers."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from diorama.errors import InputError, MissingExtra
from diorama.systems.agent_monitor.effects import SIDE_EFFECTS, effects_of
from diorama.systems.agent_monitor.policy import parse_policy

TEXT = """# A policy of the agent monitor. Every key has a default; delete what you do not need. Check it with
#   diorama agent-monitor run --policy THIS_FILE '{{"tool": "...", "arguments": {{}}}}'
version: 1
name: {name}

tools:                     # names may be patterns: 'read_*'. deny beats hold beats allow
  default: {default}          # for tools that are in no list: allow, hold (a person decides) or deny
  allow: {allow}
  hold: {hold}
  deny: []
  schemas: {schemas}

hosts:
  allow: null              # null: any host; a list: only these ('*.example.org' covers sub-domains)
  deny: []
  private: hold            # this machine, private networks, cloud metadata

folders:
  root: {root}
  read: null               # null: anywhere; a list: only inside these
  write: null
  deny: ['~/.ssh', '~/.aws', '~/.gnupg']

code:
  imports: null            # null: any; a list: the only Python modules that executed code may import
  programs_deny: []        # shell programs that never run

budgets:                   # per run; over a limit the action waits for a person
  actions_per_minute: 120
  bytes_out: 5000000
  deletions: 20
  new_hosts: 30
  money: 1000
  max_action_bytes: 65536  # longer actions are denied
  queue: 200               # held actions at most; more are denied

thresholds:                # 0 unsafe ... 100 safe
  stop: 68                 # at or below: refused (the paper's threshold)
  review: 75               # at or below: a person decides

review:
  expires_seconds: 300     # then it counts as denied
  clear_text: false        # may reviewers see passwords and keys?

judge: {{}}                # an optional language model: {{base_url: 'http://127.0.0.1:8000/v1', model: my-model}}
rules: true
provenance: true
ranker: true
max_consecutive_denials: 3 # then the run is stopped
"""


def policy_text(tools: Sequence[dict[str, Any]], *, name: str = "my-agent", root: str = "") -> str:
    """A policy that allows tools which only read, by their names, and holds the others. A server's own hints never
    relax it."""
    allow: list[str] = []
    hold: list[str] = []
    for tool in tools:
        (hold if effects_of(tool["name"]) & set(SIDE_EFFECTS) or not effects_of(tool["name"]) else allow).append(
            tool["name"]
        )

    def flow(value: object) -> str:
        return (
            yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
            .strip()
            .removesuffix("...")
            .strip()
        )

    schemas = {tool["name"]: tool.get("inputSchema") or {} for tool in tools}
    text = TEXT.format(
        name=flow(name),
        default="deny" if tools else "allow",
        allow=flow(allow),
        hold=flow(hold),
        schemas=flow(schemas),
        root=flow(root),
    )
    parse_policy(yaml.safe_load(text), origin="the new policy")
    return text


def write_policy(path: Path, tools: Sequence[dict[str, Any]]) -> None:
    """Write a new policy file, whole or not at all. Raises InputError if the file is there already."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_text(policy_text(tools), "utf-8")
        os.link(temporary, path)
    except FileExistsError:
        raise InputError(f"{path} is there already and is not overwritten. Name another file with --policy.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}). Name a writable place.") from None
    finally:
        temporary.unlink(missing_ok=True)


def list_tools(command: Sequence[str]) -> list[dict[str, Any]]:
    """The tools of an MCP server started by a command: name, description, inputSchema."""
    import asyncio

    try:
        from mcp import StdioServerParameters
        from mcp.client import Client
        from mcp.client.stdio import stdio_client
    except ImportError:
        raise MissingExtra("mcp", "mcp", "Asking an MCP server for its tools") from None

    async def ask() -> list[dict[str, Any]]:
        async with Client(stdio_client(StdioServerParameters(command=command[0], args=list(command[1:])))) as client:
            return [
                tool.model_dump(mode="json", by_alias=True, exclude_none=True)
                for tool in (await client.list_tools()).tools
            ]

    try:
        return asyncio.run(asyncio.wait_for(ask(), 120))
    except (OSError, TimeoutError, ExceptionGroup) as error:
        raise InputError(
            f"The server {command[0]!r} did not list its tools ({type(error).__name__}). Check that its command works."
        ) from None
