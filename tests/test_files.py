"""Files that are old or new and never half-written, whatever their name leads to."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from metanmt.files import read_object, write_json, write_text


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    real, link = tmp_path / "there" / "real.txt", tmp_path / "link.txt"
    real.write_text("old", encoding="utf-8")
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text(encoding="utf-8") == "new"
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["real.txt"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text(encoding="utf-8")))
    reader.start()
    write_text(pipe, "text")
    reader.join(10)
    assert found == ["text"]
    assert pipe.is_fifo()


def test_only_an_object_is_read_as_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"ä": 1})
    assert read_object(path) == {"ä": 1}
    for content, reason in ((b"[]", "no object"), (b"null", "no object"), (b"{", "Expecting"), (b'{"\xe9"', "decode")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=reason):
            read_object(path)


def test_what_is_no_character_is_escaped(tmp_path: Path) -> None:
    write_text(tmp_path / "a", os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "a").read_text(encoding="utf-8") == "caf\\udce9"
