"""`metanmt demo`: the whole road on the embedded corpus.

It only calls the recipes, several at a time where there are cores for it, says by which commands the same is done by
hand, and gathers the results in a table.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import methodcaller
from pathlib import Path
from typing import Any

from metanmt.comparison.workers import STOPPED, Piece, job_count, run_all, thread_count
from metanmt.config import Config
from metanmt.config_file import load_config
from metanmt.data.language import Pair
from metanmt.data.manifest import load_manifest, shipped_manifest
from metanmt.data.store import TokenStore, text_files
from metanmt.data.variants import with_languages
from metanmt.errors import UsageError
from metanmt.files import lock_folder, read_object, write_json
from metanmt.meta.joint_phase import same_joint_phase
from metanmt.nmt import start
from metanmt.nmt.folder import TUNING_FILE
from metanmt.nmt.tuning_text import Text
from metanmt.recipes import evaluate, fine_tune, meta_train, prepare
from metanmt.report import table
from metanmt.runlog import Progress, duration, say

CONFIG = "tiny"
LEARNERS = ("joint", "fomaml", "aligned")
"""Learners, each of the configuration of its name; those that begin like the first take its joint phase over."""
SHORT = ("outer.max_target_tokens=1000000", "validation.times=2", "validation.sentences=100")
TUNING = ("fine_tune.max_epochs=12", "fine_tune.evaluations=5", "fine_tune.dev_sentences=100")
FROM_SCRATCH = ("fine_tune.max_epochs=25", "fine_tune.evaluations=3", "fine_tune.dev_sentences=100")
EXAMPLES = 3
MOST_JOBS = 4  # of a gigabyte each
ADAPTING, SCORING = 100_000, 30_000  # target tokens that they take the time of, about


@dataclass(frozen=True)
class Training:
    """A meta-training."""

    learner: str
    settings: Sequence[str]
    data: Path
    run: Path
    joint_phase: Path | None  # the run whose joint phase it takes over

    @property
    def config(self) -> Config:
        """The configuration of its learner."""
        return load_config(Path(self.learner), self.settings)

    @property
    def commands(self) -> tuple[str, ...]:
        """What does the same by hand."""
        taken = ("--joint-phase", self.joint_phase) if self.joint_phase else ()
        words = ("meta-train", self.learner, "--data", self.data, "--out", self.run, *_given(self.settings), *taken)
        return (_command(*words),)

    @property
    def cost(self) -> float:
        """Target tokens that it takes the time of."""
        outer = self.config.outer
        return outer.max_target_tokens * (1 - outer.joint_share if self.joint_phase else 1)

    def work(self) -> None:
        """Do it, from where it was interrupted."""
        meta_train.run(self.config, self.data, self.run, resume=self.run.exists(), joint_phase=self.joint_phase)


@dataclass(frozen=True)
class Score:
    """What a model of a pair scores: of a run as it is, or adapted first."""

    pair: str
    arm: str
    data: Path
    init: str
    model: Path  # what is scored: `init`, or where what is adapted goes
    settings: Sequence[str] = ()
    budget_words: int = 0

    @property
    def commands(self) -> tuple[str, ...]:
        """What does the same by hand."""
        text = ("--data", self.data, "--pair", self.pair)
        scored = _command("evaluate", "--model", self.model, *text, "--bootstrap", 0)
        if not self.budget_words:
            return (scored,)
        adapt = ("fine-tune", "--init", self.init, *text, "--budget", self.budget_words, "--out", self.model)
        return _command(*adapt, *_given(self.settings)), scored

    @property
    def cost(self) -> float:
        """Target tokens that it takes the time of."""
        return SCORING + (ADAPTING if self.budget_words else 0)

    @property
    def result(self) -> Path:
        """The file that `evaluate` writes."""
        return self.model / "evaluation" / f"{self.pair}.test.json"

    def work(self) -> None:
        """Do it, unless it is done."""
        if self.budget_words and not _tuned_whole(self.model):
            config = load_config(Path(CONFIG), self.settings)
            text = Text(data=self.data, budget_words=self.budget_words)
            facts = fine_tune.run(
                *(self.init, self.pair, self.model, text, config.fine_tune), model=config.model, overwrite=True
            )
            if facts["stop_requested"]:
                raise KeyboardInterrupt(STOPPED)
        if not self.result.is_file():
            evaluate.run(model=self.model, pair=self.pair, data=self.data, bootstrap=0)

    def row(self) -> dict[str, Any]:
        """Return the result."""
        facts = read_object(self.result)
        return {**facts, "arm": self.arm, "hypotheses": str(self.result.with_name(Path(facts["hypotheses"]).name))}


def run(
    out: Path,
    *,
    languages: Sequence[str] = (),
    budget_words: int = 2000,
    target_tokens: int | None = None,
    jobs: int | None = None,
) -> dict[str, Any]:
    """Prepare, meta-train by three learners at equal cost, adapt to every unseen language, evaluate.

    Args:
        out: the demo's folder; what an interrupted demo left there is gone on with.
        languages: unseen languages to use instead of the default four.
        budget_words: English words to adapt on.
        target_tokens: cost of each meta-training, if not the configuration's.
        jobs: how many pieces of work run at a time (default: one a GPU, else one a CPU core, at most four).

    Returns:
        "rows": a dict a language and arm with its scores; "examples"; "elapsed_seconds".
    """
    if budget_words < 1:
        raise UsageError("A budget of no words cannot be adapted on.", "Give --budget a positive number.")
    started = time.monotonic()
    with_languages(load_manifest(shipped_manifest("cldr")), languages)  # a slip leaves no folder behind
    _same_demo(out, {"languages": list(languages), "budget_words": budget_words, "target_tokens": target_tokens})
    data = out / "data"
    chosen = ("--languages", ",".join(languages)) if languages else ()
    say(f"\n$ {_command('prepare', 'cldr', '--out', data, *chosen)}")
    if not data.exists():
        prepare.run(shipped_manifest("cldr"), data, languages=languages)
    settings = [*SHORT, *([f"outer.max_target_tokens={target_tokens}"] if target_tokens else [])]
    trainings = _trainings(data, out, settings)
    pairs = _unseen(TokenStore.open(data), budget_words)
    scores = [score for pair in pairs for score in _scores(pair, data, out, budget_words)]
    _say_commands([*trainings, *(score for score in scores if score.pair == pairs[0])], pairs[1:])
    first = LEARNERS[0]
    pieces = [Piece(item.learner, item, item.cost, first if item.joint_phase else None) for item in trainings]
    by_run = {str(item.run): item.learner for item in trainings}
    pieces += [Piece(f"{item.pair}, {item.arm}", item, item.cost, by_run.get(item.init)) for item in scores]
    jobs = min(job_count(jobs, len(pieces)), jobs or MOST_JOBS)
    say(f"\n{len(pieces)} pieces of work, {jobs} at a time; CPU threads of each: {thread_count(jobs)}")
    lock = lock_folder(out)
    try:
        with Progress("demo", sum(piece.cost for piece in pieces), "target tokens") as progress:
            run_all(pieces, methodcaller("work"), jobs, progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(STOPPED) from None
    finally:
        os.close(lock)
    rows = [score.row() for score in scores]
    return {
        "budget_words": budget_words,
        "cost_target_tokens": trainings[0].config.outer.max_target_tokens,
        "rows": rows,
        "examples": _examples(rows, data),
        "elapsed_seconds": round(time.monotonic() - started, 1),
    }


def _unseen(store: TokenStore, budget_words: int) -> list[str]:
    """Return the unseen pairs, each of which has as many words to adapt on."""
    pairs = store.pairs("meta-test")
    for pair in pairs:
        if budget_words > (most := store.sets(pair)["train"]["target_words"]):
            raise UsageError(
                f"A budget of {budget_words:,} words is larger than the {most:,} of {pair}.", "Give a smaller --budget."
            )
    return [str(pair) for pair in pairs]


def _trainings(data: Path, out: Path, settings: Sequence[str]) -> list[Training]:
    """Return the meta-trainings; those that begin like the first take its joint phase over."""
    first, *others = (Training(learner, settings, data, out / f"run-{learner}", None) for learner in LEARNERS)
    alike = {item.learner for item in others if same_joint_phase(item.config, first.config)}
    return [first, *(replace(item, joint_phase=first.run if item.learner in alike else None) for item in others)]


def _scores(pair: str, data: Path, out: Path, budget_words: int) -> list[Score]:
    """Return what is scored of one unseen language: zero-shot, from scratch, and adapted from each initialisation."""
    runs = {learner: out / f"run-{learner}" for learner in LEARNERS}
    zero_shot = [Score(pair, f"{learner}, zero-shot", data, str(run), run) for learner, run in runs.items()]
    arms = {"from scratch": start.SCRATCH, **{f"{learner}, adapted": str(run) for learner, run in runs.items()}}
    return zero_shot + [
        Score(
            *(pair, arm, data, init, out / "tuned" / f"{pair}-{arm.replace(', ', '-').replace(' ', '-')}"),
            settings=FROM_SCRATCH if init == start.SCRATCH else TUNING,
            budget_words=budget_words,
        )
        for arm, init in arms.items()
    ]


def _say_commands(items: Sequence[Training | Score], others: Sequence[str]) -> None:
    """Say by which commands one language comes to its results, as the others do."""
    say("\nWhat follows is what these commands do:\n")
    for item in items:
        for command in item.commands:
            say(f"$ {command}")
    if others:
        say(f"\nand likewise for {', '.join(others)}.")


def _command(*words: object) -> str:
    return shlex.join(["metanmt", *map(str, words)])


def _given(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def _tuned_whole(folder: Path) -> bool:
    """Return whether a fine-tuning is there that was not stopped before its end."""
    facts = folder / TUNING_FILE
    return facts.is_file() and not read_object(facts)["interrupted"]


def _same_demo(out: Path, settings: dict[str, Any]) -> None:
    """Make the demo's folder, or make sure that an existing one was made with the same settings."""
    path = out / "demo.json"
    items = out.iterdir() if out.exists() else ()
    begun = {item.name for item in items if item.name != path.name and not item.name.endswith(".tmp")}
    if begun:
        there = read_object(path) if path.is_file() else {}
        if begun == {"data"} and there:  # which depends on the languages alone
            there = {**settings, "languages": there["languages"]}
        if there != settings:
            raise UsageError(f"{out} exists already and is not of this demo.", "Give another --out.")
        say(f"Going on with {out}")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def _examples(rows: Sequence[dict[str, Any]], data: Path) -> list[dict[str, str]]:
    """Return a few test sentences of every language with the best adapted arm's translation."""
    examples = []
    for pair in dict.fromkeys(row["pair"] for row in rows):
        arm = next(row for row in rows if row["pair"] == pair and row["arm"] == f"{LEARNERS[-1]}, adapted")
        paths = *text_files(data, Pair.parse(pair), "test"), Path(arm["hypotheses"])
        texts = [path.read_text(encoding="utf-8").split("\n") for path in paths]
        for index in range(EXAMPLES):
            source, reference, hypothesis = (text[index] for text in texts)
            examples.append({"pair": pair, "source": source, "hypothesis": hypothesis, "reference": reference})
    return examples


