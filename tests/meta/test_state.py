"""Where a run stands: which of its meta-validations is the best."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from metanmt.meta.state import RunState


@pytest.mark.parametrize(
    ("values", "best_step"),
    [
        ((3.0, 5.0, 4.0), 20),
        ((0.0, 0.0, 0.0), 30),  # a short run that has learned nothing yet: its last weights, not its first
        ((2.0, 1.0, 2.0), 30),
        ((math.nan, -4.0, math.nan), 20),
        ((math.nan, math.nan), 20),
    ],
)
def test_the_best_validation_is_the_latest_of_equally_good_ones(values: tuple[float, ...], best_step: int) -> None:
    state = RunState()
    for number, value in enumerate(values, start=1):
        state = replace(state, step=10 * number).validated(value, "bleu", due=number, seconds=1.0)
    assert (state.best_step, state.validations) == (best_step, len(values))


def test_a_best_that_nothing_is_known_of_is_none_in_a_summary() -> None:
    state = replace(RunState(), best_step=3, best_value=-math.inf, best_metric="chrf")
    assert state.summary()["best_meta_dev_chrf"] is None
