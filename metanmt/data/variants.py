"""A collection otherwise than its manifest says: with other unseen languages, or in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from metanmt.data.language import CODE, Pair, base_language
from metanmt.data.manifest import REQUIRED, Manifest, PairCorpus
from metanmt.errors import ConfigError, UsageError
from metanmt.runlog import say


def in_both_directions(manifest: Manifest) -> Manifest:
    """Return the collection with every pair the other way round too, of the same text and in the same role.

    Raises:
        ConfigError: it has such a pair already.
    """
    named = {item.pair for item in manifest.pairs}
    if both := next((pair for pair in named if pair.turned() in named), None):
        raise ConfigError(
            f"{manifest.name} has {both} and {both.turned()} already.", "Leave --both-directions out, or one of them."
        )
    turned = [
        PairCorpus(
            item.pair.turned(),
            item.role,
            {name: tuple(source.turned() for source in sources) for name, sources in item.sets.items()},
        )
        for item in manifest.pairs
    ]
    return replace(manifest, pairs=(*manifest.pairs, *turned))


def with_languages(manifest: Manifest, languages: Sequence[str]) -> Manifest:
    """Return an embedded collection with other meta-test languages, which are taken out of the other roles.

    If that takes the last meta-dev pair, the first of the former meta-test pairs that is free plays its part, since
    meta-training cannot choose a checkpoint without one.

    Args:
        manifest: of the collection.
        languages: source languages; none leave it as it is.

    Raises:
        ConfigError: it is not embedded, or has no pairs for a role that it had.
        UsageError: a language that is none.
    """
    if not languages:
        return manifest
    name = manifest.name
    if any(
        source.kind != "embedded" for item in manifest.pairs for sources in item.sets.values() for source in sources
    ):
        raise ConfigError(f"{name} is not an embedded collection.", "--languages goes with the embedded one: cldr.")
    old = {role: [item for item in manifest.pairs if item.role == role] for role in REQUIRED}
    if not old["meta-test"]:
        raise ConfigError(f"{name} has no meta-test pair to replace.", "Give it one, or leave --languages out.")
    target = old["meta-test"][0].pair.target
    for code in languages:
        if not CODE.fullmatch(code) or code == target:
            raise UsageError(
                f"--languages names {code!r}, which is no language to translate into {target}.",
                "Give source languages, such as is,ka; a code of several parts with underscores, such as pt_BR.",
            )
    wanted = [Pair(code, target) for code in dict.fromkeys(languages)]
    seen, known = {_base(code) for code in languages}, (*old["meta-train"], *old["meta-dev"])
    kept = [item for item in known if _base(item.pair.source) not in seen]
    for item in known:
        if item not in kept and item.pair not in wanted:
            say(f"{item.pair} is left out: it is the same language as one that is to be unseen")
    if old["meta-dev"] and not any(item.role == "meta-dev" for item in kept):
        free = [item.pair for item in old["meta-test"] if _base(item.pair.source) not in seen]
        if not free:
            raise ConfigError(f"--languages leaves {name} no meta-dev pair.", "Leave one of its languages out.")
        kept.append(PairCorpus(free[0], "meta-dev", old["meta-dev"][0].sets))
    if old["meta-train"] and not any(item.role == "meta-train" for item in kept):
        raise ConfigError(f"--languages leaves {name} no meta-train pair.", "Name fewer languages.")
    kept += [PairCorpus(pair, "meta-test", old["meta-test"][0].sets) for pair in wanted]
    return replace(manifest, pairs=tuple({item.pair: item for item in kept}.values()))


def _base(code: str) -> str:
    """Return the language of a code with a region or script: "pt" of pt_BR. Norwegian is Bokmål, as in CLDR."""
    language = base_language(code)
    return {"no": "nb"}.get(language, language)
