"""`metanmt fine-tune`: adapt an initialisation to one pair."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from metanmt.config import AdapterConfig, FineTuneConfig, ModelConfig
from metanmt.data.language import Pair
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import Tokenizer, load_tokenizer
from metanmt.files import OR_OVERWRITE, new_folder, refuse_existing, write_json
from metanmt.meta.beside import Known, known_text, replayable, tasks_to_replay, text_beside, with_text_alone
from metanmt.nmt.back_translation import BY_INIT, check_back, turned
from metanmt.nmt.checkpoint import (
    check_tokenizer,
    keep_base,
    save_checkpoint,
    say_if_tuned_for_another,
)
from metanmt.nmt.folder import TUNING_FILE
from metanmt.nmt.model import update_weights
from metanmt.nmt.soup import fine_tune_soup
from metanmt.nmt.start import SCRATCH, StartingPoint
from metanmt.nmt.tuning import TuningReport
from metanmt.nmt.tuning_text import (
    AS_NEEDED,
    Text,
    Tokenised,
    in_its_pieces,
    own_files,
    own_tokenizer,
    pieces_wanted,
    say_if_foreign,
    text_to_adapt_on,
    whole_sets,
)
from metanmt.nmt.vocabulary import grow_embeddings
from metanmt.runlog import say
from metanmt.runtime import Interruption, device, peak_memory_bytes, versions

GENTLER = 3  # times lower is the rate of a second trial, where the first was worth nothing and its rate was the default


def run(
    init: str,
    pair_name: str,
    out: Path,
    text: Text,
    config: FineTuneConfig,
    *,
    model: ModelConfig | None = None,
    adapter: AdapterConfig | None = None,
    seed: int = 1,
    precision: str = "auto",
    micro_tokens: int = 1_000,
    replay: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Adapt, write the checkpoint with `fine_tune.json` beside it, and return what is in that file.

    And "stop_requested": whether a stop was asked for, in time to be heeded ("interrupted") or not. Where `text.back`
    is "init", the pair the other way round comes first, on the same text, and stays beside, as `out` with "-back".

    Args:
        init: a run or checkpoint to start from, or "none" to train from scratch.
        pair_name: such as "fi-en".
        out: the new checkpoint's folder; it appears only when it is complete.
        text: what to adapt on and to choose by, and text of the target language alone.
        config: rates, updates, strategy. With update = "adapters" the checkpoint is an adapter alone, a patch of
            `init`, whose files stay as they are; if `init` is an adapter, it is that one which goes on to be adapted.
        model: dimensions, for a model from scratch; and the head.
        adapter: of a new one.
        seed: of the budget's draw, the order of batches, dropout, and a model from scratch.
        precision: see `nmt.precision.mixed`.
        micro_tokens: padded tokens of a forward-backward pass.
        replay: the data folder whose meta-train text is learned beside the pair's (default: that of `text`).
        overwrite: replace an existing folder.
    """
    started, pair = time.monotonic(), Pair.parse(pair_name)
    for folder in _folders(out, text):
        refuse_existing(folder, overwrite=overwrite, marker=TUNING_FILE, remedy=OR_OVERWRITE)
    text.check()
    if init != SCRATCH:
        keep_base(Path(init), out, as_base=config.update == "adapters")
        say_if_tuned_for_another(Path(init), pair)
    start = StartingPoint(init, config.update, model or ModelConfig(), adapter or AdapterConfig(), seed)
    likewise: dict[str, Any] = {"model": model, "adapter": adapter, "precision": precision, "overwrite": overwrite}
    likewise |= {"seed": seed, "micro_tokens": micro_tokens}
    back = partial(_back_by_init, init, pair, _folders(out, text)[-1], config, **likewise)
    network, read, known, drawn = _prepared(start, pair, text, config, replay, back)
    say(f"Adapting to {pair}: {len(read.train):,} sentence pairs, {read.train_words:,} target words")
    beside = text_beside(known, read, config, micro_tokens)
    nobodys_rate = not config.learning_rate and init != SCRATCH
    config = config.resolved(from_scratch=init == SCRATCH, beside=beside is not None)
    with Interruption() as interruption:
        tune = partial(
            fine_tune_soup,
            network.to(device()),
            *(read.tokenizer, pair, read.train, read.dev),
            seed=seed,
            precision=precision,
            micro_tokens=micro_tokens,
            label=f"fine-tune {pair}",
            beside=beside,
            stop=lambda: interruption.requested,
        )
        report, config = _tuned(tune, config, again=nobodys_rate)
    facts = {
        "pair": str(pair),
        "init": init,
        "data": str(text.data or ", ".join(map(str, text.train_files))),
        **drawn,
        "train_words": read.train_words,
        "dev_sentences": min(len(read.dev), config.dev_sentences),
        "seed": seed,
        **report.to_json(),
        "config": asdict(config),
        "elapsed_seconds": round(time.monotonic() - started, 1),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    with new_folder(out, overwrite=overwrite, refuse=False) as folder:
        _write(folder, network, read.tokenizer, pair, facts)
    return {"model": str(out), **facts, "stop_requested": interruption.requested}


def _folders(out: Path, text: Text) -> list[Path]:
    """Return the checkpoints that are made: with `--back init` one of the other direction too."""
    return [out, Path(f"{out}-back")] if text.back == BY_INIT else [out]


def _write(folder: Path, network: PreTrainedModel, tokenizer: Tokenizer, pair: Pair, facts: dict[str, Any]) -> None:
    """Write a checkpoint with the facts beside it, and note how large it is."""
    save_checkpoint(folder, network, tokenizer, pair)
    facts["versions"] = versions()
    facts["weights_bytes"] = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    write_json(folder / TUNING_FILE, facts)


def _back_by_init(
    init: str, pair: Pair, out: Path, config: FineTuneConfig, text: Text, replay: Path | None, **options: Any
) -> Path:
    """Adapt an initialisation to a pair the other way round, and return the checkpoint.

    Raises:
        KeyboardInterrupt: a stop was asked for.
    """
    say(f"First {pair.turned()} is learned, likewise, to translate back; that model stays, as {out}")
    if init == SCRATCH:  # a vocabulary of its own has no new pieces
        config = replace(config, new_pieces=AS_NEEDED)
    facts = run(init, str(pair.turned()), out, text, config, replay=replay, **options)
    if facts["stop_requested"]:
        raise KeyboardInterrupt(f"Stopped; the best weights of {pair.turned()} so far are in {out}.")
    say(f"Now {pair}; if it is stopped, --back {out} goes on from here")
    return out


def _tuned(
    tune: Callable[[FineTuneConfig], TuningReport], config: FineTuneConfig, *, again: bool
) -> tuple[TuningReport, FineTuneConfig]:
    """Return what a fine-tuning did, and its settings; `again` at a lower rate where no update was worth anything."""
    report = tune(config)
    if report.best.update or report.interrupted or not (again and report.updates):
        return report, config
    config = replace(config, learning_rate=config.learning_rate / GENTLER)
    say(f"No update was better than the start: once more at a rate of {config.learning_rate:.1g}.")
    return report.followed_by(tune(config)), config


def _prepared(
    start: StartingPoint,
    pair: Pair,
    text: Text,
    config: FineTuneConfig,
    replay: Path | None,
    back_by_init: Callable[[Text, Path | None], Path],
) -> tuple[PreTrainedModel, Tokenised, Known | None, dict[str, Any]]:
    """Return the model, the text, what of meta-training it can replay, and what was drawn, dropped or added."""
    check_back(text, pair)
    known = None if start.init == SCRATCH else known_text(start.init, pair, replay, text.data, config)
    store = TokenStore.open(text.data) if text.data else None
    facts: dict[str, Any] = {}
    own = own_files(pair, text, facts)
    network, tagged = None, False
    if start.init == SCRATCH:
        start.check_scratch()
        tokenizer = load_tokenizer(store.tokenizer_folder) if store else own_tokenizer(pair, own["train"])
    else:
        network, loaded = start.loaded()
        update_weights(network, start.update)  # what cannot move is said before anything is computed
        tokenizer = start.with_target(network, loaded, pair)
        if tagged := tokenizer is not loaded:
            facts["new_target"] = pair.target
    if store is not None:
        check_tokenizer(tokenizer, store.digest, start.init, store.folder)
    new = start.new_language(config, network, tokenizer, text, pair, tagged=tagged)
    train, dev = whole_sets(pair, text, store, own, tokenizer, facts)
    pieces, foreign = pieces_wanted(train, new.pieces, new.is_target)
    read = text_to_adapt_on(
        *(train, dev, pair, tokenizer, facts),
        budget_words=text.budget_words,
        cut_anew=bool(pieces) and foreign,
        seed=start.seed,
    )
    if known is not None and known.data != text.data:  # whose text was not compared with this one when it was prepared
        own_sets = store.held_out_sets(pair) if store else []
        cut_by = load_tokenizer(store.tokenizer_folder) if store else read.tokenizer
        known = known.without([(read.dev, read.tokenizer), *((text, cut_by) for text in own_sets)])
    if text.back is not None and config.synthetic and config.update != "none":
        stores = [folder for folder in (store, known and TokenStore.open(known.data)) if folder]
        there, drawn = known, read
        if there is None and store is not None and not text.mono_files:
            there = Known(store.folder, *tasks_to_replay(Path(start.init), store, pair, asked=True))

        def back() -> Path:
            if text.back != BY_INIT:
                return Path(str(text.back))
            return back_by_init(turned(text, drawn), known.data if known else None)

        read, facts["monolingual"] = with_text_alone(drawn, text, there, pair, stores, config, start.seed, back)
    read = in_its_pieces(read, pair, facts, new_pieces=pieces, is_target=new.is_target)
    if network is None:
        return start.made(read.tokenizer), read, None, {**facts, "replayed": None}
    if read.spelled:
        grow_embeddings(network, tokenizer.vocabulary_size, read.spelled)
    if new.counterparts is not None:
        aligned = new.begin(network, read, pair)
        facts["aligned_pieces"] = aligned
    say_if_foreign(read, pair)
    known = replayable(known, network)
    return network, read, known, {**facts, "replayed": known and known.facts()}
