"""Reading ``torch.save`` files: what is in them comes out as torch.load gives it, and nothing in them runs."""

import argparse
import collections
import copyreg
import functools
import pickle
import random
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpm_gen.checkpoints.formats import safe_pickle, torch_file
from cpm_gen.checkpoints.formats.known_globals import Dropped
from cpm_gen.checkpoints.formats.megatron import without_dropped
from cpm_gen.checkpoints.formats.torch_file import SavedFile, TensorRef
from cpm_gen.errors import CheckpointError

FORMATS = ("zip", "legacy")
REAL = torch.arange(6, dtype=torch.float32).reshape(2, 3)
MAGIC = 0x1950A86A20F9469CFC6C


def save(value: Any, path: Path, form: str = "zip", **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, path, _use_new_zipfile_serialization=form == "zip", **options)
    return path


def read(path: Path) -> Any:
    return without_dropped(SavedFile(path).content)


def rezip(path: Path, change: Callable[[bytes], bytes], record: str = "data.pkl", method: int = 0) -> None:
    """Replace the zip file at ``path`` by one with a record changed and right checksums."""
    with zipfile.ZipFile(path) as old:
        records = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(path, "w", method) as new:
        for name, content in records.items():
            new.writestr(name, change(content) if name.endswith("/" + record) else content)


def pack(pickled: bytes, path: Path, form: str) -> Path:
    """A file of no storages whose content is this hand-written pickle."""
    if form == "zip":
        save({}, path)
        rezip(path, lambda _: pickled)
    else:
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
        head = b"".join(pickle.dumps(x, protocol=2) for x in (MAGIC, 1001, system))
        path.write_bytes(head + pickled + pickle.dumps([], protocol=2))
    return path


