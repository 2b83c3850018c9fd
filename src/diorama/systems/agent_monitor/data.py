"""Steps with labels as tables for training and evaluation: the tool world, recorded runs, and context swaps.

A bag is what carries one label: a single action where actions are labelled, a whole run where only runs are.
"""

import random
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diorama.agents.transcript import Step, Transcript
from diorama.systems.agent_monitor.attacks import Half, Run, malicious_request, play
from diorama.systems.agent_monitor.families_held_out import TEST
from diorama.systems.agent_monitor.families_train import TRAIN
from diorama.systems.agent_monitor.features import dense
from diorama.systems.agent_monitor.formats import read_runs
from diorama.systems.agent_monitor.provenance import context_of
from diorama.systems.agent_monitor.rarity import Rarity


@dataclass(frozen=True)
class Sample:
    """One step with the bag it belongs to. kind is 'clean', an attack family, or '' where unknown."""

    step: Step
    bag: str
    label: int
    group: str
    source: str
    kind: str = ""


def samples_of(runs: Iterable[Transcript], source: str) -> list[Sample]:
    """Steps of recorded runs: bags of one where steps are labelled, else one bag a run. Runs without labels are left
    out."""
    found = []
    for run in runs:
        for step in run.steps():
            if step.number in run.step_labels:
                found.append(
                    Sample(step, f"{source}|{run.id}|{step.number}", run.step_labels[step.number], run.group, source)
                )
            elif run.label is not None:
                found.append(Sample(step, f"{source}|{run.id}", run.label, run.group or run.id, source))
    return found


BOTH = Half(
    (*TRAIN.tasks, *TEST.tasks),
    {**TRAIN.families, **TEST.families},
    (*TRAIN.orders, *TEST.orders),
    (*TRAIN.wrappers, *TEST.wrappers),
)
"""The whole tool world."""
FOLDS = 4


def fold_of(group: str, seed: int = 0, folds: int = FOLDS) -> int:
    """The fold of a group of samples (a task, a user's request): the same everywhere."""
    return zlib.crc32(f"{seed}|{group}".encode()) % folds


def world_runs(half: Half, seeds: range, families: Sequence[str] | None = None) -> list[Run]:
    """Runs of a half's tasks; in three of four, attacks of its families (or of those named) replace 30 % of the
    actions."""
    chosen = tuple(half.families) if families is None else families
    return [play(task, half, chosen if seed % 4 else (), seed) for task in half.tasks for seed in seeds]


def world_samples(runs: Sequence[Run]) -> list[Sample]:
    """The labelled actions of tool-world runs."""
    return [
        Sample(
            step,
            f"{run.transcript.id}|{step.number}",
            run.transcript.step_labels[step.number],
            run.template,
            "tool_world",
            run.kinds[step.number],
        )
        for run in runs
        for step in run.transcript.steps()
    ]


def harm_samples(seeds: range) -> list[Sample]:
    """Harmful requests that the agent declines or carries out."""
    runs = [malicious_request(seed, comply=bool(seed % 2)) for seed in seeds]
    return [
        Sample(
            step,
            f"{run.id}|{step.number}",
            run.step_labels[step.number],
            run.group,
            "requests",
            "harmful_request" if run.label else "clean",
        )
        for run in runs
        for step in run.steps()
    ]


def swaps(samples: Sequence[Sample], seed: int) -> tuple[list[Sample], list[Sample]]:
    """Clean actions under their own task and history, and the very same actions under another task's: (own,
    swapped). Both tasks of a swap lie in the same fold, so that a fold left out leaves no trace in the others."""
    r = random.Random(seed)
    clean: dict[int, list[Sample]] = {}
    for sample in samples:
        if not sample.label:
            clean.setdefault(fold_of(sample.group), []).append(sample)
    own, swapped = [], []
    for sample in (sample for found in clean.values() for sample in found):
        near = clean[fold_of(sample.group)]
        others = [
            other
            for other in r.sample(near, min(len(near), 40))
            if other.group != sample.group
            and other.step.task != sample.step.task
            and other.step.action.tool != sample.step.action.tool
        ]
        if not others:
            continue
        other = others[0].step
        moved = replace(other, run=f"{other.run}~{sample.step.run}", action=replace(sample.step.action, thought=""))
        own.append(replace(sample, step=sample.step.without_thought(), bag=f"own|{sample.bag}", kind="clean"))
        swapped.append(replace(sample, step=moved, bag=f"swap|{sample.bag}", label=1, kind="context_swap"))
    return own, swapped


