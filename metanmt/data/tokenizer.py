"""From sentences to ids and back.

Two tokenizers share one protocol: our own SentencePiece model over all pairs of a collection, and the tokenizer of a
pretrained checkpoint. Both return complete model input: whatever tags and end marks the model expects are already in
the ids, so that everything downstream of this file treats all models alike.

Our own lies in a folder twice: as the SentencePiece model, which is an order of magnitude faster on lists and used by
this package, and as a `tokenizers` file that `AutoTokenizer` loads without this package; a test holds their ids equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, get_args

from metanmt.data.fast_twin import END, END_ID, PAD, PAD_ID, UNKNOWN, UNKNOWN_ID, WORD_START, fast_twin, message
from metanmt.data.language import Pair
from metanmt.data.pretrained_tokenizer import FACTS_FILE, PretrainedTokenizer
from metanmt.data.source_form import RULES, SourceForm, in_form, source_normalizer
from metanmt.errors import CheckpointError, ConfigError, CorpusError, UsageError
from metanmt.files import read_object, write_json

MODEL_FILE = "sentencepiece.model"
FEW = 1_000  # sentences
OF_SOURCES = f"{RULES}, of sources"  # what a model calls them whose targets are cut as written; once it was both sides


class Tokenizer(Protocol):
    """Sentences to complete model input and labels, and ids back to sentences."""

    pad_id: int
    eos_id: int
    vocabulary_size: int
    target_pieces: int  # into how many of its pieces, the first, targets are cut

    def encode_source(self, sentences: Sequence[str], pair: Pair) -> list[list[int]]:
        """Return the encoder's input ids, tags and end mark included."""

    def encode_target(self, sentences: Sequence[str], pair: Pair) -> list[list[int]]:
        """Return the labels, tags and end mark included; the decoder's input is these shifted right."""

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return the sentences, special tokens dropped."""

    def forced_bos_id(self, pair: Pair) -> int | None:
        """Return the id that generation must begin with, or None."""

    def digest(self) -> str:
        """Return a digest that is equal exactly when two tokenizers give the same ids."""

    def pieces(self) -> list[str]:
        """Return every piece by id."""

    def special_ids(self) -> list[int]:
        """Return the ids that are no piece of text: marks, tags, language codes, bytes."""

    def save(self, folder: Path, pair: Pair | None = None) -> None:
        """Write the tokenizer so that `AutoTokenizer` loads it, set to the languages of `pair`."""


def tag(language: str) -> str:
    """Return the tag that begins a source sentence and names the language to translate into (Johnson et al. 2017)."""
    return f"<2{language}>"


class SentencePieceTokenizer:
    """One SentencePiece model over all pairs, byte fallback, target-language tags.

    A source is `<2en> pieces </s>`, a target `pieces </s>`. No tag names the source language: a language that was
    never seen needs no new vocabulary. Sources are normalised (NFKC and more), targets stay as they are written: what
    a model learns to write has the ellipses, exponents and joiners of its text.

    Args:
        model: of SentencePiece.
        source_form: in which sources are cut into pieces.
        extends: digests of the tokenizers that it has all pieces of, by the same ids, if there are any.
        target_pieces: targets are cut into so many of its pieces, the first, as by the oldest of those; 0: into all.
    """

    def __init__(
        self, model: bytes, source_form: SourceForm = "written", extends: Sequence[str] = (), target_pieces: int = 0
    ) -> None:
        import sentencepiece

        self._model, self.source_form, self.extends = model, source_form, extends
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.pad_id, self.eos_id = PAD_ID, END_ID
        self.vocabulary_size: int = self._processor.get_piece_size()
        self.target_pieces = target_pieces or self.vocabulary_size
        self.targets = {
            piece[2:-1]: index
            for index in range(END_ID + 1, self.vocabulary_size)
            if (piece := self._processor.id_to_piece(index)).startswith("<2") and self._processor.is_control(index)
        }

    def encode_source(self, sentences: Sequence[str], pair: Pair) -> list[list[int]]:
        """Return `[tag, *pieces, end]` for every sentence."""
        first = self._tag_id(pair)
        return [[first, *ids, END_ID] for ids in self.ids(in_form(sentences, self.source_form))]

    def encode_target(self, sentences: Sequence[str], pair: Pair) -> list[list[int]]:
        """Return `[*pieces, end]` for every sentence."""
        self._tag_id(pair)
        return [[*ids, END_ID] for ids in self.target_ids(sentences)]

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return the sentences; ids up to the first end mark count, special tokens are dropped."""
        pieces = [_pieces_only(sentence) for sentence in ids]
        return list(self._processor.decode(pieces, num_threads=_threads(pieces)))

    def forced_bos_id(self, pair: Pair) -> int | None:
        """Return None: the tag stands on the source side."""
        return None

    def pieces(self) -> list[str]:
        """Return every piece, by id."""
        return [self._processor.id_to_piece(index) for index in range(self.vocabulary_size)]

    def special_ids(self) -> list[int]:
        """Return the ids of marks, tags and bytes."""
        asked = (self._processor.is_control, self._processor.is_unknown, self._processor.is_byte)
        return [index for index in range(self.vocabulary_size) if any(is_kind(index) for is_kind in asked)]

    def scored_pieces(self) -> dict[str, float]:
        """Return the pieces of text, bytes aside, with their log-probabilities."""
        proto = message(self._model)
        return {item.piece: item.score for item in proto.pieces if item.type == item.NORMAL}

    def with_pieces(self, pieces: Mapping[str, float], *, of_targets: bool = False) -> SentencePieceTokenizer:
        """Return a tokenizer with these pieces and log-probabilities too; all ids stay what they are.

        Sources are cut into them. Targets are cut as before, unless the pieces are of targets.
        """
        proto = message(self._model)
        for piece, score in pieces.items():
            proto.pieces.add(piece=piece, score=score)
        return self._extended(proto, 0 if of_targets else self.target_pieces)

    def with_target(self, language: str) -> SentencePieceTokenizer:
        """Return a tokenizer with the tag of one more language to translate into, which is the last of its ids."""
        proto = message(self._model)
        proto.pieces.add(piece=tag(language), type=proto.SentencePiece.CONTROL)
        return self._extended(proto, self.target_pieces)

    def _extended(self, proto: Any, target_pieces: int) -> SentencePieceTokenizer:
        proto.trainer_spec.vocab_size = len(proto.pieces)
        extends = (*self.extends, self.digest())
        return SentencePieceTokenizer(proto.SerializeToString(), self.source_form, extends, target_pieces)

    def ids(self, sentences: Sequence[str]) -> list[list[int]]:
        """Return the pieces of every source alone, as it stands, without tag and end mark."""
        return list(self._processor.encode(list(sentences), num_threads=_threads(sentences)))

    def target_ids(self, sentences: Sequence[str]) -> list[list[int]]:
        """Return the pieces of every target alone, without an end mark."""
        return list(self._of_targets.encode(list(sentences), num_threads=_threads(sentences)))

    def spell(self, pieces: Sequence[str]) -> list[list[int]]:
        """Return the ids of this vocabulary that spell pieces of another, which need not begin a word."""
        import sentencepiece

        proto = _as_written(self._model)
        proto.normalizer_spec.add_dummy_prefix = proto.normalizer_spec.remove_extra_whitespaces = False
        processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        return list(processor.encode([piece.replace(WORD_START, " ") for piece in pieces]))

    def digest(self) -> str:
        """Return the SHA-256 of the SentencePiece model, and of what differs from it in sources or targets."""
        form = b"" if self.source_form == "written" else self.source_form.encode()
        targets = str(self.target_pieces).encode() if self.target_pieces < self.vocabulary_size else b""
        return hashlib.sha256(self._model + form + targets).hexdigest()

    def save(self, folder: Path, pair: Pair | None = None) -> None:
        """Write both forms. `AutoTokenizer` will tag every source with the target of `pair` (default: the first)."""
        from transformers import PreTrainedTokenizerFast

        tag_id = self._tag_id(pair) if pair else next(iter(self.targets.values()))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_FILE).write_bytes(self._model)
        fast = PreTrainedTokenizerFast(
            tokenizer_object=fast_twin(self._model, self.source_form, self._processor.id_to_piece(tag_id), tag_id),
            pad_token=PAD,
            unk_token=UNKNOWN,
            eos_token=END,
            model_input_names=["input_ids", "attention_mask"],
            clean_up_tokenization_spaces=False,
        )
        fast.save_pretrained(folder)
        facts = {"kind": "sentencepiece", "source_form": self.source_form}
        grown = {"extends": list(self.extends), "target_pieces": self.target_pieces}
        write_json(folder / FACTS_FILE, {**facts, **grown} if self.extends else facts)

    @cached_property
    def _of_targets(self) -> Any:
        """What cuts targets: of many tokenizers it is never asked for."""
        import sentencepiece

        proto = _as_written(self._model)
        del proto.pieces[self.target_pieces :]
        return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())

    def _tag_id(self, pair: Pair) -> int:
        if pair.target not in self.targets:
            raise UsageError(
                f"The model cannot translate into {pair.target!r}; it knows {', '.join(self.targets)}.",
                f"metanmt fine-tune --pair {pair} teaches it to; or choose a pair into a language that it knows.",
            )
        return self.targets[pair.target]


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a prepared data folder or checkpoint, ours or a pretrained one.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if not folder.is_dir():
        raise _damaged(folder)
    facts: dict[str, Any] = {"kind": "pretrained"}
    if (folder / FACTS_FILE).is_file():
        try:
            facts = read_object(folder / FACTS_FILE)
        except ValueError:
            raise _damaged(folder / FACTS_FILE) from None
    if facts.get("kind") == "pretrained":
        return PretrainedTokenizer(str(folder), facts.get("codes", {}))
    form = facts.get("source_form", "written")
    if form not in get_args(SourceForm):
        raise _damaged(folder / FACTS_FILE)
    try:
        model = (folder / MODEL_FILE).read_bytes()
        if model:  # SentencePiece takes nothing at all for a model without pieces
            return SentencePieceTokenizer(model, form, facts.get("extends", ()), facts.get("target_pieces", 0))
    except (OSError, RuntimeError):
        pass
    raise _damaged(folder / MODEL_FILE)


