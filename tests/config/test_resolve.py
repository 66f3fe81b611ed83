"""Settings: every layer, every kind of value, and what the errors say."""

import dataclasses
import os
from pathlib import Path

import pytest

from cpm_gen.checkpoints import tensor_table
from cpm_gen.config.fields import alternatives, choices, from_file, takes_pairs
from cpm_gen.config.files import shipped
from cpm_gen.config.model_sizes import KNOWN_SIZES, known_heads, read_size
from cpm_gen.config.options import ModelOptions, SamplingParams, TextOptions
from cpm_gen.config.resolve import FIELDS, GROUPS, Settings, convert, resolve
from cpm_gen.errors import ConfigError

SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def write(folder: Path, content: str, name: str = "settings.yaml") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def value_and_source(settings: Settings, name: str) -> tuple[object, str]:
    return next((value, source) for n, value, source in settings.items() if n == name)


# layers


def test_without_any_layer_every_setting_is_its_default():
    settings = resolve()
    assert (settings.model, settings.sampling, settings.text) == (ModelOptions(), SamplingParams(), TextOptions())
    assert {source for _, _, source in settings.items()} == {"default"}
    assert [name for name, _, _ in settings.items()] == list(FIELDS)


def test_each_layer_overrides_the_weaker_ones_and_is_named_as_the_source(tmp_path):
    first = write(tmp_path, "top_k: 1\ntop_p: 0.1\nbatch: 3\nseed: 1\n", "first.yaml")
    second = write(tmp_path, "top_p: 0.2\nbatch: 4\nseed: 2\n", "second.yaml")
    settings = resolve(
        files=[first, second],
        environment={"CPM_GEN_BATCH": "5", "CPM_GEN_SEED": "3", "HOME": "/", "BATCH": "77"},
        flags={"seed": "4"},
    )
    assert value_and_source(settings, "temperature") == (1.0, "default")
    assert value_and_source(settings, "top_k") == (1, str(first))
    assert value_and_source(settings, "top_p") == (0.2, str(second))
    assert value_and_source(settings, "batch") == (5, "CPM_GEN_BATCH")
    assert value_and_source(settings, "seed") == (4, "--seed")


def test_layers_below_a_setting_do_not_matter_to_it(tmp_path):
    file = write(tmp_path, "window_hop: 7")
    assert resolve(files=[file], flags={"window_hop": 9}).model.window_hop == 9
    assert resolve(environment={"CPM_GEN_WINDOW_HOP": "8"}, flags={"window_hop": 9}).model.window_hop == 9
    assert resolve(files=[file], environment={"CPM_GEN_WINDOW_HOP": "8"}).model.window_hop == 8


def test_a_flag_may_set_back_to_none(tmp_path):
    file = write(tmp_path, "max_new_tokens: 5\nseed: 3")
    settings = resolve(files=[file], flags={"max_new_tokens": "unlimited", "seed": None})
    assert settings.text.max_new_tokens is None
    assert settings.text.seed is None


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_has_a_variable_of_its_own_name(name):
    variable = f"CPM_GEN_{name.upper()}"
    settings = resolve(environment={variable: word_for(name)})
    assert value_and_source(settings, name)[1] == variable
    assert {source for other, _, source in settings.items() if other != name} == {"default"}


def word_for(name: str) -> str:
    """A word that the setting takes."""
    if options := choices(FIELDS[name]):
        return options[0]
    kinds = alternatives(FIELDS[name].annotation)
    if takes_pairs(FIELDS[name]):
        return "1:1"
    if from_file(FIELDS[name]):
        return os.devnull
    return "true" if bool in kinds else "1"


