"""`metanmt demo`: the whole road on the embedded corpus.

It only calls the recipes, prints the command that each call stands for, and gathers their results in a table.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metanmt.config import load_config
from metanmt.data.language import Pair
from metanmt.data.manifest import load_manifest, shipped_manifest
from metanmt.data.store import TokenStore
from metanmt.data.variants import with_languages
from metanmt.errors import UsageError
from metanmt.files import read_object, write_json
from metanmt.meta.joint_phase import same_joint_phase
from metanmt.nmt import start
from metanmt.nmt.folder import TUNING_FILE
from metanmt.nmt.tuning_text import Text
from metanmt.recipes import evaluate, fine_tune, meta_train, prepare
from metanmt.report import table
from metanmt.runlog import duration, say

CONFIG = "tiny"
LEARNERS = ("joint", "fomaml", "aligned")
"""Learners, each of the configuration of its name; those that begin like the first take its joint phase over."""
SHORT = ("outer.max_target_tokens=1000000", "validation.times=2", "validation.sentences=100")
TUNING = ("fine_tune.max_epochs=12", "fine_tune.evaluations=5", "fine_tune.dev_sentences=100")
SCRATCH = ("fine_tune.max_epochs=25", "fine_tune.evaluations=3", "fine_tune.dev_sentences=100")
EXAMPLES = 3


def run(
    out: Path, *, languages: Sequence[str] = (), budget_words: int = 2000, target_tokens: int | None = None
) -> dict[str, Any]:
    """Prepare, meta-train by three learners at equal cost, adapt to every unseen language, evaluate.

    Args:
        out: the demo's folder; what an interrupted demo left there is gone on with.
        languages: unseen languages to use instead of the default four.
        budget_words: English words to adapt on.
        target_tokens: cost of each meta-training, if not the configuration's.

    Returns:
        "rows": a dict a language and arm with its scores; "examples"; "signatures"; "elapsed_seconds".
    """
    if budget_words < 1:
        raise UsageError("A budget of no words cannot be adapted on.", "Give --budget a positive number.")
    started = time.monotonic()
    with_languages(load_manifest(shipped_manifest("cldr")), languages)  # a slip leaves no folder behind
    _same_demo(out, {"languages": list(languages), "budget_words": budget_words, "target_tokens": target_tokens})
    data = out / "data"
    chosen = f" --languages {','.join(languages)}" if languages else ""
    _command(f"prepare cldr --out {data}{chosen}")
    if not data.exists():
        prepare.run(shipped_manifest("cldr"), data, languages=languages)
    pairs = TokenStore.open(data).pairs("meta-test")
    runs = {learner: out / f"run-{learner}" for learner in LEARNERS}
    settings = [*SHORT, *([f"outer.max_target_tokens={target_tokens}"] if target_tokens else [])]
    configs = {learner: load_config(Path(learner), settings) for learner in LEARNERS}
    first, *others = LEARNERS
    for learner, folder in runs.items():
        taken = runs[first] if learner in others and same_joint_phase(configs[learner], configs[first]) else None
        given = "".join(f" --set {setting}" for setting in settings)
        given += f" --joint-phase {taken}" if taken else ""
        _command(f"meta-train {learner} --data {data} --out {folder}{given}")
        meta_train.run(configs[learner], data, folder, resume=folder.exists(), joint_phase=taken)
    rows = []
    for pair in pairs:
        rows += _language(pair, data, out, runs, budget_words)
    return {
        "budget_words": budget_words,
        "cost_target_tokens": target_tokens or load_config(Path(CONFIG), SHORT).outer.max_target_tokens,
        "rows": rows,
        "examples": _examples(rows, data),
        "elapsed_seconds": round(time.monotonic() - started, 1),
    }


def _language(pair: Pair, data: Path, out: Path, runs: dict[str, Path], budget_words: int) -> list[dict[str, Any]]:
    """Return the rows of one unseen language: zero-shot, from scratch, and adapted from each initialisation."""
    rows = [_scored(pair, f"{learner}, zero-shot", folder, data) for learner, folder in runs.items()]
    for arm, init in (("from scratch", start.SCRATCH), *((f"{name}, adapted", str(runs[name])) for name in runs)):
        tuned = out / "tuned" / f"{pair}-{arm.replace(', ', '-').replace(' ', '-')}"
        settings = SCRATCH if init == start.SCRATCH else TUNING
        given = "".join(f" --set {setting}" for setting in settings)
        _command(f"fine-tune --init {init} --data {data} --pair {pair} --budget {budget_words} --out {tuned}{given}")
        config = load_config(Path(CONFIG), settings)
        if not _tuned_whole(tuned):
            facts = fine_tune.run(
                init,
                str(pair),
                tuned,
                Text(data=data, budget_words=budget_words),
                config.fine_tune,
                model=config.model,
                overwrite=True,
            )
            if facts["stop_requested"]:
                raise KeyboardInterrupt("Stopped; the same command goes on.")
        rows.append(_scored(pair, arm, tuned, data))
    return rows


def _tuned_whole(folder: Path) -> bool:
    """Return whether a fine-tuning is there that was not stopped before its end."""
    facts = folder / TUNING_FILE
    return facts.is_file() and not read_object(facts)["interrupted"]


def _scored(pair: Pair, arm: str, model: Path, data: Path) -> dict[str, Any]:
    _command(f"evaluate --model {model} --data {data} --pair {pair} --bootstrap 0")
    facts = evaluate.run(model=model, pair=str(pair), data=data, bootstrap=0)
    return {"pair": str(pair), "arm": arm, **facts}


def _same_demo(out: Path, settings: dict[str, Any]) -> None:
    """Make the demo's folder, or make sure that an existing one was made with the same settings."""
    path = out / "demo.json"
    begun = out.exists() and any(item.name != path.name and not item.name.endswith(".tmp") for item in out.iterdir())
    if begun:
        if not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != settings:
            raise UsageError(f"{out} exists already and is not of this demo.", "Give another --out.")
        say(f"Going on with {out}")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)


def _examples(rows: Sequence[dict[str, Any]], data: Path) -> list[dict[str, str]]:
    """Return a few test sentences of every language with the best adapted arm's translation."""
    examples = []
    for pair in dict.fromkeys(row["pair"] for row in rows):
        arm = next(row for row in rows if row["pair"] == pair and row["arm"] == f"{LEARNERS[-1]}, adapted")
        language = Pair.parse(pair)
        paths = [data / "text" / pair / f"test.{side}" for side in (language.source, language.target)]
        texts = [path.read_text(encoding="utf-8").split("\n") for path in (*paths, Path(arm["hypotheses"]))]
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


def _command(arguments: str) -> None:
    say(f"\n$ metanmt {arguments}")