class Reduces:
    """Pickles as a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


class Stateful:
    def __init__(self, path: str) -> None:
        self.path = path

    def __setstate__(self, state: dict[str, Any]) -> None:
        Path(state["path"]).write_text("set")


def touch(path: str) -> None:
    Path(path).write_text("ran")


# name -> how it looks, given the marker's path: an object to save, and a global that must be in the notes
ARMED: dict[str, tuple[Callable[[str], Any], str]] = {
    "os.system": (lambda m: Reduces(__import__("os").system, (f"touch {m}",)), "posix.system"),
    "eval": (lambda m: Reduces(eval, (f"open({m!r}, 'w')",)), "builtins.eval"),
    "exec": (lambda m: Reduces(exec, (f"open({m!r}, 'w')",)), "builtins.exec"),
    "Popen": (lambda m: Reduces(subprocess.Popen, (["/usr/bin/touch", m],)), "subprocess.Popen"),
    "setstate": (Stateful, f"{__name__}.Stateful"),
    "torch.hub": (
        lambda m: Reduces(torch.hub._remove_if_exists, (arm_removal(m),)),
        "torch.hub._remove_if_exists",
    ),
    "object array": (lambda m: np.array([Reduces(exec, (f"open({m!r}, 'w')",)), 1], dtype=object), "builtins.exec"),
    "pickle in pickle": (
        lambda m: Reduces(pickle.loads, (pickle.dumps(Reduces(exec, (f"open({m!r}, 'w')",))),)),
        "_pickle.loads",
    ),
    "partial": (lambda m: functools.partial(touch, m), "functools.partial"),
    "state of an object": (
        lambda m: argparse.Namespace(inner=Reduces(exec, (f"open({m!r}, 'w')",))),
        "argparse.Namespace",
    ),
}
CALLED_BY_LOAD = [name for name in ARMED if name not in ("partial", "torch.hub")]


def arm_removal(marker: str) -> str:
    victim = Path(marker).with_name("victim")
    victim.write_text("still here")
    return str(victim)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", ARMED)
def test_what_a_file_calls_is_dropped_and_the_tensors_beside_it_load(
    tmp_path: Path, name: str, protocol: int, form: str
) -> None:
    marker = tmp_path / "marker"
    make, origin = ARMED[name]
    content = {
        "module": {"evil": make(str(marker)), "w": REAL},
        "beside": make(str(marker)),
        "list": [make(str(marker))],
    }
    file = SavedFile(save(content, tmp_path / "x.pt", form, pickle_protocol=protocol))
    assert not marker.exists()
    assert not (tmp_path / "victim").exists() or (tmp_path / "victim").read_text() == "still here"
    name = origin.rpartition(".")[2]  # protocol 2 gives modules the names they had in Python 2
    assert any(note == origin or (protocol == 2 and note.endswith("." + name)) for note in file.notes)
    plain = without_dropped(file.content)
    assert plain.keys() == {"module", "list"}
    assert plain["module"].keys() == {"w"}
    assert torch.equal(plain["module"]["w"], REAL)
    assert plain["list"] == []
    assert not marker.exists()


def test_the_same_files_do_run_code_when_torch_unpickles_them(tmp_path: Path) -> None:
    for form in FORMATS:
        for name in CALLED_BY_LOAD:
            marker = tmp_path / f"{name.replace(' ', '_')}.{form}.marker"
            save({"evil": ARMED[name][0](str(marker)), "w": REAL}, tmp_path / f"{marker.stem}.pt", form)
            assert SavedFile(tmp_path / f"{marker.stem}.pt").content.get("w") is not None
    assert not list(tmp_path.glob("*.marker"))
    code = (
        "import sys, subprocess, torch, pathlib\n"
        "for p in pathlib.Path(sys.argv[1]).glob('*.pt'):\n"
        "    evil = torch.load(p, weights_only=False)['evil']\n"
        "    if isinstance(evil, subprocess.Popen): evil.wait()"
    )
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        check=True,
        cwd=Path(__file__).parent,
    )
    assert len(list(tmp_path.glob("*.marker"))) == 2 * len(CALLED_BY_LOAD)


def hand_written(marker: str) -> dict[str, bytes]:
    """Opcodes that pickle's own writer would not choose."""
    command = b"touch " + marker.encode()
    text = b"\x8c" + bytes([len(command)]) + command
    name = lambda s: b"\x8c" + bytes([len(s)]) + s  # noqa: E731
    return {
        "STACK_GLOBAL": b"\x80\x04" + name(b"os") + name(b"system") + b"\x93" + text + b"\x85R.",
        "GLOBAL": b"\x80\x02cos\nsystem\n" + text + b"\x85R.",
        "INST": b"(" + text + b"ios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + text + b"o.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n" + text + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n" + text + b"\x85}\x92.",
        "dotted name": b"\x80\x04" + name(b"shutil") + name(b"os.system") + b"\x93" + text + b"\x85R.",
        "through our own modules": b"\x80\x04"
        + name(b"cpm_gen.checkpoints.formats.safe_pickle")
        + name(b"pickle.loads")
        + b"\x93"
        + text
        + b"\x85R.",
        "SETITEM": b"\x80\x02cos\nsystem\n" + text + b"\x85R" + text + text + b"s.",
        "APPENDS": b"\x80\x02cos\nsystem\n" + text + b"\x85R(" + text + text + b"e.",
        "ADDITEMS": b"\x80\x04cos\nsystem\n" + text + b"\x85R(" + text + b"\x90.",
        "called twice": b"\x80\x02cos\nsystem\n" + text + b"\x85R" + text + b"\x85R.",
        "BUILD of a function": b"\x80\x02cos\nsystem\n" + text + b"b.",
    }


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", hand_written(""))
def test_no_opcode_reaches_a_global(tmp_path: Path, name: str, form: str) -> None:
    marker = tmp_path / "marker"
    file = SavedFile(pack(hand_written(str(marker))[name], tmp_path / "x.pt", form))
    assert isinstance(file.content, Dropped) or issubclass(file.content, Dropped)
    assert file.notes
    assert not marker.exists()


