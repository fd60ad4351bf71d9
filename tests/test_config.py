"""The configuration: what a file may say, what it may not, and the message for each mistake."""

from __future__ import annotations

import dataclasses
import shlex
import tomllib
import typing
from dataclasses import replace
from pathlib import Path

import pytest

from metanmt.config import Config, FineTuneConfig, ModelConfig, OuterConfig, RunConfig
from metanmt.config_file import CONFIGS, differences, load_config
from metanmt.errors import ConfigError
from metanmt.sections import build, describe, override, to_toml

SHIPPED = sorted(CONFIGS.glob("*.toml"))


def write(folder: Path, text: str, name: str = "run.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def changed() -> Config:
    return Config(
        model=ModelConfig(checkpoint='C:\\models\\"nllb"', dropout=0.0),
        outer=OuterConfig(learner="reptile", learning_rate=1e-7, max_target_tokens=10**12),
        run=RunConfig(seed=0),
    )


@pytest.mark.parametrize("config", [Config(), changed()], ids=["defaults", "changed"])
def test_round_trip(config: Config, tmp_path: Path) -> None:
    assert load_config(write(tmp_path, to_toml(config))) == config


def test_the_resolved_configuration_names_every_setting() -> None:
    values = tomllib.loads(to_toml(Config()))
    assert values.keys() == {section.name for section in dataclasses.fields(Config)}
    for section in dataclasses.fields(Config):
        kind = typing.get_type_hints(Config)[section.name]
        assert values[section.name].keys() == {item.name for item in dataclasses.fields(kind)}


def test_an_empty_file_is_a_valid_one(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "")) == Config()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_parses(path: Path) -> None:
    config = load_config(path)
    assert load_config(Path(path.stem)) == config, "by its name alone"
    assert path.read_text(encoding="utf-8").lstrip().startswith("#"), "it says what it is for"


def test_a_folder_of_that_name_is_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run of `metanmt meta-train joint --out joint` does not hide the configuration it is resumed with."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "joint").mkdir()
    assert load_config(Path("joint")).outer.learner == "joint"


def test_a_file_says_what_differs_from_the_one_it_extends(tmp_path: Path) -> None:
    path = write(tmp_path, 'extends = "small"\n[outer]\nwarmup_steps = 7')
    config, base = load_config(path), load_config(Path("small"))
    assert config.outer.warmup_steps == 7
    assert config.outer.learning_rate == base.outer.learning_rate
    assert config.model == base.model
    with pytest.raises(ConfigError, match=r"No configuration .*smal, which .*run\.toml extends"):
        load_config(write(tmp_path, 'extends = "smal"'))


def test_a_file_beside_it_is_extended_wherever_one_stands(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[inner]\nsteps = 3\nlearning_rate = 0.5", encoding="utf-8")
    config = load_config(write(tmp_path, 'extends = "mine.toml"\n[inner]\nsteps = 4'))
    assert (config.inner.steps, config.inner.learning_rate) == (4, 0.5)


@pytest.mark.parametrize("name", ['"run.toml"', "3", '"other.toml"'])
def test_a_file_that_extends_itself_or_nothing_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "other.toml").write_text('extends = "run.toml"', encoding="utf-8")
    with pytest.raises(ConfigError, match="extends"):
        load_config(write(tmp_path, f"extends = {name}"))


def test_configurations_are_shipped() -> None:
    assert {"tiny", "small", "base"} <= {path.stem for path in SHIPPED}


def test_every_setting_has_a_meaning() -> None:
    for section in dataclasses.fields(Config):
        kind = typing.get_type_hints(Config)[section.name]
        for item in dataclasses.fields(kind):
            assert item.metadata["meaning"], f"{section.name}.{item.name}"
            assert f"  {section.name}.{item.name} = " in describe(Config)
    assert "outer." not in describe(Config, only=("inner",))


