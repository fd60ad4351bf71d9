"""A comparison's folder, written without any training: three arms, two pairs, zero-shot and two budgets."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from metanmt.comparison.statistics import mean_and_deviation
from metanmt.nmt.score import score

ARMS = {"none": 0.25, "joint": 0.5, "fomaml": 0.6, "reptile": 0.55}
PAIRS = {"fi-en": "fi", "he-en": "he"}
BUDGETS, DRAWS, SENTENCES = (0, 500, 2_000), (1, 2, 3), 70
ATTACK = '<script>alert("x")</script> <img src=x onerror=alert(1)> & "quoted"'
WORDS = {
    "fi": ["talo", "koira", "kissa", "juoksee", "nukkuu", "punainen", "vihreä", "kolme", "seitsemän", "vuotta"],
    "he": ["בית", "כלב", "חתול", "רץ", "ישן", "אדום", "ירוק", "שלוש", "שבע", "שנים"],
    "en": ["house", "dog", "cat", "runs", "sleeps", "red", "green", "three", "seven", "years"],
}
VERSIONS = {"python": "3.11.7", "metanmt": "0.1.0", "sacrebleu": "2.6.0"}


def sentence(language: str, number: int) -> str:
    words = WORDS[language]
    return " ".join(words[(number * step + step) % len(words)] for step in range(1, 5 + number % 9)) + "."


def hypothesis(arm: str, budget: int, draw: int, number: int) -> str:
    """Return the reference with a share of its words lost; more stay with the arm's quality and the budget."""
    kept = ARMS[arm] * (0.5 + math.log1p(budget) / 14)
    words = sentence("en", number).split()
    return " ".join(
        word if (number * 31 + at * 17 + draw * 7) % 100 < 100 * kept else f"zz{at}" for at, word in enumerate(words)
    )


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")


def write_data(folder: Path) -> None:
    sizes = {"sentences": SENTENCES, "source_tokens": 900, "target_tokens": 800, "target_words": 500}
    report = {"source_words": 500, "target_words": 500, "skipped_sources": []}
    rows = []
    for pair, language in PAIRS.items():
        for side in (language, "en"):
            lines = [sentence(side, number) for number in range(SENTENCES)]
            lines[0] = ATTACK if side != "en" else lines[0]
            write(folder / "text" / pair / f"test.{side}", "\n".join(lines) + "\n")
        counts = {"read": 400, "kept": 370, "leaked": 7, "dropped": {"identical sides": 20, "too long": 3}}
        rows.append({"pair": pair, "set": "test", **counts, **report})
    pairs = {pair: {"role": "meta-test", "sets": {"test": sizes}} for pair in PAIRS}
    facts = {"format": 1, "name": "made up", "tokenizer_digest": "abc123", "vocabulary_size": 700}
    write(folder / "data.json", {**facts, "pairs": pairs, "report": rows, "versions": VERSIONS})


