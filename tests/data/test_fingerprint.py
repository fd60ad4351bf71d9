"""The digest of what a data folder is made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metanmt.data import fingerprint as module
from metanmt.data.fingerprint import fingerprint
from metanmt.data.manifest import load_manifest
from metanmt.data.tokenizer import SentencePieceTokenizer

GROUP = '[[groups]]\nrole = "meta-train"\npairs = ["fi-en"]\n'


def digest(folder: Path, entry: str, more: str = "") -> str:
    path = folder / "my.toml"
    path.write_text(f"{more}{GROUP}train = [{entry}]\n", encoding="utf-8")
    return fingerprint(load_manifest(path))


def test_it_is_the_same_from_wherever_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = digest(tmp_path, '"x"')
    monkeypatch.chdir(tmp_path)
    assert digest(Path(), '"x"') == here


def test_hub_data_sets_by_name_config_and_split(tmp_path: Path) -> None:
    entries = ['{ hub = "o/n" }', '{ hub = "o/m" }', '{ hub = "o/n", config = "c" }', '{ hub = "o/n", split = "dev" }']
    assert len({digest(tmp_path, entry) for entry in entries}) == 4
    assert digest(tmp_path, entries[0]) == digest(tmp_path, entries[0])


def test_a_local_folder_in_the_hubs_layout_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    before = digest(tmp_path, '{ hub = "set" }')
    (tmp_path / "set/train.jsonl").write_text("{}\n", encoding="utf-8")
    assert digest(tmp_path, '{ hub = "set" }') != before


def test_a_local_pretrained_tokenizer_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    setting = f'[tokenizer]\npretrained = "{tmp_path / "checkpoint"}"\n'
    before = digest(tmp_path, '"x"', setting)
    (tmp_path / "checkpoint/tokenizer.json").write_text("{}", encoding="utf-8")
    assert digest(tmp_path, '"x"', setting) != before


def test_a_tokenizer_of_ours_by_its_digest(tmp_path: Path, tokenizer: SentencePieceTokenizer) -> None:
    """Whatever else happens in the checkpoint that it lies in."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    tokenizer.save(folder)
    setting = f'[tokenizer]\npretrained = "{folder}"\n'
    before = digest(tmp_path, '"x"', setting)
    (folder / "ctranslate2-float32").mkdir()
    (folder / "ctranslate2-float32" / "model.bin").write_bytes(b"made of it later")
    (folder / "model.safetensors").write_bytes(b"trained on")
    assert digest(tmp_path, '"x"', setting) == before
    (folder / "metanmt_tokenizer.json").write_text(
        '{"kind": "sentencepiece", "source_form": "plain"}', encoding="utf-8"
    )
    assert digest(tmp_path, '"x"', setting) != before


def test_babel_counts_where_its_corpus_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = '{ embedded = "cldr", sentences = 10 }'
    before = digest(tmp_path, embedded), digest(tmp_path, '"x"')
    known = module.version
    monkeypatch.setattr(module, "version", lambda name: "0" if name == "babel" else known(name))
    assert digest(tmp_path, embedded) != before[0]
    assert digest(tmp_path, '"x"') == before[1]


def test_sources_as_written_are_what_folders_were_made_with_before_it_was_a_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    dumps = json.dumps
    monkeypatch.setattr(module.json, "dumps", lambda facts, **more: seen.append(facts) or dumps(facts, **more))
    written, plain = (
        digest(tmp_path, '"x"', f'[tokenizer]\nsource_form = "{form}"\n') for form in ("written", "plain")
    )
    assert written == digest(tmp_path, '"x"') != plain
    assert ["source_form" in facts["manifest"]["tokenizer"] for facts in seen] == [False, True, False]
