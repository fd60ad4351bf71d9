"""Limits: a setting that would change nothing is refused, and what the remedy says makes it count."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import pytest

from metanmt.config import Config
from metanmt.config_file import load_config
from metanmt.errors import ConfigError
from metanmt.limits import COUNT, NOT_NEGATIVE, PIECES, POSITIVE, PROBABILITY, SHARE, USES, Range, check_used

IDLE: dict[str, tuple[list[str], list[str] | None]] = {
    "adapter.": (["adapter.rank=4"], ["model.update=adapters", "model.checkpoint=run"]),
    "model.size": (["model.checkpoint=run", "model.size=base"], ["model.checkpoint="]),
    "model.universal_entries": (["model.universal_entries=500"], ["model.lexicon=universal"]),
    "model.lexicon_temperature": (["model.lexicon_temperature=0.1"], ["model.lexicon=universal"]),
    "model.ngram_characters": (["model.ngram_characters=3"], ["model.lexicon=ngrams"]),
    "inner.": (["inner.steps=4"], ["outer.learner=fomaml"]),
    "inner.first_order_share": (
        ["outer.learner=fomaml", "inner.first_order_share=0.2"],
        ["outer.learner=anil"],
    ),
    "inner.multi_step_share": (["outer.learner=maml", "inner.multi_step_share=0.2"], ["outer.learner=maml++"]),
    "inner.hidden": (["inner.hidden=4"], ["outer.learner=lstm"]),
    "outer.temperature": (["outer.temperature=2"], ["outer.task_sampling=temperature"]),
    "outer.first_share": (["outer.first_share=0.3"], ['outer.first_pairs=["es-en"]']),
    "outer.parent_share": (["outer.parent_share=0.3"], ["outer.learner=transfer"]),
    "fine_tune.synthetic": (["fine_tune.synthetic=2"], None),
}


def test_every_rule_is_tried() -> None:
    assert [rule[0] for rule in USES] == list(IDLE)


@pytest.mark.parametrize("beginning", IDLE)
def test_a_setting_that_would_change_nothing(beginning: str) -> None:
    given, mended = IDLE[beginning]
    with pytest.raises(ConfigError, match=rf"^--set {beginning}") as error:
        check_used(load_config(Path("tiny"), given), given, back_translation=False)
    assert "leave it out" in error.value.remedy.lower()
    if mended is not None:
        check_used(load_config(Path("tiny"), [*given, *mended]), [*given, *mended])


@pytest.mark.parametrize("learner", ["joint", "aligned", "transfer"])
def test_what_has_no_inner_loop_takes_no_settings_of_one(learner: str) -> None:
    given = [f"outer.learner={learner}", "inner.learning_rate=0.1"]
    with pytest.raises(ConfigError, match="is for a learner with an inner loop"):
        check_used(load_config(Path("tiny"), given), given)


def test_the_head_moves_by_some_strategy() -> None:
    config = load_config(Path("tiny"), ['model.head=["shared"]'])
    with pytest.raises(ConfigError, match="nothing has that here"):
        check_used(config, [])
    check_used(config, [], updates=["head"])
    check_used(load_config(Path("tiny"), ['model.head=["shared"]', "inner.update=head"]), [])


def test_what_a_comparison_translates_back_has_its_setting() -> None:
    given = ["fine_tune.synthetic=2"]
    check_used(load_config(Path("tiny"), given), given, back_translation=True)


def test_every_number_has_a_range_that_its_default_is_in() -> None:
    for section in fields(Config):
        values = getattr(Config(), section.name)
        for item in fields(values):
            value, within = getattr(values, item.name), item.metadata["within"]
            number = isinstance(value, int | float) and not isinstance(value, bool)
            assert (within is not None) == number, f"{section.name}.{item.name}"
            assert not number or (value in within and math.nan not in within), f"{section.name}.{item.name}"


@pytest.mark.parametrize(
    ("within", "inside", "outside"),
    [
        (COUNT, (1, 7), (0, -1)),
        (NOT_NEGATIVE, (0, 0.5), (-0.1,)),
        (PIECES, (-1, 0, 7), (-2,)),
        (POSITIVE, (1e-9, 7), (0, -1)),
        (SHARE, (0, 1), (-0.1, 1.1)),
        (PROBABILITY, (0, 0.999), (1, -0.1)),
        (Range("be a half", "Give one.", low=0.5, high=0.5, special=-1), (0.5, -1), (0.6, 1)),
    ],
)
def test_ranges(within: Range, inside: tuple[float, ...], outside: tuple[float, ...]) -> None:
    assert [value in within for value in (*inside, *outside)] == [True] * len(inside) + [False] * len(outside)
