"""Text that is replayed in adapting, where the data of a comparison has none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from metanmt.comparison.checks import checked_plan
from metanmt.comparison.execute import estimate, load_result, run
from metanmt.comparison.plan import ADAPTED_SINCE, ArmConfig, CompareConfig, Plan
from metanmt.comparison.tables import collect, format_comparison
from metanmt.data.store import TokenStore
from metanmt.errors import MetanmtError
from metanmt.recipes import meta_train, prepare
from tests.recipes.conftest import ALONE, MANIFEST, small_config


@pytest.fixture(scope="module")
def compare(data: Path, tmp_path_factory: pytest.TempPathFactory) -> CompareConfig:
    folder = tmp_path_factory.mktemp("replayed")
    meta_train.run(small_config("outer.max_target_tokens=2000"), data, folder / "run")
    (folder / "alone.toml").write_text(ALONE, encoding="utf-8")
    prepare.run(folder / "alone.toml", folder / "data", tokenizer=str(folder / "run"))
    return CompareConfig(
        data=str(folder / "data"),
        set=("fine_tune.min_updates=4", "fine_tune.max_updates=4", "fine_tune.evaluations=1"),
        budgets=(100,),
        draws=(1,),
        beam=1,
        baseline="run",
        arms={"run": ArmConfig(checkpoint=str(folder / "run"))},
    )


def planned(compare: CompareConfig) -> tuple[Plan, TokenStore]:
    store = TokenStore.open(Path(compare.data))
    return checked_plan(compare, store), store


def test_text_of_another_folder_is_replayed(compare: CompareConfig, data: Path, tmp_path: Path) -> None:
    tokens, digests = [], []
    for number, replayed in enumerate(("", str(data))):
        plan, store = run(replace(compare, replay=replayed), tmp_path / str(number), jobs=1)
        [cell] = plan.cells
        tokens.append(load_result(cell, tmp_path / str(number))["adaptation"]["target_tokens"])
        digests.append(plan.digest(cell, store))
    assert tokens[1] == pytest.approx(2 * tokens[0], rel=0.3)
    assert digests[0] != digests[1]


def test_text_is_translated_back_by_the_initialisation(compare: CompareConfig, data: Path, tmp_path: Path) -> None:
    """Once it has learned the other direction, which is a part of the cost and leaves nothing behind."""
    found = []
    for back in (False, True):
        compare = replace(compare, replay=str(data), back_translation=back)
        plan, store = run(compare, tmp_path / str(back), jobs=1)
        [cell] = plan.cells
        result = load_result(cell, tmp_path / str(back))
        table = format_comparison(collect(plan, store, tmp_path / str(back)))
        assert ("on text translated back" in table) == back
        assert ("| translated back |" in table) == back
        assert not back or "back" not in result["monolingual"], "that model is gone"
        left = {path.name for path in (tmp_path / str(back) / cell.path).iterdir()}
        assert left == {"result.json", "test.counts.npz", "test.hypotheses.txt"}
        before = sum(estimate(plan, store, tmp_path / "nothing there").values())
        found.append((result["adaptation"]["target_tokens"], before, plan.digest(cell, store)))
    (tokens, cost, digest), (tokens_with, cost_with, digest_with) = found
    assert 2 * tokens < tokens_with < 4 * tokens
    assert 2 * cost < cost_with < 8 * cost
    assert digest != digest_with


def test_what_cannot_be_translated_back_is_said(compare: CompareConfig, data: Path) -> None:
    compare = replace(compare, replay=str(data), back_translation=True)
    with pytest.raises(MetanmtError, match="Arm run cannot learn the other direction, to translate back"):
        planned(replace(compare, updates=("decoder",)))
    assert planned(replace(compare, updates=("embeddings",)))
    with pytest.raises(MetanmtError, match=r"fine_tune\.synthetic is 0"):
        planned(replace(compare, set=(*compare.set, "fine_tune.synthetic=0")))
    with pytest.raises(
        MetanmtError, match="no meta-train text in the target language of is-en"
    ):  # it is the data's own
        planned(replace(compare, set=(*compare.set, "fine_tune.replay=0")))
    with pytest.raises(MetanmtError, match="no meta-train text in the target language of is-en"):
        planned(replace(compare, replay=""))
    with pytest.raises(MetanmtError, match="no meta-train text in the target language of is-en") as error:
        planned(replace(compare, arms={**compare.arms, "none": ArmConfig(learner="none")}))
    assert "arm none" in error.value.remedy


def test_what_is_replayed_is_part_of_what_is_still_to_be_spent(
    compare: CompareConfig, data: Path, tmp_path: Path
) -> None:
    costs = []
    for share in (0, 1):
        settings = (*compare.set, f"fine_tune.replay={share}", "fine_tune.max_updates=100000")
        plan, store = planned(replace(compare, set=settings, replay=str(data)))
        costs.append(sum(estimate(plan, store, tmp_path).values()))
    assert costs[1] > 1.5 * costs[0]


def test_text_that_cannot_be_replayed_is_refused(compare: CompareConfig, data: Path, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(MANIFEST.replace("700", "650"), encoding="utf-8")
    prepare.run(tmp_path / "other.toml", tmp_path / "other")
    nothing = [(folder, "nothing to replay") for folder in (compare.data, str(tmp_path / "other"))]
    for folder, message in (*nothing, (str(data.parent / "nowhere"), "nowhere")):
        with pytest.raises(MetanmtError, match=message):
            planned(replace(compare, replay=folder))


def test_where_nothing_is_replayed_the_text_does_not_matter(compare: CompareConfig, data: Path) -> None:
    """A result of before text was replayed is still there."""
    assert not any("replay" in change for change in ADAPTED_SINCE)
    arms = {**compare.arms, "none": ArmConfig(learner="none")}
    plans = [
        planned(replace(compare, arms=arms, updates=("all", "embeddings"), replay=folder)) for folder in ("", str(data))
    ]
    depends = {
        (cell.arm, cell.update): len({plan.digest(cell, store) for plan, store in plans}) > 1
        for cell in plans[0][0].cells
    }
    assert [key for key, different in depends.items() if different] == [("run", "all")]
    assert {("none", "all"), ("run", "embeddings")} <= depends.keys()
