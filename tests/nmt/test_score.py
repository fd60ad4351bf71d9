"""Scores: goldens with their signatures, and the same figures as the sacreBLEU command to the last digit."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from metanmt.data.sources import read_lines
from metanmt.files import write_text
from metanmt.nmt.score import bleu_tokenizer, counts, score, scorer

HYPOTHESES = [
    "The cat sat on the mat.",
    'He said: "It is 3.5 kilometres, isn\'t it?"',
    "",
    "今天是星期三。",
    "One half\u2028another half",
    "Tabs\tand  many   spaces ",
    "Kahden viikon kuluttua",
]
REFERENCES = [
    "The cat sat upon the mat.",
    'He said: "It is 3.6 kilometres, is it not?"',
    "Nothing was said.",
    "今天是星期四。",
    "One half\u2028the other half",
    "Tabs\tand many spaces",
    "Kahden viikon kuluttua",
]
V = version("sacrebleu")


def test_golden_scores() -> None:
    found = score(HYPOTHESES, REFERENCES)
    assert {name: (item["name"], item["score"], item["signature"]) for name, item in found.items()} == {
        "bleu": ("BLEU", pytest.approx(40.877368517), f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{V}"),
        "chrf": ("chrF2++", pytest.approx(69.936807221), f"nrefs:1|case:mixed|eff:yes|nc:6|nw:2|space:no|version:{V}"),
        "ter": (
            "TER",
            pytest.approx(35.483870968),
            f"nrefs:1|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:{V}",
        ),
    }
    assert all(item["mean"] is None and item["interval"] is None for item in found.values())


def test_the_sacrebleu_command_gives_the_same_figures(tmp_path: Path) -> None:
    """The files are written as `evaluate` writes them and read back as it reads them."""
    files = {"hyp": HYPOTHESES, "ref": REFERENCES}
    for name, lines in files.items():
        write_text(tmp_path / name, "".join(f"{line}\n" for line in lines))
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-m", "bleu", "chrf", "ter",
               "--chrf-word-order", "2", "-w", "14", "-f", "json"]  # fmt: skip
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    theirs = json.loads(result.stdout)
    ours = score(*(list(read_lines(tmp_path / name)) for name in files))
    for item, own in zip(theirs, (ours["bleu"], ours["chrf"], ours["ter"]), strict=True):
        assert item["name"] == own["name"]
        assert item["score"] == round(own["score"], 14)
        assert item["signature"] == own["signature"]
        assert str(item["score"])[:6] == str(own["score"])[:6]


def test_files_keep_the_lines_that_sacrebleu_sees(tmp_path: Path) -> None:
    """Both end a line at a newline only: U+2028, U+0085 and form feeds stay inside."""
    lines = ["a\u2028b", "c\x85d", "e\x0cf", "", "g\x1ch"]
    write_text(tmp_path / "hyp", "".join(f"{line}\n" for line in lines))
    from sacrebleu.utils import smart_open

    with smart_open(str(tmp_path / "hyp")) as opened:
        assert [line.rstrip("\n") for line in opened] == list(read_lines(tmp_path / "hyp")) == lines


def test_the_bootstrap_gives_an_interval_and_is_reproducible() -> None:
    hypotheses, references = HYPOTHESES * 5, REFERENCES * 5
    first, second = (score(hypotheses, references, bootstrap=50) for _ in range(2))
    assert first == second
    for name, item in first.items():
        assert item["interval"] > 0
        assert abs(item["mean"] - item["score"]) < 3 * item["interval"], name
        assert "|bs:50|seed:12345|" in item["signature"]
        assert item["score"] == score(hypotheses, references)[name]["score"], "the score itself is no estimate"


def test_a_system_against_itself() -> None:
    found = score(REFERENCES, REFERENCES, bootstrap=20)
    assert {name: round(item["score"], 9) for name, item in found.items()} == {"bleu": 100, "chrf": 100, "ter": 0}
    assert found["bleu"]["interval"] == pytest.approx(0.0, abs=1e-9)


def test_nothing_in_common() -> None:
    found = score(["a b c d e"], ["v w x y z"])
    assert found["bleu"]["score"] < 10
    assert found["chrf"]["score"] == 0
    assert found["ter"]["score"] == 100


@pytest.mark.parametrize(
    ("target", "tokenizer"),
    [("zh", "zh"), ("zho_Hans", "zh"), *((code, "char") for code in ("ja", "th", "km", "lo", "my")), ("ko", "13a")],
)
def test_bleu_into_a_language_without_spaces_counts_characters(target: str, tokenizer: str) -> None:
    hypothesis, reference = ["今天是星期三的早上我们去"], ["今天是星期四的早上我们去"]
    found = score(hypothesis, reference, target=target)["bleu"]
    assert bleu_tokenizer(target) == tokenizer
    assert f"|tok:{tokenizer}|" in found["signature"]
    assert (found["score"] > 50) == (tokenizer != "13a"), "two sentences of one word each, or of twelve characters"
    assert scorer("bleu")(counts("bleu", hypothesis, reference, target).sum(axis=0)) == found["score"]


@pytest.mark.parametrize("target", ["zh", "zho_Hans", "ja", "jpn_Jpan"])
def test_ter_into_a_language_without_spaces_counts_characters(target: str) -> None:
    found = score(["今天是星期三的早上我们去"], ["今天是星期四的早上我们去"], target=target)["ter"]
    assert found["score"] == pytest.approx(100 / 12)
    assert "|norm:yes|punct:yes|asian:yes|" in found["signature"]


@pytest.mark.parametrize("target", ["th", "khm_Khmr", "lo", "my"])
def test_ter_is_left_out_where_nothing_parts_words_for_it(target: str) -> None:
    assert set(score(["วันนี้"], ["วันนี้"], target=target)) == {"bleu", "chrf"}


def test_scores_by_sentence_statistics_are_the_scores() -> None:
    full = score(HYPOTHESES, REFERENCES)
    for name in ("bleu", "chrf"):
        assert scorer(name)(counts(name, HYPOTHESES, REFERENCES).sum(axis=0)) == full[name]["score"]
    assert "ter" not in score(HYPOTHESES, REFERENCES, ter=False)


@pytest.mark.parametrize(("hypotheses", "references"), [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_sentences_that_do_not_correspond(hypotheses: list[str], references: list[str]) -> None:
    with pytest.raises(ValueError, match=f"{len(hypotheses)} hypotheses for {len(references)} references"):
        score(hypotheses, references)


def test_the_bootstrap_of_a_set_with_hardly_a_match() -> None:
    """Some resamples match nothing; sacreBLEU 2.6 by itself raises a TypeError on the mean of their BLEU."""
    found = score(["a b c d e", "f", "g"], ["a b c d e", "h", "i"], bootstrap=30)
    assert found["bleu"]["interval"] > 0
