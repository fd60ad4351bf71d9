"""What a comparison is to run: arms, unseen pairs, budgets, draws; checked before anything is trained."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from metanmt import __version__
from metanmt.config import FREE, Config, LearnerName, Update
from metanmt.config_file import load_config
from metanmt.data.language import Pair
from metanmt.data.store import TokenStore
from metanmt.data.vectors import data_vectors
from metanmt.errors import ConfigError, did_you_mean
from metanmt.files import digest
from metanmt.limits import check_used
from metanmt.nmt.folder import checkpoint_folder, run_of
from metanmt.sections import build, read_toml, setting

SCRATCH = "none"
ADAPTED_SINCE = ("each pair draws its own", "pieces are aligned", "the latest of the best is kept")
"""What has changed since the first version in adaptations of the same settings."""
COST = "outer.max_target_tokens"
SELECTION = ("metric", "dev_sentences", "evaluations", "patience", "average_share", "soup")
"""Settings of fine-tuning that choose the weights: alike in every arm."""


@dataclass(frozen=True)
class ArmConfig:
    """One initialisation to compare."""

    learner: Literal["none", "", LearnerName] = setting("", 'how it is learned; "none": from scratch')
    checkpoint: str = setting("", "a run or checkpoint that is there already, instead of a learner")
    config: str = setting("", "a configuration of its own, instead of that of all arms")
    set: tuple[str, ...] = setting((), "settings of this arm, each section.key=value")


@dataclass(frozen=True)
class CompareConfig:
    """A comparison file."""

    name: str = setting("", "title of the tables")
    data: str = setting("", "a prepared data folder; or")
    corpus: str = setting("", "a manifest (or the name of a shipped one) to prepare")
    root: str = setting("", "where the text of that manifest lies")
    runs: str = setting("", "folder of the meta-trainings, which comparisons may share (default: `runs` of its own)")
    config: str = setting("tiny", "configuration of all arms: a file, or the name of a shipped one")
    set: tuple[str, ...] = setting((), "settings of all arms, each section.key=value")
    replay: str = setting("", "a data folder whose meta-train text is replayed in adapting (default: the data)")
    back_translation: bool = setting(
        False, "adapting learns target-language text too, translated back by the initialisation (fine-tune --back init)"
    )
    pairs: tuple[str, ...] = setting((), "unseen pairs (default: every meta-test pair)")
    train_set: str = setting("train", "the set that budgets are drawn from")
    dev_set: str = setting("dev", "the set that chooses the weights in adapting")
    test_sets: tuple[str, ...] = setting(("test",), "the sets that are scored; every pair has the first of them")
    budgets: tuple[int, ...] = setting((0, 4_000), "target words to adapt on; 0 is zero-shot")
    draws: tuple[int, ...] = setting((1, 2, 3), "seeds of the support draws, and of everything random in adapting")
    updates: tuple[Update, ...] = setting((), "which parameters move in adapting (default: as fine_tune.update says)")
    baseline: str = setting("joint", "the arm that the others are compared with")
    beam: int = setting(5, "beam size of the translations that are scored")
    confidence: float = setting(0.95, "of the intervals, corrected for the number of comparisons")
    arms: dict[str, ArmConfig] = field(
        default_factory=dict, metadata={"meaning": "the arms, each a section [arms.NAME]"}
    )


@dataclass(frozen=True)
class Arm:
    """An arm with everything resolved; `config` is None for a checkpoint that is there already."""

    name: str
    learner: str
    config: Config
    checkpoint: str = ""

    @property
    def trained(self) -> bool:
        """Whether the comparison meta-trains it."""
        return self.learner != SCRATCH and not self.checkpoint

    @property
    def universal(self) -> bool:
        """Whether it is meta-trained with a universal lexicon, which needs the vectors of the data."""
        return self.trained and self.config.model.lexicon == "universal"


@dataclass(frozen=True)
class Cell:
    """One adaptation and its scores. Budget 0 is zero-shot, with draw 0 and nothing moved."""

    arm: str
    pair: str
    budget: int
    update: str
    draw: int

    @property
    def path(self) -> Path:
        """Where its result lies, below the comparison's folder."""
        adapted = f"{self.budget}-{self.update}-{self.draw}" if self.budget else "zero-shot"
        return Path("results") / self.arm / self.pair / adapted


