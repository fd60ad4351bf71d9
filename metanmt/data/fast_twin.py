"""A SentencePiece model as a `tokenizers` file, which `AutoTokenizer` loads without this package; its marks."""

from __future__ import annotations

from typing import Any

from metanmt.data.source_form import SourceForm, form_normalizers

PAD, UNKNOWN, END = "<pad>", "<unk>", "</s>"
PAD_ID, UNKNOWN_ID, END_ID = 0, 1, 2
WORD_START = "▁"


def fast_twin(model: bytes, source_form: SourceForm, source_tag: str, tag_id: int) -> Any:
    """Return the `tokenizers` twin of a SentencePiece model: same normaliser tables, same pieces and scores.

    It knows sources only: a target that is given to it is put into their form too.
    """
    from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as FastTokenizer
    from tokenizers.models import Unigram

    proto = message(model)
    fast = FastTokenizer(Unigram([(p.piece, p.score) for p in proto.pieces], unk_id=UNKNOWN_ID, byte_fallback=True))
    fast.normalizer = normalizers.Sequence(
        [
            *form_normalizers(source_form),
            normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Strip(),
        ]
    )
    fast.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD_START, prepend_scheme="always")
    fast.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(replacement=WORD_START, prepend_scheme="always")]
    )
    control = [p.piece for p in proto.pieces if p.type == p.CONTROL]
    fast.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in [*control, UNKNOWN]])
    fast.post_processor = processors.TemplateProcessing(
        single=f"{source_tag} $A {END}",
        pair=f"{source_tag} $A {END} $B {END}",
        special_tokens=[(source_tag, tag_id), (END, END_ID)],
    )
    return fast


def message(model: bytes) -> Any:
    """Return a SentencePiece model as the message that it is."""
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(model)
