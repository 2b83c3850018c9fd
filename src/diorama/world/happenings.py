"""The questions that only a clip can answer: which way, which object, in what order, what it does, how fast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from diorama.world.facts import GAP, TRANSLATIONS, Event, Visible, events, events_of, is_seen, precedes
from diorama.world.references import answer_names, references
from diorama.world.scene import Scene
from diorama.world.statements import Description
from diorama.world.vocabulary import BARE_VERBS, VERBS, number_word


@dataclass(frozen=True)
class Pair:
    """A settled question. Answers are balanced within a `form`; `wrong` lists the wrong choices if it is not empty."""

    question: str
    answer: str
    form: str = ""
    wrong: tuple[str, ...] = ()


def phrase(what: Description) -> str:
    """The description with `the`."""
    return f"the {what.words()}"


def moves(event: Event) -> bool:
    """Whether the event takes the object somewhere else; spinning, growing and appearing do not."""
    return event.motion.kind in TRANSLATIONS


def _hidden_events(scene: Scene, visible: Visible) -> list[Event]:
    return [e for i in range(len(scene.objects)) if not is_seen(i, visible) for e in events_of(scene, i)]


def direction_pairs(scene: Scene, visible: Visible) -> list[Pair]:
    """Which way an object moves, where it moves in one direction only."""
    pairs = []
    for i in range(len(scene.objects)):
        ways = {e.motion.kind for e in events_of(scene, i) if moves(e)}
        if len(ways) == 1:
            for what in references(scene, i, visible):
                asked = f"which way does {phrase(what)} move?"
                pairs.append(Pair(asked, next(iter(ways)), "", TRANSLATIONS))
    movers = {e.index for e in events(scene) if moves(e)}
    ways = {e.motion.kind for e in events(scene) if moves(e)}
    if len(movers) == 1 and len(ways) == 1 and is_seen(next(iter(movers)), visible) and not _spins(scene):
        pairs.append(Pair("which way does the moving object move?", next(iter(ways)), "", TRANSLATIONS))
    return pairs


def _spins(scene: Scene) -> bool:
    """Whether something spins on the spot, which some would call moving."""
    return any(e.motion.kind == "spin" for e in events(scene))


def moved_pairs(scene: Scene, visible: Visible) -> list[Pair]:
    """Which object moves, or spins, grows and so on, where there is exactly one, hidden ones included."""
    pairs = []
    happening = events(scene)
    groups: dict[str, set[int]] = {}
    for event in happening:
        groups.setdefault(VERBS[event.motion.kind], set()).add(event.index)
    if not _spins(scene):
        groups["moves"] = {e.index for e in happening if moves(e)}
    for verb, indices in groups.items():
        if len(indices) != 1 or not is_seen(index := next(iter(indices)), visible):
            continue
        thing = scene.objects[index]
        pairs.append(Pair(f"what color is the object that {verb}?", thing.color, "color of"))
        pairs.append(Pair(f"what shape is the object that {verb}?", thing.shape, "shape of"))
        name = answer_names(scene, index, visible)
        if name is not None:
            pairs.append(Pair(f"which object {verb}?", name, "which"))
    return pairs


def clear_end(happening: list[Event], last: bool) -> Event | None:
    """The event that starts first (or ends last) by a clear margin."""
    if len(happening) < 2:
        return None
    if last:
        ordered = sorted(happening, key=lambda e: -e.motion.end)
        clear = ordered[0].motion.end - ordered[1].motion.end >= GAP
        clear = clear and all(precedes(e, ordered[0]) for e in ordered[1:])
    else:
        ordered = sorted(happening, key=lambda e: e.motion.start)
        clear = ordered[1].motion.start - ordered[0].motion.start >= GAP
        clear = clear and all(precedes(ordered[0], e) for e in ordered[1:])
    return ordered[0] if clear else None


def order_pairs(scene: Scene, visible: Visible) -> list[Pair]:
    """What comes first and last, what follows what, and whether one thing precedes another."""
    if _hidden_events(scene, visible):
        return []
    happening = events(scene, visible)
    pairs = []
    for last, word in ((False, "first"), (True, "last")):
        event = clear_end(happening, last)
        if event is not None:
            verbs = tuple(dict.fromkeys(VERBS[e.motion.kind] for e in happening))
            names = [answer_names(scene, e.index, visible) for e in happening]
            name = answer_names(scene, event.index, visible)
            if name is not None and len(set(names)) > 1:
                wrong = tuple(n for n in dict.fromkeys(names) if n is not None and n != name)
                pairs.append(Pair(f"which object does something {word}?", name, "which"))
                if wrong and all(moves(e) for e in happening):
                    pairs.append(Pair(f"which object moves {word}?", name, "which"))
            if len(verbs) > 1:
                motion = VERBS[event.motion.kind]
                pairs.append(Pair(f"what happens {word}?", motion, "what", verbs))
    told = [(e.index, e.motion.kind) for e in happening]
    once = [e for e, what in zip(happening, told, strict=True) if told.count(what) == 1]
    for first in once:
        for second in once:
            if first != second and precedes(first, second) is not None:
                pairs += _order_of_two(scene, first, second, happening, visible)
    return pairs


def _order_of_two(
    scene: Scene, first: Event, second: Event, happening: list[Event], visible: Visible
) -> list[Pair]:
    """Questions about two events of which one is over before the other starts."""
    pairs = []
    earlier = precedes(first, second)
    for x in references(scene, first.index, visible):
        for y in references(scene, second.index, visible):
            asked = f"does {phrase(x)} {BARE_VERBS[first.motion.kind]}"
            other = f"{phrase(y)} {VERBS[second.motion.kind]}?"
            pairs.append(Pair(f"{asked} before {other}", "yes" if earlier else "no", "yes or no"))
            pairs.append(Pair(f"{asked} after {other}", "no" if earlier else "yes", "yes or no"))
        if len(happening) == 2:
            when = "after" if earlier else "before"
            asked = f"what happens {when} {phrase(x)} {VERBS[first.motion.kind]}?"
            wrong = tuple(v for k, v in VERBS.items() if k != second.motion.kind)
            pairs.append(Pair(asked, VERBS[second.motion.kind], "next", wrong))
    return pairs


def motion_pairs(scene: Scene, visible: Visible) -> list[Pair]:
    """What an object does, and whether it does a given thing."""
    pairs = []
    for i in range(len(scene.objects)):
        happening = events_of(scene, i)
        kinds = [e.motion.kind for e in happening]
        wrong = (*VERBS.values(), "stays still")
        for what in references(scene, i, visible):
            if not happening:
                pairs.append(Pair(f"what does {phrase(what)} do?", "stays still", "what", wrong))
            elif len(happening) == 1:
                pairs.append(Pair(f"what does {phrase(what)} do?", VERBS[kinds[0]], "what", wrong))
            elif precedes(happening[0], happening[1]) and kinds[0] != kinds[1]:
                asked = f"what does {phrase(what)} do first?"
                pairs.append(Pair(asked, VERBS[kinds[0]], "what", wrong))
            for kind, verb in BARE_VERBS.items():
                if kind in {e.motion.kind for e in events(scene)}:
                    answer = "yes" if kind in kinds else "no"
                    pairs.append(Pair(f"does {phrase(what)} {verb}?", answer, "yes or no"))
    return pairs


def pace_pairs(scene: Scene, visible: Visible) -> list[Pair]:
    """Whether an object does what it does slowly or quickly."""
    pairs = []
    for i in range(len(scene.objects)):
        happening = events_of(scene, i)
        if len(happening) != 1 or happening[0].motion.kind in ("appear", "vanish"):
            continue
        motion = happening[0].motion
        verb = "move" if moves(happening[0]) else BARE_VERBS[motion.kind]
        for what in references(scene, i, visible):
            asked = f"does {phrase(what)} {verb} slowly or quickly?"
            pairs.append(Pair(asked, motion.pace, "", ("slowly", "quickly")))
    return pairs


def times_pairs(scene: Scene, visible: Visible) -> list[Pair]:
    """How many objects move, stay still, or do something."""
    if _hidden_events(scene, visible):
        return []
    happening = events(scene, visible)
    pairs = [Pair("how many objects do something?", number_word(len({e.index for e in happening})))]
    if not _spins(scene):
        pairs.append(Pair("how many objects move?", number_word(len({e.index for e in happening if moves(e)}))))
    if all(moves(e) for e in happening) and (visible is None or all(visible)):
        still = len(scene.objects) - len({e.index for e in happening})
        pairs.append(Pair("how many objects stay still?", number_word(still)))
    return pairs


CLIP_PAIRS: dict[str, Callable[[Scene, Visible], list[Pair]]] = {
    "direction": direction_pairs,
    "moved": moved_pairs,
    "order": order_pairs,
    "motion": motion_pairs,
    "pace": pace_pairs,
    "times": times_pairs,
}
