"""Names that are no folder: whether the hub is asked for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from metanmt.data import hub
from metanmt.data.pretrained_tokenizer import PretrainedTokenizer
from metanmt.errors import CheckpointError


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(*address: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(hub, "getaddrinfo", unknown)
    hub._say_once.cache_clear()


def test_without_a_network_nothing_is_asked_for(no_network: None, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not there is said at once, instead of after retries for most of a minute."""
    with pytest.raises(CheckpointError, match="There is no folder nothere here"):
        PretrainedTokenizer("nothere", {})
    assert "no network: it is sought among what was fetched before" in capsys.readouterr().err
    assert constants.HF_HUB_OFFLINE


def test_a_proxy_may_know_the_way(
    no_network: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy:3128"})
    hub.look_up("nothere")
    assert "it is looked up on the hub" in capsys.readouterr().err
    assert not constants.HF_HUB_OFFLINE
