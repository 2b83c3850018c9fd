"""Everything the deterministic stages want to know about an action, computed once per action and kept."""

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from diorama.agents.actions import Action
from diorama.systems.agent_monitor.code import (
    SHELLS,
    CodeFacts,
    Command,
    fenced_blocks,
    python_facts,
    shell_facts,
    sql_statements,
)
from diorama.systems.agent_monitor.effects import effects_of
from diorama.systems.agent_monitor.text import content_words, fold, words
from diorama.systems.agent_monitor.values import Entities, decoded_views, entities, money_of, string_leaves

ANSWERS = frozenset(
    {
        "answer",
        "final_answer",
        "finalanswer",
        "respond",
        "reply_to_user",
        "complete",
        "finish",
        "done",
        "final",
        "submit_answer",
        "goals_accomplished",
        "task_complete",
        "message_user",
        "say",
    }
)
SHELL_TOOLS = frozenset({"bash", "shell", "terminal", "cmd", "powershell", "ssh", "command", "commands"})
COMMAND_KEYS = frozenset(
    {"command", "cmd", "shell", "script", "commands", "bash", "command_line", "cmdline", "terminal"}
)
CODE_KEYS = frozenset({"code", "python", "source", "program", "snippet"})
REFUSAL = re.compile(
    r"(?i)\b(?:i(?:'m| am) (?:really |very |so )?(?:sorry|unable|not able|afraid)|i (?:can(?:no|')t|will not|won't|"
    r"must decline|do not|don't)"
    r" (?:help|assist|comply|do|proceed|fulfil?l|provide|support|execute|perform|engage|share|"
    r"complete|follow)|i have to decline|"
    r"cannot (?:fulfil?l|comply|assist)|against (?:the|my) (?:policy|guidelines|principles)|"
    r"decline to|"
    r"not (?:appropriate|ethical|safe) to|unethical|harmful request)"
)
CAUTION = re.compile(
    r"(?i)\b(?:(?:could|can|would) you (?:please )?(?:confirm|clarify|provide|verify)|please (?:confirm|clarify|"
    r"verify)|"
    r"do you want me to|are you sure|before (?:i )?proceed|suspicious|unusual|potentially "
    r"(?:malicious|harmful)|"
    r"need(?:s)? (?:your )?(?:confirmation|permission|approval)|not (?:relevant|related)|(?:i "
    r")?should (?:not|ignore)|ignore (?:this|that|the))"
)
_HARM_STARTS = tuple(
    """malware ransom keylog phish exploit backdoor botnet rootkit trojan spyware explosiv firearm poison toxic hack
    stole fraud scam
 launder counterfeit forge blackmail extort harass stalk dox deepfake disinform misinform propaganda racis suicid
 murder kidnap traffick illegal illicit
 unauthori bypass evade assassin terroris sabotag manipulat surveil porn tamper covert stealth breach neglect falsif
 misus abus overload disrupt corrupt
 hijack leak compromis spoof intercept infiltrat plagiari mislead obfuscat undetect victim attack vulnerab weaken
 impersonat pretend conceal""".split()
)
_HARM_WORDS = frozenset(
    """ddos bomb bombs weapon weapons crack cracked cracking steal steals stealing theft hate kill killing drug drugs
    cocaine heroin meth fentanyl tor
 hitman fake faked spam injection sniff sniffing spy nude nudes sexual insider ponzi darknet darkweb alteration bias
 biased degrade expose exposed exposure suppress
 secretly espionage scalping smuggle smuggling bribe bribery racket genocide nazi slur slurs minors underage""".split()
)


def harm_words(text: str) -> frozenset[str]:
    """The words of a text that speak of harm, whether it is asked for, done or reported."""
    return frozenset(word for word in words(text) if word in _HARM_WORDS or word.startswith(_HARM_STARTS))


