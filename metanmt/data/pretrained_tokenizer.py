"""The tokenizer of a pretrained checkpoint, with its own language codes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from metanmt.data.hub import look_up, not_loaded
from metanmt.data.language import Pair
from metanmt.errors import CheckpointError, UsageError
from metanmt.files import write_json
from metanmt.runtime import quiet_transformers

FACTS_FILE = "metanmt_tokenizer.json"
TAG = re.compile(r"<2\w+>")


class PretrainedTokenizer:
    """The tokenizer of a pretrained checkpoint (NLLB, M2M100, mBART, Marian, T5), by path or hub name.

    Args:
        name: folder or hub name.
        codes: the checkpoint's code of each language where it differs from ours, such as fi = "fin_Latn". A language
            that it never saw is given the code of a related one.
    """

    def __init__(self, name: str, codes: dict[str, str]) -> None:
        from transformers import AutoTokenizer

        quiet_transformers()
        look_up(name)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            remedy = "Give the folder of a checkpoint with its tokenizer, or a hub name while online."
            raise not_loaded("tokenizer", name, error, remedy) from None
        if _adds_a_tag(self._tokenizer):
            raise CheckpointError(
                f"{name} was written by metanmt and then by another program, which left out a part of its tokenizer.",
                f"Copy sentencepiece.model and {FACTS_FILE} into it from the checkpoint that it was made of.",
            )
        if None in (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id):
            raise CheckpointError(
                f"The tokenizer of {name} has no padding or no end mark: it is none of a translation model.",
                "Give a sequence-to-sequence checkpoint, such as NLLB, M2M100, mBART, Marian or T5.",
            )
        self.codes = codes
        self.pad_id, self.eos_id = int(self._tokenizer.pad_token_id), int(self._tokenizer.eos_token_id)
        self.vocabulary_size = self.target_pieces = len(self._tokenizer)

    def encode_source(self, sentences: Sequence[str], pair: Pair) -> list[list[int]]:
        """Return the checkpoint's own encoding of sources."""
        self._set(pair)
        return [list(ids) for ids in self._tokenizer(list(sentences))["input_ids"]] if sentences else []

    def encode_target(self, sentences: Sequence[str], pair: Pair) -> list[list[int]]:
        """Return the checkpoint's own encoding of targets."""
        self._set(pair)
        return [list(ids) for ids in self._tokenizer(text_target=list(sentences))["input_ids"]] if sentences else []

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return the sentences, special tokens dropped."""
        if not ids:
            return []
        return list(self._tokenizer.batch_decode([list(sentence) for sentence in ids], skip_special_tokens=True))

    def forced_bos_id(self, pair: Pair) -> int | None:
        """Return the id of the target's language code where the model has codes."""
        if not hasattr(self._tokenizer, "src_lang"):
            return None
        self._set(pair)
        code = self.codes.get(pair.target, pair.target)
        ids = getattr(self._tokenizer, "lang_code_to_id", None) or {}
        token = getattr(self._tokenizer, "lang_code_to_token", {}).get(code, code)
        return int(ids.get(code, self._tokenizer.convert_tokens_to_ids(token)))

    def pieces(self) -> list[str]:
        """Return every piece, by id."""
        return list(self._tokenizer.convert_ids_to_tokens(range(self.vocabulary_size)))

    def special_ids(self) -> list[int]:
        """Return the ids of marks and language codes."""
        return sorted({*self._tokenizer.all_special_ids, *self._tokenizer.get_added_vocab().values()})

    def digest(self) -> str:
        """Return the SHA-256 over the vocabulary with its ids."""
        vocabulary = json.dumps(sorted(self._tokenizer.get_vocab().items()), ensure_ascii=False)
        return hashlib.sha256(vocabulary.encode()).hexdigest()

    def save(self, folder: Path, pair: Pair | None = None) -> None:
        """Write the tokenizer in its own format, with the language codes beside it."""
        if pair is not None:
            self._set(pair)
        self._tokenizer.save_pretrained(folder)
        write_json(folder / FACTS_FILE, {"kind": "pretrained", "codes": self.codes})

    def _set(self, pair: Pair) -> None:
        if not hasattr(self._tokenizer, "src_lang"):
            return
        source, target = (self.codes.get(language, language) for language in (pair.source, pair.target))
        token_of = getattr(self._tokenizer, "lang_code_to_token", {})
        for code in (source, target):
            if self._tokenizer.convert_tokens_to_ids(token_of.get(code, code)) in (None, self._tokenizer.unk_token_id):
                known = token_of or self._tokenizer.get_added_vocab()
                raise UsageError(
                    f"The pretrained tokenizer has no language code {code!r}.",
                    f"{_codes_like(code, known)} Name the pair by its codes, or set them under [tokenizer.codes] in "
                    "the manifest; for a language that it never saw take the code of a related one.",
                )
        if (self._tokenizer.src_lang, self._tokenizer.tgt_lang) != (source, target):
            self._tokenizer.src_lang, self._tokenizer.tgt_lang = source, target


def _codes_like(code: str, known: Iterable[str]) -> str:
    """Return which codes are meant, perhaps: those that begin with the same two letters; else what codes look like."""
    codes = sorted(name for name in known if not name.startswith("<"))
    alike = [name for name in codes if name[:2].lower() == code[:2].lower()]
    if alike:
        return f"It has {', '.join(alike)}."
    return f"It has {len(codes)} codes, such as {', '.join(codes[:3])}."


def _adds_a_tag(tokenizer: Any) -> bool:
    """Return whether a tokenizer begins every text with a tag, targets too: our own as other programs see it."""
    first = tokenizer.convert_ids_to_tokens(tokenizer("")["input_ids"][:1])
    return bool(first and TAG.fullmatch(str(first[0])))
