"""JUICE's statistics on records whose answers are known."""

import json
from pathlib import Path

import pytest

from diorama.errors import InputError
from diorama.systems.emu_video.juice import (
    REASONS,
    Comparison,
    Vote,
    agreement_classes,
    fleiss_kappa,
    questionnaire,
    read_comparisons,
    reason_shares,
    summary,
    win_rate,
)


def record(prompt: str, for_ours: int, raters: int = 5, *, ours_left: bool = True) -> Comparison:
    """A record in which `for_ours` of the raters chose our clip."""
    ours, theirs = ("left", "right") if ours_left else ("right", "left")
    votes = tuple(Vote(str(r), ours if r < for_ours else theirs, ("pixel sharpness",)) for r in range(raters))
    names = ("ours", "theirs") if ours_left else ("theirs", "ours")
    return Comparison(prompt, "quality", *names, votes)


def records(*for_ours: int, raters: int = 5) -> list[Comparison]:
    return [record(f"prompt {n}", count, raters, ours_left=n % 2 == 0) for n, count in enumerate(for_ours)]


@pytest.mark.parametrize("for_ours, kappa", [((5, 0), 1.0), ((4, 1), 0.2), ((3, 2), -0.2)])
def test_fleiss_kappa_of_balanced_agreement(for_ours: tuple[int, int], kappa: float) -> None:
    """Five raters: complete agreement 1, four against one 0.2, three against two -0.2."""
    assert fleiss_kappa(records(*for_ours * 10)).mean == pytest.approx(kappa, abs=1e-12)


def test_fleiss_kappa_of_the_textbook_example() -> None:
    """Votes 5|0, 3|2, 1|4, 4|1 worked by hand: mean P = .65, share .65, so P_e = .545 and kappa = .105 / .455."""
    assert fleiss_kappa(records(5, 3, 1, 4)).mean == pytest.approx(0.105 / 0.455)


def test_win_rates_are_of_prompts_not_of_votes_and_sum_to_one() -> None:
    found = records(5, 3, 3, 0)
    assert win_rate(found, "ours").mean == 0.75
    assert win_rate(found, "ours").mean + win_rate(found, "theirs").mean == 1.0
    assert win_rate(found, "ours").low < 0.75 < win_rate(found, "ours").high


def test_draws_are_split() -> None:
    assert win_rate(records(2, 2, raters=4), "ours").mean == 0.5
    assert win_rate(records(2, 3, raters=4), "ours").mean == 0.75


def test_the_side_does_not_change_who_won() -> None:
    left, right = record("a", 4, ours_left=True), record("a", 4, ours_left=False)
    assert left.share_won("ours") == right.share_won("ours") == 1.0


def test_agreement_classes() -> None:
    classes = agreement_classes(records(5, 0, 4, 3, 2))
    assert list(classes) == ["5|0", "4|1", "3|2"]
    assert [share.mean for share in classes.values()] == pytest.approx([0.4, 0.2, 0.4])


def test_sides_are_drawn_and_balanced() -> None:
    items = questionnaire([f"p{n}" for n in range(40)], ("ours", "theirs"), seed=1)
    assert len(items) == 80
    for question in REASONS:
        lefts = [item["left"] for item in items if item["question"] == question]
        assert lefts.count("ours") == 20
    order = [item["left"] for item in items]
    assert order[:40] != order[40:] and order != [i["left"] for i in questionnaire(["p"] * 40, ("ours", "theirs"))]


def write(path: Path, *values: dict) -> Path:
    path.write_text("\n".join(json.dumps(value) for value in values) + "\n", encoding="utf-8")
    return path


def plain(**changes) -> dict:
    return {"prompt": "a fox", "question": "quality", "left": "ours", "right": "theirs",
            "votes": [{"rater": "1", "choice": "left", "reasons": ["motion smoothness"]}], **changes}


def test_records_are_read_and_summed_up(tmp_path: Path) -> None:
    both = [plain(prompt=f"p{n}", question=q, votes=[
        {"rater": str(r), "choice": "left" if r < 3 + n % 2 else "right", "reasons": [REASONS[q][r % 2]]}
        for r in range(5)]) for q in REASONS for n in range(6)]
    found = summary(read_comparisons(write(tmp_path / "votes.jsonl", *both)))
    assert found["quality"]["win rate"]["ours"]["mean"] == 1.0
    assert set(found["faithfulness"]["agreement"]) == {"4|1", "3|2"}
    assert sum(found["quality"]["reasons"]["ours"].values()) == pytest.approx(1.0)
    assert reason_shares(records(5), "ours") == {"pixel sharpness": 1.0}


def test_a_kappa_that_is_not_defined_is_said_and_not_made_up() -> None:
    with pytest.raises(InputError, match="0/0"):
        fleiss_kappa(records(5, 5, raters=5)[:1])
    with pytest.raises(InputError, match="same number of raters"):
        fleiss_kappa([record("a", 2, 5), record("b", 2, 4)])
    assert "0/0" in summary(records(5))["quality"]["fleiss kappa"]


@pytest.mark.parametrize("changes, message", [
    ({"votes": [{"rater": "1", "choice": "left", "reasons": []}]}, "ticked no reason"),
    ({"votes": [{"rater": "1", "choice": "left", "reasons": ["vibes"]}]}, "'vibes'"),
    ({"votes": [{"rater": "1", "choice": "ours", "reasons": ["motion smoothness"]}]}, "chose 'ours'"),
    ({"votes": []}, "at least one vote"), ({"question": "beauty"}, "beauty"), ({"right": "ours"}, "two models"),
    ({"votes": 3}, "no record"),
])
def test_records_that_are_none_are_named_by_line(tmp_path: Path, changes: dict, message: str) -> None:
    path = write(tmp_path / "votes.jsonl", plain(), plain(**changes))
    with pytest.raises(InputError, match=message) as found:
        read_comparisons(path)
    assert "votes.jsonl, line 2" in str(found.value)


def test_the_naive_protocol_has_no_reasons_and_one_pair_is_compared_at_a_time(tmp_path: Path) -> None:
    bare = plain(votes=[{"rater": "1", "choice": "left"}])
    assert read_comparisons(write(tmp_path / "a.jsonl", bare), reasons_required=False)
    with pytest.raises(InputError, match="one pair at a time"):
        read_comparisons(write(tmp_path / "b.jsonl", plain(), plain(right="other")))
    with pytest.raises(InputError, match="no comparisons"):
        read_comparisons(write(tmp_path / "c.jsonl"))
    with pytest.raises(InputError, match="none of the compared"):
        win_rate(records(5), "mine")