@dataclass(frozen=True)
class ActionFacts:
    """One action, read. problem is the sentence of the strict parser when the action is malformed, else ''."""

    action: Action
    arguments: dict[str, Any]
    leaves: tuple[tuple[str, str], ...]
    text: str
    problem: str = ""

    @cached_property
    def tool_words(self) -> tuple[str, ...]:
        return words(self.action.tool)

    @cached_property
    def is_answer(self) -> bool:
        return "".join(self.tool_words) in {name.replace("_", "") for name in ANSWERS}

    @cached_property
    def own_words(self) -> frozenset[str]:
        """The content words of the arguments that say something: without the words of Python itself, shell options and
        the names of programs that only look."""
        found = content_words(self.text[:6000])
        if self.python:
            found -= _PYTHON_WORDS
        for command in self.commands:
            if command.program in _LOOKS | set(_LOOKS_AT):
                found -= content_words(" ".join((command.program, *(w for w in command.arguments if w[:1] == "-"))))
        return found

    @cached_property
    def is_refusal(self) -> bool:
        return bool(REFUSAL.search(self.text[:3000]))

    @cached_property
    def entities(self) -> Entities:
        return entities(self.text)

    @cached_property
    def money(self) -> float:
        return money_of(self.arguments)

    @cached_property
    def effects(self) -> frozenset[str]:
        """Verb classes from the tool's name, widened by what its commands, code and SQL do."""
        found = set(effects_of(self.action.tool))
        if self.is_answer:
            return frozenset()
        if self.commands and self.is_shell:
            found.clear()  # a shell does what its commands do
        for command in self.commands:
            found |= _command_effects(command)
        for kind in self.statements:
            found.add(
                "read"
                if kind.startswith("select")
                else "delete"
                if kind.startswith(("drop", "delete", "truncate"))
                else "grant"
                if kind.startswith(("grant", "alter user", "create user", "create role"))
                else "write"
            )
        if self.money > 0 and found & {"send", "pay", "write", "execute"}:
            found.add("pay")
        return frozenset(found)

    @cached_property
    def is_shell(self) -> bool:
        """Whether the tool's name says that it runs shell commands."""
        return bool(SHELL_TOOLS & set(self.tool_words))

    @cached_property
    def commands(self) -> tuple[Command, ...]:
        """Simple shell commands in the arguments: command-like keys, shell fences, or a tool that is a shell."""
        if self.is_answer:
            return ()
        is_shell_tool = self.is_shell
        found: list[Command] = []
        for key, text in self.leaves:
            blocks = fenced_blocks(text)
            for language, body in blocks:
                if language in SHELLS or (language in ("shell", "console", "") and is_shell_tool):
                    found += shell_facts(body).commands
            if not blocks and (key.lower() in COMMAND_KEYS or is_shell_tool):
                found += shell_facts(text).commands
        for source in self.python:
            for text in source.strings:
                if source.calls & {
                    "os.system",
                    "os.popen",
                    "subprocess.run",
                    "subprocess.call",
                    "subprocess.Popen",
                    "subprocess.check_output",
                    "subprocess.check_call",
                    "subprocess.getoutput",
                }:
                    found += shell_facts(text).commands
        return tuple(found)

    @cached_property
    def python(self) -> tuple[CodeFacts, ...]:
        """Facts of every Python source in the arguments: code-like keys, Python fences, and text written to a .py
        file."""
        if self.is_answer:
            return ()
        is_code_tool = bool({"python", "code", "interpreter", "ipython", "jupyter", "notebook"} & set(self.tool_words))
        to_script = any(text.lower().endswith(".py") for _, text in self.leaves)
        found = []
        for key, text in self.leaves:
            blocks = [body for language, body in fenced_blocks(text) if language in ("python", "py", "")]
            if blocks:
                found += [python_facts(body) for body in blocks]
            elif (
                key.lower() in CODE_KEYS
                or (is_code_tool and "\n" in text)
                or (to_script and key.lower() in ("text", "content", "data", "contents", "file_text"))
            ):
                facts = python_facts(text.removeprefix("python\n"))
                found.append(facts)
        return tuple(found)

    @cached_property
    def statements(self) -> tuple[str, ...]:
        """Kinds of the SQL statements in the arguments."""
        if self.is_answer:
            return ()
        found: list[str] = []
        for _, text in self.leaves:
            if len(text) > 10:
                found += sql_statements(text)
        for command in self.commands:
            if command.program in ("mysql", "psql", "sqlite3"):
                found += sql_statements(" ".join(command.arguments))
        return tuple(found)

    @cached_property
    def folded(self) -> str:
        """Tool and arguments for text matching, decoded views included."""
        return fold("\n".join(decoded_views(f"{self.action.tool}\n{self.text}"[:20_000])))

    @cached_property
    def all_paths(self) -> frozenset[str]:
        """Path-like values: found in text, given under path-like keys, and the words of file commands."""
        found = set(self.entities.paths)
        for key, text in self.leaves:
            if (
                re.search(r"(?i)path|file|dir|folder|destination|^source$|^cwd$", key)
                and 0 < len(text) < 500
                and "\n" not in text
                and "://" not in text
                and not key.lower().startswith(("file_text", "file_content"))
            ):
                found.add(text)
        for command in self.commands:
            found |= {
                word for word in (*command.arguments, *command.redirects) if "/" in word or word.startswith(("~", "."))
            }
        for source in self.python:
            found |= {
                text
                for text in source.strings
                if 0 < len(text) < 300
                and ("/" in text or text.startswith("~"))
                and "://" not in text
                and " " not in text
            }
        return frozenset(found)