def test_a_word_for_a_file_is_its_text_in_every_layer(tmp_path):
    (tmp_path / "story.txt").write_text("[前提]\n甲\n\n", encoding="utf-8")
    words = {"story": str(tmp_path / "story.txt"), "keep_lines": str(tmp_path / "story.txt")}
    file = write(tmp_path, "".join(f"{name}: {word}\n" for name, word in words.items()))
    variables = {f"CPM_GEN_{name.upper()}": word for name, word in words.items()}
    for settings in (resolve(files=[file]), resolve(environment=variables), resolve(flags=words)):
        assert (settings.text.story, settings.text.keep_lines) == ("[前提]\n甲\n", ("[前提]\n甲\n",))
    text = resolve(files=[write(tmp_path, "story: |\n  [前提]\n  甲\nkeep_lines: [甲]\n")]).text
    assert (text.story, text.keep_lines) == ("[前提]\n甲\n", ("甲",))


def test_the_place_of_reference_data_is_no_setting():
    assert resolve(environment={"CPM_GEN_REFERENCE": "/somewhere"}) == resolve()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CPM_GEN_PORT", "tcp://10.0.0.1:8000"),
        ("CPM_GEN_SERVICE_HOST", "10.0.0.1"),
        ("CPM_GEN_SERVICE_PORT", "8000"),
        ("CPM_GEN_SERVICE_PORT_HTTP", "8000"),
        ("CPM_GEN_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("CPM_GEN_PORT_8000_TCP_PROTO", "tcp"),
        ("CPM_GEN_PORT_8000_TCP_PORT", "8000"),
        ("CPM_GEN_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("CPM_GEN_API_PORT", "tcp://10.0.0.1:8000"),
        ("CPM_GEN_API_SERVICE_HOST", "10.0.0.1"),
    ],
)
def test_what_kubernetes_sets_for_a_service_is_no_setting(name, value):
    assert resolve(environment={name: value}) == resolve()


@pytest.mark.parametrize(
    ("name", "value"), [("CPM_GEN_PORT", "http"), ("CPM_GEN_PORTS", "1"), ("CPM_GEN_SERVICE", "1")]
)
def test_what_only_looks_like_kubernetes_is_an_error(name, value):
    with pytest.raises(ConfigError, match=name):
        resolve(environment={name: value})


def test_unknown_keys_are_errors_in_each_layer_that_suggest_the_right_one(tmp_path):
    file = write(tmp_path, "windowhop: 3")
    with pytest.raises(ConfigError, match=r"settings\.yaml: unknown setting 'windowhop'; did you mean 'window_hop'\?"):
        resolve(files=[file])
    with pytest.raises(ConfigError, match=r"CPM_GEN_TEMPRATURE: unknown setting .*did you mean 'temperature'\?"):
        resolve(environment={"CPM_GEN_TEMPRATURE": "1"})
    with pytest.raises(ConfigError, match=r"--max-tokens: unknown setting .*did you mean 'max_new_tokens'\?"):
        resolve(flags={"max_tokens": "1"})


def test_unknown_key_like_no_other_is_an_error_without_a_suggestion():
    with pytest.raises(ConfigError) as caught:
        resolve(flags={"zzzzzzzz": 1})
    assert str(caught.value) == "--zzzzzzzz: unknown setting 'zzzzzzzz'"


def test_values_that_do_not_fit_are_errors_that_name_their_layer(tmp_path):
    with pytest.raises(ConfigError, match=r"settings\.yaml: batch must be a whole number, not 'many'"):
        resolve(files=[write(tmp_path, "batch: many")])
    with pytest.raises(ConfigError, match=r"environment variable CPM_GEN_BATCH: batch must be a whole number"):
        resolve(environment={"CPM_GEN_BATCH": ""})
    with pytest.raises(ConfigError, match=r"--window-boundary: .*token or sentence or eod, not 'line'"):
        resolve(flags={"window_boundary": "line"})


def test_ranges_are_checked_whatever_the_layer(tmp_path):
    with pytest.raises(ConfigError, match="temperature"):
        resolve(environment={"CPM_GEN_TEMPERATURE": "nan"})
    with pytest.raises(ConfigError, match="top_p"):
        resolve(files=[write(tmp_path, "top_p: 1.5")])


