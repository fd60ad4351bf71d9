"""Writing a corpus: what reaches the disk, what is reported, and that nothing held out leaks, end to end."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from metanmt.data.corpus import CorpusReport, write_corpus
from metanmt.data.language import Pair
from metanmt.data.leakage import normalized
from metanmt.data.manifest import load_manifest
from metanmt.errors import CorpusError

REAL = Path(__file__).parents[3] / "shared" / "corpora" / "lowres"
Sentences = list[tuple[str, str]]


def numbered(start: int, stop: int, language: str = "fi") -> Sentences:
    return [(f"{language} lause {number}", f"sentence {number}") for number in range(start, stop)]


def group(role: str, pair: str, *sets: str, entry: str = '"{pair}.%s"') -> str:
    named = "".join(f"{name} = [{entry.replace('%s', name)}]\n" for name in sets)
    return f'[[groups]]\nrole = "{role}"\npairs = ["{pair}"]\n{named}'


def save(folder: Path, pair: str, name: str, sentences: Sentences) -> None:
    for side, language in enumerate(pair.split("-")):
        text = "".join(item[side] + "\n" for item in sentences)
        (folder / f"{pair}.{name}.{language}").write_text(text, encoding="utf-8")


def written(folder: Path, pair: str, name: str) -> Sentences:
    source, target = (
        (folder / "out/text" / pair / f"{name}.{language}").read_text(encoding="utf-8").split("\n")[:-1]
        for language in pair.split("-")
    )
    return list(zip(source, target, strict=True))


def run(folder: Path, *groups: str) -> CorpusReport:
    path = folder / "my.toml"
    path.write_text("".join(groups), encoding="utf-8")
    return write_corpus(load_manifest(path), folder / "out")


BOTH = (group("meta-train", "sv-en", "train"), group("meta-test", "fi-en", "train", "dev", "test"))


@pytest.fixture
def clean_sets(tmp_path: Path) -> Path:
    """A meta-train pair and a meta-test pair that share nothing."""
    save(tmp_path, "sv-en", "train", numbered(100, 120, "sv"))
    save(tmp_path, "fi-en", "train", numbered(0, 10))
    save(tmp_path, "fi-en", "dev", numbered(10, 14))
    save(tmp_path, "fi-en", "test", numbered(14, 20))
    return tmp_path


def test_what_is_clean_comes_out_as_it_went_in(clean_sets: Path) -> None:
    report = run(clean_sets, *BOTH)
    assert written(clean_sets, "fi-en", "test") == numbered(14, 20)
    assert written(clean_sets, "fi-en", "train") == numbered(0, 10)
    assert written(clean_sets, "sv-en", "train") == numbered(100, 120, "sv")
    train = report.sets["fi-en", "train"]
    assert (train.read, train.kept, train.leaked, train.source_words, train.target_words) == (10, 10, 0, 30, 20)
    assert list(report.sets) == [("sv-en", "train"), ("fi-en", "train"), ("fi-en", "dev"), ("fi-en", "test")]
    assert report.kept(Pair("fi", "en"), "dev") == 4


def test_leaks_are_closed_through_either_side_of_any_pair(clean_sets: Path) -> None:
    leaks = [
        ("svensk mening", "Sentence 14!"),  # the reference of a Finnish test sentence, in a Swedish pair
        ("svensk mening två", "SENTENCE 10."),  # and of a dev sentence
        ("Fi-lause 15", "untranslated"),  # the test sentence itself
        ("sentence 16", "mening sexton"),  # a reference on the wrong side
    ]
    save(clean_sets, "sv-en", "train", [*leaks, *numbered(100, 103, "sv")])
    save(clean_sets, "fi-en", "train", [*numbered(0, 3), ("toinen lause", "sentence 19")])
    report = run(clean_sets, *BOTH)
    assert written(clean_sets, "sv-en", "train") == numbered(100, 103, "sv")
    assert written(clean_sets, "fi-en", "train") == numbered(0, 3)
    assert (report.sets["sv-en", "train"].leaked, report.sets["fi-en", "train"].leaked) == (4, 1)


def test_every_test_set_counts_whatever_its_name_and_role(clean_sets: Path) -> None:
    save(clean_sets, "lv-en", "test-news", numbered(100, 103, "lv"))
    save(clean_sets, "lv-en", "dev", numbered(103, 105, "lv"))
    save(clean_sets, "lv-en", "train-bible", numbered(104, 108, "lv"))
    report = run(clean_sets, group("meta-dev", "lv-en", "train-bible", "dev", "test-news"), *BOTH)
    assert written(clean_sets, "lv-en", "train-bible") == numbered(105, 108, "lv")
    assert written(clean_sets, "sv-en", "train") == numbered(105, 120, "sv")
    assert report.sets["sv-en", "train"].leaked == 5


def test_test_wins_over_dev_of_the_same_pair(clean_sets: Path) -> None:
    save(clean_sets, "fi-en", "dev", [*numbered(10, 12), ("eri lause", "Sentence 15"), ("fi lause 16", "other")])
    save(clean_sets, "ro-en", "dev", numbered(15, 17, "ro"))
    save(clean_sets, "ro-en", "test", numbered(30, 32, "ro"))
    report = run(clean_sets, *BOTH, group("meta-test", "ro-en", "dev", "test"))
    assert written(clean_sets, "fi-en", "dev") == numbered(10, 12)
    assert report.sets["fi-en", "dev"].leaked == 2
    assert written(clean_sets, "fi-en", "test") == numbered(14, 20)
    assert written(clean_sets, "ro-en", "dev") == numbered(15, 17, "ro")  # nobody trains on another pair's dev set


def test_test_sets_keep_what_training_sets_lose(clean_sets: Path) -> None:
    odd = [("same", "same"), ("same", "same"), ("x", "long " * 300), ("\u200b", "empty"), ("tab\there", "a\u00a0b")]
    save(clean_sets, "fi-en", "test", odd)
    save(clean_sets, "sv-en", "train", [(f"sv {s}", t + " sv") for s, t in odd] + [("likadan", "likadan")] * 2)
    report = run(clean_sets, *BOTH)
    kept = [("same", "same"), ("same", "same"), ("x", ("long " * 300).strip()), ("tab here", "a b")]
    assert written(clean_sets, "fi-en", "test") == kept
    assert report.sets["fi-en", "test"].dropped == {"empty": 1}
    assert report.sets["sv-en", "train"].dropped == {"identical sides": 2, "overlong": 1, "duplicate": 1}


def test_the_report_as_a_table_and_as_values(clean_sets: Path) -> None:
    save(clean_sets, "sv-en", "train", [("samma", "samma"), ("x", "Sentence 14"), *numbered(0, 1500, "sv")])
    report = run(clean_sets, *BOTH)
    header, rows = report.rows()
    assert header == ["pair", "set", "read", "identical sides", "leaked", "kept"]
    assert rows[0] == ["sv-en", "train", "1,502", "1", "11", "1,490"]
    assert all(len(row) == len(header) for row in rows)
    plain = json.loads(json.dumps(report.to_json()))
    assert plain[0]["dropped"] == {"identical sides": 1}
    assert (plain[0]["pair"], plain[0]["kept"], plain[0]["target_words"]) == ("sv-en", 1490, 2 * 1490)


# ---- optional sources


def test_an_optional_source_that_is_absent_is_reported(clean_sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = group("meta-train", "sv-en", "train", "train-web", entry='{ moses = "web/{pair}.%s", optional = true }')
    report = run(clean_sets, *BOTH, more)
    assert report.sets["sv-en", "train"].kept == 20
    assert "web" in report.sets["sv-en", "train"].skipped_sources[0]
    assert report.kept(Pair("sv", "en"), "train-web") == 0
    assert not (clean_sets / "out/text/sv-en/train-web.sv").exists()
    assert "it is optional" in capsys.readouterr().err


def test_one_side_of_an_optional_source_is_a_mistake(clean_sets: Path) -> None:
    (clean_sets / "web.sv").write_text("x\n", encoding="utf-8")
    more = group("meta-train", "sv-en", "train", entry='{ moses = "web", optional = true }')
    with pytest.raises(CorpusError, match=r"No file .*web\.en"):
        run(clean_sets, *BOTH, more)


# ---- what must not be empty


def test_a_training_set_of_nothing_but_test_sentences(clean_sets: Path) -> None:
    save(clean_sets, "sv-en", "train", [("mening", "sentence 14"), ("", "tom")])
    with pytest.raises(CorpusError) as caught:
        run(clean_sets, *BOTH)
    expected = "Nothing is left of sv-en train: 2 sentence pairs read, 1 empty, 1 also in a dev or test set."
    assert caught.value.cause == expected
    assert caught.value.remedy


def test_an_empty_test_set(clean_sets: Path) -> None:
    save(clean_sets, "fi-en", "test", [])
    with pytest.raises(CorpusError, match="Nothing is left of fi-en test: 0 sentence pairs read"):
        run(clean_sets, *BOTH)


def test_a_test_set_that_was_optional(clean_sets: Path) -> None:
    optional = group("meta-test", "ko-en", "test", entry='{ moses = "{pair}.%s", optional = true }')
    with pytest.raises(CorpusError, match=r"ko-en has no test text, which a meta-test pair needs: no .*ko-en\.test"):
        run(clean_sets, *BOTH, optional)


# ---- whole collections


def sentences_of(folder: Path, kind: str) -> set[str]:
    files = list((folder / "text").glob(f"*/{kind}*"))
    assert files
    return {normalized(line) for file in files for line in file.read_text(encoding="utf-8").split("\n")[:-1]}


def test_the_embedded_corpus_keeps_the_promise(tmp_path: Path) -> None:
    text = "".join(
        group(role, pair, *sets, entry='{ embedded = "cldr", sentences = 400, skip = %s }')
        for role, pair, sets in [
            ("meta-train", "sv-en", ["train"]),
            ("meta-dev", "lv-en", ["train", "dev"]),
            ("meta-test", "fi-en", ["train", "dev", "test"]),
        ]
    )
    for name, skip in (("train", 0), ("dev", 400), ("test", 800)):
        text = text.replace(f"skip = {name}", f"skip = {skip}")
    report = run(tmp_path, text)
    held_out = sentences_of(tmp_path / "out", "dev") | sentences_of(tmp_path / "out", "test")
    assert not sentences_of(tmp_path / "out", "train") & held_out
    assert all(item.kept > 350 for item in report.sets.values())


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    long = [(f"{number} " + "mening " * 110, f"{number} " + "sentence " * 100) for number in range(4_000)]
    save(tmp_path, "sv-en", "train", long)
    del long
    text_bytes = sum(path.stat().st_size for path in tmp_path.iterdir())
    tracemalloc.start()
    run(tmp_path, BOTH[0])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < text_bytes / 8  # the hashes of the duplicates and a line at a time


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real corpora beside the repository, ../shared/corpora")
def test_real_low_resource_languages(tmp_path: Path) -> None:
    manifest = load_manifest(Path("lowres"), root=REAL)
    report = write_corpus(manifest, tmp_path)
    for item in manifest.pairs:
        sizes = {name: report.kept(item.pair, name) for name in item.sets}
        assert (sizes["dev"], sizes["test"]) == (997, 1_012)
        assert 6_100 < sizes["train"] <= report.sets[str(item.pair), "train"].read
    held_out = sentences_of(tmp_path, "dev") | sentences_of(tmp_path, "test")
    assert not sentences_of(tmp_path, "train") & held_out
