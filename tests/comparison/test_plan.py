"""What a comparison refuses before anything is trained, and what the result of a cell depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from metanmt.comparison import compare, plan
from metanmt.comparison.checks import checked_plan
from metanmt.comparison.plan import ArmConfig, load_compare, make_arms
from metanmt.data.manifest import load_manifest
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import load_tokenizer
from metanmt.errors import ConfigError, MetanmtError
from metanmt.nmt.checkpoint import save_checkpoint
from metanmt.recipes import prepare
from tests import toy
from tests.recipes.conftest import MANIFEST

SHIPPED = Path(plan.__file__).parent
MISTAKES = [
    ("[arms.joint]", "[arms.jiont]", "No arm is called 'joint'", "jiont"),
    ('learner = "fomaml"', 'learner = "fomal"', "'fomal'", "one of none, joint, aligned"),
    ("budgets = [0, 100]", "budgets = [0, 100000]", "larger than fi-en's", "smaller"),
    ("budgets = [0, 100]", "budgets = [2]", "too small for fi-en", "zero-shot"),
    ("draws = [1, 2]", "draws = [1, 1]", "The draws are", "once"),
    ("beam = 1", 'pairs = ["fii-en"]', "no pair fii-en", "fi-en"),
    ("beam = 1", 'pairs = ["de-en"]', "de-en is a meta-train pair, which arm joint learns from", "fi-en"),
    ("beam = 1", 'pairs = ["lv-en"]', "no set 'test'", "train"),
    ('["test", "test-late"]', '["test", "test"]', "The test sets are", "once"),
    ('["test", "test-late"]', '["test", "tset"]', "None of fi-en has a set 'tset'", "test"),
    ("beam = 1", 'train_set = "train-bible"', "no set 'train-bible'", "train"),
    ("beam = 1", 'dev_set = "train"', "'train' is used twice", "must differ"),
    ('["test", "test-late"]', '["test", "dev"]', "'dev' is used twice", "must differ"),
    ("beam = 1", 'dev_set = "dve"', "no set 'dve'", "dev"),
    (
        'learner = "fomaml"',
        'learner = "fomaml"\nset = [\'outer.pairs=["de-em"]\']',
        "de-em, no meta-train pair",
        "de-en",
    ),
    (
        'learner = "fomaml"',
        'learner = "fomaml"\nset = [\'outer.first_pairs=["de-em"]\']',
        "outer.first_pairs names de-em",
        "de-en",
    ),
    ("beam = 1", "beams = 1", "Unknown key 'beams'", "beam"),
    ("beam = 1", "beam = 0", "The beam is 0", "greedy"),
    ("draws = [1, 2]", "draws = [-1]", "A draw is -1", "0 or more"),
    ("beam = 1", 'updates = ["all", "all"]', "The updates are", "once"),
    ('learner = "fomaml"', 'checkpoint = "nowhere"', "no folder nowhere", "meta-train"),
    ('learner = "fomaml"', 'learner = "fomaml"\ncheckpoint = "x"', "not exactly one start", "either"),
    ('learner = "fomaml"', 'learner = "fomaml"\nset = ["outer.max_target_tokens=9"]', "differ in their cost", "top"),
    ('learner = "fomaml"', 'learner = "fomaml"\nset = ["fine_tune.metric=bleu"]', "selection in fine-tuning", "top"),
    (
        'learner = "fomaml"',
        'learner = "fomaml"\nset = ["fine_tune.average_share=0"]',
        "selection in fine-tuning",
        "top",
    ),
    ('learner = "fomaml"', 'learner = "fomaml"\nset = ["validation.updates=9"]', "selection of the check", "top"),
    ("budgets = [0, 100]", "budgets = 100", "100", "list"),
    ("beam = 1", 'updates = ["all", "adapters"]', "Arm none is trained from scratch", "Leave out"),
    ("beam = 1", 'updates = ["adaptors"]', "'adaptors'", "adapters"),
    ('learner = "fomaml"', 'learner = "fomaml"\nset = ["inner.update=adapters"]', "'adapters' names no", "all"),
    (
        'learner = "fomaml"',
        'learner = "fomaml"\nset = ["inner.update=head", \'model.head=["x"]\']',
        "model.head names 'x'",
        "Parts",
    ),
    ('learner = "fomaml"', 'learner = "fomaml"\nset = [\'model.head=["x"]\']', "nothing has that here", "update=head"),
    ('learner = "joint"', 'learner = "joint"\nset = ["inner.steps=4"]', "with an inner loop", "Leave it out"),
    ('learner = "fomaml"', 'learner = "fomaml"\nset = ["model.update=adapters"]', "no base", "model.checkpoint"),
    (
        'learner = "fomaml"',
        'learner = "fomaml"\nset = ["model.lexicon=universal"]',
        "has no vectors",
        "metanmt vectors",
    ),
    ('learner = "none"', 'learner = "none"\nset = ["model.lexicon=universal"]', "no languages to share", "lexicon"),
    ("beam = 1", "confidence = 95.0", "confidence is 95.0", "0.95"),
    ("[arms.fomaml]", '[arms."a/../../evil"]', "cannot name an arm", "letters"),
    ("validation.budget=100", "validation.budget=100000", "validation.budget is 100,000 words", "or less"),
]


@pytest.mark.parametrize(
    ("old", "new", "cause", "remedy"), MISTAKES, ids=[item[1].split("\n")[-1] for item in MISTAKES]
)
def test_mistakes_are_refused_before_anything_is_trained(
    file: Path, tmp_path: Path, old: str, new: str, cause: str, remedy: str
) -> None:
    path = tmp_path / "wrong.toml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(MetanmtError) as error:
        compare.run(path, tmp_path / "out")
    assert cause in error.value.cause
    assert remedy in error.value.remedy
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_comparison_is_fair_and_of_a_shipped_collection(path: Path) -> None:
    compare = load_compare(Path(path.stem))
    arms = make_arms(compare)
    assert {arm.learner for arm in arms} >= {"none", "joint", "fomaml"}
    manifest = load_manifest(Path(compare.corpus))
    sets = {str(item.pair): item.sets for item in manifest.pairs if item.role == "meta-test"}
    for pair in compare.pairs or sets:
        assert {compare.train_set, compare.dev_set, compare.test_sets[0]} <= sets[pair].keys()
    assert set(compare.test_sets) <= {name for item in sets.values() for name in item}


def test_data_takes_the_place_of_a_collection_and_arms_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "cldr"\ndata = "d"\n[arms.reptile]\nset = ["inner.steps=5"]', encoding="utf-8")
    mine = load_compare(path)
    assert (mine.data, mine.corpus) == ("d", "")
    assert (mine.arms["reptile"].learner, mine.arms["reptile"].set) == ("reptile", ("inner.steps=5",))
    assert set(mine.arms) == {"none", "joint", "aligned", "fomaml", "reptile"}


def test_settings_at_their_default_are_no_part_of_a_digest(file: Path, data: Path) -> None:
    """So that a setting which a later version adds leaves old results valid; one that is changed does not."""
    store, digests = TokenStore.open(data), []
    for more in ("", '\nset = ["outer.max_skipped=10"]', '\nset = ["outer.max_skipped=11"]'):
        other = file.with_name("defaults.toml")
        other.write_text(file.read_text().replace('learner = "fomaml"', f'learner = "fomaml"{more}'), encoding="utf-8")
        plan = checked_plan(load_compare(other), store)
        digests.append([plan.digest(cell, store) for cell in plan.cells if cell.arm == "fomaml"])
    assert digests[0] == digests[1]
    assert not set(digests[0]) & set(digests[2])


def test_shipped_comparisons_parse() -> None:
    for path in Path(compare.__file__).parent.glob("*.toml"):
        assert load_compare(Path(path.stem)).arms


def without_dev(tmp_path: Path, test_sentences: int = 30) -> Path:
    """Return data whose unseen pair has no dev set."""
    text = MANIFEST.replace('dev = [{ embedded = "cldr", sentences = 20, skip = 150 }]\n', "")
    assert text != MANIFEST
    path = tmp_path / "toy.toml"
    path.write_text(text.replace("sentences = 30", f"sentences = {test_sentences}"), encoding="utf-8")
    prepare.run(path, tmp_path / "data")
    return tmp_path / "data"


def test_a_budget_must_leave_something_to_hold_out(file: Path, tmp_path: Path) -> None:
    store = TokenStore.open(without_dev(tmp_path))
    compare = load_compare(file)
    checked_plan(replace(compare, budgets=(0, 300)), store)
    with pytest.raises(ConfigError, match="leave none to hold out") as caught:
        checked_plan(replace(compare, budgets=(0, 40)), store)
    assert "20 sentences" in caught.value.remedy


def test_one_sentence_is_no_test_set(file: Path, tmp_path: Path) -> None:
    store = TokenStore.open(without_dev(tmp_path, test_sentences=1))
    with pytest.raises(ConfigError, match="fi-en test is one sentence"):
        checked_plan(load_compare(file), store)


def test_every_arm_of_the_learners_has_one_outer_schedule() -> None:
    arms = [arm for arm in make_arms(load_compare(Path("learners"))) if arm.trained]
    assert {arm.config.outer.schedule for arm in arms} == {"linear"}


def run_of(folder: Path, max_target_tokens: int) -> Path:
    """Return the best checkpoint of a run of this cost, without its model."""
    (folder / "checkpoints" / "step-00000001").mkdir(parents=True)
    (folder / "best").symlink_to("checkpoints/step-00000001")
    (folder / "config.toml").write_text(f"[outer]\nmax_target_tokens = {max_target_tokens}\n", encoding="utf-8")
    return folder / "best"


def test_a_checkpoint_costs_what_its_run_cost(file: Path, tmp_path: Path) -> None:
    """2,000 tokens, as the trained arms, or 9,000; unless they go on from it."""
    equal, dear, compare = run_of(tmp_path / "equal", 2_000), run_of(tmp_path / "dear", 9_000), load_compare(file)

    def arms(checkpoint: Path, *more: str) -> None:
        arm = ArmConfig(checkpoint=str(checkpoint))
        make_arms(replace(compare, arms={**compare.arms, "mine": arm}, set=(*compare.set, *more)))

    arms(equal)
    for place in (dear, dear.parent, dear.resolve()):
        with pytest.raises(ConfigError, match="arm mine cost 9,000 target tokens, arm joint is to cost 2,000: no fair"):
            arms(place)
    arms(dear, f"model.checkpoint={dear.parent}")
    arms(dear, "outer.max_target_tokens=9_000")
    dear.with_name("config.toml").write_text("[other]\n", encoding="utf-8")
    arms(dear)
    arms(tmp_path)


def test_what_checkpoints_cost_is_told(
    file: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, places = TokenStore.open(data), {"small": run_of(tmp_path / "small", 2_000)}
    places |= {"large": run_of(tmp_path / "large", 9_000), "other": tmp_path / "other"}
    tokenizer = load_tokenizer(store.tokenizer_folder)
    for folder in places.values():
        save_checkpoint(folder, toy.make_m2m100(tokenizer.vocabulary_size), tokenizer, toy.PAIR)
    arms = {name: ArmConfig(checkpoint=str(folder)) for name, folder in places.items()}
    checked_plan(replace(load_compare(file), arms=arms, baseline="small"), store)
    said = capsys.readouterr().err
    assert said.count("arm other: what its checkpoint cost is not known") == said.count("is not known") == 1
    assert "cost unequally, in target tokens: small 2,000, large 9,000" in said
