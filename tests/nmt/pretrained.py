"""Tiny checkpoints of the families that people start from, each with a tokenizer of its own, made offline."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, pre_tokenizers, trainers
from transformers import (
    M2M100Tokenizer,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
    NllbTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

from tests import toy

FAMILIES = ("m2m100", "nllb", "mbart", "marian", "t5")
# Our codes are de and en; what a user would write under [tokenizer.codes].
CODES: dict[str, dict[str, str]] = {
    "m2m100": {},
    "nllb": {"de": "deu_Latn", "en": "eng_Latn"},
    "mbart": {"de": "de_DE", "en": "en_XX"},
    "marian": {},
    "t5": {},
}
SENTENCES = [side for pair in toy.lines(200) for side in pair]
BART: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 512,
}


def make(family: str, folder: Path) -> Path:
    """Write a checkpoint of a family into a folder, as its authors would publish it, and return the folder."""
    folder.mkdir(parents=True)
    tokenizer = _tokenizer(family, folder)
    tokenizer.save_pretrained(folder)
    model = _model(family, tokenizer)
    toy.fill(model)
    model.save_pretrained(folder)
    return folder


def _pieces(folder: Path) -> list[tuple[str, float]]:
    """Train a SentencePiece model, leave it in the folder as spm.model, and return its pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        vocab_size=300,
        hard_vocab_limit=False,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "spm.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [(processor.id_to_piece(i), processor.get_score(i)) for i in range(3, processor.get_piece_size())]


def _write_vocabulary(path: Path, pieces: list[str]) -> str:
    path.write_text(json.dumps({piece: index for index, piece in enumerate(pieces)}), encoding="utf-8")
    return str(path)


def _tokenizer(family: str, folder: Path) -> Any:
    if family == "nllb":
        bpe = FastTokenizer(models.BPE(unk_token="<unk>"))
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
        special = ["<s>", "<pad>", "</s>", "<unk>"]
        bpe.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=300, special_tokens=special))
        trained = json.loads(bpe.to_str())["model"]
        return NllbTokenizer(vocab=trained["vocab"], merges=[tuple(merge) for merge in trained["merges"]])
    pieces = _pieces(folder)
    names = [piece for piece, _ in pieces]
    spm = str(folder / "spm.model")
    if family == "m2m100":
        vocabulary = _write_vocabulary(folder / "vocab.json", ["<s>", "<pad>", "</s>", "<unk>", *names])
        languages = [f"__{code}__" for code in FAIRSEQ_LANGUAGE_CODES["m2m100"]]  # as in its special_tokens_map.json
        return M2M100Tokenizer(vocab_file=vocabulary, spm_file=spm, additional_special_tokens=languages)
    if family == "marian":
        vocabulary = _write_vocabulary(folder / "vocab.json", ["</s>", "<unk>", *names, "<pad>"])
        return MarianTokenizer(source_spm=spm, target_spm=spm, vocab=vocabulary, source_lang="de", target_lang="en")
    if family == "mbart":
        return MBartTokenizer(vocab=[("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces])
    return T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces], extra_ids=0)


def _model(family: str, tokenizer: Any) -> Any:
    size = len(tokenizer)
    if family in ("m2m100", "nllb"):
        return toy.make_m2m100(size + 8, pad_id=tokenizer.pad_token_id, end_id=tokenizer.eos_token_id)
    if family == "marian":
        pad = tokenizer.pad_token_id
        return MarianMTModel(
            MarianConfig(vocab_size=size, pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=0,
                         forced_eos_token_id=0, bos_token_id=None, **BART)
        )  # fmt: skip
    if family == "mbart":
        return MBartForConditionalGeneration(MBartConfig(vocab_size=size, **BART))
    return T5ForConditionalGeneration(
        T5Config(vocab_size=size, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    )
