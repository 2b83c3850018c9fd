"""What the arguments of an action name: hosts, paths, addresses, accounts, money, credentials. Parsed, not guessed."""

import base64
import binascii
import ipaddress
import json
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit

URL = re.compile(r"(?i)\b(?:https?|ftp|sftp|ssh|wss?|file|git|s3|gs|ldap|smb|data|javascript)://?[^\s\"'<>`)\]}|\\]+")
BARE_HOST = re.compile(
    r"(?i)\b(?:www\.)?(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+(?:com|org|net|io|dev|ru|cn|info|biz|xyz|top|"
    r"onion|co|uk|de|fr|me|tk|app|ai|cc|to|gov|edu|site|online|live|shop|example|test|evil|invalid)"
    r"\b(?:/[^\s\"'<>)]*)?"
)
EMAIL = re.compile(r"(?i)[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,}")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
CARD = re.compile(r"\b(?:\d[ -]?){13,19}\b")
IP = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b")
LONG_ID = re.compile(r"\b(?=[A-Za-z0-9_-]*\d)[A-Za-z0-9_-]{6,40}\b")
PHONE = re.compile(r"(?<!\w)\+?\d[\d ()-]{7,16}\d(?!\w)")
MONEY_KEYS = frozenset(
    {"amount", "price", "total", "sum", "payment", "value", "budget", "bid", "donation", "quantity_usd"}
)
PATH = re.compile(
    r"(?<![\w:/.])(?:~|\.{1,2}|[A-Za-z]:)?[/\\](?:[\w.@%+~ -]*[\w.@%+~-])(?:[/\\][\w.@%+~-]+)*[/\\]?"
    r"|(?<![\w/@])[\w-]+(?:/[\w.-]+)*\.[A-Za-z][A-Za-z0-9]{0,5}\b(?!\()"
)
SECRET = re.compile(r"""(?x)
    -----BEGIN[ A-Z]*PRIVATE\ KEY-----
  | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b | \bgh[pousr]_[A-Za-z0-9]{20,}\b | \bxox[abpr]-[A-Za-z0-9-]{10,}
  | \bsk-[A-Za-z0-9_-]{16,}\b | \bAIza[A-Za-z0-9_-]{30,} | \beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*
  | (?i:\b(?:pass(?:word|wd|phrase)?|pwd|secret|token|api[_ -]?key|access[_
    -]?key|auth|pin|cvv|ssn)\b["']?\s*(?:is|[:=])\s*["']?)
    (?=[^\s"',;]*[\d!@\#$%^&*_-])[^\s"',;]{4,}
  | \b\d{3}-\d{2}-\d{4}\b""")
SENSITIVE_PATH = re.compile(r"""(?xi)
    (?:^|/)\.(?:ssh|aws|gnupg|kube|docker|azure|netrc|npmrc|pypirc|pgpass|env|git-credentials|bash_history|zsh_history|config/gcloud|mozilla)(?:/|$|\.)
  | (?:^|/)(?:id_rsa|id_dsa|id_ecdsa|id_ed25519|authorized_keys|known_hosts)(?:$|\.) |
    ^/etc/(?:shadow|passwd|sudoers|gshadow)
  | (?:^|/)[\w.-]*(?:secret|credential|passwd|password|private[_-]?key|wallet|api[_-]?key|keychain|keystore|token)s?[\w.-]*(?:$|/)
  | \.(?:pem|key|pfx|p12|kdbx|keystore|ovpn)$ | ^/proc/(?:self|\d+)/environ | login\ data""")  # noqa: E501
SYSTEM_PATH = re.compile(
    r"(?i)^(?:/(?:etc|bin|sbin|usr|lib\d*|boot|dev|sys|proc|root|var(?!/(?:tmp|folders|www|log)))(?:/|$)|"
    r"[a-z]:/(?:windows|program files))"
)


def string_leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(key, text) for every leaf of a JSON value; text that itself holds a JSON object or list is opened too."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from string_leaves(item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from string_leaves(item, key)
    elif isinstance(value, str):
        yield key, value
        if len(value) < 20_000 and value[:1] in "[{" and value[-1:] in "]}":
            try:
                yield from string_leaves(json.loads(value), key)
            except (ValueError, RecursionError):
                return
    elif value is not None and not isinstance(value, bool):
        yield key, str(value)


_BASE64 = re.compile(r"\b[A-Za-z0-9+/]{24,}={0,2}")