def test_extension_codes_are_not_looked_up_even_when_another_pickle_used_them(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    copyreg.add_extension(__name__, "touch", 0xF1)
    try:
        payload = b"\x80\x02\x82\xf1X" + struct.pack("<I", len(str(marker))) + str(marker).encode() + b"\x85R."
        pickle.loads(payload)  # armed, and now in the cache of extensions
        assert marker.exists()
        marker.unlink()
        for form in FORMATS:
            file = SavedFile(pack(payload, tmp_path / f"{form}.pt", form))
            assert isinstance(file.content, Dropped)
            assert file.notes == ["copyreg extension 241"]
            assert not marker.exists()
    finally:
        copyreg.remove_extension(__name__, "touch", 0xF1)
        copyreg.clear_extension_cache()


SHARED = {
    "OrderedDict": b"ccollections\nOrderedDict\n",
    "set": b"cbuiltins\nset\n",
    "tensor": b"ctorch._utils\n_rebuild_tensor_v2\n",
    "_reconstruct": b"cnumpy.core.multiarray\n_reconstruct\n",
    "scalar": b"cnumpy.core.multiarray\nscalar\n",
    "ndarray": b"cnumpy\nndarray\n",
    "dtype": b"cnumpy\ndtype\n",
    "float32": b"ctorch\nfloat32\n",
    "Size": b"ctorch\nSize\n",
    "storage": b"ctorch\nFloatStorage\n",
    "dropped": b"cos\nsystem\n",
}


@pytest.mark.parametrize("name", SHARED)
def test_a_state_given_to_something_shared_changes_nothing(tmp_path: Path, name: str) -> None:
    target = SHARED[name]
    # (None, {"__defaults__": (1, 2, 3), "__doc__": ...}): the form in which BUILD uses setattr
    slots = b"N}(X\x0c\x00\x00\x00__defaults__K\x01K\x02K\x03\x87X\x07\x00\x00\x00__doc__X\x04\x00\x00\x00evilu\x86b."
    plain = b"}X\x05\x00\x00\x00itemsK\x01sb."

    def snapshot() -> list[Any]:
        module = [
            v
            for source in (safe_pickle, torch_file)
            for n, v in sorted(vars(source).items())
            if callable(v) and getattr(v, "__module__", "") == source.__name__
        ]
        return [
            (f, getattr(f, "__defaults__", None), f.__doc__, sorted(vars(f)) if hasattr(f, "__dict__") else None)
            for f in (*module, collections.OrderedDict, set, np.ndarray, np.dtype, tuple, torch.float32)
        ]

    before = snapshot()
    for n, state in enumerate((slots, plain)):
        path = pack(b"\x80\x02" + target + state, tmp_path / f"{n}.pt", "zip")
        SavedFile(path)
        assert snapshot() == before
    save({"a": np.arange(3), "w": REAL}, tmp_path / "good.pt")
    assert np.array_equal(read(tmp_path / "good.pt")["a"], np.arange(3))


def test_a_state_given_to_a_dictionary_or_tensor_does_not_change_its_ways(tmp_path: Path) -> None:
    def spoil(pickled: bytes) -> bytes:  # the last thing before STOP is the dictionary
        return pickled[:-1] + b"}(X\x05\x00\x00\x00itemsK\x01X\x04\x00\x00\x00viewK\x01X\x07\x00\x00\x00storageK\x01ub."

    save(collections.OrderedDict(w=REAL), tmp_path / "x.pt")
    rezip(tmp_path / "x.pt", spoil)
    assert torch.equal(read(tmp_path / "x.pt")["w"], REAL)
    save(REAL, tmp_path / "x.pt")
    rezip(tmp_path / "x.pt", spoil)
    assert torch.equal(read(tmp_path / "x.pt"), REAL)


def test_a_numpy_dtype_takes_no_flags_and_no_fields_from_a_file(tmp_path: Path) -> None:
    class Spoiled:
        def __reduce__(
            self,
        ) -> Any:  # a big-endian dtype is not numpy's shared one, so it takes a state; 1: holds objects
            return np.dtype, (">u8", False, True), (3, "<", None, None, None, -1, -1, 1)

    class Array:
        def __reduce__(self) -> Any:
            state = (1, (2,), Spoiled(), False, b"A" * 16)
            return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state  # type: ignore[attr-defined]

    file = SavedFile(save({"a": Array(), "d": Spoiled()}, tmp_path / "x.pt"))
    assert not file.content["a"].dtype.hasobject
    assert file.content["a"].tolist() == [0x4141414141414141] * 2
    assert without_dropped(file.content).keys() == {"a"}


def test_a_file_cannot_make_a_bare_numpy_array(tmp_path: Path) -> None:
    uninitialised = b"\x80\x02cnumpy\nndarray\nM\xe8\x03\x85X\x02\x00\x00\x00u1\x86R."
    assert isinstance(SavedFile(pack(uninitialised, tmp_path / "x.pt", "zip")).content, Dropped)


def test_names_of_dropped_globals_are_fit_for_a_terminal(tmp_path: Path) -> None:
    file = SavedFile(pack(b"\x80\x02cos\x1b[31m\nsystem\r\n.", tmp_path / "x.pt", "zip"))
    assert len(file.notes) == 1
    assert file.notes[0].isprintable()


@pytest.mark.parametrize("form", FORMATS)
def test_containers_that_hold_themselves_are_damage(tmp_path: Path, form: str) -> None:
    cyclic: dict[str, Any] = {"w": REAL}
    cyclic["module"] = cyclic
    endless: list[Any] = []
    endless.append(endless)
    deep: dict[str, Any] = {}
    for _ in range(150):
        deep = {"a": deep}
    bomb: list[Any] = []
    for _ in range(40):
        bomb = [bomb, bomb]
    for content in (cyclic, {"a": endless}, deep, bomb):
        with pytest.raises(CheckpointError, match=r"x\.pt.*nested too deep"):
            SavedFile(save(content, tmp_path / "x.pt", form))


def same(ours: Any, theirs: Any) -> None:
    """Equal in value, type, dtype and shape, all the way down."""
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, torch.Tensor)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert torch.equal(ours, theirs.detach())
        return
    assert type(ours) is type(theirs)
    if isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs, equal_nan=theirs.dtype.kind in "fc")
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            same(ours[key], theirs[key])
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    else:
        assert ours == theirs