def write_run(folder: Path, arm: str) -> None:
    lines: list[dict[str, Any]] = []
    for step in range(1, 301):
        loss = 6 * math.exp(-step / 120) + {"joint": 1.5, "fomaml": 1.3, "reptile": 1.4}[arm]
        losses = {"joint": {"query_loss": loss}, "reptile": {"support_loss": loss}}
        both = {"query_loss": loss, "support_loss": loss + 0.3}
        lines.append({"step": step, "target_tokens": step * 3_400, **losses.get(arm, both)})
        if step % 60 == 0:
            scores = {"loss": loss, "bleu": 20 - 3 * loss, "chrf": 50 - 6 * loss}
            validation = {"zero_shot": {key: value * 0.9 for key, value in scores.items()}, "adapted": scores}
            lines.append({"step": step, "target_tokens": step * 3_400, "meta_validation": validation})
    write(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write(folder / "config.toml", f'[outer]\nlearner = "{arm}"\n')


LAYERS = ["embeddings", *(f"{side} {part}" for side in ("encoder", "decoder") for part in ("input", 1, 2, "norm"))]
ALIKE = {"joint": 0.96, "fomaml": 0.7, "reptile": 0.9}


def layers_of(arm: str) -> dict[str, Any]:
    """Return what adapting an arm moved: joint keeps its representations, fomaml does not, reptile is between."""
    rows: list[dict[str, Any]] = []
    for number, layer in enumerate(LAYERS):
        movement = None if "input" in layer else {"mean": 0.05 - 0.004 * number - 0.01 * (arm == "fomaml"), "sd": 0.002}
        similar = {"mean": 0.99 if "input" in layer else ALIKE[arm] + 0.002 * number, "sd": 0.02}
        cka = None if layer == "embeddings" or "norm" in layer else similar
        rows.append({"layer": layer, "movement": movement, "cka": cka})
    facts = {"arm": arm, "update": "all", "budget": BUDGETS[-1], "adaptations": 6 - (arm == "reptile")}
    return {**facts, "unmoved": int(arm == "reptile"), "layers": rows}


def write_comparison(out: Path) -> dict[str, Any]:
    """Write the folder and return what its comparison.json holds."""
    write_data(out.parent / "data")
    rows: list[dict[str, Any]] = []
    for arm in ARMS:
        for budget in BUDGETS[arm == "none" :]:
            row: dict[str, Any] = {"arm": arm, "budget": budget, "update": "all" if budget else "none", "lead": {}}
            drawn = {
                pair: [write_result(out, row, pair, draw) for draw in (DRAWS if budget else (0,))] for pair in PAIRS
            }
            row["scores"] = {}
            for metric in ("bleu", "chrf"):
                spread = {
                    p: mean_and_deviation([item[metric]["score"] for item in found]) for p, found in drawn.items()
                }
                row["scores"][metric] = {pair: {"mean": mean, "sd": sd} for pair, (mean, sd) in spread.items()}
                row["scores"][metric]["mean"] = {"mean": sum(m for m, _ in spread.values()) / len(PAIRS), "sd": None}
            cost = {"sentences": 40, "updates": 90, "target_tokens": 12_345, "peak_memory_bytes": 2**30}
            row["adaptation"] = {**cost, "elapsed_seconds": 61.0}
            rows.append(row)
    for row in rows:
        base = next((b for b in rows if (b["arm"], b["budget"]) == ("joint", row["budget"])), None)
        if base and row is not base:
            for metric, by_place in row["scores"].items():
                leads = {
                    place: item["mean"] - base["scores"][metric][place]["mean"] for place, item in by_place.items()
                }
                row["lead"][metric] = {
                    place: {"value": value, "low": value - 2, "high": value + 2, "p_value": 0.01}
                    for place, value in leads.items()
                }
    cost = {"processes": 1, "steps": 300, "target_tokens": 1_020_000, "gradient_computations": 600}
    spent = {
        **cost,
        "elapsed_seconds": 3_725.0,
        "peak_memory_bytes": 2**30,
        "best_step": 300,
        "best_meta_dev_loss": -2.1,
    }
    trained = [arm for arm in ARMS if arm != "none"]
    for arm in trained:
        write_run(out / "runs" / arm, arm)
    found = {
        "name": "Four initialisations <at equal cost>",
        "pairs": list(PAIRS),
        "runs": "runs",
        "train_set": "train",
        "test_set": "test",
        "draws": list(DRAWS),
        "baseline": "joint",
        "confidence": 0.95,
        "comparisons": 14,
        "shared_sentences": [list(PAIRS)],
        "rows": rows,
        "other_test_sets": [other_test_set(rows)],
        "layers": [layers_of(arm) for arm in trained],
        "training": [{"arm": arm, "run": "runs", "learner": arm, **spent} for arm in trained],
        "signatures": {"bleu": "nrefs:1|case:mixed|version:2.6.0", "chrf": "nrefs:1|nc:6|nw:2|version:2.6.0"},
        "command": "metanmt compare my.toml --out comparison",
        "data": "../data",
    }
    write(out / "comparison.json", found)
    write(out / "comparison.toml", 'name = "Four"\n')
    return found


def other_test_set(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a second test set, which the first pair only has."""

    first = next(iter(PAIRS))

    def on_first(scores: dict[str, Any]) -> dict[str, Any]:
        return {metric: dict.fromkeys((first, "mean"), by_place[first]) for metric, by_place in scores.items()}

    kept = [{**row, "scores": on_first(row["scores"]), "lead": on_first(row["lead"])} for row in rows]
    return {"test_set": "test-news", "pairs": [first], "shared_sentences": [], "rows": kept}


def write_result(out: Path, row: dict[str, Any], pair: str, draw: int) -> dict[str, Any]:
    lines = [hypothesis(row["arm"], row["budget"], draw, number) for number in range(SENTENCES)]
    lines[0] = ATTACK if row["arm"] == "fomaml" else lines[0]
    lines[2] = "" if row["arm"] == "none" else lines[2]
    scores = score(lines, [sentence("en", number) for number in range(SENTENCES)], ter=False)
    adapted = f"{row['budget']}-all-{draw}" if row["budget"] else "zero-shot"
    folder = out / "results" / row["arm"] / pair / adapted
    cell = {**{key: row[key] for key in ("arm", "budget", "update")}, "pair": pair, "draw": draw}
    write(folder / "result.json", {"cell": cell, "scores": {"test": scores}, "versions": VERSIONS})
    write(folder / "test.hypotheses.txt", "\n".join(lines) + "\n")
    return scores


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pages") / "comparison"
    write_comparison(out)
    return out


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """A folder that a test may change."""
    write_comparison(tmp_path / "comparison")
    return tmp_path / "comparison"


@pytest.fixture(scope="session")
def page(folder: Path) -> str:
    from metanmt.cli import main

    out = folder.parent / "report.html"
    assert main(["report", str(folder), "--out", str(out)]) == 0
    return out.read_text(encoding="utf-8")