# values


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("batch", "12", 12),
        ("batch", 12, 12),
        ("heads", "32", 32),
        ("heads", None, None),
        ("window_limit", "1023", 1023),
        ("tensor_parallel", "4", 4),
        ("tensor_parallel", "auto", "auto"),
        ("temperature", "0.5", 0.5),
        ("temperature", 0.5, 0.5),
        ("temperature", 1, 1.0),
        ("presence_penalty", "-1e-1", -0.1),
        ("stop_at_eod", "true", True),
        ("stop_at_eod", "Yes", True),
        ("stop_at_eod", "ON", True),
        ("stop_at_eod", "1", True),
        ("stop_at_eod", True, True),
        ("stop_at_eod", "false", False),
        ("stop_at_eod", "no", False),
        ("stop_at_eod", "off", False),
        ("stop_at_eod", "0", False),
        ("stop_at_eod", False, False),
        ("model", "/models/CPM", "/models/CPM"),
        ("model", Path("models") / "CPM", str(Path("models") / "CPM")),
        ("model", None, None),
        ("dtype", "bfloat16", "bfloat16"),
        ("style", "lyric", "lyric"),
        ("window_boundary", "eod", "eod"),
        ("banned_ids", "3,4, 5", (3, 4, 5)),
        ("banned_ids", [3, 4], (3, 4)),
        ("banned_ids", ("3", "4"), (3, 4)),
        ("banned_ids", "", ()),
        ("stop", "再见,完", ("再见,完",)),
        ("stop", ["再见", "完"], ("再见", "完")),
        ("max_new_tokens", "unlimited", None),
        ("max_new_tokens", None, None),
        ("max_new_tokens", "20", 20),
        ("seed", "18446744073709551615", 2**64 - 1),
    ],
)
def test_words_and_yaml_values_become_the_settings_type(name, given, expected):
    value = convert(name, given, "here")
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("name", FIELDS)
def test_every_default_is_a_value_of_its_own_type(name):
    default = FIELDS[name].default
    assert convert(name, default, "here") == default


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("batch", "1.5", "a whole number"),
        ("batch", 1.5, "a whole number"),
        ("batch", True, "a whole number"),
        ("batch", None, "a whole number"),
        ("batch", "unlimited", "a whole number"),
        ("batch", [1], "a whole number"),
        ("heads", "all", "a whole number"),
        ("tensor_parallel", "many", "a whole number, auto"),
        ("temperature", "warm", "a number"),
        ("temperature", True, "a number"),
        ("temperature", None, "a number"),
        ("stop_at_eod", "maybe", "true or false"),
        ("stop_at_eod", None, "true or false"),
        ("stop_at_eod", 2, "true or false"),
        ("model", 3, "text"),
        ("device", None, "text"),
        ("dtype", "float64", "float32 or bfloat16 or float16"),
        ("decoder", True, "cached or recompute"),
        ("style", ["lyric"], "lyric or novel or plain"),
        ("banned_ids", 5, "whole numbers separated by commas"),
        ("stop", 5, "a list of texts"),
        ("stop", None, "a list of texts"),
    ],
)
def test_values_of_another_kind_are_errors_that_say_what_would_be_right(name, given, expected):
    with pytest.raises(ConfigError) as caught:
        convert(name, given, "here")
    assert str(caught.value) == f"here: {name} must be {expected}, not {given!r}"


def test_a_word_among_the_ids_is_an_error_that_shows_it():
    with pytest.raises(ConfigError, match=r"--banned-ids: banned_ids must be .*'?two'?"):
        resolve(flags={"banned_ids": "1,two"})


