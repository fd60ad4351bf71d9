"""Running a comparison: what is missing is run, what was interrupted goes on, what is done is skipped."""

from __future__ import annotations

import functools
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast
from zipfile import is_zipfile

import numpy as np

from metanmt.comparison.checks import check_runs, checked_plan
from metanmt.comparison.layers import analyse
from metanmt.comparison.plan import SCRATCH, Arm, Cell, CompareConfig, Plan, make_arms
from metanmt.comparison.statistics import METRICS
from metanmt.comparison.workers import STOPPED, Piece, job_count, run_all, thread_count
from metanmt.config import Update
from metanmt.data.language import Pair
from metanmt.data.sources import read_lines
from metanmt.data.store import TokenStore, text_files
from metanmt.data.vectors import FOLDER as VECTORS
from metanmt.errors import ConfigError
from metanmt.files import damage, lock_folder, new_folder, read_object, write_json
from metanmt.meta.joint_phase import same_joint_phase
from metanmt.meta.run import JOINT
from metanmt.nmt.back_translation import BY_INIT
from metanmt.nmt.folder import TUNING_FILE
from metanmt.nmt.score import counts
from metanmt.nmt.tuning_text import Text
from metanmt.recipes import evaluate, fine_tune, meta_train, prepare, vectors
from metanmt.runlog import Progress, say
from metanmt.runtime import versions

RESULT, COUNTS, HYPOTHESES = "result.json", "{}.counts.npz", "{}.hypotheses.txt"
TRANSLATION_PASSES = 3.0  # of beam search over a test set, in forward-backward passes over as many tokens