@dataclass(frozen=True)
class Plan:
    """A checked comparison."""

    compare: CompareConfig
    arms: tuple[Arm, ...]
    pairs: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def test_set(self) -> str:
        """The set that every pair is scored on."""
        return self.compare.test_sets[0]

    def run(self, arm: Arm, out: Path) -> Path:
        """Return the folder of an arm's meta-training, `out` being that of the comparison."""
        return (Path(self.compare.runs) if self.compare.runs else out / "runs") / arm.name

    def test_sets(self, store: TokenStore, pair: str) -> tuple[str, ...]:
        """Return the test sets that a pair is scored on, those that it has."""
        return tuple(name for name in self.compare.test_sets if name in store.sets(Pair.parse(pair)))

    def arm(self, name: str) -> Arm:
        """Return the arm of this name."""
        return next(arm for arm in self.arms if arm.name == name)

    def replays(self, cell: Cell) -> bool:
        """Return whether text of meta-training is learned beside in a cell's adaptation."""
        arm = self.arm(cell.arm)
        tuning = replace(arm.config.fine_tune, update=cast(Update, cell.update))
        return bool(cell.budget) and arm.learner != SCRATCH and tuning.replays

    def _replayed(self, cell: Cell) -> list[str]:
        """Return that text is replayed in a cell, and a digest of it where that is not the data's own."""
        folder = self.compare.replay
        others = [TokenStore.open(Path(folder)).training_digest] if folder else []
        others += ["but what is held out"] if others else []  # since it is not
        return ["text is replayed", *others] if self.replays(cell) else []

    def digest(self, cell: Cell, store: TokenStore) -> str:
        """Return what the result of a cell depends on, as one digest: configuration, data, version.

        Settings at their default do not count, so that a setting which a later version adds leaves results valid; nor
        do the test sets, whose scores stand side by side in a result.
        """
        arm = self.arm(cell.arm)
        since = [*ADAPTED_SINCE, *self._replayed(cell), *["translated back"] * self.compare.back_translation]
        facts = {
            "cell": asdict(cell),
            "arm": [arm.learner, arm.checkpoint and _files(Path(arm.checkpoint))],
            "base": arm.config.model.checkpoint and _files(Path(arm.config.model.checkpoint)),
            "vectors": arm.universal and data_vectors(store.folder, store.digest).digest(),
            "config": _chosen(arm.config),
            "data": [store.digest, {name: item["sets"] for name, item in store.facts["pairs"].items()}],
            "adapted": cell.budget and [self.compare.train_set, self.compare.dev_set, *since],
            "beam": self.compare.beam,
            "version": __version__,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _chosen(config: Config) -> dict[str, dict[str, Any]]:
    """Return the settings that differ from their defaults, but not those of how it is computed and logged."""
    defaults = asdict(Config())
    return {
        section: {
            key: value
            for key, value in values.items()
            if value != defaults[section][key] and f"{section}.{key}" not in FREE
        }
        for section, values in asdict(config).items()
    }


@functools.cache
def _files(path: Path) -> tuple[str, ...]:
    """Return the digests of a checkpoint's weights and configuration; of a name on the hub, none."""
    if not path.is_dir():
        return ()
    folder = checkpoint_folder(path)
    return tuple(digest(file) for file in [*sorted(folder.glob("*.safetensors")), *folder.glob("config.json")])


def load_compare(path: Path) -> CompareConfig:
    """Return the comparison of a TOML file, or of a shipped one by name.

    A file that begins with `extends = "cldr"` says only what differs from that one, and which arms it has besides.

    Raises:
        ConfigError: no such file, not TOML, or an unknown key.
    """
    values, found = read_toml(path, Path(__file__).parent, "comparison", alternatives=("data", "corpus"))
    return build(CompareConfig, values, where=str(found))


def to_toml(compare: CompareConfig) -> str:
    """Return a comparison as TOML text, every key written out."""
    values = asdict(compare)
    arms = values.pop("arms")
    lines = [_line(key, value) for key, value in values.items()]
    for name, arm in arms.items():
        lines += ["", f"[arms.{json.dumps(name, ensure_ascii=False)}]"]
        lines += [_line(key, value) for key, value in arm.items() if value]
    return "\n".join(lines) + "\n"


def _line(key: str, value: Any) -> str:
    return f"{key} = {json.dumps(value, ensure_ascii=False)}"


def make_arms(compare: CompareConfig) -> tuple[Arm, ...]:
    """Return the arms resolved, after checking that they are compared fairly.

    Raises:
        ConfigError: no arm, an unknown baseline, or arms of unequal cost or selection.
    """
    if not compare.arms:
        raise ConfigError("The comparison has no arms.", 'Add some: [arms.joint] with learner = "joint".')
    if strange := [name for name in compare.arms if not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", name)]:
        raise ConfigError(f"{strange[0]!r} cannot name an arm.", "Use letters, digits and hyphens.")
    if not 0 < compare.confidence < 1:
        raise ConfigError(f"confidence is {compare.confidence}.", "Give a share below 1, such as 0.95.")
    if compare.baseline not in compare.arms:
        raise ConfigError(f"No arm is called {compare.baseline!r}.", did_you_mean(compare.baseline, compare.arms))
    arms = []
    for name, item in compare.arms.items():
        if bool(item.learner) == bool(item.checkpoint):
            raise ConfigError(f"Arm {name} has not exactly one start.", "Give it either a learner or a checkpoint.")
        learner = [f"outer.learner={item.learner}"] if item.learner not in ("", SCRATCH) else []
        config = load_config(Path(item.config or compare.config), [*compare.set, *item.set, *learner])
        if item.learner != SCRATCH:
            check_used(config, item.set, compare.updates, back_translation=compare.back_translation)
        arms.append(Arm(name, item.learner, config, item.checkpoint))
    trained = [arm for arm in arms if arm.trained]
    for arm in trained:
        _check_equal("cost", trained[0], arm, _cost)
        _check_equal("selection of the checkpoint", trained[0], arm, lambda arm: asdict(arm.config.validation))
    wanted = trained[0].config.outer.max_target_tokens if trained else None
    for arm in arms:
        _check_equal("selection in fine-tuning", arms[0], arm, _selection)
        starts = {_run_of(other.config.model.checkpoint) for other in trained}  # what they add to it is shown
        cost = checkpoint_cost(arm)
        if trained and cost not in (None, wanted) and starts != {_run_of(arm.checkpoint)}:
            raise ConfigError(
                f"The checkpoint of arm {arm.name} cost {cost:,} target tokens, arm {trained[0].name} is to cost "
                f"{wanted:,}: no fair comparison.",
                f"Set {COST}={cost} under `set` at the top of the file, or leave one of them out.",
            )
    return tuple(arms)


def _cost(arm: Arm) -> dict[str, Any]:
    return {COST: arm.config.outer.max_target_tokens}


def checkpoint_cost(arm: Arm) -> int | None:
    """Return what the run of an arm's checkpoint costs, in target tokens; None without one, or where it has no run."""
    run = _run_of(arm.checkpoint)
    try:
        return load_config(run / "config.toml").outer.max_target_tokens if run else None
    except ConfigError:  # of another version
        return None


def _run_of(checkpoint: str) -> Path | None:
    return run_of(Path(checkpoint)) if checkpoint else None


def _selection(arm: Arm) -> dict[str, Any]:
    return {f"fine_tune.{key}": getattr(arm.config.fine_tune, key) for key in SELECTION}


def _check_equal(what: str, one: Arm, other: Arm, of: Callable[[Arm], dict[str, Any]]) -> None:
    """Raise a ConfigError, with both values, if two arms differ in what must be alike."""
    ours, theirs = of(one), of(other)
    if unequal := [f"{key} is {ours[key]!r} and {theirs[key]!r}" for key in ours if ours[key] != theirs[key]]:
        raise ConfigError(
            f"Arms {one.name} and {other.name} differ in their {what}: {', '.join(unequal)}. No fair comparison.",
            "Set it for all arms, under `set` at the top of the file.",
        )


def make_plan(compare: CompareConfig, store: TokenStore) -> Plan:
    """Return everything that is to be run; `checks.checked_plan` says whether it can be.

    Raises:
        ConfigError: arms that cannot be compared fairly, or nothing to run.
    """
    arms = make_arms(compare)
    pairs = tuple(dict.fromkeys(compare.pairs)) or tuple(str(pair) for pair in store.pairs("meta-test"))
    cells = tuple(
        Cell(arm.name, pair, budget, update, draw if budget else 0)
        for arm in arms
        for pair in pairs
        for budget in dict.fromkeys(compare.budgets)
        if budget or arm.learner != SCRATCH
        for update in ((compare.updates or (arm.config.fine_tune.update,)) if budget else ("none",))
        for draw in (compare.draws if budget else compare.draws[:1])
    )
    if not cells:
        raise ConfigError("The comparison has nothing to run.", "Give it budgets, pairs and arms.")
    return Plan(compare, arms, pairs, cells)