def marked_parameter() -> torch.nn.Parameter:
    parameter = torch.nn.Parameter(REAL.clone())
    parameter.model_parallel = True  # type: ignore[attr-defined]
    return parameter


base = torch.arange(60, dtype=torch.float32)
CONTENTS: dict[str, Any] = {
    **{
        str(dtype): torch.tensor([[0, 1, 5], [1, 0, 2]]).to(dtype)
        for dtype in (
            *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
            *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
            *(torch.complex64, torch.complex128),
        )
    },
    "offset": base[17:29],
    "strided": base.view(6, 10)[1:5, 2:9:3],
    "transposed": base.view(6, 10).t(),
    "expanded": base[:3].expand(4, 3),
    "shared": [base, base[5:9], base.view(6, 10)],
    "same object twice": [base, base],
    "zero-size": [torch.empty(0), torch.empty(3, 0, 2), base[7:7]],
    "scalar": [torch.tensor(3.5), torch.tensor(7), base[9]],
    "parameter": [torch.nn.Parameter(REAL.clone()), marked_parameter()],
    "state dict": torch.nn.Linear(3, 2).state_dict(),
    "containers": {
        "a": [1, (2.5, {"b": None}), "字"],
        3: {4: b"\x00\xff"},
        (1, 2): True,
        "o": collections.OrderedDict(z=1, y=2),
    },
    "sets": {"s": {1, 2}, "f": frozenset({"a"}), "empty": set()},
    "numbers": [1 + 2j, 2**80, -(2**40), 1e300, float("inf"), True, False, None],
    "bytes": [b"", b"\x80abc\xff"],
    "size": tuple(torch.Size([2, 3])),
    "numpy": [np.arange(6).reshape(2, 3), np.zeros(0), np.array(3.5), np.asfortranarray(np.ones((3, 2), np.float32))],
    "numpy big-endian": np.arange(5, dtype=">i4"),
    "numpy kinds": [np.ones(2, k) for k in ("?", "i1", "u2", "f2", "f4", "f8", "c8", "c16")],
    "numpy scalars": [np.float32(1.5), np.int64(-3), np.bool_(True), np.float64("nan").item() == 0, np.complex64(1j)],
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_content_is_what_torch_load_gives(tmp_path: Path, name: str, form: str, protocol: int) -> None:
    path = save({"it": CONTENTS[name]}, tmp_path / "x.pt", form, pickle_protocol=protocol)
    file = SavedFile(path)
    assert file.notes == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.load(path, weights_only=False)
    same(without_dropped(file.content), theirs)


def test_numpy_under_its_old_module_name_reads_alike(tmp_path: Path) -> None:
    save({"a": np.arange(5, dtype=np.uint32), "s": np.float64(2.5)}, tmp_path / "x.pt")
    rezip(tmp_path / "x.pt", lambda b: b.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    file = SavedFile(tmp_path / "x.pt")
    assert file.content["a"].tolist() == [0, 1, 2, 3, 4]
    assert file.content["a"].dtype == np.uint32
    assert file.content["s"] == 2.5
    assert file.notes == []


def test_the_reference_files_numpy_states_read_without_a_note(reference: Path) -> None:
    path = reference / "original" / "tinyA" / "1234" / "mp_rank_00_model_states.pt"
    with zipfile.ZipFile(path) as archive:
        pickled = next(archive.read(n) for n in archive.namelist() if n.endswith("data.pkl"))
    assert b"numpy.core.multiarray" in pickled
    file = SavedFile(path)
    assert file.notes == []
    algorithm, keys, *rest = file.content["np_rng_state"]
    assert algorithm == "MT19937"
    assert keys.dtype == np.uint32
    assert keys.shape == (624,)
    np.random.RandomState().set_state((algorithm, np.asarray(keys), *rest))


def test_object_and_text_arrays_are_dropped_and_named(tmp_path: Path) -> None:
    file = SavedFile(save({"o": np.array([1, "a"], dtype=object), "u": np.array(["ab"]), "w": REAL}, tmp_path / "x.pt"))
    assert len(file.notes) == 2
    assert all(n.startswith("numpy.dtype") for n in file.notes)
    assert without_dropped(file.content).keys() == {"w"}


def small_file(path: Path, form: str) -> bytes:
    save({"module": {"w": REAL, "b": torch.ones(4)}, "a": np.arange(4), "n": [1, 2.5, "x", {"y": None}]}, path, form)
    return path.read_bytes()


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_cut_short_anywhere_is_a_checkpoint_error_that_names_it(tmp_path: Path, form: str) -> None:
    path = tmp_path / "cut.pt"
    whole = small_file(path, form)
    cuts = {*range(0, len(whole), 7), *range(len(whole) - 40, len(whole)), 1, 2, 3, 4, 5}
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"cut\.pt"):
            read(path)


def loads_or_reports(path: Path) -> None:
    try:
        read(path)
    except CheckpointError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_pickle_loads_or_is_a_checkpoint_error(tmp_path: Path, form: str) -> None:
    path = tmp_path / "flipped.pt"
    whole = small_file(path, form)
    dice = random.Random(20)

    def flip(content: bytes) -> bytes:
        changed = bytearray(content)
        for _ in range(dice.choice((1, 1, 2, 5))):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        return bytes(changed)

    for _ in range(500):
        path.write_bytes(whole)
        if form == "zip":
            rezip(path, flip)
        else:
            path.write_bytes(flip(whole))
        loads_or_reports(path)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=60))
