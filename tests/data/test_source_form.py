"""The form of sources: what it changes and what not, and that `AutoTokenizer` changes the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from metanmt.data.cldr import sentence_pairs
from metanmt.data.pretrained_tokenizer import FACTS_FILE
from metanmt.data.source_form import SourceForm, in_form
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import MODEL_FILE, SentencePieceTokenizer, load_tokenizer, train_tokenizer
from metanmt.errors import CheckpointError, ConfigError
from metanmt.recipes import prepare
from tests import toy
from tests.data.test_tokenizer import everything

FORMS = [  # as written, in lower case, plain
    ("Să Mergem, ȚARĂ", "să mergem, țară", "sa mergem, tara"),
    ("Οδυσσεύς ΟΔΥΣΣΕΥΣ", "οδυσσεύσ οδυσσευσ", "οδυσσευσ οδυσσευσ"),
    ("Йод её", "йод её", "иод ее"),
    ("İstanbul ILIK", "i\u0307stanbul ilik", "istanbul ilik"),
    ("हिन्दी में", "हिन्दी में", "हिन्दी में"),
    ("한국어", "한국어", "한국어"),
    ("ผู้ใหญ่", "ผู้ใหญ่", "ผู้ใหญ่"),
    ("e\u0301A\u030a", "e\u0301a\u030a", "ea"),
]
AS_WRITTEN, LOWERCASE, PLAIN = (list(texts) for texts in zip(*FORMS, strict=True))


@pytest.mark.parametrize(("form", "expected"), [("written", AS_WRITTEN), ("lowercase", LOWERCASE), ("plain", PLAIN)])
def test_forms(form: SourceForm, expected: list[str]) -> None:
    assert in_form(AS_WRITTEN, form) == expected
    assert in_form(expected, form) == expected


def formed(form: SourceForm) -> SentencePieceTokenizer:
    """Return a tokenizer that was learned from German in this form, and English."""
    sentences = [side for source, target in toy.lines(300) for side in (*in_form([source], form), target)]
    return train_tokenizer(sentences, ("en", "de"), 450, source_form=form)


@pytest.mark.parametrize("form", ["lowercase", "plain"])
def test_auto_tokenizer_gives_the_same_ids(form: SourceForm, tmp_path: Path) -> None:
    tokenizer = formed(form)
    tokenizer.save(tmp_path, toy.PAIR)
    sentences = [*everything(), *AS_WRITTEN, *[source for source, _ in sentence_pairs("el", 200)]]
    theirs = AutoTokenizer.from_pretrained(tmp_path)(sentences)["input_ids"]
    ours = tokenizer.encode_source(sentences, toy.PAIR)
    assert [s for s, a, b in zip(sentences, ours, theirs, strict=True) if a != b] == []


def test_targets_stay_as_they_are_written() -> None:
    tokenizer = formed("plain")
    (source,), (target,) = (
        encode(["Zürich"], toy.PAIR) for encode in (tokenizer.encode_source, tokenizer.encode_target)
    )
    assert tokenizer.decode([source[1:]]) == ["zurich"]
    assert tokenizer.decode([target]) == ["Zürich"]


def test_the_form_is_kept_and_is_part_of_the_digest(tmp_path: Path) -> None:
    tokenizer = formed("plain")
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.encode_source(AS_WRITTEN, toy.PAIR) == tokenizer.encode_source(PLAIN, toy.PAIR)
    assert again.digest() == tokenizer.digest() != SentencePieceTokenizer(tokenizer._model).digest()


def test_facts_from_before_there_were_forms(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / FACTS_FILE).write_text('{"kind": "sentencepiece"}', encoding="utf-8")
    assert load_tokenizer(tmp_path).digest() == tokenizer.digest()
    (tmp_path / FACTS_FILE).write_text('{"kind": "sentencepiece", "source_form": "upside down"}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="damaged"):
        load_tokenizer(tmp_path)


MANIFEST = """
[tokenizer]
vocabulary_size = 500
source_form = "{form}"

[[groups]]
role = "meta-train"
pairs = ["de-en"]
train = [{{ embedded = "cldr", sentences = 300 }}]
"""


def test_a_collection_is_prepared_in_its_form(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.toml"
    manifest.write_text(MANIFEST.format(form="lowercase"), encoding="utf-8")
    prepare.run(manifest, tmp_path / "data")
    store = TokenStore.open(tmp_path / "data")
    tokenizer, [pair] = load_tokenizer(store.tokenizer_folder), store.pairs()
    bitext = store.bitext(pair)
    sources, targets = (
        tokenizer.decode([side.sentence(index).tolist() for index in range(len(bitext))])
        for side in (bitext.source, bitext.target)
    )
    text = [
        (tmp_path / f"data/text/de-en/train.{side}").read_text(encoding="utf-8").splitlines() for side in ("de", "en")
    ]
    assert [sources, targets] == [[line.lower() for line in text[0]], text[1]]
    assert sources != text[0]


def test_a_form_that_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "manifest.toml").write_text(MANIFEST.format(form="small"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"source_form .* is 'small'"):
        prepare.run(tmp_path / "manifest.toml", tmp_path / "data")


def test_a_vocabulary_that_is_taken_over_has_its_own_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "manifest.toml"
    manifest.write_text(MANIFEST.format(form="plain"), encoding="utf-8")
    plain = prepare.run(manifest, tmp_path / "plain")["tokenizer_digest"]
    manifest.write_text(MANIFEST.format(form="lowercase"), encoding="utf-8")
    capsys.readouterr()
    assert prepare.run(manifest, tmp_path / "data", tokenizer=str(tmp_path / "plain"))["tokenizer_digest"] == plain
    assert "has learned to: plain" in capsys.readouterr().err
    pretrained = MANIFEST.replace("vocabulary_size = 500", f'pretrained = "{tmp_path / "plain"}"')
    manifest.write_text(pretrained.format(form="plain"), encoding="utf-8")
    with pytest.raises(ConfigError, match="source_form") as error:
        prepare.run(manifest, tmp_path / "other")
    assert "Leave source_form out" in error.value.remedy


def test_a_folder_that_transformers_wrote_anew_is_refused(tmp_path: Path) -> None:
    """It would put targets into the form of sources, and tag them: what is left is a tokenizer of sources."""
    formed("plain").save(tmp_path / "whole")
    AutoTokenizer.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "again")
    with pytest.raises(CheckpointError, match="left out a part of its tokenizer") as error:
        load_tokenizer(tmp_path / "again")
    assert "sentencepiece.model" in error.value.remedy
    for name in (FACTS_FILE, MODEL_FILE):
        shutil.copy(tmp_path / "whole" / name, tmp_path / "again" / name)
    assert load_tokenizer(tmp_path / "again").digest() == load_tokenizer(tmp_path / "whole").digest()