@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        ("[iner]\nsteps = 1", "Unknown key 'iner' in", "Did you mean 'inner'?"),
        ("[inner]\nstep = 1", "Unknown key 'step' in", "Did you mean 'steps'?"),
        ("[inner]\nqqq = 1", "Unknown key 'qqq' in", "Known: first_order_share, hidden, learning_rate, "),
        ("inner = 3", "inner in", "Write it as [inner]"),
        ("[inner]\nsteps = 1.5", "steps in", "of that type"),
        ("[inner]\nsteps = true", "steps in", "of that type"),
        ("[inner]\nlearning_rate = false", "learning_rate in", "of that type"),
        ('[inner]\nlearning_rate = "0.1"', "learning_rate in", "of that type"),
        ("[model]\ncheckpoint = 3", "checkpoint in", "of that type"),
        ('[outer]\nlearner = "fomamel"', "'fomamel'", "joint, aligned, fomaml, reptile"),
        ("[model]\nsize = 3", "size in", "tiny, small, base, gu2018"),
        ("[outer\nsteps = 1", "not valid TOML", "Mend the line"),
        ("[outer]\nmeta_batch_size = 0", "outer.meta_batch_size must be at least 1", "positive"),
        ("[run]\nlog_every = 0", "run.log_every must be at least 1", "positive"),
        ("[run]\nseed = -1", "run.seed must not be negative", "0 or more"),
        ("[fine_tune]\nevaluations = 0", "fine_tune.evaluations must be at least 1", "positive"),
        ("[fine_tune]\ndropout = 2.0", "fine_tune.dropout must lie between", "0.1"),
        ("[batch]\nmax_tokens = -5", "batch.max_tokens must be at least 1", "positive"),
        ("[outer]\njoint_share = 1.5", "between 0 and 1", "share"),
        ("[outer]\nlearning_rate = -1", "outer.learning_rate must be above 0", "positive"),
        ("[outer]\nlearning_rate = nan", "learning_rate in", "finite"),
        ("[outer]\nclip_norm = -1", "outer.clip_norm must not be negative", "0 or more"),
        ("[fine_tune]\nlabel_smoothing = 1.5", "fine_tune.label_smoothing must lie between", "share"),
        ("[outer]\nadam_beta2 = 1", "outer.adam_beta2 must lie between 0 and 1, and not be 1", "0.1"),
        ('[outer]\nlearner = "anil"\n[inner]\noptimizer = "adam"', "inner loop of anil has no Adam", "sign"),
        ('[outer]\nlearner = "maml"\n[inner]\noptimizer = "muon"', "inner loop of maml has no Muon", "sign"),
        ('[outer]\nparent = "pt-en"', "Learner fomaml has no parent", "transfer"),
        ('[outer]\nlearner = "transfer"\nunseen_share = 0.5', "transfer has one language", "unseen_share=0"),
        ("[outer]\nunseen_share = 1.5", "between 0 and 1", "share"),
        ('[outer]\nlearner = "transfer"\nfirst_pairs = ["pt-en"]', "learns from one pair", "outer.parent"),
        ("[outer]\nfirst_share = 1.5", "first_share must lie between 0 and 1", "share"),
    ],
)
def test_every_mistake_has_its_message(tmp_path: Path, text: str, cause: str, remedy: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert cause in error.value.cause
    assert remedy in error.value.remedy
    assert "\n" not in error.value.cause
    if " in" in cause or "TOML" in cause:
        assert str(path) in error.value.cause


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes("# für\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(path)


def test_a_missing_file_lists_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No configuration .*none\.toml") as error:
        load_config(tmp_path / "none.toml")
    assert "tiny" in error.value.remedy
    with pytest.raises(ConfigError):
        load_config(tmp_path)


def test_a_whole_number_is_a_float_too() -> None:
    value = build(Config, {"inner": {"learning_rate": 1}}, "test").inner.learning_rate
    assert value == 1.0
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ("text", "section", "key", "value"),
    [
        ("inner.steps=4", "inner", "steps", 4),
        (" inner.steps = 4", "inner", "steps", 4),
        ("inner.learning_rate=1e-4", "inner", "learning_rate", 1e-4),
        ("outer.learner=reptile", "outer", "learner", "reptile"),
        ('outer.learner="reptile"', "outer", "learner", "reptile"),
        ("model.checkpoint=/models/a=b", "model", "checkpoint", "/models/a=b"),
        ("model.checkpoint=", "model", "checkpoint", ""),
        ("run.seed=7", "run", "seed", 7),
    ],
)
def test_set(tmp_path: Path, text: str, section: str, key: str, value: object) -> None:
    config = load_config(write(tmp_path, "[inner]\nsteps = 2\n"), [text])
    assert getattr(getattr(config, section), key) == value
    if section != "inner":
        assert config.inner.steps == 2


OWN = {
    "joint": (0.6, 0.0),
    "aligned": (0.0, 0.5),
    "fomaml": (0.6, 0.0, 1, 0.02),
    "reptile": (0.2, 0.0, 4, 0.2),
    "anil": (0.6, 0.0, 3, 0.02),
}


def own(config: Config) -> tuple[float, ...]:
    without = config.outer.learner in ("joint", "aligned")
    inner = () if without else (config.inner.steps, config.inner.learning_rate)
    return config.outer.joint_share, config.outer.unseen_share, *inner


@pytest.mark.parametrize("learner", OWN)
@pytest.mark.parametrize("name", ["tiny", "small", "base", "gu2018"])
def test_a_learner_brings_its_own_settings(name: str, learner: str) -> None:
    """Any configuration goes with any learner: Reptile with FOMAML's inner loop would be joint training."""
    config = load_config(Path(name), [f"outer.learner={learner}"])
    if load_config(Path(name)).outer.learner != learner:
        assert own(config) == OWN[learner]
    chosen = load_config(Path(name), [f"outer.learner={learner}", "inner.steps=7", "outer.joint_share=0.5"])
    assert chosen.inner == dataclasses.replace(config.inner, steps=7)
    assert chosen.outer == dataclasses.replace(config.outer, joint_share=0.5)


def test_tiny_is_the_configuration_of_its_learner() -> None:
    assert load_config(Path("tiny")) == load_config(Path(load_config(Path("tiny")).outer.learner))


def test_what_a_file_leaves_open_is_its_learners(tmp_path: Path) -> None:
    named = '[outer]\nlearner = "anil"\nwarmup_steps = 9\n'
    assert own(load_config(write(tmp_path, named))) == OWN["anil"]
    path = write(tmp_path, named + "joint_share = 0.1\n[inner]\nlearning_rate = 0.5\n")
    assert own(load_config(path)) == (0.1, 0.0, 3, 0.5)
    assert load_config(path, ["outer.learner=anil"]) == load_config(path)
    other = load_config(path, ["outer.learner=reptile"])
    assert (own(other), other.outer.warmup_steps) == (OWN["reptile"], 9)
    over = write(tmp_path, f'extends = "{path.name}"\n[inner]\nsteps = 7\n', "over.toml")  # of any; what it extends not
    assert own(load_config(over)) == (0.1, 0.0, 7, 0.5)
    assert own(load_config(over, ["outer.learner=reptile"])) == (0.2, 0.0, 7, 0.2)
    broken = write(tmp_path, f"inner = 5\n{named}", "broken.toml")
    with pytest.raises(ConfigError, match="must be a section"):
        load_config(broken, ["outer.learner=reptile"])
    over = write(tmp_path, f'extends = "{path.name}"\n[outer]\nlearner = "reptile"\n', "over.toml")
    assert own(load_config(over)) == OWN["reptile"]
    path = write(tmp_path, "[inner]\nlearning_rate = 0.5\n")  # of any learner
    assert own(load_config(path, ["outer.learner=reptile"])) == (0.2, 0.0, 4, 0.5)


def test_the_last_override_counts_and_the_file_is_not_modified() -> None:
    values = {"inner": {"steps": 2}}
    assert override(values, ["inner.steps=3", "inner.steps=5"]) == {"inner": {"steps": 5}}
    assert values == {"inner": {"steps": 2}}


@pytest.mark.parametrize("text", ["steps", "steps=3", "inner.=3", "=3", "inner.steps"])
def test_what_is_not_an_override(text: str) -> None:
    with pytest.raises(ConfigError, match="is not an override") as error:
        override({}, [text])
    assert "section.key=value" in error.value.remedy


@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        ("outer.pairs=[de-en]", "pairs in --set [outer] is '[de-en]'.", "'outer.pairs=[\"de-en\"]'"),
        ("outer.pairs=de-en, cs-en", "is 'de-en, cs-en'.", '\'outer.pairs=["de-en", "cs-en"]\''),
        ("inner.steps=many", "steps in --set [inner] is 'many'", "of that type"),
        ("iner.steps=3", "Unknown key 'iner' in --set.", "'inner'"),
    ],
)
def test_a_mistake_of_set_is_not_the_files(tmp_path: Path, text: str, cause: str, remedy: str) -> None:
    """A shell takes the quotes out of outer.pairs=["de-en"]; what the remedy says can be pasted."""
    path = write(tmp_path, '[model]\ncheckpoint = "x"')
    with pytest.raises(ConfigError) as error:
        load_config(path, ["model.update=adapters", text])  # which goes with the file's checkpoint alone
    assert cause in error.value.cause
    assert remedy in error.value.remedy
    if "pairs" in text:
        assert load_config(path, shlex.split(error.value.remedy.partition("--set")[2])).outer.pairs[0] == "de-en"