def test_any_bytes_as_a_pickle_load_or_are_a_checkpoint_error(tmp_path: Path, body: bytes) -> None:
    pack(b"\x80\x02" + body, tmp_path / "x.pt", "legacy")
    loads_or_reports(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(body)
    with pytest.raises(CheckpointError):
        SavedFile(tmp_path / "x.pt")


def test_a_huge_memo_number_takes_no_memory(tmp_path: Path) -> None:
    import tracemalloc

    tracemalloc.start()
    try:  # LONG_BINPUT 0x0800_0000: C's machine would take 2 GB for its table
        content = SavedFile(pack(b"\x80\x02K\x01r\x00\x00\x00\x08.", tmp_path / "x.pt", "zip")).content
        assert content == 1
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def altered(path: Path, **changes: Any) -> TensorRef:
    ref = SavedFile(path).content["w"]
    for name, value in changes.items():
        setattr(ref, name, value)
    return ref


@pytest.mark.parametrize(
    "changes",
    [
        {"first": 1},
        {"first": -1},
        {"first": 2**63},
        {"shape": (2, 4)},
        {"shape": (2**40, 2**40), "stride": (0, 0)},
        {"shape": (2**70, 3), "stride": (0, 1)},
        {"shape": (2**70, 0)},
        {"stride": (4, 1)},
        {"stride": (-3, 1)},
        {"stride": (1,)},
        {"shape": (2.0, 3)},
        {"shape": ("2", 3)},
        {"shape": (None,), "stride": (1,)},
        {"dtype": torch.float64},
    ],
    ids=str,
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    save({"w": REAL.clone()}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x\.pt"):
        altered(tmp_path / "x.pt", **changes).view()


@pytest.mark.parametrize("form", FORMATS)
def test_a_tensor_declared_larger_than_its_storage_is_refused_by_the_file_itself(tmp_path: Path, form: str) -> None:
    path = save({"w": torch.zeros(77)}, tmp_path / "x.pt", form)
    if form == "zip":  # K77 is written twice: elements of the storage, shape of the tensor
        rezip(path, lambda b: b.replace(b"KM", b"Kz"))
    else:
        path.write_bytes(path.read_bytes().replace(b"KM", b"Kz"))
    with pytest.raises(CheckpointError, match=r"x\.pt"):
        read(path)


def test_a_storage_shorter_than_declared_is_refused(tmp_path: Path) -> None:
    save({"w": REAL.clone()}, tmp_path / "x.pt")
    rezip(tmp_path / "x.pt", lambda b: b[:-1], record="data/0")
    with pytest.raises(CheckpointError, match="shorter"):
        SavedFile(tmp_path / "x.pt")


def test_a_storage_that_is_not_in_the_file_is_refused(tmp_path: Path) -> None:
    save({"w": REAL.clone()}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as old, zipfile.ZipFile(tmp_path / "y.pt", "w") as new:
        for info in old.infolist():
            if not info.filename.endswith("data/0"):
                new.writestr(info.filename, old.read(info))
    with pytest.raises(CheckpointError, match=r"y\.pt.*storage '0' is missing"):
        SavedFile(tmp_path / "y.pt")


def test_a_compressed_file_says_how_to_help_it(tmp_path: Path) -> None:
    save({"w": REAL.clone()}, tmp_path / "x.pt")
    rezip(tmp_path / "x.pt", bytes, method=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compression"):
        SavedFile(tmp_path / "x.pt")


@pytest.mark.parametrize("form", FORMATS)
def test_big_endian_files_are_refused_in_words(tmp_path: Path, form: str) -> None:
    if form == "zip":
        save({"w": REAL.clone()}, tmp_path / "x.pt")
        rezip(tmp_path / "x.pt", lambda _: b"big", record="byteorder")
    else:
        system = {"little_endian": False}
        (tmp_path / "x.pt").write_bytes(b"".join(pickle.dumps(x, protocol=2) for x in (MAGIC, 1001, system, {}, [])))
    with pytest.raises(CheckpointError, match="big-endian"):
        SavedFile(tmp_path / "x.pt")


def test_what_is_not_a_torch_file_is_named(tmp_path: Path) -> None:
    cases = {
        "empty.pt": b"",
        "text.pt": b"version https://git-lfs.github.com/spec/v1\n",
        "zeros.pt": bytes(1000),
        "pickle.pt": pickle.dumps({"w": 1}, protocol=2),
        "number.pt": pickle.dumps(7, protocol=2),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("readme.txt", "no")
    (tmp_path / "folder.pt").mkdir()
    for name in (*cases, "other.pt", "folder.pt", "absent.pt"):
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            SavedFile(tmp_path / name)


def test_a_view_cannot_change_the_file(tmp_path: Path) -> None:
    path = save({"w": REAL.clone()}, tmp_path / "x.pt")
    before = path.read_bytes()
    file = SavedFile(path)
    view = file.content["w"].view()
    view.fill_(9)
    assert torch.equal(file.content["w"].view(), view)  # else it was no view of the file
    assert path.read_bytes() == before
    assert torch.equal(read(path)["w"], REAL)


def test_a_released_tensor_can_be_read_again(tmp_path: Path) -> None:
    file = SavedFile(save({"w": base.clone(), "v": REAL.clone()}, tmp_path / "x.pt"))
    for _ in range(2):
        assert torch.equal(file.content["w"].view(), base)
        file.content["w"].release()
    assert torch.equal(file.content["v"].view(), REAL)


MEASURE = """
import sys, pathlib
from cpm_gen.checkpoints.formats.torch_file import SavedFile
def rss():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096
before = rss()
files = [SavedFile(pathlib.Path(p)) for p in sys.argv[1:]]
views = [f.content["w"].view() for f in files]
opened = rss()
assert all(v.shape == (50, 1000, 1000) for v in views)
total = sum(float(v.sum()) for v in views)
print(opened - before, rss() - before, total)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_opening_reads_no_tensor(tmp_path: Path) -> None:
    big = tmp_path / "big.pt"  # sparse: costs neither time nor disk
    with torch.serialization.skip_data():
        torch.save({"w": torch.empty(50, 1000, 1000)}, big)
    assert big.stat().st_size > 200e6
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(big)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    opened, read_all, total = result.stdout.split()
    print(result.stdout)
    assert float(total) == 0
    assert int(opened) < 20e6
    assert int(read_all) > 150e6  # else the measure measures nothing
