"""From prepared text to a fine-tuned model, with embeddings that share character n-grams."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from metanmt.config import FineTuneConfig, LearnerName, ModelConfig
from metanmt.data.store import TokenStore
from metanmt.errors import ConfigError
from metanmt.meta.distributed import ALONE
from metanmt.nmt.tuning_text import Text
from metanmt.recipes import fine_tune, meta_train
from metanmt.recipes.meta_train import _Training
from scripts.kill_test import differences, fingerprint
from tests.recipes.conftest import small_config, stopped_at_step

SHORT = ("model.lexicon=ngrams", "outer.max_target_tokens=2500", "outer.joint_share=0.5", "validation.times=1")


@pytest.fixture(scope="module")
def run_folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "ngrams"
    meta_train.run(small_config(*SHORT), data, out)
    return out


@pytest.mark.parametrize("learner", get_args(LearnerName))
def test_the_outer_loop_of_every_learner_moves_the_rows_of_ngrams(data: Path, learner: str) -> None:
    config = small_config("model.lexicon=ngrams", f"outer.learner={learner}", "inner.steps=2", "inner.hidden=4")
    training = _Training(config, TokenStore.open(data), ALONE)
    steps = training.initialization.ngram_sharing.steps
    [episode] = training.learner.meta_batch(training.sampler, 0)[:1]
    training.outer_step(training.learner, [episode])
    assert training.optimizer.state[steps]["exp_avg"].any(dim=1).all(), "each of them"
    assert not steps.any(), "and all of it is in the table"


def test_an_interrupted_run_goes_on_with_the_same_bits(data: Path, run_folder: Path, tmp_path: Path) -> None:
    with stopped_at_step(4), pytest.raises(KeyboardInterrupt, match="step 4"):
        meta_train.run(small_config(*SHORT), data, tmp_path / "run")
    meta_train.run(small_config(*SHORT), data, tmp_path / "run", resume=True)
    assert differences(fingerprint(run_folder), fingerprint(tmp_path / "run")) == []


def test_its_checkpoints_are_ordinary_ones(data: Path, run_folder: Path, tmp_path: Path) -> None:
    AutoModelForSeq2SeqLM.from_pretrained(run_folder / "best")
    settings = FineTuneConfig(min_updates=4, max_updates=4, max_tokens=200, metric="loss")
    facts = fine_tune.run(str(run_folder), "fi-en", tmp_path / "tuned", Text(data, budget_words=200), settings)
    assert facts["best"]["loss"] < facts["history"][0]["loss"]


def test_a_run_may_start_from_a_checkpoint_whose_embeddings_stay(data: Path, run_folder: Path) -> None:
    start = AutoModelForSeq2SeqLM.from_pretrained(run_folder / "best")
    config = small_config("model.lexicon=ngrams", f"model.checkpoint={run_folder / 'best'}")
    training = _Training(config, TokenStore.open(data), ALONE)
    assert torch.equal(training.initialization.get_input_embeddings().weight, start.get_input_embeddings().weight)


def test_wrong_combinations_are_refused(data: Path, run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Adapters leave the embeddings"):
        small_config("model.lexicon=ngrams", f"model.checkpoint={run_folder}", "model.update=adapters")
    with pytest.raises(ConfigError, match="ngram_characters"):
        small_config("model.ngram_characters=0")
    text = Text(data, budget_words=200)
    with pytest.raises(ConfigError, match=r"share a lexicon .ngrams"):
        fine_tune.run("none", "fi-en", tmp_path / "t", text, FineTuneConfig(), model=ModelConfig(lexicon="ngrams"))
