"""`metanmt report`: comparisons as one HTML file that needs nothing beside it, neither files nor a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from metanmt import __version__
from metanmt.comparison.layers import OF_EMBEDDINGS
from metanmt.comparison.tables import beside_of, percent, sharing_note
from metanmt.errors import UsageError
from metanmt.files import write_text
from metanmt.pages import figures
from metanmt.pages.charts import COLOURS, swatch
from metanmt.pages.finding import finding, signed, significant, words_of
from metanmt.pages.layers import REUSE, what_moves
from metanmt.pages.reading import MEAN, METRICS, Comparison, digest, open_comparison, read_json
from metanmt.pages.translations import direction, side_by_side
from metanmt.runlog import duration, say

HERE = Path(__file__).parent
SENTENCES = 60
PRINTED = 12
"""Sentences of a pair on paper; the style sheet hides the others."""


def write(folders: Sequence[Path], out: Path, *, budget: int | None = None, sentences: int = SENTENCES) -> int:
    """Write the page and return its size in bytes.

    Args:
        folders: of finished comparisons.
        out: the HTML file; an older one is replaced.
        budget: whose translations are shown side by side; the largest of each comparison by default.
        sentences: how many of each pair's test set are shown, at most.
    """
    if out.is_dir():
        raise UsageError(f"{out} is a folder.", "Give the name of a file: --out report.html.")
    if sentences < 1:
        raise UsageError(f"{sentences} sentences cannot be shown.", "Give --sentences at least 1.")
    page = render([open_comparison(folder) for folder in folders], budget=budget, sentences=sentences)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    return len(page.encode())


def render(comparisons: Sequence[Comparison], *, budget: int | None = None, sentences: int = SENTENCES) -> str:
    """Return the page as text."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "signed": signed, "mebibytes": lambda count: f"{count / 2**20:,.0f}"}
    environment.filters |= {"percent": percent, "direction": direction}
    environment.globals |= {
        "beside_of": beside_of,
        "OF_EMBEDDINGS": OF_EMBEDDINGS,
        "swatch": swatch,
        "significant": significant,
        "words_of": words_of,
    }
    environment.globals |= {"METRICS": METRICS, "MEAN": MEAN, "COLOURS": COLOURS, "PRINTED": PRINTED, "REUSE": REUSE}
    script = (HERE / "report.js").read_text(encoding="utf-8")
    parts = [_facts(item, f"c{number + 1}", budget, sentences) for number, item in enumerate(comparisons)]
    return environment.get_template("report.html.jinja").render(
        title=parts[0]["name"] if len(parts) == 1 else f"{len(parts)} comparisons of initialisations",
        comparisons=parts,
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
    )


def _facts(comparison: Comparison, key: str, budget: int | None, sentences: int) -> dict[str, Any]:
    """Return what the template shows of one comparison."""
    found = comparison.found
    if budget is not None and budget not in comparison.budgets:
        known = ", ".join(map(str, comparison.budgets))
        raise UsageError(f"{comparison.folder} has no budget of {budget:,} words.", f"Give --budget one of {known}.")
    chosen = comparison.budgets[-1] if budget is None else budget
    if comparison.data is None:
        say(
            f"{comparison.folder}: its data folder is not here, or has other test sentences than were scored; the page "
            "has neither translations nor a data report."
        )
    rows = found["rows"]
    return {
        "key": key,
        "name": comparison.name,
        "found": found,
        "finding": finding(comparison),
        "legend": [(system.label, system.style) for system in comparison.systems],
        "learners": [item for item in figures.arm_styles(comparison).items() if comparison.metrics(item[0])],
        "scored": [_scored(scored) for scored in (found, *found["other_test_sets"])],
        "budget_charts": figures.budget_charts(comparison, key),
        "learning_charts": figures.learning_charts(comparison, key),
        "moves": what_moves(comparison, key),
        "budget": chosen,
        "translations": side_by_side(comparison, chosen, sentences),
        "training": [{**row, "best": _best(row)} for row in found["training"]],
        "adaptations": [row for row in rows if row["budget"]],
        "leads": any(row["lead"] for row in rows),
        "translates_back": any("usable" in row["adaptation"] for row in rows),
        "settings": _settings(comparison),
        "versions": comparison.versions(),
        "data": _data(comparison),
    }


def _scored(scored: dict[str, Any]) -> dict[str, Any]:
    """Return the score tables of one test set, one a budget and metric, with the best of every column."""
    tables = []
    for budget, update in sorted({(row["budget"], row["update"]) for row in scored["rows"]}):
        rows = [row for row in scored["rows"] if (row["budget"], row["update"]) == (budget, update)]
        for metric, name in METRICS.items():
            places = [*([MEAN] if len(scored["pairs"]) > 1 else []), *scored["pairs"]]
            best = {place: max(row["scores"][metric][place]["mean"] for row in rows) for place in places}
            moves = "" if update in ("all", "none") else f", {update} moving"
            title = f"{name} on {scored['test_set']}, {words_of(budget)}{moves}"
            tables.append({"title": title, "metric": metric, "places": places, "rows": rows, "best": best})
    notes = [sharing_note(pairs) for pairs in scored["shared_sentences"]]
    return {"test_set": scored["test_set"], "tables": tables, "notes": notes}


def _best(training: dict[str, Any]) -> str:
    key = next((key for key in training if key.startswith("best_meta_dev_")), None)
    if key is None or training[key] is None:
        return "–"
    metric = key.removeprefix("best_meta_dev_")
    return f"{METRICS.get(metric, metric)} {training[key]:.2f}"


def _settings(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the files that say how it was made: the comparison's, and the configuration of every meta-training."""
    arms = [row["arm"] for row in comparison.found["training"]]
    paths = {"comparison.toml": comparison.folder / "comparison.toml"}
    paths |= {f"runs/{arm}/config.toml": comparison.runs / arm / "config.toml" for arm in arms}
    return [(name, path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()]


def _data(comparison: Comparison) -> dict[str, Any] | None:
    """Return what is known of the data: digests, sizes, what cleaning dropped and what leaked."""
    if comparison.data is None:
        return None
    path = comparison.data / "data.json"
    facts = read_json(path)
    texts = [text for pair in comparison.pairs for text in comparison.text_files(pair) if text.is_file()]
    files = [path, *texts]
    report = [
        {
            **item,
            "role": facts["pairs"].get(item["pair"], {}).get("role", ""),
            "sizes": facts["pairs"].get(item["pair"], {}).get("sets", {}).get(item["set"], {}),
        }
        for item in facts.get("report", [])
    ]
    return {
        "name": facts.get("name", ""),
        "tokenizer": facts["tokenizer_digest"],
        "vocabulary": facts.get("vocabulary_size", 0),
        "files": [(file.relative_to(comparison.data).as_posix(), digest(file)) for file in files],
        "report": report,
        "leaked": sum(item["leaked"] for item in report),
    }