def test_a_list_that_is_none_in_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pairs in .*run\.toml \[outer\] is 'de-en'") as error:
        load_config(write(tmp_path, '[outer]\npairs = "de-en"'))
    assert error.value.remedy == 'Write it as a list: pairs = ["de-en"]'


def test_what_a_default_stands_for_depends_on_the_adaptation() -> None:
    plain, scratch = FineTuneConfig().resolved(), FineTuneConfig().resolved(from_scratch=True)
    replayed = FineTuneConfig().resolved(beside=True)
    assert [item.learning_rate for item in (plain, scratch, replayed)] == [1e-3, 4e-3, 2e-3]
    assert [item.dropout for item in (plain, scratch, replayed)] == [0.2, 0.2, 0.1]
    given = FineTuneConfig(learning_rate=0.02, dropout=0.0)
    assert given.resolved() == given.resolved(from_scratch=True) == given.resolved(beside=True) == given


def test_a_default_is_what_it_stands_for() -> None:
    """So a run goes on that was begun when dropout of fine-tuning had another default, of the same meaning."""
    before = replace(Config(), fine_tune=FineTuneConfig(dropout=0.2))
    assert differences(Config(), before) == {}
    other = replace(Config(), fine_tune=FineTuneConfig(dropout=0.1))
    assert list(differences(Config(), other)) == ["fine_tune.dropout"]


@pytest.mark.parametrize("value", ["-0.3", "-2", "1"])
def test_a_dropout_is_a_probability_or_the_default(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"fine_tune\.dropout must lie between 0 and 1"):
        load_config(write(tmp_path, f"[fine_tune]\ndropout = {value}"))
    assert load_config(write(tmp_path, "[fine_tune]\ndropout = -1")) == Config()