def run(compare: CompareConfig, out: Path, jobs: int | None = None) -> tuple[Plan, TokenStore]:
    """Run a comparison in its folder; the same call goes on after any interruption.

    `jobs` pieces of work run at a time (default: `workers.job_count`).

    ```
    OUT/data/                 the prepared collection, if the comparison names one
    OUT/runs/ARM/             the meta-training runs, unless the comparison says where they are
    OUT/results/ARM/PAIR/BUDGET-UPDATE-DRAW/   result.json, SET.hypotheses.txt, SET.counts.npz; complete or not there
    ```
    """
    store = open_data(compare, out)
    plan = checked_plan(compare, store)
    check_runs(plan, store, out)
    out.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(out)
    try:
        pieces = missing(plan, store, out)
        jobs = job_count(jobs, len(pieces))
        pieces = sharing(plan, out, pieces, jobs)
        if again := sum((out / piece.item.path / RESULT).exists() for piece in pieces if isinstance(piece.item, Cell)):
            say(f"Results of other settings, data or another version, or damaged, are made again: {again} in {out}.")
            _set_aside(out)
        if jobs > 1:
            say(f"{len(pieces)} pieces of work, {jobs} at a time; CPU threads of each: {thread_count(jobs)}")
        with Progress("compare", sum(piece.cost for piece in pieces), "target tokens") as progress:
            run_all(pieces, functools.partial(_work, plan, store, out), jobs, progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(STOPPED) from None
    finally:
        os.close(lock)
    return plan, store


def _set_aside(out: Path) -> None:
    """Rename the tables of results that are going to be made again: they would be taken for those of the new ones."""
    for path in [path for suffix in ("json", "md", "csv") if (path := out / f"comparison.{suffix}").exists()]:
        path.replace(path.with_stem("before"))


def missing(plan: Plan, store: TokenStore, out: Path) -> list[Piece]:
    """Return what is still to be run: the meta-trainings, which are longest; then each adaptation, after its arm's."""
    costs = estimate(plan, store, out)
    arms = [arm for arm in plan.arms if arm.trained and load_summary(plan, arm, out) is None]
    pieces = [Piece(arm.name, arm, costs[arm.name]) for arm in arms]
    after = {arm.name for arm in arms}
    for cell in plan.cells:
        if cost := costs[str(cell.path)]:
            name = str(cell.path.relative_to("results"))
            pieces.append(Piece(name, cell, cost, after=cell.arm if cell.arm in after else None))
    return pieces


def sharing(plan: Plan, out: Path, pieces: list[Piece], jobs: int) -> list[Piece]:
    """Return the pieces with each meta-training behind the one whose joint phase it takes over, if there is one.

    The results are the same. With a process for every meta-training nothing is gained by waiting.
    """
    trainings = {piece.name for piece in pieces if isinstance(piece.item, Arm)}

    def shared(piece: Piece) -> Piece:
        source = _source(plan, piece.item) if piece.name in trainings else None
        if source is None or plan.run(piece.item, out).exists():
            return piece
        waits = source.name in trainings
        if len(trainings) <= jobs if waits else not (plan.run(source, out) / JOINT).is_dir():
            return piece
        cost = piece.cost * (1 - piece.item.config.outer.joint_share)
        return replace(piece, cost=cost, after=source.name if waits else None)

    return [shared(piece) for piece in pieces]


def _source(plan: Plan, arm: Arm) -> Arm | None:
    """Return the first arm that begins with the same joint phase, unless that is this one."""
    same = (other for other in plan.arms if other.trained and same_joint_phase(arm.config, other.config))
    first = next(same, arm)
    return first if first.name != arm.name else None


def _work(plan: Plan, store: TokenStore, out: Path, item: Arm | Cell) -> None:
    if isinstance(item, Arm):
        _meta_train(plan, item, store, out)
    else:
        _run_cell(plan, item, store, out)


def open_data(compare: CompareConfig, out: Path) -> TokenStore:
    """Return the data of a comparison; a collection that it names is prepared first."""
    if bool(compare.data) == bool(compare.corpus):
        raise ConfigError(
            "Exactly one source of data is needed.", 'Give either data = "FOLDER" or corpus = "MANIFEST".'
        )
    if compare.data:
        return TokenStore.open(Path(compare.data))
    arms = make_arms(compare)
    folder = out / "data"
    prepare.run(
        Path(compare.corpus),
        folder,
        root=Path(compare.root) if compare.root else None,
        remedy=f"Its text or a version has changed since. Go on with it by --data {folder}, or give another --out.",
    )
    if any(arm.universal for arm in arms) and not (folder / VECTORS).is_dir():
        vectors.run(folder)
    return TokenStore.open(folder)


def done(plan: Plan, cell: Cell, store: TokenStore, out: Path) -> bool:
    """Return whether the result of a cell is there, from this configuration and this data, whole on every test set."""
    result = _read_or_none(out / cell.path / RESULT)
    if result is None or result.get("digest") != plan.digest(cell, store):
        return False
    return all(
        test_set in result["scores"]
        and (out / cell.path / HYPOTHESES.format(test_set)).is_file()
        and is_zipfile(out / cell.path / COUNTS.format(test_set))
        for test_set in plan.test_sets(store, cell.pair)
    )


def _read_or_none(path: Path) -> dict[str, Any] | None:
    """Return what a JSON file holds; None if it is not there or damaged, so that it is made again."""
    try:
        return read_object(path)
    except (FileNotFoundError, ValueError):
        return None


def estimate(plan: Plan, store: TokenStore, out: Path) -> dict[str, float]:
    """Return what is still to be spent on each arm and cell, in target tokens of forward-backward passes.

    Early stopping makes an adaptation cheaper than this.
    """
    costs: dict[str, float] = {}
    for arm in plan.arms:
        if arm.trained:
            state = _read_or_none(plan.run(arm, out) / "last" / "trainer.json") or {}
            left = max(0, arm.config.outer.max_target_tokens - state.get("target_tokens", 0))
            costs[arm.name] = left if load_summary(plan, arm, out) is None else 0
    for cell in plan.cells:
        sets = store.sets(Pair.parse(cell.pair))
        train = sets[plan.compare.train_set]
        tested = sum(sets[name]["target_tokens"] for name in plan.test_sets(store, cell.pair))
        tuning = plan.arm(cell.arm).config.fine_tune
        tokens = cell.budget * train["target_tokens"] / train["target_words"]
        passes = max(tuning.max_epochs, tuning.min_updates * tuning.max_tokens / max(tokens, tuning.max_tokens))
        adapting = min(tokens * passes, tuning.max_updates * tuning.max_tokens)
        there = plan.compare.replay or store.pairs("meta-train")
        replayed = tuning.replay if there and plan.replays(cell) else 0.0
        cost = adapting * (1 + replayed) * tuning.soup + TRANSLATION_PASSES * tested
        if plan.compare.back_translation and cell.budget:  # as much again, and what is translated, then learned
            cost += adapting * ((1 + replayed) * tuning.soup + tuning.synthetic * (TRANSLATION_PASSES + tuning.soup))
        costs[str(cell.path)] = 0.0 if done(plan, cell, store, out) else cost
    return costs


def _meta_train(plan: Plan, arm: Arm, store: TokenStore, out: Path) -> None:
    summary = summary_file(plan, arm, out)
    source = _source(plan, arm)
    joint_phase = plan.run(source, out) if source and damage(plan.run(source, out) / JOINT) is None else None
    facts = meta_train.run(
        arm.config, store.folder, summary.parent, resume=summary.parent.exists(), joint_phase=joint_phase
    )
    write_json(summary, facts)


def summary_file(plan: Plan, arm: Arm, out: Path) -> Path:
    """Return the file that a complete meta-training has."""
    return plan.run(arm, out) / "summary.json"


def load_summary(plan: Plan, arm: Arm, out: Path) -> dict[str, Any] | None:
    """Return what a complete meta-training cost and reached; None of another, or where the file is damaged."""
    return _read_or_none(summary_file(plan, arm, out)) or None


def _run_cell(plan: Plan, cell: Cell, store: TokenStore, out: Path) -> None:
    """Adapt, translate, score; the folder of the result gets its name when it is complete."""
    started = time.monotonic()
    arm, pair = plan.arm(cell.arm), Pair.parse(cell.pair)
    init = arm.checkpoint or (SCRATCH if arm.learner == SCRATCH else str(plan.run(arm, out)))
    with new_folder(out / cell.path, overwrite=True) as folder:
        model, facts = Path(init), dict[str, Any]()
        if cell.budget:
            model = folder / "model"
            config = replace(arm.config, fine_tune=replace(arm.config.fine_tune, update=cast(Update, cell.update)))
            text = Text(
                data=store.folder,
                budget_words=cell.budget,
                train_set=plan.compare.train_set,
                dev_set=plan.compare.dev_set,
                back=BY_INIT if plan.compare.back_translation else None,
            )
            facts = fine_tune.run(
                init,
                cell.pair,
                model,
                text,
                config.fine_tune,
                model=config.model,
                adapter=config.adapter,
                seed=cell.draw,
                precision=config.run.precision,
                micro_tokens=config.batch.micro_tokens,
                replay=Path(plan.compare.replay) if plan.compare.replay else None,
            )
        if facts.get("stop_requested"):
            raise KeyboardInterrupt(STOPPED)
        if found := facts.get("monolingual"):
            facts["target_tokens"] += read_object(Path(found["back"]) / TUNING_FILE)["target_tokens"]
            shutil.rmtree(found.pop("back"))
        scored = plan.test_sets(store, cell.pair)
        scores = {name: _score(plan, pair, name, store, model, folder) for name in scored}
        elapsed_seconds = round(time.monotonic() - started, 1)
        analysis = analyse(plan, cell, store, init, model)
        if cell.budget:
            shutil.rmtree(model)  # a comparison has hundreds of these
        keep = ("train_words", "sentences", "updates", "target_tokens", "peak_memory_bytes", "best")
        write_json(
            folder / RESULT,
            {
                "digest": plan.digest(cell, store),
                "cell": asdict(cell),
                "scores": scores,
                "monolingual": facts.get("monolingual"),
                "adaptation": {key: facts[key] for key in keep if key in facts},
                "analysis": analysis,
                "elapsed_seconds": elapsed_seconds,
                "versions": versions(),
            },
        )


def _score(plan: Plan, pair: Pair, test_set: str, store: TokenStore, model: Path, folder: Path) -> dict[str, Any]:
    """Translate a test set and return its scores; hypotheses and sentence statistics go into the folder."""
    evaluation = folder / "evaluation"
    facts = evaluate.run(
        model=model,
        pair=str(pair),
        data=store.folder,
        split=test_set,
        beam=plan.compare.beam,
        bootstrap=0,
        out=evaluation,
    )
    hypotheses = list(read_lines(Path(facts["hypotheses"])))
    references = list(read_lines(text_files(store.folder, pair, test_set)[1]))
    bleu, chrf = (counts(name, hypotheses, references, pair.target) for name in METRICS)
    np.savez(folder / COUNTS.format(test_set), bleu=bleu, chrf=chrf)
    shutil.move(facts["hypotheses"], folder / HYPOTHESES.format(test_set))
    shutil.rmtree(evaluation)
    scores: dict[str, Any] = facts["scores"]
    return scores


def load_counts(cells: Sequence[Cell], out: Path, test_set: str, metric: str) -> list[Any]:
    """Return the sentence statistics of some cells on one test set."""
    return [np.load(out / cell.path / COUNTS.format(test_set))[metric] for cell in cells]


def load_result(cell: Cell, out: Path) -> dict[str, Any]:
    """Return the result of a cell."""
    return read_object(out / cell.path / RESULT)