def train_tokenizer(
    sentences: Iterable[str],
    targets: Sequence[str],
    vocabulary_size: int,
    character_coverage: float = 1.0,
    source_form: SourceForm = "written",
) -> SentencePieceTokenizer:
    """Return a unigram SentencePiece model with byte fallback and one tag a target language.

    Args:
        sentences: a sample, already balanced between languages; sources already in their form, and `as_sources`.
        targets: languages that are translated into.
        vocabulary_size: pieces, the 256 bytes and the tags included; fewer if the text does not have so many.
        character_coverage: share of characters that get a piece of their own; the rest is spelled in bytes.
        source_form: in which the tokenizer will cut sources.

    Raises:
        ConfigError: the vocabulary is too small for the characters of the text.
        CorpusError: no text at all.
    """
    import io

    import sentencepiece

    model, failed = io.BytesIO(), list[BaseException]()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_watched(sentences, failed),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocabulary_size,
            character_coverage=character_coverage,
            byte_fallback=True,
            control_symbols=[tag(language) for language in targets],
            normalization_rule_name="identity",
            pad_id=PAD_ID,
            unk_id=UNKNOWN_ID,
            eos_id=END_ID,
            bos_id=-1,
            pad_piece=PAD,
            unk_piece=UNKNOWN,
            eos_piece=END,
            hard_vocab_limit=False,
            num_threads=2,
            minloglevel=2,
        )
    except RuntimeError as error:
        if failed:  # while the sentences were read, which is no matter of SentencePiece
            raise failed[0] from None
        reason = str(error).splitlines()[-1] if str(error) else "no reason given"
        if "vocab" in reason.lower() or "required_chars" in reason:
            raise ConfigError(
                f"A vocabulary of {vocabulary_size} does not fit this text: {reason.split('] ')[-1]}",
                "Change vocabulary_size under [tokenizer] in a manifest as it says (metanmt prepare).",
            ) from None
        raise CorpusError(f"SentencePiece could not be trained: {reason}", "Check that the corpus has text.") from None
    proto, rules = message(model.getvalue()), message(source_normalizer().serialized_model_proto()).normalizer_spec
    proto.normalizer_spec.name, proto.normalizer_spec.precompiled_charsmap = OF_SOURCES, rules.precompiled_charsmap
    return SentencePieceTokenizer(proto.SerializeToString(), source_form)


