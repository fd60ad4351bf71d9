"""Manifests: which pairs a collection has, which role each plays, and where its text comes from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from metanmt.data.cleaning import CleaningRules
from metanmt.data.compression import with_compression
from metanmt.data.language import Pair
from metanmt.data.source_form import SourceForm
from metanmt.data.sources import Source
from metanmt.errors import ConfigError, did_you_mean
from metanmt.sections import build, read_toml

Role = Literal["meta-train", "meta-dev", "meta-test"]
# What a pair of each role must have: text to learn from, to choose a checkpoint by, to report on.
REQUIRED: dict[Role, tuple[str, ...]] = {"meta-train": ("train",), "meta-dev": ("train", "dev"), "meta-test": ("test",)}
SET_NAME = re.compile(r"(train|dev|test)(-[a-z0-9]+)*")
PLACEHOLDER = re.compile(r"\{(\w*)\}")
TOP_KEYS = ("name", "description", "root", "groups", "tokenizer", "cleaning")
# Every kind of source, its own keys with their types, and then the keys that all of them may have.
KIND_KEYS: dict[str, dict[str, type]] = {
    "moses": {},
    "tsv": {"columns": list},
    "jsonl": {"fields": list},
    "hub": {"config": str, "split": str, "field": str, "columns": list},
    "embedded": {"sentences": int, "seed": int},
}
COMMON_KEYS: dict[str, type] = {"limit": int, "skip": int, "optional": bool, "except": list}
TYPE_NAMES = {list: "a list", str: "a string", int: "a number of 0 or more", bool: "true or false"}


@dataclass(frozen=True)
class TokenizerSettings:
    """The vocabulary: learned from the collection, or that of a pretrained checkpoint.

    Attributes:
        vocabulary_size: pieces.
        temperature: a pair of n sentences counts as n to the 1/temperature when the vocabulary is learned.
        sample_sentences: how many sentences it is learned from.
        character_coverage: share of characters with a piece of their own; the rest is spelled in bytes.
        source_form: how sources are read: as "written", in "lowercase", or "plain", without accents too.
        pretrained: path or hub name of a checkpoint whose tokenizer is used instead.
        codes: that tokenizer's codes of our languages.
    """

    vocabulary_size: int = 8_000
    temperature: float = 5.0
    sample_sentences: int = 300_000
    character_coverage: float = 1.0
    source_form: SourceForm = "written"
    pretrained: str = ""
    codes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PairCorpus:
    """A pair, its role, and the sources of each of its sets."""

    pair: Pair
    role: Role
    sets: dict[str, tuple[Source, ...]]


@dataclass(frozen=True)
class Manifest:
    """A collection; every pair once."""

    name: str
    description: str
    pairs: tuple[PairCorpus, ...]
    tokenizer: TokenizerSettings
    cleaning: CleaningRules


def kind_of(set_name: str) -> str:
    """Return "train", "dev" or "test" for the name of a set, such as "test-news"."""
    return set_name.partition("-")[0]


def missing_kind(role: Role, set_names: Iterable[str]) -> str | None:
    """Return which of the kinds of set that a role needs ("train", "dev", "test") is not among the names, or None."""
    kinds = {kind_of(name) for name in set_names}
    return next((kind for kind in REQUIRED[role] if kind not in kinds), None)


def shipped_manifest(name: str) -> Path:
    """Return the path of a manifest that ships with the package, by name; it may not exist."""
    file = f"{name.removesuffix('.toml')}.toml"
    package = Path(__file__).parents[1]
    installed = package / "corpora" / file
    return installed if installed.exists() else package.parent / "corpora" / file


def load_manifest(path: Path, *, root: Path | None = None) -> Manifest:
    """Return the manifest of a TOML file, or of a shipped one by name, every key checked.

    Args:
        path: the file.
        root: where relative paths start; otherwise the manifest's `root`, otherwise its folder.

    Raises:
        ConfigError: no such file, not TOML, an unknown key or role, no pairs, a pair with two roles or without the
            sets that its role needs.
        UsageError: a pair that is none.
    """
    values, path = read_toml(path, shipped_manifest("cldr").parent, "manifest")
    _known(values, TOP_KEYS, str(path))
    folder = root or path.parent / Path(_typed(values, "root", str, str(path), ".")).expanduser()
    if isinstance(values.get("groups"), dict):
        raise ConfigError(f"[groups] in {path} is one table.", "Write each as [[groups]], in two brackets.")
    groups = _typed(values, "groups", list, str(path), [])
    pairs: dict[Pair, PairCorpus] = {}
    for number, group in enumerate(groups, start=1):
        for item in _group(group, folder, f"group {number} of {path}"):
            pairs[item.pair] = _merged(pairs.get(item.pair), item, path)
    if not pairs:
        raise ConfigError(f"{path} names no pairs.", "Add a [[groups]] with role, pairs and sets.")
    for item in pairs.values():
        if kind := missing_kind(item.role, item.sets):
            raise ConfigError(
                f"{item.pair} in {path} has no {kind} set.",
                f"A {item.role} pair needs {' and '.join(REQUIRED[item.role])}.",
            )
        for name, sources in item.sets.items():
            if repeated := [source for source in sources if sources.count(source) > 1]:
                raise ConfigError(
                    f"The set {name} of {item.pair} in {path} has {repeated[0]} twice.",
                    "Name each source once; its text would count twice.",
                )
    return Manifest(
        name=_typed(values, "name", str, str(path), path.stem),
        description=_typed(values, "description", str, str(path), ""),
        pairs=tuple(pairs.values()),
        tokenizer=_tokenizer(_typed(values, "tokenizer", dict, str(path), {}), path, folder),
        cleaning=_cleaning(_typed(values, "cleaning", dict, str(path), {}), path),
    )


def _tokenizer(values: Mapping[str, Any], path: Path, folder: Path) -> TokenizerSettings:
    where = f"{path} [tokenizer]"
    _known(values, [item.name for item in fields(TokenizerSettings)], where)
    codes = _typed(values, "codes", dict, where, {})
    for language in codes:
        _typed(codes, language, str, f"codes of {where}", "")
    settings = build(TokenizerSettings, {key: value for key, value in values.items() if key != "codes"}, where)
    if settings.vocabulary_size < 1 or settings.sample_sentences < 1 or settings.temperature <= 0:
        raise ConfigError(f"{where} has a size or temperature that is not positive.", "Give a number above 0.")
    if not 0 < settings.character_coverage <= 1:
        raise ConfigError(
            f"character_coverage of {where} is {settings.character_coverage}.", "It is a share: up to 1.0."
        )
    if settings.pretrained and settings.source_form != "written":
        raise ConfigError(
            f"{where} has a source_form, which is of a vocabulary that is learned here, and a pretrained tokenizer.",
            "Leave source_form out: the pretrained tokenizer reads sources in its own way.",
        )
    local = folder / Path(settings.pretrained).expanduser()  # as of text: a folder there, or a name on the hub
    pretrained = str(local) if settings.pretrained and local.is_dir() else settings.pretrained
    return TokenizerSettings(**{**vars(settings), "pretrained": pretrained, "codes": codes})


def _cleaning(values: Mapping[str, Any], path: Path) -> CleaningRules:
    rules = build(CleaningRules, values, f"{path} [cleaning]")
    if rules.max_characters < 1 or rules.max_length_ratio < 1:
        raise ConfigError(f"{path} [cleaning] would drop every sentence.", "Give limits of 1 or more.")
    return rules


def _group(group: Any, folder: Path, where: str) -> list[PairCorpus]:
    if not isinstance(group, dict):
        raise ConfigError(f"{where} is not a table.", "Write it as [[groups]] with role, pairs and sets below it.")
    sets = [key for key in group if SET_NAME.fullmatch(key)]
    _known(group, ("role", "pairs", "train", "dev", "test", *sets), where)
    role = group.get("role")
    if not isinstance(role, str) or role not in REQUIRED:
        raise ConfigError(f"{where} has the role {role!r}.", f"It must be one of {', '.join(REQUIRED)}.")
    names = _typed(group, "pairs", list, where, [])
    if not names or not sets:
        raise ConfigError(f"{where} has no pairs or no sets.", 'Give it pairs = ["fi-en"] and train = [...].')
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{where} names {repeated[0]} twice.", "Name each pair once; its text would count twice.")
    pairs = [Pair.parse(str(name)) for name in names]
    found: dict[Pair, dict[str, tuple[Source, ...]]] = {pair: {} for pair in pairs}
    for key in sets:
        entries = group[key]
        if not isinstance(entries, list) or not entries:
            raise ConfigError(f"{key} in {where} is not a list of sources.", 'Write it as ["prefix", {tsv = "file"}].')
        for entry in entries:
            table = _entry(entry, names, f"{key} in {where}")
            for pair in pairs:
                if str(pair) not in table.get("except", []):
                    source = _source(table, pair, folder, f"{key} in {where}")
                    found[pair][key] = (*found[pair].get(key, ()), source)
    return [PairCorpus(pair, role, found[pair]) for pair in pairs]


def _entry(entry: Any, names: Sequence[str], where: str) -> dict[str, Any]:
    """Return an entry of a set as a table whose keys and types are checked."""
    table = {"moses": entry} if isinstance(entry, str) else entry
    kinds = [kind for kind in KIND_KEYS if kind in table] if isinstance(table, dict) else []
    if len(kinds) != 1:
        raise ConfigError(f"{where} has a source of no kind: {entry}.", f"Name one of {', '.join(KIND_KEYS)}.")
    kind = kinds[0]
    keys = {**KIND_KEYS[kind], **COMMON_KEYS}
    if kind in ("hub", "embedded") and "optional" in table:
        raise ConfigError(
            f"optional in {where} is for files, which may be absent.", f"Leave it out of {{{kind} = ...}}."
        )
    _known(table, (kind, *keys), where)
    for key in table:
        if key != kind:
            _typed(table, key, keys[key], where, None)
        elif not isinstance(table[key], str) and not (kind == "moses" and _two(table[key], str)):
            raise ConfigError(f"{kind} in {where} is {table[key]!r}.", "Give a string (moses: a prefix or two files).")
    for key, item in (("columns", int if kind == "tsv" else str), ("fields", str)):
        if key in table and not _two(table[key], item):
            raise ConfigError(f"{key} in {where} is {table[key]}.", "Give two: the source's and the target's.")
    if kind == "embedded" and not table.get("sentences"):
        raise ConfigError(f"{where} does not say how many sentences.", 'Add: {embedded = "cldr", sentences = 1000}.')
    for name in table.get("except", []):
        if name not in names:
            raise ConfigError(f"{where} excepts {name}, which is not in the group.", did_you_mean(str(name), names))
    return table


def _source(entry: Mapping[str, Any], pair: Pair, folder: Path, where: str) -> Source:
    """Return the source that a checked entry of a set means for a pair."""
    words = {"pair": str(pair), "source": pair.source, "target": pair.target}

    def filled(text: str) -> str:
        for name in PLACEHOLDER.findall(text):
            if name not in words:
                raise ConfigError(f"{where} has the placeholder {{{name}}}.", did_you_mean(name, words))
        return PLACEHOLDER.sub(lambda match: words[match[1]], text)

    def path(text: str) -> Path:
        return with_compression(folder / Path(filled(text)).expanduser())

    common = {key: entry[key] for key in ("limit", "skip", "optional") if key in entry}
    if "moses" in entry:
        value = entry["moses"]
        files = [f"{value}.{{source}}", f"{value}.{{target}}"] if isinstance(value, str) else value
        return Source("moses", tuple(map(path, files)), **common)
    if "tsv" in entry:
        return Source("tsv", (path(entry["tsv"]),), tuple(entry.get("columns", ())), **common)
    if "jsonl" in entry:
        columns = entry.get("fields", ["{source}", "{target}"])
        return Source("jsonl", (path(entry["jsonl"]),), tuple(map(filled, columns)), **common)
    if "hub" in entry:
        column = entry.get("field", "translation")
        columns = entry.get("columns", [column + ".{source}", column + ".{target}"])
        name = filled(entry["hub"])
        local = folder / Path(name).expanduser()
        return Source(
            "hub",
            columns=tuple(map(filled, columns)),
            name=str(local) if local.is_dir() else name,
            config=filled(entry.get("config", "")),
            split=filled(entry.get("split", "train")),
            **common,
        )
    if entry["embedded"] != "cldr":
        raise ConfigError(f"{where} has no embedded corpus {entry['embedded']!r}.", "There is one: cldr.")
    common["limit"] = min(entry["sentences"], entry.get("limit") or entry["sentences"])
    return Source("embedded", name="cldr", seed=entry.get("seed", 1), **common)


def _merged(old: PairCorpus | None, new: PairCorpus, path: Path) -> PairCorpus:
    if old is None:
        return new
    if old.role != new.role:
        raise ConfigError(f"{new.pair} is both {old.role} and {new.role} in {path}.", "Give each pair one role.")
    names = dict.fromkeys([*old.sets, *new.sets])
    return PairCorpus(new.pair, new.role, {name: old.sets.get(name, ()) + new.sets.get(name, ()) for name in names})


def _known(values: Iterable[str], known: Sequence[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise ConfigError(f"Unknown key {key!r} in {where}.", did_you_mean(key, known))


def _typed(values: Mapping[str, Any], key: str, kind: type, where: str, default: Any) -> Any:
    """Return the value of a key, or the default; ConfigError if it is not of that type or is a negative number."""
    value = values.get(key, default)
    if not isinstance(value, kind) or (kind is int and not _is(value, int)):
        raise ConfigError(f"{key} in {where} is {value!r}.", f"It must be {TYPE_NAMES.get(kind, 'a table')}.")
    return value


def _two(value: Any, kind: type) -> bool:
    """Return whether a value is a list of two strings, or of two numbers of 0 or more."""
    return isinstance(value, list) and len(value) == 2 and all(_is(item, kind) for item in value)


def _is(value: Any, kind: type) -> bool:
    """Return whether a value is of that very type (true is no number here) and, if a number, 0 or more."""
    return type(value) is kind and (not isinstance(value, int) or value >= 0)
