"""A collection with other unseen languages, and in both directions."""

from __future__ import annotations

from pathlib import Path

import pytest

from metanmt.data.language import Pair
from metanmt.data.manifest import Manifest, PairCorpus, load_manifest
from metanmt.data.sources import read_pairs
from metanmt.data.variants import in_both_directions, with_languages
from metanmt.errors import ConfigError, MetanmtError


def by_name(manifest: Manifest) -> dict[str, PairCorpus]:
    return {str(item.pair): item for item in manifest.pairs}


def roles_with(*languages: str) -> dict[str, list[str]]:
    roles: dict[str, list[str]] = {}
    for item in with_languages(load_manifest(Path("cldr")), languages).pairs:
        roles.setdefault(item.role, []).append(item.pair.source)
    return roles


def test_languages_replace_the_unseen_ones() -> None:
    roles = roles_with("is", "ka", "is")
    assert roles["meta-test"] == ["is", "ka"]
    assert roles["meta-dev"] == ["lv"]
    assert len(roles["meta-train"]) == 18


@pytest.mark.parametrize(("wanted", "trained"), [("pt_BR", "pt"), ("no", "nb"), ("es_419", "es"), ("lv_LV", "lv")])
def test_a_language_of_a_country_is_that_language(
    wanted: str, trained: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else it would be reported as unseen."""
    found = roles_with(wanted)
    assert trained not in found["meta-train"] + found["meta-dev"]
    assert found["meta-test"] == [wanted]
    assert f"{trained}-en is left out: it is the same language" in capsys.readouterr().err


def test_languages_leave_their_old_roles() -> None:
    roles = roles_with("de", "lv")
    assert roles["meta-test"] == ["de", "lv"]
    assert "de" not in roles["meta-train"]
    assert roles["meta-dev"] == ["fi"]  # a former meta-test language steps in to choose the checkpoint
    assert set(by_name(with_languages(load_manifest(Path("cldr")), ["lv"]))["fi-en"].sets) == {"train", "dev", "test"}


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        (["lv", "fi", "ro", "tr", "ko"], "no meta-dev pair"),
        (["en"], "names 'en', which"),
        (["is", "fi-en"], "names 'fi-en', which"),
    ],
)
def test_languages_that_cannot_be(languages: list[str], message: str) -> None:
    with pytest.raises(MetanmtError, match=message):
        with_languages(load_manifest(Path("cldr")), languages)


def test_languages_need_an_embedded_collection() -> None:
    with pytest.raises(ConfigError, match="not an embedded collection") as caught:
        with_languages(load_manifest(Path("europe")), ["is"])
    assert "cldr" in caught.value.remedy


@pytest.mark.parametrize(
    "source", ['"text/{pair}"', '{ tsv = "{pair}.tsv", columns = [2, 0] }', '{ jsonl = "{pair}.jsonl" }']
)
def test_the_other_direction_is_the_same_text_with_the_sides_changed(tmp_path: Path, source: str) -> None:
    (tmp_path / "text").mkdir()
    for side, lines in (("de", "eins\nzwei\n"), ("en", "one\ntwo\n")):
        (tmp_path / "text" / f"de-en.{side}").write_text(lines, encoding="utf-8")
    (tmp_path / "de-en.tsv").write_text("one\tx\teins\ntwo\ty\tzwei\n", encoding="utf-8")
    rows = '{"de": "eins", "en": "one"}\n{"de": "zwei", "en": "two"}\n'
    (tmp_path / "de-en.jsonl").write_text(rows, encoding="utf-8")
    (tmp_path / "my.toml").write_text(f'[[groups]]\nrole = "meta-train"\npairs = ["de-en"]\ntrain = [{source}]\n')
    found = by_name(in_both_directions(load_manifest(tmp_path / "my.toml")))
    assert list(found) == ["de-en", "en-de"]
    texts = [list(read_pairs(item.sets["train"][0], item.pair)) for item in found.values()]
    assert texts == [[("eins", "one"), ("zwei", "two")], [("one", "eins"), ("two", "zwei")]]


def test_every_pair_keeps_its_role_and_its_sets_in_the_other_direction() -> None:
    before = load_manifest(Path("europe"))
    after = by_name(in_both_directions(before))
    assert len(after) == 2 * len(before.pairs)
    for item in before.pairs:
        turned = after[str(item.pair.turned())]
        assert (turned.role, list(turned.sets)) == (item.role, list(item.sets))


def test_the_embedded_corpus_says_the_same_in_the_other_direction() -> None:
    found = by_name(in_both_directions(load_manifest(Path("cldr"))))
    there, back = (list(read_pairs(found[name].sets["dev"][0], Pair.parse(name)))[:20] for name in ("fi-en", "en-fi"))
    assert there == [(finnish, english) for english, finnish in back]
    assert len(set(there)) > 10


def test_a_collection_that_has_both_directions_is_not_turned_again() -> None:
    both = in_both_directions(load_manifest(Path("cldr")))
    with pytest.raises(ConfigError, match="already"):
        in_both_directions(both)