def test_choices_are_the_words_of_settings_that_take_only_words():
    assert choices(FIELDS["style"]) == ("lyric", "novel", "plain")
    assert choices(FIELDS["decoder"]) == ("cached", "recompute")
    assert choices(FIELDS["tensor_parallel"]) is None
    assert choices(FIELDS["device"]) is None


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_says_what_it_is(name):
    text = FIELDS[name].description
    assert len(text) > 10
    assert text == text.strip()
    assert not text.endswith(".")


def test_no_two_groups_have_a_setting_of_the_same_name():
    assert len(FIELDS) == sum(len(dataclasses.fields(group)) for group in GROUPS)


@pytest.mark.parametrize("group", GROUPS)
def test_groups_are_frozen_and_take_keywords_only(group):
    settings = group()
    name = dataclasses.fields(group)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(settings, name, None)
    with pytest.raises(TypeError):
        group("value")


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_new_tokens", 0), ("max_new_tokens", -1), ("seed", -1), ("seed", 2**64), ("n", 0), ("stop", ("a", ""))],
)
def test_text_options_out_of_range_are_config_errors(name, value):
    with pytest.raises(ConfigError, match="stop string" if name == "stop" else name):
        TextOptions(**{name: value})


def test_text_options_at_the_edge_of_their_range_are_fine():
    TextOptions(max_new_tokens=1, seed=2**64 - 1, n=1)
    TextOptions(max_new_tokens=None, seed=0)


# files


