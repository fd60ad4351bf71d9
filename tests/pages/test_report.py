"""The page of a comparison: complete, self-contained, escaped, with comparison.json's numbers; mistakes in a line."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from metanmt.cli import main
from metanmt.comparison.tables import digests_of
from metanmt.files import write_json
from metanmt.pages.page import SENTENCES
from metanmt.pages.translations import direction, evenly_spaced, marked
from tests.pages.conftest import ARMS, ATTACK, BUDGETS, PAIRS

VOID = {"meta", "br", "hr", "img", "input", "link", "path", "wbr"}


class Parsed(HTMLParser):
    """Collects tags with their attributes and the text inside, and checks that they nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append((self.open[-1] if self.open else "", data))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def inside(self, tag: str) -> list[str]:
        return [text for name, text in self.text if name == tag]


@pytest.fixture(scope="module")
def parsed(page: str) -> Parsed:
    return Parsed(page)


def test_the_page_is_whole_html(parsed: Parsed) -> None:
    assert parsed.open == []
    names = [tag for tag, _ in parsed.tags]
    for tag in ("html", "head", "header", "main", "h1", "nav", "footer", "style"):
        assert names.count(tag) == 1, tag
    assert names.count("script") == 1
    assert names[names.index("head") :].index("title") < names[names.index("head") :].index("style")
    assert parsed.named("html")[0]["lang"] == "en"
    identifiers = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    links = [attributes["href"] or "" for attributes in parsed.named("a")]
    assert links
    assert all(link[1:] in identifiers for link in links)


