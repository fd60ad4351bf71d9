"""Real text, where it lies beside the project; elsewhere these tests are skipped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from metanmt.comparison.plan import load_compare
from metanmt.data.language import Pair
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import load_tokenizer
from metanmt.recipes import prepare

EUROPE = Path(__file__).parents[2].parent / "shared" / "corpora" / "europe"
pytestmark = pytest.mark.skipif(not EUROPE.is_dir(), reason="the europe corpora do not lie beside the project")

MANIFEST = """
name = "three"
[tokenizer]
vocabulary_size = 2_000
[[groups]]
role = "meta-train"
pairs = ["sl-en"]
train = [{ moses = "sources/tatoeba/{pair}" }]
[[groups]]
role = "meta-dev"
pairs = ["lv-en"]
train = ["targets/tatoeba/{pair}.train"]
dev = ["targets/tatoeba/{pair}.dev"]
test = ["targets/tatoeba/{pair}.test"]
[[groups]]
role = "meta-test"
pairs = ["ko-en"]
train = ["targets/tatoeba/{pair}.train"]
dev = ["targets/tatoeba/{pair}.dev"]
test = ["targets/tatoeba/{pair}.test"]
"""


def test_three_languages_from_text_to_tokens(tmp_path: Path) -> None:
    (tmp_path / "three.toml").write_text(MANIFEST, encoding="utf-8")
    prepare.run(tmp_path / "three.toml", tmp_path / "data", root=EUROPE)
    shutil.rmtree(tmp_path / "data" / "text")  # the tokens are enough
    store = TokenStore.open(tmp_path / "data")
    tokenizer = load_tokenizer(store.tokenizer_folder)
    for code, sets in (("sl", {"train"}), ("lv", {"train", "dev", "test"}), ("ko", {"train", "dev", "test"})):
        pair = Pair(code, "en")
        assert set(store.sets(pair)) == sets
        assert store.sets(pair)["train"]["sentences"] > 500
    judged: set[str] = set()
    trained: set[str] = set()
    for pair in store.pairs():
        for name in store.sets(pair):
            target = store.bitext(pair, name).target
            lines = tokenizer.decode([target.sentence(index).tolist() for index in range(len(target.offsets) - 1)])
            (trained if name == "train" else judged).update(line.casefold() for line in lines)
    assert judged
    assert not judged & trained


@pytest.mark.parametrize("name", ["europe", "europe-sources", "evidence", "evidence-bible", "evidence-sources"])
def test_shipped_comparisons_find_the_words_of_their_budgets(name: str) -> None:
    compare = load_compare(Path(name))
    domain = {"train": "tatoeba", "train-bible": "bible"}[compare.train_set]
    rows = [line.split("\t") for line in (EUROPE.parent / "COUNTS.tsv").read_text(encoding="utf-8").splitlines()]
    for pair in compare.pairs:
        [words] = [int(row[4]) for row in rows if row[1].startswith(f"targets/{domain}/{pair}.train.")]
        assert words > 1.02 * max(compare.budgets), f"{pair}: cleaning takes some"
