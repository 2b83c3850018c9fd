import subprocess
import sys
from dataclasses import replace

import pytest

from diorama.errors import InputError
from diorama.training.config import RunConfig, learning_rate_factor


def test_the_settings_import_without_torch():
    code = "import sys; from diorama.training import RunConfig; RunConfig(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("learning_rate", -1), ("learning_rate", float("nan")), ("betas", (0.9, 1.0)), ("schedule", "step"),
     ("clip", 0), ("accumulation", 0), ("precision", "fp16"), ("ema", 1.0), ("keep", 0), ("warmup", -1)],
)  # fmt: skip
def test_settings_that_cannot_work_are_named(field, value):
    with pytest.raises(InputError, match=field):
        RunConfig(**{field: value})


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_warmup_rises_from_above_zero_to_one(schedule):
    config = RunConfig(steps=100, warmup=10, schedule=schedule)
    factors = [learning_rate_factor(config, step) for step in range(11)]
    assert factors[0] > 0 and factors == sorted(factors) and factors[10] == 1.0


def test_schedules_end_where_they_should():
    cosine = RunConfig(steps=100, warmup=0, schedule="cosine", final_rate=0.1)
    assert learning_rate_factor(cosine, 0) == 1.0
    assert learning_rate_factor(cosine, 50) == pytest.approx(0.55)
    assert learning_rate_factor(cosine, 100) == pytest.approx(0.1)
    assert learning_rate_factor(cosine, 99) > 0.1
    linear = replace(cosine, schedule="linear", final_rate=0.0)
    assert learning_rate_factor(linear, 25) == pytest.approx(0.75)
    assert learning_rate_factor(replace(cosine, schedule="constant"), 100) == 1.0


def test_warmup_is_a_share_below_one_and_steps_from_one_on():
    assert RunConfig(steps=200, warmup=0.05).warmup_steps == 10
    assert RunConfig(steps=200, warmup=7).warmup_steps == 7