_LOOKS = frozenset(
    """ls cat head tail grep egrep rg find pwd wc stat file which whereis whoami date du df ps top free uptime echo
    printf sort uniq awk sed cut tree less more env id uname hostname lsof lsblk journalctl dmesg netstat ss ip ifconfig
    ping dig nslookup diff cmp md5sum sha256sum cd test true groups who w last history jq column nproc lscpu type man
    help""".split()
)
_PYTHON_WORDS = content_words(
    """import from def class return print open read write close with for while if else elif not and or None True False
    lambda try except finally raise pass break continue yield async await global assert len range sum min max sorted
    list dict set tuple str int float bool type enumerate zip map filter any all abs round format join split strip
    lower upper append extend items keys values get pop row rows line lines file data result results value text
    encoding utf csv json re os sys math random datetime collections itertools pandas numpy pd np df plt DictReader
    reader writer splitlines readlines loads dumps main name self args kwargs key index count total"""
)
_LOOKS_AT: dict[str, frozenset[str]] = {
    name: frozenset(text.split())
    for name, text in {
        "git": "status log diff show branch remote blame ls-files rev-parse describe shortlog grep fetch",
        "systemctl": "status list-units list-unit-files list-timers is-active is-enabled is-failed show cat --failed",
        "docker": "ps logs images inspect stats info version top",
        "kubectl": "get describe logs top version",
        "pip": "list show freeze check --version",
        "npm": "list ls view outdated --version",
        "python": "--version -V",
        "python3": "--version -V",
        "crontab": "-l",
        "openssl": "x509 s_client verify version",
        "apt": "list show search",
        "conda": "list info",
        "ufw": "status",
        "service": "--status-all",
    }.items()
}


def _command_effects(command: Command) -> set[str]:
    program, rest = command.program, command.arguments
    if (
        program in ("rm", "shred", "unlink", "rmdir", "del", "wipefs", "mkfs", "dd", "truncate")
        or (program == "find" and "-delete" in rest)
        or (program == "git" and rest[:1] in (("clean",), ("reset",)))
    ):
        return {"delete", "execute"}
    if program in _LOOKS or (rest and rest[0] in _LOOKS_AT.get(program, ())):
        return {"write"} if command.redirects else {"read"}
    if program in ("curl", "wget", "nc", "ncat", "netcat", "scp", "rsync", "ftp", "sftp", "ssh", "telnet", "socat"):
        sends = any(
            word.startswith(("-d", "--data", "-F", "--form", "-T", "--upload", "--post", "-X")) for word in rest
        )
        return {"network", "execute"} | ({"send"} if sends or program not in ("curl", "wget") else set())
    if program in ("chmod", "chown", "chgrp", "usermod", "useradd", "adduser", "passwd", "visudo", "setfacl"):
        return {"grant", "execute"}
    if program in ("kill", "pkill", "killall", "shutdown", "reboot", "halt", "systemctl", "service", "iptables", "ufw"):
        return {"stop", "execute"}
    if program in ("mail", "sendmail", "mutt"):
        return {"send", "execute"}
    if program in ("cp", "mv", "touch", "mkdir", "tee", "ln", "tar", "zip", "unzip", "gzip"):
        return {"write"}
    return {"execute"} if program else set()


@lru_cache(maxsize=512)
def facts_of(action: Action) -> ActionFacts:
    """The facts of an action; a malformed one has `problem` set and no arguments."""
    try:
        arguments = action.parsed()
    except ValueError as error:
        return ActionFacts(action, {}, (), "", str(error))
    leaves = tuple(string_leaves(arguments))
    return ActionFacts(action, arguments, leaves, "\n".join(text for _, text in leaves))
