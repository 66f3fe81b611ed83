"""The native library: found, or told why not; its header and the Python side say the same."""

import ctypes
import ctypes.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import cpm_gen
from cpm_gen.errors import ConfigError
from cpm_gen.networks.native import library, model

ROOT = Path(__file__).parents[2]
HEADER = re.sub(r"/\*.*?\*/", "", (ROOT / "native/include/cpm_native.h").read_text(), flags=re.S)

no_compiler = pytest.mark.skipif(
    shutil.which("cmake") is None or not any(map(shutil.which, ("c++", "g++", "clang++"))),
    reason="no CMake or no C++ compiler on this machine",
)


@pytest.fixture
def fresh() -> Iterator[None]:
    """The library as if it had not been asked for."""
    library.load_library.cache_clear()
    yield
    library.load_library.cache_clear()


def test_the_library_is_found_and_has_kernels_for_every_machine() -> None:
    if library.library_path() is None:
        pytest.skip("this cpm-gen was installed without the native kernels")
    assert library.load_library().cpm_abi() == library.ABI
    names = library.kernels()
    assert names[-1] == "generic"
    assert len(set(names)) == len(names)


def test_no_library_is_a_mistake_that_says_why(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "library_path", lambda: None)
    for _ in range(2):
        with pytest.raises(
            ConfigError, match=r"^the native kernels were not built when cpm-gen was installed .*compiler"
        ):
            library.kernels()


