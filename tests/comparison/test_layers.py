"""What adaptations moved: averaged over those that did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metanmt.comparison.checks import checked_plan
from metanmt.comparison.layers import collect_layers, format_layers
from metanmt.comparison.plan import load_compare
from metanmt.data.store import TokenStore

LAYERS = [
    {"layer": "decoder norm", "movement": 0.1, "cka": None},
    {"layer": "encoder 1", "movement": 0.5, "cka": None},
    {"layer": "encoder input", "movement": None, "cka": 0.9},
    {"layer": "embeddings", "movement": 0.2, "cka": None},
]


def test_an_adaptation_that_kept_the_initialisation_is_counted_and_not_averaged(file: Path, data: Path) -> None:
    plan = checked_plan(load_compare(file), TokenStore.open(data))
    cells = [cell for cell in plan.cells if cell.arm == "joint" and cell.budget]

    def result(update: int, movement: float) -> dict[str, Any]:
        layers = [{"layer": "encoder 1", "movement": movement, "cka": 1 - movement}]
        return {"adaptation": {"best": {"update": update}}, "analysis": {"layers": layers}}

    results = dict(zip(cells, (result(0, 0.0), result(3, 0.5)), strict=True))
    (row,) = collect_layers(plan, results)
    assert (row["adaptations"], row["unmoved"]) == (1, 1)
    assert row["layers"] == [
        {"layer": "encoder 1", "movement": {"mean": 0.5, "sd": None}, "cka": {"mean": 0.5, "sd": None}}
    ]
    assert "joint 1 of 2" in format_layers([row])
    assert collect_layers(plan, {cells[0]: {"adaptation": {}, "scores": {}}}) == []  # made before there was analysis
    (row,) = collect_layers(plan, dict(zip(cells, (result(0, 0.0), result(0, 0.0)), strict=True)))
    assert format_layers([row]) == "No adaptation on 100 target words had an update that was better than its start."
    other = {"adaptation": {"best": {"update": 3}}, "analysis": {"layers": LAYERS}}
    (row,) = collect_layers(plan, dict(zip(cells, (result(3, 0.5), other), strict=True)))
    assert [item["layer"] for item in row["layers"]] == ["embeddings", "encoder input", "encoder 1", "decoder norm"]
    assert row["layers"][2]["cka"] == {"mean": 0.5, "sd": None, "n": 1}
    assert "| 0.500 (of 1) |" in format_layers([row])
    assert row["cka"] is None
    new = result(3, 0.25)
    new["analysis"]["cka"] = "unbiased"
    (row,) = collect_layers(plan, dict(zip(cells, (result(3, 0.5), new), strict=True)))
    assert (row["cka"], row["layers"][0]["cka"]) == ("unbiased", {"mean": 0.75, "sd": None, "n": 1}), "not both kinds"
    assert row["layers"][0]["movement"]["mean"] == 0.375