@dataclass
class Table:
    """Samples as arrays, rows of one bag together. x (N, F) raw features; bag (N,) index of the bag of each row;
    label, group, source, kind per bag."""

    x: npt.NDArray[np.float32]
    bag: npt.NDArray[np.int_]
    label: npt.NDArray[np.int_]
    group: list[str]
    source: list[str]
    kind: list[str]

    def select(self, keep: Sequence[int]) -> "Table":
        """The table of some bags, in the given order."""
        rows = [np.flatnonzero(self.bag == index) for index in keep] if len(keep) < 50 else _rows_of(self.bag, keep)
        order = np.concatenate(rows) if rows else np.zeros(0, int)
        bag = np.repeat(np.arange(len(keep)), [len(part) for part in rows])
        return Table(
            self.x[order],
            bag,
            self.label[list(keep)],
            [self.group[i] for i in keep],
            [self.source[i] for i in keep],
            [self.kind[i] for i in keep],
        )


def _rows_of(bag: npt.NDArray[np.int_], keep: Sequence[int]) -> list[npt.NDArray[np.int_]]:
    edges = np.searchsorted(bag, np.arange(int(bag[-1]) + 2))
    return [np.arange(edges[index], edges[index + 1]) for index in keep]


def rarity_of(samples: Iterable[Sample]) -> Rarity:
    """How rare words are in the tasks and histories of some samples, each history counted once."""
    texts: dict[tuple[str, str], frozenset[str]] = {}
    for sample in samples:
        context = context_of(sample.step)
        texts[sample.step.run, sample.step.task] = context.user_words | context.tool_words
    return Rarity.of(texts.values())


def tabulate(samples: Sequence[Sample], rarity: Rarity) -> tuple[Table, list[str]]:
    """The samples' features, and the features' names. Rows of one bag are brought together."""
    order = {name: index for index, name in enumerate(dict.fromkeys(sample.bag for sample in samples))}
    ordered = sorted(samples, key=lambda sample: order[sample.bag])
    names: list[str] = []
    rows = []
    for sample in ordered:
        values = dense(sample.step, rarity)
        names = names or list(values)
        rows.append([values[name] for name in names])
    first = {sample.bag: sample for sample in reversed(ordered)}
    bags = [first[name] for name in order]
    return Table(
        np.array(rows, np.float32),
        np.array([order[sample.bag] for sample in ordered]),
        np.array([sample.label for sample in bags]),
        [sample.group for sample in bags],
        [sample.source for sample in bags],
        [sample.kind for sample in bags],
    ), names


PUBLIC = {
    "autogpt_train": "agent_monitor_autogpt/train.json",
    "autogpt_test": "agent_monitor_autogpt/validation_part.json",
    "r_judge": "agent_trajectories/r_judge.json",
    "assebench": "agent_trajectories/assebench_security.json",
    "agentharm": "agent_trajectories/agentharm_extra.json",
    "asb_attacked": "agent_trajectories/asb/opi_naive_gpt-4o-mini.csv",
    "asb_clean": "agent_trajectories/asb/clean_gpt-4o-mini.csv",
}


def public_samples(folder: Path, name: str) -> list[Sample]:
    """The steps of one public set of the shared data folder, by its name in PUBLIC."""
    return samples_of(read_runs(folder / PUBLIC[name]), name)
