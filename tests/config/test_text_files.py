"""What Windows adds to a text, in every door that reads bytes."""

import pytest

from cpm_gen.config.files import read_yaml
from cpm_gen.config.text_files import decode_text
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.serving.api_keys import ApiKeys, make_key


def test_a_byte_order_mark_and_other_line_ends_are_not_part_of_the_text():
    assert decode_text("\ufeff床前\r\n明月\r\n".encode(), "a file") == "床前\n明月\n"
    assert decode_text("床前\r明月\r\r\n".encode(), "a file") == "床前\n明月\n\n"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named_and_utf_8_asked_for(encoding):
    content = "床前明月光".encode(encoding) if encoding == "utf-16" else "\ufeff床前明月光".encode(encoding)
    with pytest.raises(InputError, match=r"^p\.txt: UTF-16.*UTF-8"):
        decode_text(content, "p.txt")


def test_other_bytes_are_an_error_that_names_the_first_wrong_one():
    with pytest.raises(InputError, match="not UTF-8 at byte 3"):
        decode_text(b"abc\xff", "p.txt")


def test_yaml_and_key_files_of_windows_are_read(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_bytes("\ufefftop_k: 5\r\nstop: [完]\r\n".encode())
    assert read_yaml(path) == {"top_k": 5, "stop": ["完"]}
    key, line = make_key("alice")
    (tmp_path / "keys").write_bytes(f"\ufeff{line}\r\n".encode())
    assert ApiKeys(str(tmp_path / "keys")).find(f"Bearer {key}").name == "alice"


def test_yaml_and_key_files_in_utf_16_are_config_errors(tmp_path):
    path = tmp_path / "file"
    path.write_bytes("top_k: 5".encode("utf-16"))
    for read in (lambda: read_yaml(path), lambda: ApiKeys(str(path))):
        with pytest.raises(ConfigError, match="UTF-16"):
            read()