def _as_written(model: bytes) -> Any:
    """Return a SentencePiece model that cuts text as it stands, or as it did where targets were normalised too."""
    proto = message(model)
    if proto.normalizer_spec.name == OF_SOURCES:
        proto.normalizer_spec.precompiled_charsmap = b""
    return proto


def _watched(sentences: Iterable[str], failed: list[BaseException]) -> Iterator[str]:
    """Yield the sentences; note what ends that, which SentencePiece says as an error of its own."""
    try:
        yield from sentences
    except BaseException as error:
        failed.append(error)
        raise


def source_form_of(tokenizer: Tokenizer) -> SourceForm:
    """Return in which form a tokenizer reads sources: that of a pretrained checkpoint as they are written."""
    return tokenizer.source_form if isinstance(tokenizer, SentencePieceTokenizer) else "written"


def _pieces_only(ids: Sequence[int]) -> list[int]:
    kept: list[int] = []
    for index in ids:
        if index == END_ID and kept:
            break
        if index > END_ID:
            kept.append(int(index))
    return kept


def _threads(sentences: Sequence[Any]) -> int:
    """Return how many threads SentencePiece should start for a list: none for a few, or it takes longer; -1: all."""
    return 1 if len(sentences) < FEW else -1


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"The tokenizer {path} is missing or damaged.", "Copy the folder again, or make it anew.")
