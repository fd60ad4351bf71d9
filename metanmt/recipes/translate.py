"""`metanmt translate`: lines in, lines out, in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

from metanmt.data.compression import START_BYTES
from metanmt.data.language import Pair
from metanmt.data.sources import conversion_of
from metanmt.errors import UsageError
from metanmt.nmt.engine import open_engine
from metanmt.nmt.translate import translate
from metanmt.runlog import Progress

CHUNK = 2_000


def run(
    model: Path,
    pair_name: str,
    *,
    beam: int,
    length_penalty: float,
    batch_tokens: int | None = None,
    engine: str = "auto",
    quantization: str = "float32",
    lines: Iterable[bytes],
    out: TextIO,
) -> None:
    """Write the translation of every line of `lines` to `out`, one line each.

    Input streams through in chunks of 2,000 lines, each sorted by length within.

    Args:
        model: a checkpoint, or a run.
        pair_name: such as "fi-en".
        beam: hypotheses kept; 1 is greedy.
        length_penalty: above 1 favours longer output.
        batch_tokens: as for `translate_ids`.
        engine, quantization: as for `open_engine`.
        lines: undecoded UTF-8 lines.
        out: flushed after every chunk.

    Raises:
        UsageError: a line is not UTF-8, or the output cannot be written; it says how many lines are out.
        KeyboardInterrupt: likewise.
    """
    pair = Pair.parse(pair_name)
    opened, tokenizer = open_engine(model, engine, quantization, pair)
    with Progress(f"translate {pair}", None, "lines") as progress:
        decoded = _decoded(lines, progress)
        try:
            while chunk := list(islice(decoded, CHUNK)):
                found = translate(
                    opened,
                    tokenizer,
                    chunk,
                    pair,
                    beam=beam,
                    length_penalty=length_penalty,
                    batch_tokens=batch_tokens,
                    label=None,
                )
                _write(out, found, progress)
                progress.advance(len(chunk))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"Stopped; {_written(progress)}.") from None


def _decoded(lines: Iterable[bytes], progress: Progress) -> Iterator[str]:
    start = b""
    for number, raw in enumerate(lines, start=1):
        start = start or raw[:START_BYTES]
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise UsageError(
                f"The input is not UTF-8 at line {number:,}; {_written(progress)}.", conversion_of(start)
            ) from None


def _write(out: TextIO, lines: Iterable[str], progress: Progress) -> None:
    try:
        out.write("".join(f"{line}\n" for line in lines))
        out.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(
            f"The output cannot be written: {error.strerror}; {_written(progress)}.",
            "Mend that or give another output, and translate the lines after these: the last in the output may be cut.",
        ) from None


def _written(progress: Progress) -> str:
    return f"{progress.done:,.0f} lines are translated and written"
