"""Manifests: what a file means, each mistake with its message, and that every shipped one parses."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from metanmt.data.language import Pair
from metanmt.data.manifest import Manifest, PairCorpus, TokenizerSettings, kind_of, load_manifest, missing_kind
from metanmt.data.sources import Source
from metanmt.errors import ConfigError, MetanmtError, UsageError

CORPORA = sorted((Path(__file__).parents[2] / "corpora").glob("*.toml"))
TARGETS = {"ro-en", "fi-en", "tr-en", "ko-en"}
GROUP = '[[groups]]\nrole = "meta-train"\npairs = ["fi-en", "et-en"]\n'


def load(folder: Path, text: str, **options: object) -> Manifest:
    path = folder / "my.toml"
    path.write_text(text, encoding="utf-8")
    return load_manifest(path, **options)  # type: ignore[arg-type]


def by_name(manifest: Manifest) -> dict[str, PairCorpus]:
    return {str(item.pair): item for item in manifest.pairs}


def one_source(folder: Path, entry: str, pair: str = "fi-en") -> Source:
    return by_name(load(folder, f"{GROUP}train = [{entry}]"))[pair].sets["train"][0]


def test_pairs_are_parsed() -> None:
    assert Pair.parse("fin_Latn-eng_Latn") == Pair("fin_Latn", "eng_Latn")
    assert str(Pair.parse("ltg-en")) == "ltg-en"


@pytest.mark.parametrize("text", ["fi", "fi-", "-en", "fi-en-sv", "fi_en", "fi en", "../x-en", "en-en", ""])
def test_what_is_no_pair(text: str) -> None:
    with pytest.raises(UsageError, match="is not a language pair") as caught:
        Pair.parse(text)
    assert "fi-en" in caught.value.remedy


def test_every_kind_of_source(tmp_path: Path) -> None:
    root = tmp_path
    assert one_source(tmp_path, '"a/{pair}.train"') == Source(
        "moses", (root / "a/fi-en.train.fi", root / "a/fi-en.train.en")
    )
    assert one_source(tmp_path, '{ moses = ["x.{source}", "{target}.y"] }').paths == (root / "x.fi", root / "en.y")
    assert one_source(tmp_path, '{ tsv = "{pair}.tsv" }') == Source("tsv", (root / "fi-en.tsv",))
    assert one_source(tmp_path, '{ tsv = "a.tsv", columns = [3, 2] }').columns == (3, 2)
    assert one_source(tmp_path, '{ jsonl = "a.jsonl" }', "et-en").columns == ("et", "en")
    assert one_source(tmp_path, '{ jsonl = "a", fields = ["t.{source}", "x"] }').columns == ("t.fi", "x")
    assert one_source(tmp_path, '{ hub = "o/n", config = "{source}-en", split = "dev", limit = 9 }') == Source(
        "hub", columns=("translation.fi", "translation.en"), name="o/n", config="fi-en", split="dev", limit=9
    )
    assert one_source(tmp_path, '{ hub = "o/n", field = "t" }').columns == ("t.fi", "t.en")
    assert one_source(tmp_path, '{ hub = "o/n", columns = ["src", "tgt"] }').columns == ("src", "tgt")
    assert one_source(tmp_path, '{ embedded = "cldr", sentences = 70, skip = 30, seed = 2 }') == Source(
        "embedded", name="cldr", limit=70, skip=30, seed=2
    )


def test_compressed_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "x.fi.xz").touch()
    (tmp_path / "x.en.zst").touch()
    assert one_source(tmp_path, '"x"').paths == (tmp_path / "x.fi.xz", tmp_path / "x.en.zst")


def test_a_local_folder_goes_before_a_hub_name(tmp_path: Path) -> None:
    (tmp_path / "wmt16").mkdir()
    assert one_source(tmp_path, '{ hub = "wmt16" }').name == str(tmp_path / "wmt16")


def test_where_relative_paths_start(tmp_path: Path) -> None:
    text = f'{GROUP}train = ["x"]'

    def start(manifest: Manifest) -> Path:
        return manifest.pairs[0].sets["train"][0].paths[0].parent

    assert start(load(tmp_path, text)) == tmp_path
    assert start(load(tmp_path, f'root = "text"\n{text}')) == tmp_path / "text"
    assert start(load(tmp_path, f'root = "text"\n{text}', root=Path("elsewhere"))) == Path("elsewhere")
    assert start(load(tmp_path, text.replace('"x"', '"/absolute/x"'))) == Path("/absolute")


def test_a_pair_in_two_groups_has_the_sources_of_both(tmp_path: Path) -> None:
    text = f'{GROUP}train = ["a", {{ moses = "b", except = ["et-en"] }}]\n'
    text += '[[groups]]\nrole = "meta-train"\npairs = ["fi-en"]\ntrain = ["c"]\ndev-bible = ["d"]\n'
    pairs = by_name(load(tmp_path, text))
    names = {key: [source.paths[0].name for source in sources] for key, sources in pairs["fi-en"].sets.items()}
    assert names == {"train": ["a.fi", "b.fi", "c.fi"], "dev-bible": ["d.fi"]}
    assert [source.paths[0].name for source in pairs["et-en"].sets["train"]] == ["a.et"]


@pytest.mark.parametrize("text", ['train = ["a", "a"]', 'train = ["a"]\n' + GROUP + 'train = ["a"]'])
def test_a_source_counts_once(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"The set train of fi-en in .* has .*a\.fi.* twice") as caught:
        load(tmp_path, GROUP + text)
    assert "count twice" in caught.value.remedy
    load(tmp_path, GROUP + 'train = [{ moses = "a", limit = 5 }, { moses = "a", skip = 5 }]')


def test_settings(tmp_path: Path) -> None:
    text = '[tokenizer]\nvocabulary_size = 500\ncodes = { fi = "fin_Latn" }\n[cleaning]\nmax_characters = 80\n'
    manifest = load(tmp_path, f'name = "n"\ndescription = "d"\n{text}{GROUP}train = ["x"]')
    assert manifest.tokenizer == TokenizerSettings(vocabulary_size=500, codes={"fi": "fin_Latn"})
    assert (manifest.name, manifest.description, manifest.cleaning.max_characters) == ("n", "d", 80)
    assert load(tmp_path, f'{GROUP}train = ["x"]').name == "my"


@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        ("groups = [", "not valid TOML", "Mend"),
        ("", "names no pairs", "[[groups]]"),
        ("nmae = 'x'", "Unknown key 'nmae'", "'name'"),
        ("groups = 3", "groups in", "a list"),
        ("groups = [3]", "group 1 of", "[[groups]]"),
        ("name = 3\n" + GROUP + 'train = ["x"]', "name in", "a string"),
        (GROUP.replace("meta-train", "train") + 'train = ["x"]', "role 'train'", "meta-train, meta-dev, meta-test"),
        (GROUP.replace('"meta-train"', '["meta-train"]') + 'train = ["x"]', "role ['meta-train']", "meta-test"),
        (GROUP, "no pairs or no sets", "train"),
        ('[[groups]]\nrole = "meta-train"\npairs = []\ntrain = ["x"]', "no pairs or no sets", "fi-en"),
        (GROUP.replace("et-en", "fi-en") + 'train = ["x"]', "names fi-en twice", "once"),
        (GROUP.replace("et-en", "et") + 'train = ["x"]', "'et' is not a language pair", "fi-en"),
        (GROUP + "train = []", "train in group 1", "Write it as"),
        (GROUP + 'train = "x"', "train in group 1", "Write it as"),
        (GROUP + 'trian = ["x"]', "Unknown key 'trian'", "'train'"),
        (GROUP + 'train-Bible = ["x"]', "Unknown key 'train-Bible'", "'train'"),
        (GROUP + 'dev = ["x"]', "fi-en in", "needs train"),
        (GROUP + "train = [{ mosse = 'x' }]", "of no kind", "moses, tsv, jsonl, hub, embedded"),
        (GROUP + "train = [{ moses = 'x', tsv = 'y' }]", "of no kind", "Name one of"),
        (GROUP + "train = [3]", "of no kind", "Name one of"),
        (GROUP + "train = [{ moses = 'x', limt = 3 }]", "Unknown key 'limt'", "'limit'"),
        (GROUP + "train = [{ moses = 'x', limit = -3 }]", "limit in", "0 or more"),
        (GROUP + "train = [{ moses = 'x', limit = true }]", "limit in", "0 or more"),
        (GROUP + "train = [{ moses = 'x', optional = 1 }]", "optional in", "true or false"),
        (GROUP + "train = [{ hub = 'x', optional = true }]", "optional in", "Leave it out"),
        (GROUP + "train = [{ moses = ['x'] }]", "moses in", "a prefix or two files"),
        (GROUP + "train = [{ tsv = 'x', columns = [0] }]", "columns in", "Give two"),
        (GROUP + "train = [{ tsv = 'x', columns = [0, -1] }]", "columns in", "Give two"),
        (GROUP + "train = [{ jsonl = 'x', fields = [0, 1] }]", "fields in", "Give two"),
        (GROUP + "train = [{ embedded = 'cldr' }]", "how many sentences", "sentences = "),
        (GROUP + "train = [{ embedded = 'wiki', sentences = 3 }]", "no embedded corpus 'wiki'", "cldr"),
        (GROUP + "train = [{ moses = '{lang}.x' }]", "placeholder {lang}", "pair, source, target"),
        (GROUP + "train = [{ moses = 'x', except = ['fi-sv'] }]", "excepts fi-sv", "fi-en"),
        (GROUP + 'train = ["x"]\n' + GROUP.replace("meta-train", "meta-test") + 'test = ["x"]', "both", "one role"),
        ("[tokenizer]\nvocabluary_size = 3\n" + GROUP + 'train = ["x"]', "'vocabluary_size'", "'vocabulary_size'"),
        ("[tokenizer]\nvocabulary_size = 0\n" + GROUP + 'train = ["x"]', "not positive", "above 0"),
        ("[tokenizer]\ncharacter_coverage = 1.5\n" + GROUP + 'train = ["x"]', "character_coverage", "1.0"),
        ("[tokenizer]\ncodes = { fi = 3 }\n" + GROUP + 'train = ["x"]', "fi in codes of", "a string"),
        ("[cleaning]\nmax_charcters = 3\n" + GROUP + 'train = ["x"]', "'max_charcters'", "'max_characters'"),
        ("[cleaning]\nmax_length_ratio = 0.5\n" + GROUP + 'train = ["x"]', "would drop every sentence", "1 or more"),
    ],
)
def test_each_mistake_has_its_message(tmp_path: Path, text: str, cause: str, remedy: str) -> None:
    with pytest.raises(MetanmtError) as caught:
        load(tmp_path, text)
    assert cause in caught.value.cause
    assert remedy in caught.value.remedy
    assert "\n" not in caught.value.cause + caught.value.remedy


def test_a_manifest_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No manifest") as caught:
        load_manifest(tmp_path / "europe.toml")
    assert "cldr" in caught.value.remedy


def test_what_each_role_needs() -> None:
    assert missing_kind("meta-train", ["dev", "train-bible"]) is None
    assert missing_kind("meta-dev", ["train", "test"]) == "dev"
    assert missing_kind("meta-test", ["train", "dev"]) == "test"
    assert (kind_of("test"), kind_of("test-news")) == ("test", "test")


# ---- the shipped ones


@pytest.mark.parametrize("path", CORPORA, ids=lambda path: path.stem)
def test_every_shipped_manifest_parses(path: Path, tmp_path: Path) -> None:
    manifest = load_manifest(path, root=tmp_path)
    assert manifest.name == path.stem
    assert manifest.description
    assert load_manifest(Path(path.stem), root=tmp_path) == manifest
    assert not any(
        "{" in str(source) for item in manifest.pairs for sources in item.sets.values() for source in sources
    )


@pytest.mark.parametrize("name", ["cldr", "europe", "gu2018"])
def test_the_benchmarks_have_eighteen_sources_and_five_targets(name: str) -> None:
    pairs = by_name(load_manifest(Path(name)))
    roles = {
        role: {n for n, item in pairs.items() if item.role == role} for role in ("meta-train", "meta-dev", "meta-test")
    }
    assert len(roles["meta-train"]) == 18
    assert roles["meta-dev"] == {"lv-en"}
    assert roles["meta-test"] == TARGETS
    for target in TARGETS | {"lv-en"}:
        assert {"train", "dev", "test"} <= set(pairs[target].sets)
    kinds = {"train", "train-bible", "train-itdocs"} if name == "europe" else {"train"}
    assert all("train" in pairs[source].sets and set(pairs[source].sets) <= kinds for source in roles["meta-train"])


def test_gu2018_has_the_sources_of_the_paper() -> None:
    pairs = by_name(load_manifest(Path("gu2018")))
    sources = {item.pair.source for item in pairs.values() if item.role == "meta-train"}
    assert " ".join(sorted(sources)) == "bg cs da de el es et fr hu it lt nl pl pt ru sk sl sv"
    europarl = {item.sets["train"][0].config for item in pairs.values() if "europarl" in item.sets["train"][0].name}
    assert len(europarl) == 17
    assert all(config == "-".join(sorted(config.split("-"))) for config in europarl)  # so is it stored on the hub


def test_the_sets_of_an_embedded_pair_do_not_overlap() -> None:
    for item in load_manifest(Path("cldr")).pairs:
        spans = sorted((s.skip, s.skip + s.limit) for sources in item.sets.values() for s in sources)
        assert all(first[1] <= second[0] for first, second in pairwise(spans))
