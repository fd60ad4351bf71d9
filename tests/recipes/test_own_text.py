"""What `fine-tune` says of a user's own text, so that a person sees how it is understood."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipes.test_fine_tune import Text, adapt

LINES = [f"line {number} of the text" for number in range(40)]


def table(path: Path, rows: list[tuple[str, str]]) -> Text:
    path.write_text("".join(f"{source}\t{target}\n" for source, target in rows), encoding="utf-8")
    return Text(train_files=[path])


def test_the_first_pair_is_shown(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"rad {number} " + "mer " * 40, line + " more" * 30) for number, line in enumerate(LINES)]
    adapt(run_folder, "sv-en", tmp_path / "tuned", table(tmp_path / "my.tsv", rows))
    [shown] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("The first pair:")]
    assert shown.startswith("The first pair:  sv  rad 0 mer mer")
    assert "...  |  en  line 0 of the text more" in shown


def test_of_a_script_without_spaces_the_beginning_is_shown(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("漢字" * 40 + str(number), line + " more" * 10) for number, line in enumerate(LINES)]
    adapt(run_folder, "zh-en", tmp_path / "tuned", table(tmp_path / "my.tsv", rows))
    assert f"zh  {'漢字' * 33} ...  |  en  line 0 of the text" in capsys.readouterr().err


def test_the_quotation_marks_of_a_spreadsheet(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quoted = [(f'"rad {number}"', f'"{line}"') for number, line in enumerate(LINES)]
    adapt(run_folder, "sv-en", tmp_path / "quoted", table(tmp_path / "quoted.tsv", quoted))
    assert "nearly every line is in quotation marks" in capsys.readouterr().err
    adapt(
        run_folder,
        "sv-en",
        tmp_path / "half",
        table(tmp_path / "half.tsv", quoted[:20] + [("rad", line) for line in LINES[20:30]]),
    )
    assert "quotation" not in capsys.readouterr().err


def test_a_script_that_the_vocabulary_does_not_know(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    georgian = [
        (f"\u10d4\u10e0\u10d7\u10d8 \u10e1\u10d8\u10e2\u10e7\u10d5\u10d0 {number}", f"a word {number}")
        for number in range(40)
    ]
    text = table(tmp_path / "ka.tsv", georgian)
    adapt(run_folder, "ka-en", tmp_path / "tuned", text)
    said = capsys.readouterr().err
    assert "new pieces of ka" in said
    assert "hardly knows" not in said
    adapt("none", "ka-en", tmp_path / "own", text)
    assert "hardly knows" not in capsys.readouterr().err
    known = table(tmp_path / "sv.tsv", [(f"rad {number}", line) for number, line in enumerate(LINES)])
    adapt(run_folder, "sv-en", tmp_path / "known", known)
    assert "hardly knows" not in capsys.readouterr().err
