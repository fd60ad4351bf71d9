"""Fine-tuning that gives the vocabulary pieces of the language's own: from text to a translation and a comparison."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from metanmt.cli import main
from metanmt.comparison.checks import checked_plan
from metanmt.comparison.execute import run as compare
from metanmt.comparison.plan import load_compare
from metanmt.data.counterparts import COUNTERPARTS_FILE
from metanmt.data.store import TokenStore
from metanmt.errors import ConfigError
from metanmt.nmt.tuning_text import GIVE_PIECES, NEEDED, Text
from metanmt.recipes import analyze, evaluate, fine_tune
from tests import toy
from tests.recipes.test_fine_tune import QUICK

PIECES = replace(QUICK, new_pieces=200)
UPDATES = ["decoder", "head", "adapters", "none"]


@pytest.fixture(scope="module")
def georgian(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sentences in a script that the vocabulary has nothing but bytes for."""
    folder = tmp_path_factory.mktemp("georgian")
    sides = (folder / "my.ka", folder / "my.en")
    for path, lines in zip(sides, zip(*toy.lines(80, language="ka"), strict=True), strict=True):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return sides


def test_a_script_that_nobody_knew(
    run_folder: Path, georgian: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Text(train_files=georgian)
    plain = fine_tune.run(str(run_folder), "ka-en", tmp_path / "plain", text, replace(QUICK, new_pieces=0))
    assert GIVE_PIECES in capsys.readouterr().err
    facts = fine_tune.run(str(run_folder), "ka-en", tmp_path / "tuned", text, QUICK)
    assert GIVE_PIECES not in capsys.readouterr().err
    assert 0 < facts["new_pieces"] <= NEEDED
    takes = facts["source_tokens_a_sentence"]
    assert takes["after"] < takes["before"] / 3
    assert facts["train_words"] == plain["train_words"], "the same sentences"
    assert facts["history"][-1]["loss"] < facts["history"][0]["loss"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tuned")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "tuned")
    assert len(tokenizer) == model.config.vocab_size == len(model.get_input_embeddings().weight)
    scores = evaluate.run(
        model=tmp_path / "tuned", pair="ka-en", source=georgian[0], reference=georgian[1], beam=1, bootstrap=0
    )
    assert scores["sentences"] == 80


@pytest.mark.parametrize("update", UPDATES)
def test_where_the_embeddings_stay_there_are_none(
    run_folder: Path, georgian: tuple[Path, Path], data: Path, tmp_path: Path, update: str
) -> None:
    settings = replace(QUICK, update=update)  # type: ignore[arg-type]
    assert "new_pieces" not in fine_tune.run(
        str(run_folder), "ka-en", tmp_path / "as needed", Text(train_files=georgian), settings
    )
    wanted = replace(settings, new_pieces=200)
    with pytest.raises(ConfigError, match="leaves the embeddings alone"):
        fine_tune.run(str(run_folder), "fi-en", tmp_path / "wanted", Text(data=data), wanted)


def test_without_counterparts_a_language_whose_script_is_known_gets_none_by_itself(
    run_folder: Path, data: Path, tmp_path: Path
) -> None:
    text = Text(data=data, budget_words=200)
    shutil.copytree(run_folder / "best", tmp_path / "older")
    (tmp_path / "older" / COUNTERPARTS_FILE).unlink()
    facts = [
        fine_tune.run(str(init), "fi-en", tmp_path / f"tuned {number}", text, settings)
        for number, (init, settings) in enumerate(
            [(run_folder, QUICK), (tmp_path / "older", QUICK), (run_folder, replace(QUICK, align=False))]
        )
    ]
    given = [("new_pieces" in item, "aligned_pieces" in item) for item in facts]
    assert given == [(True, True), (False, False), (False, False)]


def test_what_was_given_pieces_goes_on(run_folder: Path, data: Path, tmp_path: Path) -> None:
    text = Text(data=data, budget_words=200)
    first = fine_tune.run(str(run_folder), "fi-en", tmp_path / "first", text, PIECES)
    again = fine_tune.run(str(run_folder), "fi-en", tmp_path / "again", text, PIECES)
    assert again["history"] == first["history"]
    second = fine_tune.run(str(tmp_path / "first"), "fi-en", tmp_path / "second", text, replace(QUICK, new_pieces=0))
    assert second["history"][0]["loss"] == pytest.approx(first["best"]["loss"], rel=1e-4), "it goes on from there"
    layers = {item["layer"]: item for item in analyze.run(run_folder, tmp_path / "first", data, "fi-en")["layers"]}
    assert layers["embeddings"]["movement"] > 0
    assert layers["decoder input"]["cka"] > 0.99, "the same targets, token by token"
    assert layers["encoder 1"]["cka"] is None, "it reads other tokens"


def test_from_scratch(data: Path, tmp_path: Path) -> None:
    text = Text(data=data, budget_words=200)
    facts = fine_tune.run("none", "fi-en", tmp_path / "tuned", text, PIECES)
    assert facts["new_pieces"] > 0
    assert facts["source_tokens_a_sentence"]["after"] < facts["source_tokens_a_sentence"]["before"]


def test_a_vocabulary_of_the_text_needs_none(georgian: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a vocabulary of its own"):
        fine_tune.run("none", "ka-en", tmp_path / "tuned", Text(train_files=georgian), PIECES)


def test_sentences_that_are_short_enough_with_new_pieces_are_kept(run_folder: Path, tmp_path: Path) -> None:
    pairs = toy.lines(80, language="ka")
    source, target = (" ".join(side) for side in zip(*pairs[:9], strict=True))  # over 400 bytes
    path = tmp_path / "my.tsv"
    path.write_text("".join(f"{s}\t{t}\n" for s, t in [*pairs, (source, target)]), encoding="utf-8")

    def too_long(new_pieces: int, out: str) -> int:
        settings = replace(QUICK, new_pieces=new_pieces)
        facts = fine_tune.run(str(run_folder), "ka-en", tmp_path / out, Text(train_files=[path]), settings)
        return sum(count for reason, count in facts.get("dropped", {}).items() if "over 400 tokens" in reason)

    assert (too_long(0, "plain"), too_long(500, "tuned")) == (1, 0)


def test_by_the_command_line(
    run_folder: Path, georgian: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"--set=fine_tune.{item}" for item in ("min_updates=2", "max_updates=2", "metric=loss")]
    given = ["--init", str(run_folder), "--pair", "ka-en", "--train", *map(str, georgian), "--out", str(tmp_path / "t")]
    assert main(["fine-tune", *given, "--new-pieces", "100", *settings]) == 0
    assert "new pieces of ka: a sentence takes" in capsys.readouterr().err


COMPARED = """
data = "{data}"
set = ["fine_tune.max_updates=3", "fine_tune.min_updates=3", "fine_tune.evaluations=1", "fine_tune.metric=loss"]
budgets = [100]
draws = [1]
beam = 1
baseline = "plain"
[arms.plain]
checkpoint = "{run}"
[arms.pieces]
checkpoint = "{run}"
set = ["fine_tune.new_pieces=100"]
"""


def test_an_arm_of_a_comparison(run_folder: Path, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "compare.toml"
    file.write_text(COMPARED.format(data=data, run=run_folder), encoding="utf-8")
    plan, store = compare(load_compare(file), tmp_path / "out", jobs=1)
    assert {cell.arm for cell in plan.cells} == {"plain", "pieces"}
    assert plan.digest(plan.cells[0], store) != plan.digest(plan.cells[1], store)
    with pytest.raises(ConfigError, match="leaves the embeddings alone"):
        checked_plan(replace(load_compare(file), updates=("decoder",)), TokenStore.open(data))