def format_results(results: dict[str, Any]) -> str:
    """Return the table and the examples for a terminal."""
    rows = results["rows"]
    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    by = {(row["pair"], row["arm"]): row["scores"] for row in rows}
    header = ["BLEU / chrF++", *pairs, "mean"]
    body = []
    for arm in arms:
        cells = [(by[pair, arm]["bleu"]["score"], by[pair, arm]["chrf"]["score"]) for pair in pairs]
        cells.append(tuple(sum(column) / len(pairs) for column in zip(*cells, strict=True)))
        body.append([arm, *(f"{bleu:.1f} / {chrf:.1f}" for bleu, chrf in cells)])
    scores = rows[0]["scores"]
    lines = [
        "",
        f"Unseen languages, adapted on {results['budget_words']:,} English words; each meta-training cost "
        f"{results['cost_target_tokens']:,} target tokens; one seed, one draw.",
        "",
        table(header, body),
        "",
        f"BLEU  {scores['bleu']['signature']}",
        f"chrF  {scores['chrf']['signature']}",
        "",
    ]
    for example in results["examples"]:
        lines += [f"{example['pair']}  {example['source']}", f"   ->  {example['hypothesis']}"]
        lines += [f"  ref  {example['reference']}", ""]
    return "\n".join([*lines, f"Done in {duration(results['elapsed_seconds'])}."])