def decoded_views(text: str) -> list[str]:
    """The text and what percent- and base64-encoded parts of it say, one level deep, printable results only."""
    views = [text]
    if "%" in text:
        plain = unquote(text)
        if plain != text:
            views.append(plain)
    for match in _BASE64.findall(text[:20_000])[:8]:
        try:
            raw = base64.b64decode(match + "=" * (-len(match) % 4), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            continue
        if raw.isprintable() or all(char.isprintable() or char in "\r\n\t" for char in raw):
            views.append(raw)
    return views


@lru_cache(maxsize=4096)
def host_of(url: str) -> str | None:
    """The host a client would really contact, lower case and IDNA-encoded, or None if the URL has no clear host.

    Backslashes, user-info before @, percent-encoding, trailing dots, ports and integer or octal IPv4 spellings are
    resolved as a browser would; whatever stays ambiguous gives None, which no allow-list contains.
    """
    text = "".join(char for char in url.strip() if char not in "\t\r\n").replace("\\", "/")
    if "://" not in text:
        text = "https://" + text.lstrip("/")
    try:
        parts = urlsplit(text)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        return None
    if not host:
        return None
    host = unquote(host).rstrip(".")
    if any(char in host for char in " /@#?%\\"):
        return None
    number = _ip_number(host)
    if number is not None:
        return number
    try:
        ascii_host = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return None
    return ascii_host.lower() or None


def _ip_number(host: str) -> str | None:
    if ":" in host:
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            return None
    parts = host.split(".")
    if not all(re.fullmatch(r"0[xX][0-9a-fA-F]+|\d+", part) for part in parts) or len(parts) > 4:
        return None
    try:
        numbers = [
            int(p, 16) if p[:2] in ("0x", "0X") else int(p, 8) if len(p) > 1 and p[0] == "0" else int(p) for p in parts
        ]
        value = numbers[-1] + sum(n << (24 - 8 * i) for i, n in enumerate(numbers[:-1]))
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        return None


def is_private_host(host: str) -> bool:
    """Whether the host is this machine, a private network or a cloud metadata address."""
    if host in ("localhost", "metadata.google.internal") or host.endswith((".local", ".internal", ".localhost")):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_private or address.is_loopback or address.is_link_local


def host_matches(host: str, pattern: str) -> bool:
    """Whether a host is the pattern's host or, for '*.example.org', the host or a sub-domain of it."""
    wanted = pattern.lower().rstrip(".")
    if wanted == "*":
        return True
    if wanted.startswith("*."):
        return host == wanted[2:] or host.endswith(wanted[1:])
    return host == (host_of(wanted) or wanted)


def normal_path(path: str, base: str = "") -> str:
    """An absolute path with ~, %-codes, doubled slashes, '.' and '..' resolved, and symbolic links where they exist.

    A relative path is taken from base, or stays relative (leading '..' kept) when there is none.
    """
    text = unquote(path.strip().strip("\"'")).replace("\\", "/")
    text = text.removeprefix("file://")
    text = re.sub(r"^\$(?:HOME|\{HOME\})(?=/|$)", "~", text)
    if text.startswith("~"):
        text = os.path.expanduser(text) if base else text  # noqa: PTH111
    if base and not text.startswith(("/", "~")) and not re.match(r"[A-Za-z]:/", text):
        text = posixpath.join(base, text)
    text = posixpath.normpath(re.sub(r"/{2,}", "/", text)) if text else "."
    return os.path.realpath(text) if base and text.startswith("/") else text


def is_inside(path: str, folder: str) -> bool:
    """Whether a normalised path is the folder or lies in it (component-wise, never by prefix of a name)."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


@dataclass(frozen=True)
class Names:
    """The places and people a text names, to which things could be sent. Hosts are normalised."""

    urls: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    emails: frozenset[str] = frozenset()
    accounts: frozenset[str] = frozenset()

    def recipients(self) -> frozenset[str]:
        """Hosts, mail addresses and accounts."""
        return self.hosts | self.emails | self.accounts


@dataclass(frozen=True)
class Entities(Names):
    """All the things a text names. paths are as written."""

    paths: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()


@lru_cache(maxsize=4096)
def names_in(text: str) -> Names:
    """The places and people that a text of up to 50,000 characters names (more is cut at the end)."""
    text = text[:50_000]
    urls = frozenset(match.rstrip(".,;:!?") for match in URL.findall(text)) if ":/" in text else frozenset()
    emails = frozenset(match.lower().rstrip(".") for match in EMAIL.findall(text)) if "@" in text else frozenset()
    hosts = frozenset(host for name in urls | _bare_hosts(text) if (host := host_of(name)))
    accounts = frozenset(re.sub(r"[ -]", "", match) for match in IBAN.findall(text) + CARD.findall(text))
    accounts |= frozenset(
        re.sub(r"[^\d+]", "", match) for match in PHONE.findall(text) if len(re.sub(r"\D", "", match)) >= 9
    )
    return Names(urls, hosts | frozenset(IP.findall(text)), emails, accounts)


def _bare_hosts(text: str) -> frozenset[str]:
    return frozenset(BARE_HOST.findall(EMAIL.sub(" ", text) if "@" in text else text)) if "." in text else frozenset()


@lru_cache(maxsize=4096)
def entities(text: str) -> Entities:
    """Everything that a text of up to 50,000 characters names (more is cut at the end)."""
    text = text[:50_000]
    names = names_in(text)
    paths: frozenset[str] = frozenset()
    if "/" in text or "." in text or "\\" in text:
        paths = frozenset(match.strip() for match in PATH.findall(URL.sub(" ", text))) - _bare_hosts(text)
    secrets = frozenset(match.group()[:200] for match in SECRET.finditer(text))
    ids = frozenset(LONG_ID.findall(text)) if any(char.isdigit() for char in text) else frozenset()
    return Entities(names.urls, names.hosts, names.emails, names.accounts, paths, secrets, ids)


def money_of(arguments: dict[str, Any]) -> float:
    """The money an action would move: numbers under keys such as amount or price, else amounts written in its texts."""
    total = 0.0
    for key, text in string_leaves(arguments):
        name = key.lower()
        if name in MONEY_KEYS or name.endswith(("_amount", "_price")):
            match = re.search(r"\d[\d,]*(?:\.\d+)?", text)
            if match:
                total += float(match.group().replace(",", ""))
    return total