def test_a_file_that_is_no_library_is_named(fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "libcpm_native.so"
    file.write_bytes(b"not ELF at all")
    monkeypatch.setattr(library, "library_path", lambda: file)
    with pytest.raises(ConfigError, match=f"the native kernels cannot be used: {re.escape(str(file))}"):
        library.load_library()


def test_a_library_without_our_functions_is_a_mistake(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    name = ctypes.util.find_library("m")
    if name is None:
        pytest.skip("no other library to be found")
    monkeypatch.setattr(library, "library_path", lambda: name)
    with pytest.raises(ConfigError, match=r"the native kernels cannot be used: .*cpm_abi"):
        library.load_library()


def test_a_library_of_another_version_is_a_mistake(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    if library.library_path() is None:
        pytest.skip("this cpm-gen was installed without the native kernels")
    monkeypatch.setattr(library, "ABI", library.ABI + 1)
    with pytest.raises(ConfigError, match=r"libcpm_native.*another version of cpm-gen; .*pip install --no-deps -e \."):
        library.load_library()


def test_a_library_of_another_version_is_said_when_a_model_is_loaded(
    fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library.library_path() is None:
        pytest.skip("this cpm-gen was installed without the native kernels")
    monkeypatch.setattr(library, "ABI", library.ABI + 1)
    with pytest.warns(RuntimeWarning, match=r"pip install --no-deps -e \., so torch computes"):
        cpm_gen.load().close()
    cpm_gen.load(kernels="torch").close()  # asked for: nothing to say


# the header, word for word


def enum(name: str) -> dict[str, int]:
    members: dict[str, int] = {}
    for word in re.search(rf"enum {name} \{{(.*?)\}};", HEADER, re.S)[1].split(","):
        member, _, value = word.partition("=")
        members[member.strip()] = int(value) if value else len(members)
    return members


def fields(name: str) -> list[tuple[str, type]]:
    kinds = {"int32_t": ctypes.c_int32, "float": ctypes.c_float}
    (body,) = re.findall(rf"typedef struct \{{([^}}]*)\}} {name};", HEADER)
    declared = []
    for line in body.split(";")[:-1]:
        kind, names = line.split(maxsplit=1)
        declared += [(n.strip(), kinds[kind]) for n in names.split(",")]
    return declared


def test_abi() -> None:
    assert int(re.search(r"#define CPM_ABI (\d+)", HEADER)[1]) == library.ABI
    assert int(re.search(r"#define CPM_MAX_THREADS (\d+)", HEADER)[1]) == library.MAX_THREADS


@pytest.mark.parametrize(("name", "structure"), [("cpm_sizes", library.Sizes), ("cpm_segment", library.CSegment)])
def test_structures(name: str, structure: type[ctypes.Structure]) -> None:
    assert list(structure._fields_) == fields(name)


def test_enums() -> None:
    formats = {"float32": "CPM_F32", "bfloat16": "CPM_BF16", "int8": "CPM_I8"}
    assert {formats[name]: value for name, value in library.FORMATS.items()} == enum("cpm_format")
    gelu = {"tanh": "CPM_GELU_TANH", "erf": "CPM_GELU_ERF"}
    assert {gelu[name]: value for name, value in library.GELU.items()} == enum("cpm_gelu")
    dtypes = {torch.float32: "CPM_FROM_F32", torch.float16: "CPM_FROM_F16", torch.bfloat16: "CPM_FROM_BF16"}
    assert {dtypes[dtype]: value for dtype, value in model._DTYPES.items()} == enum("cpm_dtype")
    status = enum("cpm_status")
    assert (status["CPM_OK"], status["CPM_NO_MEMORY"], status["CPM_ABORTED"]) == (0, library.NO_MEMORY, library.ABORTED)


def test_tensors_are_in_the_headers_order() -> None:
    words = {
        "CPM_WORDS": "word_embeddings.weight",
        "CPM_POSITIONS": "position_embeddings.weight",
        "CPM_FINAL_NORM": "transformer.final_layernorm",
        "CPM_HEAD": "lm_head.weight",
        "CPM_NORM1": "input_layernorm",
        "CPM_QKV": "attention.query_key_value",
        "CPM_DENSE": "attention.dense",
        "CPM_NORM2": "post_attention_layernorm",
        "CPM_UP": "mlp.dense_h_to_4h",
        "CPM_DOWN": "mlp.dense_4h_to_h",
    }
    endings = {"_W": ".weight", "_B": ".bias"}
    names = [words[n] if n in words else words[n[:-2]] + endings[n[-2:]] for n in enum("cpm_tensor")]
    assert tuple(names) == model._TENSORS


def test_functions() -> None:
    simple = {"int": ctypes.c_int, "int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "void": None}
    declared = re.findall(r"CPM_API ([\w ]+?[ *]+)(cpm_\w+)\(([^)]*)\);", HEADER)
    assert {name for _, name, _ in declared} == library._DECLARATIONS.keys()

    def same(c: str, python: object) -> bool:
        """Of an argument, ``c`` ends with its name."""
        if c.startswith("cpm_all_reduce"):
            return python is library.AllReduce
        if "*" in c or "[" in c:
            return python in (ctypes.c_void_p, ctypes.c_char_p) or isinstance(
                python, type(ctypes.POINTER(ctypes.c_int))
            )
        return python is simple[c.split()[0]]

    for returned, name, arguments in declared:
        result, kinds = library._DECLARATIONS[name]
        wanted = [] if arguments == "void" else [a.strip() for a in arguments.split(",")]
        assert same(returned.strip(), result), name
        assert len(kinds) == len(wanted), name
        assert all(map(same, wanted, kinds)), name
    callback = re.search(r"typedef (\w+) \(\*cpm_all_reduce\)\(float \*values, (\w+) count\);", HEADER)
    assert library.AllReduce._restype_ is simple[callback[1]]
    assert library.AllReduce._argtypes_ == (ctypes.POINTER(ctypes.c_float), simple[callback[2]])


@pytest.mark.slow
@no_compiler
def test_the_kernels_own_tests(tmp_path: Path) -> None:
    configure = ["cmake", "-S", str(ROOT / "native"), "-B", str(tmp_path), "-DCPM_TESTS=ON"]
    for command in (
        configure,
        ["cmake", "--build", str(tmp_path), "--parallel", "2"],
        ["ctest", "--test-dir", str(tmp_path), "--output-on-failure"],
    ):
        run = subprocess.run(command, capture_output=True, text=True, timeout=1800)
        assert run.returncode == 0, run.stdout + run.stderr
        assert "warning:" not in run.stderr + run.stdout
