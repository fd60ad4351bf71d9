"""Translation: order, empty lines, long input, and a model that has learned its sentences by heart."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import PreTrainedModel

from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.errors import MetanmtError, UsageError
from metanmt.nmt.checkpoint import save_checkpoint
from metanmt.nmt.translate import segments, translate, translate_ids
from metanmt.recipes import translate as recipe
from tests import toy


@contextmanager
def watched(model: PreTrainedModel) -> Iterator[list[tuple[int, int]]]:
    """Yield the shapes of the batches that the model is asked to translate."""
    shapes: list[tuple[int, int]] = []
    generate = model.generate

    def note(**arguments: object) -> object:
        shapes.append(tuple(arguments["input_ids"].shape))  # type: ignore[attr-defined]
        return generate(**arguments)

    with mock.patch.object(model, "generate", note):
        yield shapes


@pytest.mark.parametrize("beam", [1, 5])
def test_what_was_learned_is_reproduced(parrot: PreTrainedModel, tokenizer: SentencePieceTokenizer, beam: int) -> None:
    sources, targets = zip(*toy.LEARNED, strict=True)
    found = translate(parrot, tokenizer, list(sources), toy.PAIR, beam=beam, label=None)
    assert found == tokenizer.decode(tokenizer.encode_target(list(targets), toy.PAIR))
    assert found == list(targets)


def test_order_is_kept_and_repeats_agree(parrot: PreTrainedModel, tokenizer: SentencePieceTokenizer) -> None:
    numbers = [4, 0, 19, 4, 11, 2, 7]
    found = translate(parrot, tokenizer, [toy.LEARNED[i][0] for i in numbers], toy.PAIR, beam=1, label=None)
    assert found == [toy.LEARNED[i][1] for i in numbers]


def test_empty_lines_stay_empty(parrot: PreTrainedModel, tokenizer: SentencePieceTokenizer) -> None:
    sentence, translation = toy.LEARNED[0]
    with watched(parrot) as shapes:
        assert translate(parrot, tokenizer, ["", " \t", "\u3000"], toy.PAIR, label=None) == ["", "", ""]
        assert translate(parrot, tokenizer, [], toy.PAIR, label=None) == []
        assert shapes == [], "the model was asked to translate nothing"
        found = translate(parrot, tokenizer, ["", sentence, "", sentence, " "], toy.PAIR, beam=1, label=None)
    assert found == ["", translation, "", translation, ""]
    assert [rows for rows, _ in shapes] == [2]


@pytest.mark.parametrize("beam", [1, 3])
def test_the_batch_size_changes_nothing(parrot: PreTrainedModel, tokenizer: SentencePieceTokenizer, beam: int) -> None:
    sources = tokenizer.encode_source([line[0] for line in toy.LEARNED], toy.PAIR)
    found = []
    for batch_tokens in (1, 150, 100_000):
        with watched(parrot) as shapes:
            found.append(translate_ids(parrot, sources, beam=beam, batch_tokens=batch_tokens))
        assert all(rows == 1 or rows * columns * beam <= batch_tokens for rows, columns in shapes)
        assert sum(rows for rows, _ in shapes) == len(sources)
    texts = [tokenizer.decode(ids) for ids in found]
    assert texts[0] == texts[1] == texts[2]


class Cramped:
    """An engine that echoes its sources, of which it has memory for so many tokens at a time."""

    name = "cramped"

    def __init__(self, tokens: int, device: str = "cpu") -> None:
        self.tokens, self.device = tokens, device
        self.batches: list[int] = []

    def search(self, batch: Sequence[Sequence[int]], **settings: Any) -> list[list[int]]:
        self.batches.append(len(batch))
        if sum(map(len, batch)) > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [list(source) for source in batch]


def test_memory_that_runs_out_makes_smaller_batches() -> None:
    sources = [[3] * (1 + number * 7 % 11) for number in range(30)]
    assert translate_ids(Cramped(11), sources) == sources
    with pytest.raises(MetanmtError, match="too small for a source of 11 tokens"):
        translate_ids(Cramped(10), sources)


@pytest.mark.parametrize(("device", "size"), [("cpu", 80), ("cuda", 1_280)])
def test_a_batch_is_as_large_as_the_device_likes(device: str, size: int) -> None:
    engine = Cramped(10**6, device)
    translate_ids(engine, [[3] * 10] * 2_000, beam=5)
    assert engine.batches[0] == size
    engine.batches.clear()
    translate_ids(engine, [[3] * 10] * 2_000, beam=5, batch_tokens=500)
    assert engine.batches[0] == 10


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_restored(toy_model: PreTrainedModel, training: bool) -> None:
    toy_model.train(training)
    translate_ids(toy_model, [[3, 20, 2]], beam=1)
    assert toy_model.training is training
    with pytest.raises(IndexError):
        translate_ids(toy_model, [[3, 10_000, 2]], beam=1)
    assert toy_model.training is training


def test_a_runaway_translation_ends(toy_model: PreTrainedModel) -> None:
    """An untrained model never ends by itself: a short source in a batch with a long one has its own bound."""
    outputs = translate_ids(toy_model, [[3, 20, 2], [3, *range(20, 60), 2]], beam=1)
    assert len(outputs[0]) <= 2 * 3 + 20
    assert len(outputs[1]) <= 2 * 42 + 20


LONG = {
    "sentences": "Das ist gut. Das war nicht gut! War es das? " * 8,
    "one sentence with commas": "Montag, Dienstag, Mittwoch, Donnerstag und Freitag, " * 6 + "Ende",
    "no marks": "Kilometer und Stunden und Minuten " * 12,
    "no spaces": "Kilometerstundenminuten" * 12,
    "numbers": "3.5 und 1,000 und 7:30 " * 12,
    "Chinese": "今天是星期三。昨天是星期二！明天呢？" * 6,
    "Chinese without marks": "今天是星期三昨天是星期二明天呢" * 6,
    "Hindi": "आज बुधवार है। कल मंगलवार था। " * 6,
    "Arabic": "اليوم الأربعاء، وأمس الثلاثاء؟ " * 8,
    "white space of every kind": "  eins\u00a0zwei\t\tdrei  \u3000 vier " * 15,
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("longest", [12, 30])
def test_long_input_is_cut(tokenizer: SentencePieceTokenizer, name: str, longest: int) -> None:
    def tokens(text: str) -> int:
        return len(tokenizer.encode_source([text], toy.PAIR)[0])

    text = LONG[name]
    parts = list(segments(text, tokens, longest))
    assert len(parts) > 2
    assert all(tokens(part) <= longest for part in parts)
    assert all(part.strip() for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split()), "nothing but white space is lost"
    assert max(map(tokens, parts)) > longest // 3, "the parts are not needlessly short"


def test_cuts_are_made_at_the_best_places() -> None:
    assert list(segments("Ein Satz. Noch ein Satz. Und, na ja, dieser.", len, 26)) == [
        "Ein Satz. Noch ein Satz.",
        "Und, na ja, dieser.",
    ]
    assert list(segments("Und, na ja, dieser lange Satz.", len, 20)) == ["Und, na ja,", "dieser lange Satz."]
    assert list(segments("3.5 von 1,000 ab 7:30", len, 8)) == ["3.5 von", "1,000 ab", "7:30"]
    assert list(segments("你好。再见。", len, 6)) == ["你好。再见。"]
    assert list(segments("你好。再见。早安。", len, 6)) == ["你好。再见。", "早安。"], "no space where none was"
    assert list(segments("abcdef", len, 4)) == ["abc", "def"]
    assert list(segments("a", lambda text: 99, 4)) == ["a"], "one character is not cut"


def test_the_parts_are_translated_and_joined(parrot: PreTrainedModel, tokenizer: SentencePieceTokenizer) -> None:
    fitting = [pair for pair in toy.LEARNED if "." not in pair[0]][:3]
    text = " ".join(f"{source}" for source, _ in fitting)
    lengths = [len(ids) for ids in tokenizer.encode_source([text, *(source for source, _ in fitting)], toy.PAIR)]
    with watched(parrot) as shapes:
        found = translate(
            parrot, tokenizer, ["", text, fitting[0][0]], toy.PAIR, beam=1, longest_source=lengths[0] - 1, label=None
        )
    assert sum(rows for rows, _ in shapes) > 2
    assert max(columns for _, columns in shapes) < lengths[0]
    assert found[0] == ""
    assert found[1]
    assert found[2] == fitting[0][1]


@pytest.fixture(scope="module")
def checkpoint(
    parrot: PreTrainedModel, tokenizer: SentencePieceTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, parrot, tokenizer, toy.PAIR)
    return folder


def run_recipe(checkpoint: Path, lines: list[bytes]) -> str:
    out = io.StringIO()
    recipe.run(checkpoint, "de-en", beam=1, length_penalty=1.0, batch_tokens=4_000, lines=lines, out=out)
    return out.getvalue()


def test_one_line_out_for_each_line_in(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "CHUNK", 3)
    sources = [toy.LEARNED[0][0], "", toy.LEARNED[1][0], toy.LEARNED[2][0], toy.LEARNED[1][0], "", toy.LEARNED[3][0]]
    expected = [dict(toy.LEARNED).get(source, "") for source in sources]
    plain = [f"{source}\n".encode() for source in sources]
    windows = [
        b"\xef\xbb\xbf" + plain[0].replace(b"\n", b"\r\n"),
        *(line.replace(b"\n", b"\r\n") for line in plain[1:]),
    ]
    unended = [*plain[:-1], plain[-1].rstrip(b"\n")]
    for lines in (plain, windows, unended):
        assert run_recipe(checkpoint, lines) == "".join(f"{line}\n" for line in expected)
    assert run_recipe(checkpoint, []) == ""


def test_lines_are_normalised_as_training_text_is(checkpoint: Path) -> None:
    """Soft hyphens and direction marks are in every text from the web or a PDF, and were in none that was learned."""
    source, target = toy.LEARNED[0]
    dirty = f"\u2067{source[:3]}\u00ad{source[3:].replace(' ', chr(0xA0) + ' ')}\u2069\ufeff"
    assert run_recipe(checkpoint, [f"{dirty}\n".encode(), b"\xe2\x80\x8b\n"]) == f"{target}\n\n"


def test_a_separator_inside_a_line_is_no_line_end(checkpoint: Path) -> None:
    assert run_recipe(checkpoint, ["eins\u2028zwei\x0bdrei\n".encode(), b"vier\n"]).count("\n") == 2


def test_input_that_is_not_utf8_names_its_line(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="not UTF-8 at line 3") as error:
        run_recipe(checkpoint, [b"eins\n", b"zwei\n", "drei für\n".encode("latin-1")])
    assert "iconv" in error.value.remedy


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), "f\u00fcnf\n".encode("latin-1")], ids=["Ctrl-C", "not UTF-8"])
def test_what_is_out_when_it_ends_early_is_said(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, stop: bytes | KeyboardInterrupt
) -> None:
    monkeypatch.setattr(recipe, "CHUNK", 2)

    def lines() -> Iterator[bytes]:
        yield from (f"{source}\n".encode() for source, _ in toy.LEARNED[:5])
        if isinstance(stop, bytes):
            yield stop
        else:
            raise stop

    out = io.StringIO()
    with pytest.raises((KeyboardInterrupt, UsageError), match="4 lines are translated and written"):
        recipe.run(checkpoint, "de-en", beam=1, length_penalty=1.0, batch_tokens=4_000, lines=lines(), out=out)
    assert out.getvalue().count("\n") == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_an_output_that_is_full(checkpoint: Path) -> None:
    with (
        suppress(OSError),  # closing it writes once more
        Path("/dev/full").open("w", encoding="utf-8") as out,
        pytest.raises(UsageError, match="No space left on device; 0 lines are translated and written") as error,
    ):
        recipe.run(
            checkpoint, "de-en", beam=1, length_penalty=1.0, batch_tokens=4_000, lines=[b"drei Stunden\n"], out=out
        )
    assert "may be cut" in error.value.remedy
