"""Budget curves: the numbers of the comparison, prices by hand, charts that stand alone."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from metanmt.errors import UsageError
from metanmt.pages import curve


def test_points_are_those_of_the_comparison(folder: Path) -> None:
    found = curve.run(folder)
    rows = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["rows"]
    points = {(c["arm"], p["budget"]): p for c in found["curves"] for p in c["points"]}
    assert points.keys() == {(row["arm"], row["budget"]) for row in rows}
    for row in rows:
        point = points[row["arm"], row["budget"]]
        assert point["chrf"]["mean"] == row["scores"]["chrf"]["mean"]["mean"]
        assert point["sentences"] == row["adaptation"]["sentences"]


def test_the_price_of_a_point_by_hand(own_folder: Path) -> None:
    path = own_folder / "comparison.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    arm = next(row["arm"] for row in found["rows"] if row["budget"] == 0)
    for row, bleu, sentences in zip(
        (row for row in found["rows"] if row["arm"] == arm), (10.0, 14.0, 13.0), (0, 100, 400), strict=True
    ):
        row["scores"]["bleu"]["mean"]["mean"], row["adaptation"]["sentences"] = bleu, sentences
    path.write_text(json.dumps(found), encoding="utf-8")
    curves = curve.run(own_folder)
    points = next(item for item in curves["curves"] if item["arm"] == arm)["points"]
    assert [point.get("pairs_a_point") for point in points] == [None, 25.0, None]  # 100 pairs for 4 points, then a loss
    text = curve.format_curves(curves)
    assert "25 |" in text
    assert curves["signatures"]["bleu"] in text


def test_charts_stand_alone(folder: Path, tmp_path: Path) -> None:
    curve.run(folder, tmp_path / "charts")
    files = sorted((tmp_path / "charts").glob("*.svg"))
    assert len(files) == 2 * (1 + len(curve.run(folder)["pairs"]))
    for file in files:
        drawing = ET.parse(file).getroot()
        assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
        text = "".join(drawing.itertext())
        assert "target words adapted on" in text
        assert "points, 0 to 100" in text
        assert "var(" not in text, "a viewer may know no variables"
        assert {"width", "height"} <= drawing.attrib.keys()


def test_one_budget_is_no_curve(own_folder: Path) -> None:
    path = own_folder / "comparison.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    found["rows"] = [row for row in found["rows"] if row["budget"] == 0]
    path.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(UsageError, match="one budget only"):
        curve.run(own_folder)