@pytest.mark.parametrize("content", ["", "# nothing\n", "null\n", "---\n"])
def test_empty_file_changes_nothing(tmp_path, content):
    assert resolve(files=[write(tmp_path, content)]) == resolve()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("batch: [1", "not YAML"),
        ("batch: 1\n\tseed: 2", "not YAML"),
        ("seed: !!python/object/apply:os.getpid []", "not YAML"),
        ("a: &a\n- *b", "not YAML"),
        ("\x07: 1", "not YAML"),
        ("temperature:\ufeff 1\nseed: 2", "not YAML"),
        ("- batch", "must be a mapping"),
        ("batch", "must be a mapping"),
        ("3", "must be a mapping"),
    ],
)
def test_files_that_are_no_yaml_mapping_are_one_line_errors_that_name_the_file(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(files=[path])
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


def test_a_file_without_an_end_is_read_up_to_a_bound():
    with pytest.raises(ConfigError, match=r"^/dev/zero: more than 1,000,000 bytes"):
        resolve(files=[Path("/dev/zero")])


def test_file_that_is_not_utf8_is_an_error(tmp_path):
    path = tmp_path / "gbk.yaml"
    path.write_bytes("stop: 再见".encode("gbk"))
    with pytest.raises(ConfigError, match=r"gbk\.yaml: not YAML"):
        resolve(files=[path])


def test_missing_file_and_folder_are_errors_that_name_them(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
        resolve(files=[tmp_path / "nowhere.yaml"])
    with pytest.raises(ConfigError, match="directory"):
        resolve(files=[tmp_path])


def test_text_in_a_file_is_utf8(tmp_path):
    assert resolve(files=[write(tmp_path, "stop: [再见, 完]")]).text.stop == ("再见", "完")


# what is shipped


def test_shipped_files_are_those_of_the_commands_and_the_published_networks():
    assert {path.name for path in SHIPPED} == {
        "lyric.yaml",
        "novel.yaml",
        "original.yaml",
        *KNOWN_SIZES,
    }
    assert all(shipped(path.name).samefile(path) for path in SHIPPED)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_file_resolves(path):
    settings = resolve(files=[path])
    assert {source for _, _, source in settings.items()} == {"default", str(path)}


def test_shipped_styles_are_the_originals():
    lyric, novel = (resolve(files=[shipped(name)]) for name in ("lyric.yaml", "novel.yaml"))
    assert (lyric.text.style, lyric.model.window_boundary) == ("lyric", "eod")
    assert (novel.text.style, novel.model.window_boundary) == ("novel", "sentence")
    original = resolve(files=[shipped("original.yaml")])
    assert (original.model.decoder, original.model.window_hop, original.model.window_boundary) == (
        "recompute",
        1,
        "token",
    )
    assert original.sampling == SamplingParams(temperature=1, top_k=0, top_p=0)


@pytest.mark.parametrize("style", ["lyric", "novel"])
def test_the_originals_settings_leave_nothing_of_a_presets_sampling(style):
    assert resolve(files=[shipped(f"{style}.yaml"), shipped("original.yaml")]).sampling == SamplingParams()


def test_file_that_is_not_shipped_is_an_error():
    with pytest.raises(ConfigError, match=r"'poem\.yaml'"):
        shipped("poem.yaml")


@pytest.mark.parametrize(("hidden", "heads"), [(2560, 32), (1024, 16), (768, 12), (64, None), (0, None)])
def test_heads_of_the_published_networks_are_known_by_their_hidden_size(hidden, heads):
    assert known_heads(hidden) == heads


@pytest.mark.parametrize(
    ("name", "millions"), [("cpm-large.yaml", 2600), ("cpm-medium.yaml", 334), ("cpm-distill.yaml", 109)]
)
def test_parameters_of_the_published_networks_are_what_their_tensors_hold(name, millions):
    size = read_size(shipped(name))
    counted = 0
    for tensor in tensor_table.names(size.layers):
        shape = tensor_table.whole_shape(
            tensor, vocabulary=size.vocabulary, positions=size.positions, hidden=size.hidden
        )
        counted += shape[0] * (shape[1] if len(shape) > 1 else 1)
    assert size.parameters == counted
    assert size.parameters / 1e6 == pytest.approx(millions, rel=0.01)


def test_a_size_in_a_file_sets_the_heads_and_what_must_hold(tmp_path):
    path = write(tmp_path, "size: {layers: 27, hidden: 64, heads: 8, vocabulary: 100, positions: 16}")
    settings = resolve(files=[path])
    assert settings.model == ModelOptions(heads=8, hidden=64)
    assert value_and_source(settings, "heads") == (8, str(path))
    assert resolve(files=[path], flags={"heads": 4}).model.heads == 4


@pytest.mark.parametrize(
    "content",
    [
        "size: {heads: 8}",
        "size: 8",
        "size:",
        "size: [1, 2, 3, 4, 5]",
        "size: {no: 1}",
        "size: {layers: a, hidden: 1, heads: 1, vocabulary: 1, positions: 1}",
    ],
)
def test_a_size_that_lacks_something_is_an_error_that_lists_what_it_holds(tmp_path, content):
    path = write(tmp_path, content)
    for read in (read_size, lambda p: resolve(files=[p])):
        with pytest.raises(
            ConfigError, match="'size' must hold whole numbers for layers, hidden, heads, vocabulary, positions"
        ):
            read(path)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "seed: 2024-13-45",
            "seed: " + "9" * 5000,
            "[" * 100_000,
            "temperature: " + "9" * 400,
            "model: !!timestamp x",
        ),
        *("seed: 0x" + "f" * 5000, "seed: -0x" + "f" * 5000, "a" * 100_000 + ": 1"),
    ],
    ids=lambda text: text[:20],
)
def test_yaml_that_python_chokes_on_is_a_config_error(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml") as wrong:
        resolve(files=[path])
    assert len(str(wrong.value)) < 1000


@pytest.mark.parametrize(
    ("name", "value"), [("banned_ids", [1.7]), ("banned_ids", [True]), ("stop", [None]), ("stop", {"a": 1})]
)
def test_lists_are_not_coerced(name, value):
    with pytest.raises(ConfigError):
        convert(name, value, "x")


@pytest.mark.parametrize(
    "field", [{"temperature": "0.5"}, {"top_k": 2.5}, {"top_p": True}, {"repetition_penalty": "1"}]
)
def test_sampling_params_check_types(field):
    with pytest.raises(ConfigError):
        SamplingParams(**field)