def test_nothing_is_loaded_from_anywhere(page: str, parsed: Parsed) -> None:
    for tag, attributes in parsed.tags:
        assert not {"src", "srcset", "data", "xlink:href", "onclick", "onerror"} & attributes.keys(), tag
        assert (attributes.get("href") or "#").startswith("#")
    assert not parsed.named("link")
    assert not re.search(r"url\(|@import|https?://", page)
    policy = next(item for item in parsed.named("meta") if item.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in (policy["content"] or "")


def test_every_arm_pair_and_budget_is_there(page: str, parsed: Parsed) -> None:
    headers = " ".join(parsed.inside("th"))
    captions = " ".join(parsed.inside("caption"))
    for name in (*ARMS, *PAIRS):
        assert name in headers
    assert "zero-shot" in captions
    for budget in BUDGETS[1:]:
        assert f"adapted on {budget:,} target words" in captions
    for part in ("nrefs:1|nc:6|nw:2|version:2.6.0", "metanmt compare my.toml --out comparison", "abc123"):
        assert part in page
    for part in ("20 identical sides, 3 too long", "1,020,000", "12,345", "1h02m", "runs/fomaml/config.toml"):
        assert part in page
    assert "built-in method" not in page


def test_the_numbers_are_those_of_comparison_json(folder: Path, parsed: Parsed) -> None:
    shown = {float(item["value"] or "nan") for item in parsed.named("data")}
    found = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    for row in found["rows"]:
        for metric in ("bleu", "chrf"):
            assert {score["mean"] for score in row["scores"][metric].values()} <= shown
            assert {lead["value"] for lead in row["lead"].get(metric, {}).values()} <= shown
    assert {float(row["target_tokens"]) for row in found["training"]} <= shown


def test_text_of_others_is_escaped_and_named(page: str, parsed: Parsed) -> None:
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "Four initialisations &lt;at equal cost&gt;" in page
    assert ATTACK in parsed.inside("dd")
    assert {attributes.get("lang") for attributes in parsed.named("dd")} == {"fi", "he", "en"}
    directions = {(attributes.get("lang"), attributes.get("dir")) for attributes in parsed.named("dd")}
    assert directions == {("fi", "ltr"), ("he", "rtl"), ("en", "ltr")}
    sentences = [attributes for attributes in parsed.named("li") if "data-number" in attributes]
    assert len(sentences) == SENTENCES * len(PAIRS)
    assert "nothing" in parsed.inside("span")


def test_charts_have_titles_units_and_labels(page: str) -> None:
    charts = re.findall(r'<svg class="chart".*?</svg>', page, flags=re.S)
    assert len(charts) == 2 * 3 + 6 + 2
    for chart in charts:
        titles = re.findall(r'class="axis-title"[^>]*>([^<]+)<', chart)
        assert len(titles) == 2
        assert re.search("target (words|tokens)|layer", titles[0])
        assert re.search("points|nats|%|1: the same", titles[1])
        assert "viewBox" in chart
        assert "fomaml" in re.findall(r'class="label[^>]*>([^<]+)<', chart) or "joint" in chart


def test_marked_words_are_those_that_differ() -> None:
    runs = marked("the Cat sat, on mat .", "the cat sat on a mat.")
    assert runs == [("the", False), ("Cat", True), ("sat, on mat", False), (".", True)]
    assert marked("", "anything") == []
    assert marked("今天是星期三", "今天是星期四", "") == [("今天是星期", False), ("三", True)]
    assert evenly_spaced(10, 5) == [0, 2, 4, 6, 8]
    assert evenly_spaced(3, 60) == [0, 1, 2]


@pytest.mark.parametrize(
    ("language", "written"),
    [("he", "rtl"), ("fa-IR", "rtl"), ("urd_Arab", "rtl"), ("az-Arab", "rtl"), ("ku-Latn", "ltr"), ("fi", "ltr")],
)
def test_the_direction_is_that_of_the_language(language: str, written: str) -> None:
    assert direction(language) == written


@pytest.mark.parametrize(
    ("change", "there", "not_there"),
    [
        ({"confidence": 0.995}, "the 99.5% interval, paired over sentences and draws and", "100%"),
        ({"draws": [1]}, "paired over sentences and corrected", "sentences and draws"),
        ({"back_translation": True}, "<code>train</code> and on text translated back:", "nothing was usable"),
    ],
)
def test_the_words_about_intervals_and_text(
    own_folder: Path, change: dict[str, Any], there: str, not_there: str
) -> None:
    found = json.loads((own_folder / "comparison.json").read_text(encoding="utf-8"))
    write_json(own_folder / "comparison.json", {**found, **change})
    out = own_folder.parent / "report.html"
    assert main(["report", str(own_folder), "--out", str(out), "--sentences", "2"]) == 0
    section = out.read_text(encoding="utf-8").split('id="c1-scores">')[1].split("</section>")[0]
    assert there in section
    assert not_there not in section


def test_where_nothing_is_compared_no_interval_is_explained(own_folder: Path) -> None:
    found = json.loads((own_folder / "comparison.json").read_text(encoding="utf-8"))
    found["layers"] = []
    for scored in (found, *found["other_test_sets"]):
        scored["rows"] = [{**row, "lead": {}} for row in scored["rows"] if row["arm"] == "joint"]
    write_json(own_folder / "comparison.json", found)
    out = own_folder.parent / "report.html"
    assert main(["report", str(own_folder), "--out", str(out), "--sentences", "2"]) == 0
    assert "corrected for" not in out.read_text(encoding="utf-8")


def test_another_budget_and_fewer_sentences(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "zero.html"
    assert main(["report", str(folder), "--out", str(out), "--budget", "0", "--sentences", "5"]) == 0
    page = Parsed(out.read_text(encoding="utf-8"))
    assert len([item for item in page.named("li") if "data-number" in item]) == 5 * len(PAIRS)
    assert "data-s2" in next(item for item in page.named("li") if "data-number" in item)
    assert "data-s3" not in next(item for item in page.named("li") if "data-number" in item)


def test_several_comparisons_on_one_page(folder: Path, own_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "both.html"
    assert main(["report", str(folder), str(own_folder), "--out", str(out)]) == 0
    page = Parsed(out.read_text(encoding="utf-8"))
    assert len(page.named("article")) == 2
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_two_updates_are_two_lines_and_share_zero_shot(own_folder: Path) -> None:
    found = json.loads((own_folder / "comparison.json").read_text(encoding="utf-8"))
    found["rows"] += [{**row, "update": "embeddings"} for row in found["rows"] if row["budget"]]
    write_json(own_folder / "comparison.json", found)
    for path in list(own_folder.glob("results/*/*/*-all-*")):
        copy = path.with_name(path.name.replace("all", "embeddings"))
        shutil.copytree(path, copy)
        result = json.loads((copy / "result.json").read_text(encoding="utf-8"))
        result["cell"]["update"] = "embeddings"
        write_json(copy / "result.json", result)
    out = own_folder.parent / "report.html"
    assert main(["report", str(own_folder), "--out", str(out), "--sentences", "2"]) == 0
    page = out.read_text(encoding="utf-8")
    assert "chrF++ on test, adapted on 500 target words, embeddings moving" in page
    assert "<title>fomaml (embeddings), zero-shot: 22.7</title>" in page
    assert "Adapted on 2,000 target words, fomaml (all) scores highest" in page


def test_without_its_data_the_page_says_so(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(own_folder.parent / "data")
    out = own_folder.parent / "report.html"
    assert main(["report", str(own_folder), "--out", str(out)]) == 0
    assert "data folder is not here" in capsys.readouterr().err
    text = out.read_text(encoding="utf-8")
    assert "neither translations nor a data report" in text
    assert 'class="sentences"' not in text


def test_translations_are_not_set_beside_other_sentences(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, data, out = own_folder / "comparison.json", own_folder.parent / "data", own_folder.parent / "report.html"
    scored = {pair: list(digests_of(data, pair, "test")) for pair in PAIRS}
    write_json(found, {**json.loads(found.read_text(encoding="utf-8")), "digests": scored})
    assert main(["report", str(own_folder), "--out", str(out)]) == 0
    assert "other test sentences" not in capsys.readouterr().err
    path = data / "text" / "fi-en" / "test.en"
    path.write_text("".join(sorted(path.read_text(encoding="utf-8").splitlines(keepends=True))), encoding="utf-8")
    assert main(["report", str(own_folder), "--out", str(out)]) == 0
    assert "or has other test sentences than were scored" in capsys.readouterr().err
    assert 'class="sentences"' not in out.read_text(encoding="utf-8")


def spoil(folder: Path, how: str) -> list[str]:
    """Spoil a folder in one way and return further arguments."""
    if how == "no comparison":
        shutil.rmtree(folder)
    elif how == "unfinished":
        (folder / "comparison.json").unlink()
    elif how == "a result is missing":
        (folder / "results" / "fomaml" / "he-en" / "500-all-2" / "test.hypotheses.txt").unlink()
    elif how == "damaged":
        (folder / "comparison.json").write_text("{", encoding="utf-8")
    elif how == "of something else":
        (folder / "comparison.json").write_text("[]", encoding="utf-8")
    elif how == "other data":
        (folder.parent / "data" / "text" / "fi-en" / "test.en").write_text("one\n", encoding="utf-8")
    elif how == "a log is damaged":
        (folder / "runs" / "joint" / "metrics.jsonl").write_text('{"step": 1}\n{"st', encoding="utf-8")
    return {"no such budget": ["--budget", "7"], "no sentences": ["--sentences", "0"]}.get(how, [])


MISTAKES = {
    "no comparison": ("not a comparison's folder", "metanmt compare --out"),
    "unfinished": ("no comparison.json", "only what is missing"),
    "a result is missing": ("1 of 54 results are missing", "only what is missing"),
    "damaged": ("damaged", "again"),
    "of something else": ("not a comparison's", "metanmt compare --out"),
    "other data": ("70 translations of 1 sentences", "prepare it again"),
    "a log is damaged": ("metrics.jsonl is damaged", "Copy the run again"),
    "no such budget": ("no budget of 7 words", "0, 500, 2000"),
    "no sentences": ("0 sentences", "at least 1"),
}


@pytest.mark.parametrize("how", MISTAKES)
def test_mistakes_exit_with_2_and_one_line_each(how: str, own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = spoil(own_folder, how)
    out = own_folder.parent / "report.html"
    assert main(["report", str(own_folder), "--out", str(out), *more]) == 2
    lines = capsys.readouterr().err.rstrip("\n").split("\n")
    cause, remedy = MISTAKES[how]
    assert len(lines) == 2
    assert cause in lines[0]
    assert remedy in lines[1]
    assert not out.exists()
