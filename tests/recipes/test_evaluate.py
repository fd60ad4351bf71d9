"""`evaluate` on files: hypotheses and scores on the disk, and a message for each mistake."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from metanmt.data.sources import read_lines
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.errors import CheckpointError, CorpusError, MetanmtError, UsageError
from metanmt.nmt.checkpoint import save_checkpoint
from metanmt.nmt.score import TOKENIZERS, score
from metanmt.recipes import evaluate
from metanmt.report import format_scores
from tests import toy

PAIRS = [*toy.lines(5, skip=400), ("", "Nothing"), *toy.lines(2, skip=405)]


@pytest.fixture(scope="module")
def checkpoint(tokenizer: SentencePieceTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    model = toy.make_m2m100(tokenizer.vocabulary_size)
    toy.initialise(model)
    save_checkpoint(folder, model, tokenizer, toy.PAIR)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    for side, language in enumerate(("de", "en")):
        (folder / f"news.{language}").write_text("".join(f"{pair[side]}\n" for pair in PAIRS), encoding="utf-8")
    return folder / "news.de", folder / "news.en"


@pytest.fixture(scope="module")
def evaluated(checkpoint: Path, files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("out") / "new" / "folder"
    return evaluate.run(
        model=checkpoint, pair="de-en", source=files[0], reference=files[1], beam=2, bootstrap=20, out=out
    )


def test_scores_are_of_the_hypotheses_on_the_disk(evaluated: dict[str, Any], files: tuple[Path, Path]) -> None:
    hypotheses = list(read_lines(Path(evaluated["hypotheses"])))
    assert len(hypotheses) == len(PAIRS)
    assert hypotheses[5] == "", "an empty source stays empty"
    assert any(hypotheses)
    assert evaluated["scores"] == score(hypotheses, list(read_lines(files[1])), bootstrap=20)


def test_the_json_is_complete(evaluated: dict[str, Any], checkpoint: Path) -> None:
    path = Path(evaluated["hypotheses"]).parent / "de-en.news.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    assert facts == evaluated
    assert facts["model"] == str(checkpoint)
    assert (facts["pair"], facts["set"], facts["sentences"]) == ("de-en", "news", len(PAIRS))
    assert (facts["beam"], facts["length_penalty"]) == (2, 1.0)
    assert {"torch", "transformers", "sacrebleu", "metanmt"} <= facts["versions"].keys()
    assert facts["elapsed_seconds"] >= 0
    for name in ("bleu", "chrf", "ter"):
        assert facts["scores"][name].keys() == {"name", "score", "signature", "mean", "interval"}
        assert "version:" in facts["scores"][name]["signature"]
        assert facts["scores"][name]["signature"] in format_scores(facts)


def test_by_default_beside_the_checkpoint(checkpoint: Path, files: tuple[Path, Path]) -> None:
    source, reference = files
    facts = evaluate.run(model=checkpoint, pair="de-en", source=source, reference=reference, beam=1, bootstrap=0)
    assert facts["hypotheses"] == str(checkpoint / "evaluation" / "de-en.news.hyp.en")
    assert facts["scores"]["bleu"]["interval"] is None


def test_bleu_is_of_the_target_language(
    checkpoint: Path, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOKENIZERS, "en", "char")
    facts = evaluate.run(
        model=checkpoint, pair="de-en", source=files[0], reference=files[1], beam=1, bootstrap=0, out=tmp_path
    )
    assert "|tok:char|" in facts["scores"]["bleu"]["signature"]


def test_results_of_a_run_outlive_its_checkpoints(checkpoint: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    run, one, two = tmp_path / "run", "step-00000001", "step-00000002"
    for name in (one, two):
        shutil.copytree(checkpoint, run / "checkpoints" / name, ignore=shutil.ignore_patterns("evaluation"))
    (run / "config.toml").write_text("", encoding="utf-8")
    for link, name in (("best", one), ("last", two)):
        (run / link).symlink_to(Path("checkpoints", name))

    def evaluated(model: Path) -> tuple[str, str]:
        facts = evaluate.run(model=model, pair="de-en", source=files[0], reference=files[1], beam=1, bootstrap=0)
        return str(Path(facts["hypotheses"]).parent.relative_to(run)), Path(facts["checkpoint"]).name

    assert evaluated(run) == ("evaluation", one)
    assert evaluated(run / "last") == (f"evaluation/{two}", two)
    assert evaluated(run / "best") == (f"evaluation/{one}", one)
    assert not [*run.glob("checkpoints/*/evaluation")]
    (run / "best").unlink()
    (run / "best").symlink_to(Path("checkpoints", two))
    assert evaluated(run) == ("evaluation", two), "of the same name, and it says of what"


def test_a_folder_called_checkpoints_is_no_run(checkpoint: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    model = tmp_path / "checkpoints" / "de"
    shutil.copytree(checkpoint, model, ignore=shutil.ignore_patterns("evaluation"))
    facts = evaluate.run(model=model, pair="de-en", source=files[0], reference=files[1], beam=1, bootstrap=0)
    assert Path(facts["hypotheses"]).parent == model / "evaluation"


def test_two_files_of_one_name_keep_their_results(
    checkpoint: Path, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = tmp_path / "news.de", tmp_path / "news.en"
    for own, other in zip(files, others, strict=True):
        other.write_text("".join(own.read_text(encoding="utf-8").splitlines(keepends=True)[:3]), encoding="utf-8")

    def evaluated(texts: tuple[Path, Path]) -> tuple[str, int]:
        monkeypatch.chdir(texts[0].parent)  # by their bare names, which are the same
        facts = evaluate.run(
            model=checkpoint,
            pair="de-en",
            source=Path(texts[0].name),
            reference=Path(texts[1].name),
            beam=1,
            bootstrap=0,
            out=tmp_path / "out",
        )
        return Path(facts["hypotheses"]).name, facts["sentences"]

    first, second = ("de-en.news.hyp.en", len(PAIRS)), ("de-en.news-2.hyp.en", 3)
    assert [evaluated(texts) for texts in (files, others, files, others)] == [first, second, first, second]
    for stem, texts in (("de-en.news", files), ("de-en.news-2", others)):
        assert json.loads((tmp_path / "out" / f"{stem}.json").read_text(encoding="utf-8"))["source"] == str(texts[0])


def test_two_models_keep_their_results_in_one_folder(
    checkpoint: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    other = shutil.copytree(checkpoint, tmp_path / "other", ignore=shutil.ignore_patterns("evaluation"))

    def evaluated(model: Path) -> str:
        facts = evaluate.run(
            model=model,
            pair="de-en",
            source=files[0],
            reference=files[1],
            beam=1,
            bootstrap=0,
            out=tmp_path / "out",
        )
        return Path(facts["hypotheses"]).name

    names = [evaluated(model) for model in (checkpoint, other, checkpoint, other)]
    assert names == ["de-en.news.hyp.en", "de-en.news-2.hyp.en"] * 2


def test_every_way_to_give_the_same_two_sides(checkpoint: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    tsv, packed = tmp_path / "news.tsv", [tmp_path / f"{path.name}.gz" for path in files]
    tsv.write_text("".join(f"{one}\t{other}\n" for one, other in PAIRS), encoding="utf-8")
    for path, other in zip(files, packed, strict=True):
        other.write_bytes(gzip.compress(path.read_bytes()))

    def evaluated(source: Path, reference: Path | None) -> dict[str, Any]:
        facts = evaluate.run(
            model=checkpoint,
            pair="de-en",
            source=source,
            reference=reference,
            beam=1,
            bootstrap=0,
            out=tmp_path / "out",
        )
        return {key: facts[key] for key in ("source", "reference", "sentences", "scores")}

    expected = evaluated(*files)
    assert evaluated(files[1], files[0]) == expected, "swapped ones are turned round by their suffixes"
    for given, paths in (((packed[0], packed[1]), packed), ((packed[1], packed[0]), packed), ((tsv, None), [tsv, tsv])):
        assert evaluated(*given) == {**expected, "source": str(paths[0]), "reference": str(paths[1])}


def test_references_that_are_empty_are_told(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tsv = tmp_path / "news.tsv"
    tsv.write_text("Ein Satz\tA sentence\nZwei\t\n", encoding="utf-8")
    facts = evaluate.run(model=checkpoint, pair="de-en", source=tsv, beam=1, bootstrap=0, out=tmp_path / "out")
    assert facts["sentences"] == 2
    assert "1 of 2 references are empty" in capsys.readouterr().err


def test_on_a_prepared_set(run_folder: Path, data: Path, tmp_path: Path) -> None:
    facts = evaluate.run(model=run_folder, pair="fi-en", data=data, beam=1, bootstrap=0, out=tmp_path)
    assert (facts["set"], facts["sentences"]) == ("test", 30)
    assert len(list(read_lines(tmp_path / "fi-en.test.hyp.en"))) == 30
    with pytest.raises(UsageError, match="fi-en has no set 'tset'") as error:
        evaluate.run(model=run_folder, pair="fi-en", data=data, split="tset")
    assert "'test'" in error.value.remedy
    with pytest.raises(UsageError, match="has no pair fi-de"):
        evaluate.run(model=run_folder, pair="fi-de", data=data)
    changed = Path(shutil.copytree(data, tmp_path / "changed"))
    with (changed / "text/fi-en/test.en").open("a", encoding="utf-8") as file:
        file.write("one more\n")
    with pytest.raises(CorpusError, match=r"The text of fi-en test in .* has changed since it was prepared"):
        evaluate.run(model=run_folder, pair="fi-en", data=changed)


MISTAKES: dict[str, tuple[dict[str, Any], type[MetanmtError], str, str]] = {
    "no test set": ({}, UsageError, "Exactly one", "--data FOLDER"),
    "a source alone": ({"source": "de"}, UsageError, "Exactly one", "--reference"),
    "both ways": ({"source": "de", "reference": "en", "data": "{tmp}"}, UsageError, "Exactly one", "either"),
    "no such pair": ({"pair": "de", "source": "de", "reference": "en"}, UsageError, "not a language pair", "fi-en"),
    "no such file": ({"source": "{tmp}/none", "reference": "en"}, CorpusError, "none", ""),
    "a TSV twice": ({"source": "{tmp}/both.tsv", "reference": "{tmp}/both.tsv"}, UsageError, "not clear", "one .tsv"),
    "two TSVs": ({"source": "{tmp}/both.tsv", "reference": "{tmp}/more.tsv"}, UsageError, "not clear", "two files"),
    "one file as both": ({"source": "de", "reference": "de"}, UsageError, "not clear", "two files"),
    "misaligned": ({"source": "de", "reference": "{tmp}/short"}, CorpusError, "has 1", "Line i"),
    "empty": ({"source": "{tmp}/empty", "reference": "{tmp}/empty2"}, CorpusError, "empty", "one sentence"),
    "no reference": ({"source": "{tmp}/short", "reference": "{tmp}/blank"}, CorpusError, "is empty", "one for each"),
    "not UTF-8": ({"source": "{tmp}/latin", "reference": "{tmp}/short"}, CorpusError, "line 1", "iconv"),
    "no model": ({"model": "{tmp}", "source": "de", "reference": "en"}, CheckpointError, "not a checkpoint", "Give"),
    "no data": ({"data": "{tmp}/none"}, MetanmtError, "not a prepared data folder", "prepare"),
    "unknown target": (
        {"pair": "de-fr", "source": "de", "reference": "en"},
        UsageError,
        "cannot translate into 'fr'",
        "metanmt fine-tune --pair de-fr teaches it",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_has_its_message(name: str, checkpoint: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "short").write_text("One line\n")
    for empty in ("empty", "empty2"):
        (tmp_path / empty).write_text("")
    (tmp_path / "blank").write_text(" \n")
    for both in ("both.tsv", "more.tsv"):
        (tmp_path / both).write_text("Ein Satz\tA sentence\n")
    (tmp_path / "latin").write_bytes("für\n".encode("latin-1"))
    known = {"de": files[0], "en": files[1]}
    changes, kind, cause, remedy = MISTAKES[name]
    arguments: dict[str, Any] = {"model": checkpoint, "pair": "de-en", "out": tmp_path / "out"}
    for key, value in changes.items():
        path = known.get(value) or Path(value.format(tmp=tmp_path))
        arguments[key] = value if key == "pair" else path
    with pytest.raises(kind) as error:
        evaluate.run(**arguments)
    assert cause in error.value.cause
    assert remedy in error.value.remedy
    assert not (tmp_path / "out").exists(), "nothing is written"


def test_text_that_was_not_copied_with_the_data(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns("text"))
    with pytest.raises(CorpusError, match=r"No file .*test\.fi") as caught:
        evaluate.run(model=tmp_path / "model", pair="fi-en", data=tmp_path / "data")
    assert "Copy the folder `text`" in caught.value.remedy
