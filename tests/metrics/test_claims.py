import io
import json

import pytest
from rich.console import Console

from diorama.errors import InputError
from diorama.metrics import Interval
from diorama.metrics.claims import Arm, Check, Claim, Published, print_claims

ABOVE = Interval(0.2, 0.1, 0.3, 50)
ACROSS = Interval(0.05, -0.1, 0.2, 50)


def claim(*checks):
    return Claim(
        system="video_llava",
        claim="joint training beats video alone",
        published=[Published("MSVD accuracy", 70.7, "table 2")],
        arms=[Arm("joint [both]", {"accuracy": Interval(0.9, 0.85, 0.95, 100)}, seeds=3), Arm("video", {})],
        checks=checks or [Check("joint is better", ABOVE)],
        mode="quick",
        seconds=12.3456,
    )


def test_the_json_object_has_exactly_the_fields_of_reproduce():
    content = json.loads(json.dumps(claim().to_json(), allow_nan=False))
    assert list(content) == [
        "system", "claim", "published", "arms", "checks", "holds", "mode", "seconds", "device", "versions",
    ]  # fmt: skip
    assert content["published"] == [{"what": "MSVD accuracy", "value": 70.7, "source": "table 2"}]
    wanted = {"mean": 0.9, "low": 0.85, "high": 0.95, "n": 100, "seeds": 3}
    assert content["arms"][0] == {"name": "joint [both]", "metrics": {"accuracy": wanted}}
    wanted = {"says": "joint is better", "holds": True, "difference": 0.2, "low": 0.1, "high": 0.3}
    assert content["checks"] == [wanted]
    assert {"python", "torch", "diorama"} <= set(content["versions"]) and content["device"].startswith("cpu")


def test_a_claim_holds_only_if_every_check_does():
    assert claim(Check("a", ABOVE)).holds and claim(Check("a", ABOVE)).exit_code == 0
    both = claim(Check("a", ABOVE), Check("b", ACROSS))
    assert not both.holds and both.exit_code == 1 and both.to_json()["holds"] is False


@pytest.mark.parametrize(
    ("interval", "bound", "relation", "holds"),
    [
        (ABOVE, 0.0, "above", True),
        (ABOVE, 0.1, "above", False),
        (ACROSS, 0.0, "above", False),
        (ACROSS, 0.0, "below", False),
        (ACROSS, 0.25, "below", True),
        (ACROSS, 0.2, "within", True),
        (ACROSS, 0.15, "within", False),
        (Interval(float("nan"), float("nan"), float("nan"), 0), 0.0, "above", False),
        (Interval(float("nan"), float("nan"), float("nan"), 0), 9.0, "within", False),
    ],
)
def test_a_check_is_decided_by_its_whole_interval(interval, bound, relation, holds):
    assert Check("x", interval, bound, relation).holds is holds


def test_whether_it_holds_cannot_be_passed():
    with pytest.raises(TypeError):
        Check("x", ACROSS, holds=True)
    with pytest.raises(AttributeError):
        claim(Check("x", ACROSS)).holds = True


def test_numbers_that_are_not_finite_become_null():
    nan = float("nan")
    content = claim(Check("x", Interval(nan, nan, nan, 0))).to_json()
    assert content["checks"][0]["difference"] is None and json.dumps(content, allow_nan=False)


def test_a_claim_without_checks_is_refused():
    with pytest.raises(InputError, match="no checks"):
        Claim(system="s", claim="c", published=[], arms=[], checks=[], mode="quick", seconds=1)


def test_a_pipe_gets_plain_text_with_the_verdict():
    stream = io.StringIO()
    print_claims([claim(Check("joint is better", ACROSS))], Console(file=stream, width=120))
    text = stream.getvalue()
    assert "does not hold" in text and "joint [both]" in text and "NO" in text and "\x1b" not in text
