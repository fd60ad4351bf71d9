"""A configuration from a file and `--set` overrides, and what tells two of them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from metanmt.config import LEARNERS_OWN, Config, LearnerName, OuterConfig
from metanmt.errors import ConfigError
from metanmt.sections import SET, build, checked, merged, override, read_layers, read_toml

CONFIGS = Path(__file__).parent / "configs"


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a TOML file, or of a shipped one by name ("tiny"), with `--set` overrides.

    A file that begins with `extends = "tiny"` says only what differs from that one. What is left open of the settings
    that are the learner's own (`LEARNERS_OWN`) is as in the shipped configuration of that learner. A file that names
    another learner than is taken in the end does not mean that one by what it says of them: it is left out.

    Raises:
        ConfigError: no such file, not TOML, an unknown section or key, or a value of the wrong type.
    """
    layers, path = read_layers(path, CONFIGS, "configuration")
    given = override({}, overrides)
    checked(Config, given, SET)
    *named, chosen = (_section(part, "outer").get("learner", "") for part in (*layers, given))
    learner = next(filter(None, (chosen, *reversed(named))), OuterConfig.learner)
    values: dict[str, Any] = {}
    for layer, its in zip(layers, named, strict=True):
        values = merged(values, layer if its in ("", learner) else _own(layer, keep=False))
    of_learner = CONFIGS / f"{learner}.toml"
    if of_learner.stem in get_args(LearnerName) and not of_learner.is_file():
        raise ConfigError(f"Learner {of_learner.stem} has no configuration.", f"Write its inner loop: {of_learner}.")
    if of_learner.is_file():
        shipped, _ = read_toml(of_learner, CONFIGS, "configuration")
        values = merged(_own(shipped, keep=True), values)
    return build(Config, override(values, overrides), where=str(path))


def located(config: Config) -> Config:
    """Return a configuration whose checkpoint, where it is a folder here, is named by its absolute path.

    A link keeps its name: what it leads to, such as the best checkpoint of a run, may change.
    """
    name = config.model.checkpoint
    if not name or not Path(name).is_dir():
        return config
    checkpoint = str(Path(name).parent.resolve() / Path(name).name)
    return replace(config, model=replace(config.model, checkpoint=checkpoint))


def differences(config: Config, other: Config) -> dict[str, str]:
    """Return the settings that differ between two configurations, by name, each in words with both values.

    A checkpoint is the same one however its folder is spelled, and a default the same as what it stands for.
    """
    ours, theirs = (asdict(replace(located(one), fine_tune=one.fine_tune.resolved())) for one in (config, other))
    return {
        f"{section}.{key}": f"{section}.{key} is {theirs[section][key]!r} there and {value!r} here"
        for section, values in ours.items()
        for key, value in values.items()
        if value != theirs[section][key]
    }


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = values.get(name)
    return section if isinstance(section, Mapping) else {}


def _own(values: Mapping[str, Any], *, keep: bool) -> dict[str, Any]:
    """Return the settings that are a learner's own, or all but these."""
    return {
        name: {key: value for key, value in part.items() if (key in LEARNERS_OWN.get(name, ())) == keep}
        if isinstance(part, Mapping)
        else part
        for name, part in values.items()
    }
