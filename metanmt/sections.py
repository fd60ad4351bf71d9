"""Typed sections of a TOML file: dataclasses whose fields carry their default and their meaning, checked when filled.

What there is to set stands in `config.py` and `comparison/plan.py`; here is how it is read, overridden and printed.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, TypeVar

from metanmt.errors import ConfigError, did_you_mean
from metanmt.limits import COUNT, NOT_NEGATIVE, Range

Section = TypeVar("Section")
SET = "--set"  # where an override comes from, for the message


def setting(default: Any, meaning: str, within: Range | None = None) -> Any:
    """Return a dataclass field with its default, the sentence that documents it, and the numbers that it may be.

    Args:
        within: default: of whole numbers those from 1 on, of others those that are not negative.
    """
    if within is None and not isinstance(default, bool):
        within = COUNT if isinstance(default, int) else NOT_NEGATIVE if isinstance(default, float) else None
    return field(default=default, metadata={"meaning": meaning, "within": within})


def read_toml(path: Path, shipped: Path, what: str, alternatives: Sequence[str] = ()) -> tuple[dict[str, Any], Path]:
    """Return what a TOML file says, laid over what it extends, and where it was found.

    Its values replace those of the extended file, its sections are merged key by key.

    Args:
        path, shipped, what: as of `read_layers`.
        alternatives: keys of which a file that sets one does away with the others of the file it extends.

    Raises:
        ConfigError: as of `read_layers`.
    """
    layers, found = read_layers(path, shipped, what)
    whole: dict[str, Any] = {}
    for values in layers:
        if set(alternatives) & set(values):
            whole = {key: value for key, value in whole.items() if key not in alternatives}
        whole = merged(whole, values)
    return whole, found


def read_layers(path: Path, shipped: Path, what: str, chain: Sequence[Path] = ()) -> tuple[list[dict[str, Any]], Path]:
    """Return what a TOML file says, behind what each file says that it extends, and where it was found.

    A bare name that is no file is one of the shipped ones. In `extends = "NAME"` it is a file beside, or a shipped one.

    Args:
        path: of a file, or the name of a shipped one.
        shipped: the folder of those.
        what: is read, in a word, for the message.
        chain: the files that extend this one.

    Raises:
        ConfigError: no such file, not TOML, or one that extends itself.
    """
    own = shipped / f"{path.name.removesuffix('.toml')}.toml"
    found = path
    if not path.is_file() and own.is_file() and path.parent in (Path(), *(file.parent for file in chain[-1:])):
        found = own
    if not found.is_file():
        names = sorted(item.stem for item in shipped.glob("*.toml"))
        asked = f", which {chain[-1]} extends" if chain else ""
        remedy = f"Give a TOML file, or a shipped one by its name: {', '.join(names)}."
        if (near := did_you_mean(path.name, names)).startswith("Did"):
            remedy = f"{near} {remedy}"
        raise ConfigError(f"No {what} {path}{asked}.", remedy)
    try:
        values = tomllib.loads(found.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{found} is not valid TOML: {error}.", "Mend the line that it names.") from None
    if "extends" not in values:
        return [values], found
    name = values.pop("extends")
    if not isinstance(name, str) or found.resolve() in (file.resolve() for file in chain):
        raise ConfigError(f"{found} extends {name!r}.", 'Write the name of another file: extends = "tiny".')
    extended, _ = read_layers(found.parent / name, shipped, what, (*chain, found))
    return [*extended, values], found


def merged(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values laid over others: they replace, but sections are merged key by key."""
    both = {
        key: merged(base[key], value)
        for key, value in values.items()
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
    }
    return {**base, **values, **both}


def override(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return nested `values` with each "section.key=value" applied; a value is TOML, or else a bare string."""
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for text in overrides:
        name, equals, raw = text.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot and key):
            raise ConfigError(f"{SET} {text!r} is not an override.", "Write it as section.key=value.")
        try:
            value = tomllib.loads(f"value = {raw}")["value"]
        except tomllib.TOMLDecodeError:
            value = raw
        target = merged.setdefault(section, {})
        if isinstance(target, dict):
            target[key] = value
    return merged


def build(section: type[Section], values: Mapping[str, Any], where: str) -> Section:
    """Return the dataclass `section` filled from `values`, every name and type checked.

    Args:
        section: a dataclass whose fields are settings, or sections of them.
        values: what the file says; keys that it omits keep their default.
        where: the file (and section), or `SET`, for the message.

    Raises:
        ConfigError: an unknown key (with the nearest name) or a value of the wrong type.
    """
    return section(**checked(section, values, where))


def checked(section: type[Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what `build` fills a section with: it may be of several places, each checked by itself, that make one."""
    hints = typing.get_type_hints(section)
    known = {item.name for item in dataclasses.fields(section)}
    filled: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"Unknown key {key!r} in {where}.", did_you_mean(key, known))
        where_key = f"{where} [{key}]"
        if typing.get_origin(hints[key]) is dict:
            kind = typing.get_args(hints[key])[1]
            if not isinstance(value, Mapping) or not all(isinstance(item, Mapping) for item in value.values()):
                raise ConfigError(f"{key} in {where} must hold sections.", f"Write each as [{key}.NAME].")
            filled[key] = {name: build(kind, item, where=f"{where} [{key}.{name}]") for name, item in value.items()}
        elif dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{key} in {where} must be a section.", f"Write it as [{key}] with keys below it.")
            filled[key] = build(typing.cast(type[Any], hints[key]), value, where=where_key)
        else:
            filled[key] = _checked(value, hints[key], key, where)
    return filled


def _checked(value: Any, hint: Any, key: str, where: str) -> Any:
    what = f"{key} in {where}"
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            named = ", ".join(filter(None, map(str, choices)))
            raise ConfigError(f"{what} is {value!r}.", f"It must be one of {named}.")
        return value
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{what} is {value!r}.", f"Write it as a list: {_as_list(value, key, where)}")
        return tuple(_checked(item, typing.get_args(hint)[0], key, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{what} is {value}.", "Give a finite number.")
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{what} is {value!r}, not of type {hint.__name__}.", "Give a value of that type.")
    return value


def _as_list(value: Any, key: str, where: str) -> str:
    """Return what was meant by a value that is no list, to be pasted; a shell takes quotes away that are not quoted."""
    items = [item.strip(" '\"") for item in value.strip(" []").split(",")] if isinstance(value, str) else [value]
    _, overridden, section = where.partition(f"{SET} [")
    text = _toml(tuple(items))
    return f"{SET} '{section.removesuffix(']')}.{key}={text}'" if overridden else f"{key} = {text}"


def to_toml(config: Any) -> str:
    """Return the resolved configuration as TOML text, every key written out."""
    lines = []
    for section in dataclasses.fields(config):
        lines.append(f"[{section.name}]")
        values = getattr(config, section.name)
        lines += [f"{item.name} = {_toml(getattr(values, item.name))}" for item in dataclasses.fields(values)]
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)


def describe(config: type[Any], only: Sequence[str] = ()) -> str:
    """Return every setting with its default and meaning, a line each, for `--help`."""
    lines = []
    for section in dataclasses.fields(config):
        if only and section.name not in only:
            continue
        kind = typing.get_type_hints(config)[section.name]
        for item in dataclasses.fields(kind):
            value = "" if isinstance(item.default, types.NoneType) else _toml(item.default)
            lines.append(f"  {section.name}.{item.name} = {value}\n      {item.metadata['meaning']}")
    return "\n".join(lines)
