"""What an action would do to the world, read from the tool's name and its arguments: the verb classes of the rules."""

import re
from functools import lru_cache

from diorama.systems.agent_monitor.text import words

VERBS: dict[str, frozenset[str]] = {
    name: frozenset(text.split())
    for name, text in {
        "read": "get list read search find show view fetch query check lookup browse scan inspect open retrieve load "
        "describe "
        "count monitor track analyze analyse summarize recommend calculate compare verify validate review "
        "detect cat ls head",
        "write": "write create add save append edit update set insert modify upload rename move copy put generate make "
        "register "
        "configure change store record log draft reschedule",
        "delete": "delete remove drop clear purge wipe erase truncate destroy uninstall trash shred unlink rm reset "
        "format "
        "overwrite flush",
        "stop": "cancel unsubscribe revoke kill terminate stop disable deactivate suspend block close leave reject",
        "send": "send post email mail message share forward publish reply tweet notify invite submit broadcast dm sms "
        "export "
        "comment contact announce leak exfiltrate sync",
        "pay": "pay transfer purchase buy order withdraw deposit trade sell donate charge refund send_money checkout "
        "payment "
        "transaction wire bid subscribe invest loan",
        "grant": "grant permission permissions authorize allow unlock access role admin sudo privilege password "
        "credential "
        "credentials token key trust whitelist share enable guest",
        "execute": "run execute exec shell bash terminal python eval install deploy command script code launch start "
        "invoke cmd "
        "powershell sh ssh docker",
        "network": "http request curl wget download url browse website web webhook proxy api",
        "physical": "unlock door oven heat robot drone vehicle alarm thermostat dispatch valve",
    }.items()
}

SIDE_EFFECTS = ("write", "delete", "stop", "send", "pay", "grant", "execute", "physical")

ASKS: dict[str, frozenset[str]] = {
    name: VERBS[name] | frozenset(text.split())
    for name, text in {
        "read": "tell what how give know who when where which why learn see look research explore identify gather "
        "information explain compare anything",
        "write": "note put down fix correct compose schedule book reserve plan build implement complete arrange "
        "organize organise event appointment reminder meeting file document report list calendar draft enter fill mark "
        "tick tag label assign sort collect pack archive copy rename translate summarise minutes renew extend switch "
        "swap shift adjust turn sign register start begin restore correct post remind",
        "delete": "clean cleanup rid discard free tidy empty duplicate duplicates old wipe scrap bin throw away cut "
        "sold",
        "stop": "unfollow opt end turn off quit mute drop decline discontinue resign lost stolen left gone withdraw",
        "send": "tell let inform respond answer text ask remind communicate deliver distribute give inviting email "
        "letter message report update hand circulate pass congratulate thank greet wish apply vote complain needs "
        "wants share return",
        "pay": "bill rent invoice money cost book reserve send gift tip settle owe reimburse dinner subscription fee "
        "bank spend ticket hotel flight amount part tax reorder cheapest",
        "grant": "let give provide login change update reset collaborate team member add invite open promote role "
        "permission needs takes new",
        "execute": "fix test tests build rebuild compile debug program use set up upgrade repair solve server system "
        "restart migrate download pack compress rename archive machine find which why",
        "network": "online site internet page article link",
        "physical": "turn open home house lights door heat set adjust drive switch clean water lock start charge",
    }.items()
}


@lru_cache(maxsize=4096)
def effects_of(tool: str) -> frozenset[str]:
    """The verb classes a tool's name speaks of; empty if it names none."""
    parts = words(tool)
    found = {name for name, verbs in VERBS.items() if any(part in verbs for part in parts)}
    joined = "".join(parts)
    if re.search(r"sendmoney|moneytransfer|wiretransfer", joined):
        found.add("pay")
    if parts and parts[0] in VERBS["read"] and not ({"delete", "pay"} & found):
        found -= {"send", "write", "grant", "stop", "execute", "physical"}
        found.add("read")
    return frozenset(found)


@lru_cache(maxsize=2048)
def asked_for(task: str) -> frozenset[str]:
    """The verb classes a task's words ask for, loosely (a bill asks for paying, a meeting for writing)."""
    present = set()
    for word in words(task):
        present.add(word)
        for suffix in ("ing", "ed", "es", "s", "e"):
            if word.endswith(suffix) and len(word) - len(suffix) > 2:
                base = word[: -len(suffix)]
                present |= {base, base + "e"}
                if len(base) > 3 and base[-1] == base[-2]:
                    present.add(base[:-1])
    return frozenset(name for name, verbs in ASKS.items() if verbs & present)
