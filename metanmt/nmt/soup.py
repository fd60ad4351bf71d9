"""Several fine-tunings of one model and the average of their weights, which translates at the price of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from metanmt.config import FineTuneConfig
from metanmt.data.language import Pair
from metanmt.data.store import Bitext
from metanmt.data.tokenizer import Tokenizer
from metanmt.nmt.loss import Loss
from metanmt.nmt.model import update_weights
from metanmt.nmt.tuning import TuningReport, evaluate_dev, fine_tune
from metanmt.runlog import say


def fine_tune_soup(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    pair: Pair,
    train: Bitext,
    dev: Bitext,
    config: FineTuneConfig,
    *,
    seed: int,
    precision: str = "auto",
    label: str = "fine-tuning",
    **options: Any,
) -> TuningReport:
    """Adapt a model in place, `config.soup` times from where it is, and leave the average of the weights in it.

    Every run has an order of batches and a dropout of its own and gives its best weights to a uniform soup (Wortsman et
    al. 2022). Where that scores less on the dev set than the runs do on average, the best of them is kept: runs that
    begin with random weights end too far from each other. A run that is stopped counts only if it is the first.

    Args:
        model, tokenizer, pair, train, dev, config, precision, label: as for `nmt.tuning.fine_tune`.
        seed: of the first run, which is then what it would be without a soup; those of the others follow from it.
        options: further ones of `fine_tune`.

    Returns:
        a report of all runs, with their updates counted through; the soup's own evaluation is the last.
    """
    tune = partial(fine_tune, model, tokenizer, pair, train, dev, config, precision=precision, **options)
    if config.soup == 1 or config.update == "none":
        return tune(seed=seed, label=label)
    weights = [weight.detach() for weight in update_weights(model, config.update).values()]
    start, best, soup = ([weight.clone() for weight in weights] for _ in range(3))
    runs: list[TuningReport] = []
    for number in range(config.soup):
        torch._foreach_copy_(weights, start)
        runs.append(tune(seed=_seed(seed, number), label=f"{label} ({number + 1} of {config.soup})"))
        if runs[-1].interrupted and number:
            break
        torch._foreach_lerp_(soup, weights, 1 / (number + 1))
        if runs[-1] is _best(runs, config):
            torch._foreach_copy_(best, weights)
        if runs[-1].interrupted:
            break
    counted = runs[:-1] if runs[-1].interrupted and len(runs) > 1 else runs
    torch._foreach_copy_(weights, best)
    report = _whole(runs, _best(counted, config))
    if len(counted) > 1 and any(run.best.update for run in counted):
        torch._foreach_copy_(weights, soup)
        judge, dev = Loss(0.0, precision), dev.head(config.dev_sentences)
        of_soup = evaluate_dev(model, tokenizer, pair, dev, report.updates, judge, config.metric)
        report.history.append(of_soup)
        mean = fmean(run.best.value(config.metric) for run in counted)
        if of_soup.value(config.metric) >= mean:
            report.best, report.soup = of_soup, len(counted)
        else:
            torch._foreach_copy_(weights, best)
            say(f"The average of {len(counted)} runs is worse than they are: the best of them is kept.")
    return report


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence((seed, 17, number)).generate_state(1)[0]) if number else seed


def _best(runs: Sequence[TuningReport], config: FineTuneConfig) -> TuningReport:
    return max(runs, key=lambda run: run.best.value(config.metric))


def _whole(runs: Sequence[TuningReport], best: TuningReport) -> TuningReport:
    """Return one report of runs in a row; what the unadapted model scores is told once."""
    whole = TuningReport(best.best, [runs[0].history[0]], sentences=runs[0].sentences)
    for run in runs:
        later = [replace(item, update=whole.updates + item.update) for item in run.history[1:]]
        if run is best and run.best.update:
            whole.best = later[run.history.index(run.best) - 1]
        whole.history += later
        whole.updates += run.updates
        whole.target_tokens += run.target_tokens
        whole.interrupted = run.interrupted
    return whole
