"""The finding in words: what the numbers say, and against which baseline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metanmt.files import write_json
from metanmt.pages.finding import finding, signed
from metanmt.pages.reading import open_comparison
from tests.pages.conftest import ARMS


def test_the_finding_is_that_of_the_numbers(own_folder: Path) -> None:
    text = " ".join(finding(open_comparison(own_folder)))
    assert "Adapted on 2,000 target words, fomaml scores highest on the mean of 2 unseen pairs" in text
    assert "a significant difference" in text
    assert "ahead on 2 of 2 pairs, significantly on 2" in text
    found = json.loads((own_folder / "comparison.json").read_text(encoding="utf-8"))
    for row in found["rows"]:
        for lead in row["lead"].get("chrf", {}).values():
            lead.update(low=lead["value"] - 90, high=lead["value"] + 90)
    write_json(own_folder / "comparison.json", found)
    text = " ".join(finding(open_comparison(own_folder)))
    assert "not a significant difference" in text
    assert "significantly on 0" in text
    found["baseline"] = "fomaml"
    for row in found["rows"]:
        row["lead"] = {}
    write_json(own_folder / "comparison.json", found)
    assert "fomaml, the baseline, scores highest" in " ".join(finding(open_comparison(own_folder)))
    for row in found["rows"]:
        for score in row["scores"]["chrf"].values():
            score["mean"] = 50.0
    write_json(own_folder / "comparison.json", found)
    text = " ".join(finding(open_comparison(own_folder)))
    assert "Adapted on 2,000 target words, all arms are level on the mean of 2 unseen pairs: chrF++ 50.0." in text
    assert "highest" not in text


@pytest.mark.parametrize(
    ("draws", "said"),
    [(1, "what others would give is not in the intervals"), (2, "and the intervals are wide"), (3, "")],
)
def test_what_few_draws_leave_unknown(own_folder: Path, draws: int, said: str) -> None:
    comparison = open_comparison(own_folder)
    text = " ".join(finding(replace(comparison, found={**comparison.found, "draws": list(range(draws))})))
    assert said in text
    assert ("support draw" in text) == bool(said)


@pytest.mark.parametrize(
    ("value", "text"), [(0.04, "0.0"), (-0.04, "0.0"), (-0.06, "−0.1"), (10.0, "+10.0"), (0, "0.0")]
)
def test_a_difference_of_nothing_has_no_sign(value: float, text: str) -> None:
    assert signed(value) == text


def test_a_lead_is_named_after_the_baseline_that_is_adapted_alike(folder: Path) -> None:
    opened = open_comparison(folder)
    rows = [row for row in opened.found["rows"] if row["budget"] == 2_000 and row["arm"] in ("joint", "fomaml")]

    def adapters(row: dict[str, Any], points: float) -> dict[str, Any]:
        moved = {place: {**score, "mean": score["mean"] + points} for place, score in row["scores"]["chrf"].items()}
        return {**row, "update": "adapters", "scores": {**row["scores"], "chrf": moved}}

    joint, fomaml = rows
    first = {**opened.found, "rows": [joint, adapters(joint, -30), adapters(fomaml, 10)]}
    assert "above joint (adapters) (95% interval" in finding(replace(opened, found=first))[0]
    second = {**opened.found, "rows": [joint, adapters(joint, -30), adapters(fomaml, -20)]}
    (said, *_) = finding(replace(opened, found=second))
    assert "joint (all), the baseline, scores highest" in said
    assert "The next" not in said, "it is compared with another"


def test_arms_that_are_adapted_in_one_way_only(folder: Path) -> None:
    opened = open_comparison(folder)
    rows = [
        {**row, "update": "decoder"} if row["arm"] == "fomaml" and row["budget"] else row
        for row in opened.found["rows"]
    ]
    found = replace(opened, found={**opened.found, "rows": rows})
    assert [system.label for system in found.systems] == [
        "none (all)",
        "joint (all)",
        "fomaml (decoder)",
        "reptile (all)",
    ]
    assert [system.arm for system in found.systems_at(0)] == list(ARMS)
