#!/usr/bin/env python
"""The comparison on the europe corpora: joint against FOMAML at equal tokens, adapted to unseen languages.

    scripts/europe.py prepare ROOT OUT          the corpora of corpora/europe.toml, below ROOT
    scripts/europe.py train OUT LEARNER         joint or fomaml; resumes an interrupted run
    scripts/europe.py adapt OUT ARM             joint, fomaml or none: all pairs and draws; skips what is done
    scripts/europe.py table OUT                 the table, from what is there

Set TOKENS (cost of a meta-training) and SIZE (tiny, small) in the environment for a larger machine.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

PAIRS, DRAWS, BUDGET, ARMS = ("ro-en", "fi-en", "tr-en"), (1, 2, 3), 16_000, ("none", "joint", "fomaml")
TOKENS, SIZE = int(os.environ.get("TOKENS", "15000000")), os.environ.get("SIZE", "tiny")
SETTINGS = {
    "tiny": (
        "outer.learning_rate=3e-3",
        "outer.schedule=cosine",
        "outer.warmup_steps=300",
        "model.dropout=0.0",
        "batch.max_tokens=400",
        "validation.times=7",
        "run.log_every=50",
    ),
    "small": (),
}


def train(out: Path, learner: str) -> None:
    from metanmt.config import load_config
    from metanmt.recipes import meta_train

    settings = [*SETTINGS[SIZE], f"outer.max_target_tokens={TOKENS}", f"outer.learner={learner}"]
    config = load_config(Path(SIZE), settings)
    run = out / f"run-{learner}"
    print(meta_train.run(config, out / "data", run, resume=(run / "last").exists()))


def adapt(out: Path, arm: str) -> None:
    from metanmt.config import load_config
    from metanmt.recipes import evaluate, fine_tune

    data, config = out / "data", load_config(Path(SIZE))
    init = fine_tune.SCRATCH if arm == "none" else str(out / f"run-{arm}")
    for draw in DRAWS:
        for pair in PAIRS:
            if arm != "none" and not (out / f"zero-{arm}" / f"{pair}.test.json").exists():
                evaluate.run(model=Path(init), pair=pair, data=data, out=out / f"zero-{arm}")
            tuned = out / f"tuned-{arm}" / f"{pair}-{draw}"
            if not tuned.exists():
                text = fine_tune.Text(data=data, budget_words=BUDGET)
                fine_tune.run(init, pair, tuned, text, config.fine_tune, model=config.model, seed=draw)
            if not (tuned / "evaluation" / f"{pair}.test.json").exists():
                print(json.dumps(evaluate.run(model=tuned, pair=pair, data=data)["scores"]), flush=True)
                for large in tuned.glob("*.safetensors"):
                    large.unlink()


def table(out: Path) -> None:
    from metanmt.report import table as aligned

    def scores(folder: Path, pair: str) -> dict[str, Any]:
        return json.loads((folder / f"{pair}.test.json").read_text(encoding="utf-8"))["scores"]

    rows = []
    for arm in ARMS:
        zero = out / f"zero-{arm}"
        if zero.exists():
            rows.append([f"{arm}, zero-shot", *(_cell([scores(zero, pair)]) for pair in PAIRS)])
        tuned = out / f"tuned-{arm}"
        if tuned.exists():
            found = {pair: [scores(f / "evaluation", pair) for f in sorted(tuned.glob(f"{pair}-*"))] for pair in PAIRS}
            rows.append([f"{arm}, adapted", *(_cell(found[pair]) for pair in PAIRS)])
    print(aligned(["BLEU / chrF++", *PAIRS], rows))
    first = scores(next((out / "tuned-none").glob("ro-en-*")) / "evaluation", "ro-en")
    print(*(first[metric]["signature"] for metric in ("bleu", "chrf")), sep="\n")


def _cell(scores: list[dict[str, Any]]) -> str:
    parts = []
    for metric in ("bleu", "chrf"):
        values = [score[metric]["score"] for score in scores]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        parts.append(f"{statistics.mean(values):.1f}{spread}")
    return " / ".join(parts)


def main() -> None:
    match sys.argv[1:]:
        case ["prepare", root, out]:
            from metanmt.data.manifest import shipped_manifest
            from metanmt.recipes import prepare

            shutil.rmtree(Path(out) / "data", ignore_errors=True)
            prepare.run(shipped_manifest("europe"), Path(out) / "data", root=Path(root))
        case ["train", out, learner]:
            train(Path(out), learner)
        case ["adapt", out, arm]:
            adapt(Path(out), arm)
        case ["table", out]:
            table(Path(out))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
