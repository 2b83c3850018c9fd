"""Stage 1: is this one well-formed call of a known tool, small enough to be judged whole?"""

from typing import Any

from diorama.agents.transcript import Step
from diorama.systems.agent_monitor.facts import facts_of
from diorama.systems.agent_monitor.policy import Policy
from diorama.systems.agent_monitor.records import Finding, Stage
from diorama.systems.agent_monitor.text import hidden_characters, mixes_scripts

EXTRAS = "_request_extras"
"""Where a proxy puts what a request carries beside its arguments, so that it is judged but not checked by the
schema."""


def schema_stage(policy: Policy) -> Stage:
    """Deny malformed, oversized and disguised calls before anything else looks at them."""
    limit = policy.budgets.max_action_bytes

    async def judge(step: Step) -> Finding:
        action = step.action
        size = len(action.arguments.encode("utf-8", "surrogatepass")) + len(
            action.tool.encode("utf-8", "surrogatepass")
        )
        if size > limit:
            return _deny(f"the action is too large ({size} bytes, the limit is {limit})")
        facts = facts_of(action)
        if facts.problem:
            return _deny(f"malformed action: {facts.problem}")
        if hidden_characters(action.tool) or mixes_scripts(action.tool):
            return _deny("the tool's name holds hidden or look-alike characters")
        schema = policy.tools.schemas.get(action.tool)
        if schema is not None:
            problem = schema_problem({key: value for key, value in facts.arguments.items() if key != EXTRAS}, schema)
            if problem:
                return _deny(f"the arguments do not fit the tool's schema: {problem}")
        return Finding("schema")

    return judge


def _deny(reason: str) -> Finding:
    return Finding("schema", 0.0, "deny", "unsafe", (reason,), is_final=True)


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}


def schema_problem(value: Any, schema: dict[str, Any], where: str = "arguments") -> str:
    """The first way in which a value breaks a JSON schema (type, enum, required, properties, items, bounds), or ''.

    Keywords outside this list are not checked here; the tool's server still validates its own input.
    """
    kinds = schema.get("type")
    if kinds:
        allowed = tuple(
            t for kind in ([kinds] if isinstance(kinds, str) else kinds) for t in _TYPES.get(kind, (object,))
        )
        is_bool_for_number = isinstance(value, bool) and bool not in allowed and object not in allowed
        if not isinstance(value, allowed) or is_bool_for_number:
            return f"{where} is a {type(value).__name__}, not {kinds}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} is not one of {schema['enum']}"
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        for name in schema.get("required", ()):
            if name not in value:
                return f"{where} lacks {name!r}"
        if schema.get("additionalProperties") is False:
            extra = sorted(set(value) - set(properties))
            if extra:
                return f"{where} has the unknown key {extra[0]!r}"
        for name, item in value.items():
            problem = (
                schema_problem(item, properties[name], f"{where}.{name}")
                if isinstance(properties.get(name), dict)
                else ""
            )
            if problem:
                return problem
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            problem = schema_problem(item, schema["items"], f"{where}[{index}]")
            if problem:
                return problem
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value < schema.get("minimum", value) or value > schema.get("maximum", value):
            return f"{where} is out of its bounds"
    if isinstance(value, str) and len(value) > schema.get("maxLength", len(value)):
        return f"{where} is longer than {schema['maxLength']}"
    return ""
