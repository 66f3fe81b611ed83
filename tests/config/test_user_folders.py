"""The user's folders for data, state and caches."""

import sys
from pathlib import Path

import pytest

from cpm_gen.config.user_folders import user_folder
from cpm_gen.errors import ConfigError

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have other folders")


@pytest.mark.parametrize("kind", ["data", "state", "cache"])
def test_xdg_variables_name_the_folder(kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"XDG_{kind.upper()}_HOME", str(tmp_path))
    assert user_folder(kind) == tmp_path / "cpm-gen"
    assert not (tmp_path / "cpm-gen").exists()


@linux
@pytest.mark.parametrize(("kind", "below"), [("data", ".local/share"), ("state", ".local/state"), ("cache", ".cache")])
def test_without_them_the_folder_is_below_the_home_folder(
    kind, below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(f"XDG_{kind.upper()}_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_folder(kind) == tmp_path / below / "cpm-gen"


@linux
def test_a_user_without_a_home_folder_gets_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(ConfigError, match="no home folder, and XDG_DATA_HOME is not set"):
        user_folder("data")
