"""Tables: columns stand under each other whatever the script, figures to the right."""

from __future__ import annotations

from rich.cells import cell_len

from metanmt.report import format_scores, table


def test_columns_are_aligned_in_every_script() -> None:
    rows = [
        ["中文 汉语", "3.5", "词"],
        ["suomi", "12.25", "pitkähkö sana"],
        ["हिन्दी", "-0.1", ""],
        ["日本語", "+7", "x"],
    ]
    lines = table(["language", "chrF++", "example"], rows).split("\n")
    assert len({cell_len(line) for line in lines}) == 1, "\n".join(lines)
    bars = [[cell_len(line[:index]) for index, mark in enumerate(line) if mark == "|"] for line in lines]
    assert all(places == bars[0] for places in bars)


def test_figures_stand_to_the_right() -> None:
    assert table(["arm", "BLEU", "note"], [["joint", "3.1", "a"], ["fomaml", "12.0", "12"]]) == (
        "| arm    | BLEU | note |\n|--------|-----:|------|\n| joint  |  3.1 | a    |\n| fomaml | 12.0 | 12   |"
    )


def test_the_first_column_stays_left() -> None:
    assert table(["seed", "loss"], [["1", "2.5"], ["10", "12.5"]]).split("\n")[2:] == [
        "| 1    |  2.5 |",
        "| 10   | 12.5 |",
    ]


def test_a_table_without_rows() -> None:
    lines = table(["a", "b"], []).split("\n")
    assert lines[0] == "| a | b |"
    assert len(lines) == 2


def test_format_scores_shows_every_signature_and_interval() -> None:
    facts = {
        "pair": "fi-en",
        "set": "test",
        "sentences": 1234,
        "elapsed_seconds": 61.2,
        "hypotheses": "out/fi-en.test.hyp.en",
        "scores": {
            "bleu": {"name": "BLEU", "score": 12.345, "signature": "nrefs:1|v", "mean": 12.3, "interval": 1.21},
            "ter": {"name": "TER", "score": 70.0, "signature": "nrefs:1|t", "mean": None, "interval": None},
        },
    }
    assert format_scores(facts).split("\n") == [
        "fi-en test: 1,234 sentences, 1m01s",
        "BLEU      12.35 (resampled 12.30 ± 1.21, 95%)  nrefs:1|v".replace("12.35", f"{12.345:.2f}"),
        "TER       70.00  nrefs:1|t",
        "hypotheses: out/fi-en.test.hyp.en",
    ]
