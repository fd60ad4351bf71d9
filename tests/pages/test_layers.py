"""What the page says of the layers: the figures of comparison.json, told without colour, no more than they say."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metanmt.cli import main
from metanmt.files import write_json
from metanmt.pages.layers import what_moves
from metanmt.pages.reading import Comparison, open_comparison


@pytest.fixture
def comparison(folder: Path) -> Comparison:
    opened = open_comparison(folder)
    return replace(opened, found=copy.deepcopy(opened.found))


def moves(comparison: Comparison) -> dict[str, Any]:
    found = what_moves(comparison, "c1")
    assert found
    return found


def test_each_arm_is_told_by_its_own_figures(comparison: Comparison) -> None:
    said = {name: text for name, _, text in moves(comparison)["findings"]}
    assert said["joint"].startswith("all 3 layers of its body keep a CKA of 0.9 or more, as feature reuse has it")
    assert said["fomaml"].startswith("3 of the 3 layers of its body fall below a CKA of 0.9, as rapid learning has it")
    assert "(lowest CKA 0.70, encoder 1)" in said["fomaml"]
    assert "neither clearly" in said["reptile"]
    assert "most moved: embeddings, by 4.0% of the norm" in said["fomaml"]
    assert moves(comparison)["counts"] == "joint 6 of 6, fomaml 6 of 6, reptile 5 of 6"
    assert (
        moves(comparison)["against"]
        == "Layers whose mean movement is below that of joint, untested: fomaml in 7 of 7, reptile in 0 of 7."
    )


def test_a_wide_spread_decides_nothing_and_the_last_layer_is_no_body(comparison: Comparison) -> None:
    joint = comparison.found["layers"][0]
    joint["layers"][-2]["cka"]["mean"] = 0.2  # decoder 2, the last
    assert moves(comparison)["findings"][0][2].startswith("all 3 layers")
    joint["layers"][2]["cka"]["sd"] = 0.2
    assert "neither clearly" in moves(comparison)["findings"][0][2]


def test_layers_that_read_other_tokens_are_not_spoken_for(comparison: Comparison) -> None:
    joint = comparison.found["layers"][0]
    for item in joint["layers"]:
        item["cka"] = item["cka"] if item["layer"] == "decoder 1" else None
    (_, _, text), *_ = moves(comparison)["findings"]
    assert text.startswith("of the 3 layers of its body 1 read the same tokens before and after (lowest CKA 0.97")
    for item in joint["layers"]:
        item["cka"] = None
    (_, _, text), *_ = moves(comparison)["findings"]
    assert text.startswith("no layer of its body read the same tokens before and after, so that there is no CKA; most")


def test_the_charts_part_encoder_and_decoder(comparison: Comparison) -> None:
    (_, movement), (_, similarity) = moves(comparison)["charts"]
    lines = re.findall(r'class="line c\d" d="([^"]*)"', movement)
    assert [line.count("M") for line in lines] == [3, 3, 3]  # embeddings, encoder, decoder
    assert [line.count("M") for line in re.findall(r'class="line c\d" d="([^"]*)"', similarity)] == [2, 2, 2]
    ticks = re.findall(r'text-anchor="middle">([^<]+)<', movement)
    assert ticks[:7] == ["emb", "E1", "E2", "En", "D1", "D2", "Dn"]
    assert "<title>fomaml, encoder 1: 3.2 ± 0.2</title>" in movement
    assert "<title>fomaml, encoder 1: 0.704 ± 0.020</title>" in similarity


def test_the_page_shows_tables_and_the_convention(page: str) -> None:
    section = page[page.index('id="c1-moves"') : page.index('id="c1-translations"')]
    assert "<td>4.2 ± 0.2</td><td>3.2 ± 0.2</td><td>4.2 ± 0.2</td>" in section
    assert "this page&#39;s convention, not a test" in section or "this page's convention, not a test" in section
    assert "The test sets of fi-en and he-en translate the same sentences" in page
    assert '<a href="#c1-moves">' in page


@pytest.mark.parametrize("layers", [None, []])
def test_a_comparison_without_it_has_no_such_section(own_folder: Path, layers: Any) -> None:
    page = page_with(own_folder, layers)
    assert "What moves" not in page
    assert "resampled together" not in page


def test_where_nothing_moved_the_page_says_so(own_folder: Path) -> None:
    rows = open_comparison(own_folder).found["layers"]
    page = page_with(own_folder, [{**row, "adaptations": 0, "unmoved": 6, "layers": []} for row in rows])
    assert "no adaptation had an update that was better than its start" in page
    assert "fomaml 0 of 6" in page
    assert "How far the weights moved" not in page


def page_with(folder: Path, layers: Any) -> str:
    """Return the page of a comparison with these rows for layers; with None, of one made before there were any."""
    found = open_comparison(folder).found
    found.pop("layers")
    found["shared_sentences"] = []
    if layers is not None:
        found["layers"] = layers
    write_json(folder / "comparison.json", found)
    out = folder.parent / "report.html"
    assert main(["report", str(folder), "--out", str(out), "--sentences", "2"]) == 0
    return out.read_text(encoding="utf-8")
