"""`metanmt evaluate`: translate a test set, score it, keep the hypotheses beside the score."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from metanmt.data.cleaning import normalise
from metanmt.data.language import Pair
from metanmt.data.own_files import detect_source, has_both_sides
from metanmt.data.sources import Source, missing_file, read_pairs
from metanmt.data.store import TokenStore, text_files
from metanmt.errors import CorpusError, UsageError, did_you_mean
from metanmt.files import check_writable, read_object, write_json, write_text
from metanmt.nmt.engine import open_engine
from metanmt.nmt.folder import checkpoint_folder, is_hub_name, run_of
from metanmt.nmt.score import score
from metanmt.nmt.translate import translate
from metanmt.runlog import say
from metanmt.runtime import versions


def run(
    *,
    model: Path,
    pair: str,
    data: Path | None = None,
    split: str = "test",
    source: Path | None = None,
    reference: Path | None = None,
    beam: int = 5,
    length_penalty: float = 1.0,
    batch_tokens: int | None = None,
    engine: str = "auto",
    quantization: str = "float32",
    bootstrap: int = 1_000,
    out: Path | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint on a set of a data folder, or on a pair of files, and return the scores.

    Hypotheses and scores go to `out/PAIR.SET.hyp.LANGUAGE` and `.json` (default: `evaluation` in the checkpoint, or in
    the run); of another source with a file of the same name to `PAIR.SET-2`, and so on. A second time replaces the
    first; "checkpoint" says of which checkpoint it is.

    Args:
        model: a checkpoint, or a run.
        pair: such as "fi-en".
        data, split: the prepared data folder and the set in it; or
        source, reference: two files of your own; or one TSV or JSONL with both sides as `source` alone.
        beam, length_penalty, batch_tokens: as for `translate_ids`.
        engine, quantization: as for `open_engine`.
        bootstrap: resamples for the confidence interval, 0 for none.
        out: where the files go; those of another test set or model, of the same name, stay there.
    """
    started = time.monotonic()
    language = Pair.parse(pair)
    name, own, sources, references = _texts(language, data, split, source, reference)
    checkpoint = checkpoint_folder(model).resolve()
    if out is None and is_hub_name(model):
        raise UsageError(f"{model} is no folder here that its scores could lie in.", "Give --out FOLDER.")
    folder = out or _default_folder(model, checkpoint)
    try:
        check_writable(folder)
    except PermissionError:
        raise UsageError(f"{folder} cannot be written to.", "Give the scores another place: --out FOLDER.") from None
    opened, tokenizer = open_engine(checkpoint, engine, quantization, language)
    hypotheses = translate(
        opened,
        tokenizer,
        sources,
        language,
        beam=beam,
        length_penalty=length_penalty,
        batch_tokens=batch_tokens,
        label=f"translate {pair} {name}",
    )
    scores = score(hypotheses, references, target=language.target, bootstrap=bootstrap)
    folder.mkdir(parents=True, exist_ok=True)
    stem = _result_stem(folder, f"{pair}.{name}", own.paths[0], checkpoint if out else None)
    hypothesis_file = folder / f"{stem}.hyp.{language.target}"
    write_text(hypothesis_file, "".join(f"{line}\n" for line in hypotheses))
    facts = {
        "model": str(model),
        "checkpoint": str(checkpoint),
        "pair": pair,
        "set": name,
        "source": str(own.paths[0].resolve()),
        "reference": str(own.paths[-1].resolve()),
        "sentences": len(sources),
        "scores": scores,
        "beam": beam,
        "length_penalty": length_penalty,
        "engine": opened.name,
        "hypotheses": str(hypothesis_file),
        "elapsed_seconds": round(time.monotonic() - started, 1),
        "versions": versions(),
    }
    write_json(folder / f"{stem}.json", facts)
    return facts


def _default_folder(model: Path, checkpoint: Path) -> Path:
    """Return `evaluation` in a model; for a checkpoint of a run, in the run, which deletes its checkpoints."""
    run = run_of(checkpoint)
    if run is None or run == model.resolve():
        return model / "evaluation"
    return run / "evaluation" / checkpoint.name


def _result_stem(folder: Path, stem: str, source: Path, checkpoint: Path | None) -> str:
    """Return the name of a result's files: numbered where the result of another source has the name already.

    Or of another model, where that counts: in a folder of its own a model's result takes the place of an earlier one.
    """
    for name in itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2))):
        try:
            earlier = read_object(folder / f"{name}.json")
            alike = Path(earlier["source"]).resolve() == source.resolve()
            if alike and checkpoint in (None, Path(earlier["checkpoint"])):
                break
        except (OSError, ValueError, KeyError, TypeError):
            break
    return name


def _texts(
    pair: Pair, data: Path | None, split: str, source: Path | None, reference: Path | None
) -> tuple[str, Source, list[str], list[str]]:
    """Return the name of the test set, where it is, and the lines of its two sides."""
    if data is not None and source is None and reference is None:
        store = TokenStore.open(data)
        sets = store.sets(pair)
        if split not in sets:
            raise UsageError(f"{pair} has no set {split!r} in {data}.", did_you_mean(split, sets))
        own = Source("moses", text_files(data, pair, split))
        if lost := next((path for path in own.paths if not path.exists()), None):  # training does without
            raise missing_file(lost, "Copy the folder `text` from where the data was prepared, or prepare it again.")
        noted = store.facts.get("text_bytes", {}).get(str(pair), {}).get(split)  # by versions of before not at all
        if noted not in (None, [path.stat().st_size for path in own.paths]):
            raise CorpusError(
                f"The text of {pair} {split} in {data} has changed since it was prepared.", "Prepare it again."
            )
        name = split
    elif data is None and source is not None and (reference is not None or has_both_sides(source)):
        own = detect_source([source] if reference is None else [source, reference], pair)
        name = own.paths[0].stem
    else:
        raise UsageError(
            "Exactly one test set is needed.",
            "Give either --data FOLDER, or --source FILE and --reference FILE, or one .tsv or .jsonl by --source.",
        )
    lines = [(normalise(one), normalise(other)) for one, other in read_pairs(own, pair)]
    if not lines:
        raise CorpusError(f"{own} is empty.", "Give a test set with at least one sentence.")
    sources, references = map(list, zip(*lines, strict=True))
    if empty := references.count(""):
        if empty == len(references):
            raise CorpusError(f"Every reference of {own} is empty.", "Give the translations, one for each source line.")
        say(f"Note: {empty:,} of {len(references):,} references are empty; they are scored as they are.")
    return name, own, sources, references
