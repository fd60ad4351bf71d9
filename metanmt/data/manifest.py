"""Manifests: which pairs a collection has, which role each plays, and where its text comes from."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from metanmt.config import build
from metanmt.data.cleaning import CleaningRules
from metanmt.data.language import Pair
from metanmt.data.sources import Source, with_compression
from metanmt.errors import ConfigError, did_you_mean

Role = Literal["meta-train", "meta-dev", "meta-test"]
ROLES = ("meta-train", "meta-dev", "meta-test")
SET_NAME = re.compile(r"(train|dev|test)(-[a-z0-9]+)*")
TOP_KEYS = ("name", "description", "root", "groups", "tokenizer", "cleaning")
KIND_KEYS: dict[str, tuple[str, ...]] = {
    "moses": (),
    "tsv": ("columns",),
    "jsonl": ("fields",),
    "hub": ("config", "split", "field", "fields"),
    "embedded": ("sentences", "skip", "seed"),
}
COMMON_KEYS = ("limit", "optional", "except", "skip")


@dataclass(frozen=True)
class TokenizerSettings:
    """The vocabulary: learned from the collection, or that of a pretrained checkpoint.

    Attributes:
        vocabulary_size: pieces.
        temperature: a pair of n sentences counts as n to the 1/temperature when the vocabulary is learned.
        sample_sentences: how many sentences it is learned from.
        character_coverage: share of characters with a piece of their own; the rest is spelled in bytes.
        pretrained: path or hub name of a checkpoint whose tokenizer is used instead.
        codes: that tokenizer's codes of our languages.
    """

    vocabulary_size: int = 8_000
    temperature: float = 5.0
    sample_sentences: int = 300_000
    character_coverage: float = 1.0
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
    """A collection."""

    name: str
    description: str
    pairs: tuple[PairCorpus, ...]
    tokenizer: TokenizerSettings
    cleaning: CleaningRules


def shipped_manifest(name: str) -> Path:
    """Return the path of a manifest that ships with the package, by name; it may not exist."""
    file = f"{name.removesuffix('.toml')}.toml"
    package = Path(__file__).parents[1]
    installed = package / "corpora" / file
    return installed if installed.exists() else package.parent / "corpora" / file


def load_manifest(path: Path, *, root: Path | None = None, languages: Sequence[str] = ()) -> Manifest:
    """Return the manifest of a TOML file, or of a shipped one by name, every key checked.

    Args:
        path: the file.
        root: where relative paths start; otherwise the manifest's `root`, otherwise its folder.
        languages: source languages that replace the meta-test ones of an embedded collection.

    Raises:
        ConfigError: no such file, not TOML, an unknown key or role, no pairs, a pair with two roles.
    """
    if not path.exists() and shipped_manifest(path.name).exists():
        path = shipped_manifest(path.name)
    if not path.is_file():
        names = ", ".join(sorted(item.stem for item in shipped_manifest("").parent.glob("*.toml")))
        raise ConfigError(f"No manifest {path}.", f"Give a TOML file, or a shipped collection: {names}.")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.", "Mend the line that it names.") from None
    _known(values, TOP_KEYS, str(path))
    folder = root or path.parent / values.get("root", ".")
    pairs: dict[Pair, PairCorpus] = {}
    for number, group in enumerate(values.get("groups", []), start=1):
        for item in _group(group, folder, f"{path}, group {number}"):
            pairs[item.pair] = _merged(pairs.get(item.pair), item, path)
    if languages:
        pairs = _with_languages(pairs, languages, path)
    if not pairs:
        raise ConfigError(f"{path} names no pairs.", "Add a [[groups]] with role, pairs and sets.")
    return Manifest(
        name=str(values.get("name", path.stem)),
        description=str(values.get("description", "")),
        pairs=tuple(pairs.values()),
        tokenizer=_tokenizer(values.get("tokenizer", {}), path),
        cleaning=build(CleaningRules, values.get("cleaning", {}), f"{path} [cleaning]"),
    )


def _tokenizer(values: Mapping[str, Any], path: Path) -> TokenizerSettings:
    codes = values.get("codes", {})
    plain = build(
        TokenizerSettings, {key: value for key, value in values.items() if key != "codes"}, f"{path} [tokenizer]"
    )
    return TokenizerSettings(**{**plain.__dict__, "codes": dict(codes)})


def _group(group: Mapping[str, Any], folder: Path, where: str) -> list[PairCorpus]:
    sets = {key: value for key, value in group.items() if SET_NAME.fullmatch(key)}
    _known(group, ("role", "pairs", "train", "dev", "test", *sets), where)
    role = group.get("role")
    if role not in ROLES:
        raise ConfigError(f"{where} has the role {role!r}.", f"It must be one of {', '.join(ROLES)}.")
    if not group.get("pairs") or not sets:
        raise ConfigError(f"{where} has no pairs or no sets.", 'Give it pairs = ["fi-en"] and train = [...].')
    items = []
    for name in group["pairs"]:
        pair = Pair.parse(name)
        found = {}
        for key, sources in sets.items():
            if not isinstance(sources, list) or not sources:
                raise ConfigError(f"{key} in {where} is not a list of sources.", 'Write it as ["prefix", {tsv = "f"}].')
            chosen = tuple(s for s in (_source(item, pair, folder, f"{key} in {where}") for item in sources) if s)
            if chosen:
                found[key] = chosen
        if found:
            items.append(PairCorpus(pair, role, found))
    return items


def _source(item: Any, pair: Pair, folder: Path, where: str) -> Source | None:
    """Return the source that an entry of a set means for a pair, or None if the entry excepts the pair."""
    entry = {"moses": item} if isinstance(item, str) else dict(item)
    kinds = [kind for kind in KIND_KEYS if kind in entry]
    if len(kinds) != 1:
        raise ConfigError(f"{where} has a source of no kind: {item}.", f"Name one of {', '.join(KIND_KEYS)}.")
    kind = kinds[0]
    _known(entry, (kind, *KIND_KEYS[kind], *COMMON_KEYS), where)
    if str(pair) in entry.get("except", []):
        return None

    def filled(text: str) -> str:
        return text.replace("{pair}", str(pair)).replace("{source}", pair.source).replace("{target}", pair.target)

    def path(text: str) -> Path:
        return with_compression(folder / Path(filled(text)).expanduser())

    common: dict[str, Any] = {key: entry[key] for key in ("limit", "optional", "skip") if key in entry}
    value = entry[kind]
    if kind == "moses":
        files = [f"{value}.{pair.source}", f"{value}.{pair.target}"] if isinstance(value, str) else value
        return Source("moses", tuple(path(file) for file in files), **common)
    if kind == "tsv":
        return Source("tsv", (path(value),), tuple(entry.get("columns", (0, 1))), **common)
    if kind == "jsonl":
        fields = entry.get("fields", ["{source}", "{target}"])
        return Source("jsonl", (path(value),), tuple(map(filled, fields)), **common)
    if kind == "hub":
        column = entry.get("field", "translation")
        fields = entry.get("fields", [column + ".{source}", column + ".{target}"])
        local = folder / filled(value)
        return Source(
            "hub",
            columns=tuple(map(filled, fields)),
            name=str(local) if local.exists() else filled(value),
            config=filled(entry.get("config", "")),
            split=filled(entry.get("split", "train")),
            **common,
        )
    extra: dict[str, Any] = {key: entry[key] for key in ("skip", "seed") if key in entry}
    return Source("embedded", name=str(value), limit=int(entry["sentences"]), **extra)


def _merged(old: PairCorpus | None, new: PairCorpus, path: Path) -> PairCorpus:
    if old is None:
        return new
    if old.role != new.role:
        raise ConfigError(f"{new.pair} is both {old.role} and {new.role} in {path}.", "Give each pair one role.")
    names = dict.fromkeys([*old.sets, *new.sets])
    return PairCorpus(new.pair, new.role, {name: old.sets.get(name, ()) + new.sets.get(name, ()) for name in names})


def _with_languages(pairs: dict[Pair, PairCorpus], languages: Sequence[str], path: Path) -> dict[Pair, PairCorpus]:
    """Return the pairs with the meta-test languages replaced, and taken out of the other roles."""
    tests = [item for item in pairs.values() if item.role == "meta-test"]
    if not tests or any(source.kind != "embedded" for sources in tests[0].sets.values() for source in sources):
        raise ConfigError(f"{path} is not an embedded collection.", "--languages goes with the embedded one: cldr.")
    kept = {p: item for p, item in pairs.items() if item.role != "meta-test" and p.source not in languages}
    for language in dict.fromkeys(languages):
        pair = Pair.parse(f"{language}-{tests[0].pair.target}")
        kept[pair] = PairCorpus(pair, "meta-test", tests[0].sets)
    return kept


def _known(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise ConfigError(f"Unknown key {key!r} in {where}.", did_you_mean(key, known))
