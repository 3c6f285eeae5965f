"""A pickle is a program: what numpy and plain containers write is read, and nothing else of it is ever run."""

import copyreg
import functools
import gzip
import io
import os
import pickle
import resource
import struct
import sys

import numpy as np
import pytest

from merge3_plugin.errors import DataError
from merge3_plugin.extract.plain_pickle import read_plain_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
CUBE = np.arange(24.0).reshape(2, 3, 4)
PLAIN = {
    "float": CUBE,
    "fortran": np.asfortranarray(CUBE[0]),
    "again": CUBE,
    "whole": np.arange(3, dtype=np.int16),
    "other byte order": np.arange(3, dtype=">i4"),
    "half": np.ones(3, np.float16),
    "right or wrong": np.array([True, False]),
    "text": np.array(["ab", "ç"]),
    "none": np.empty((0, 3)),
    "number": np.array(3.0),
    "scalars": [np.float64(0.25), np.int64(-3), np.float32(1.5), np.bool_(True)],
    "nested": {"list": [1, [2, [3, ()]]], "tuples": [(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], 7: {"deep": {}}},
    "numbers": [0, -1, 255, 70_000, -(2**40), 2**64 - 1, 0.5, float("inf"), True, False, None],
    "words": ["", "é\n", "x" * 300, b"", b"\xff\x00", b"y" * 300],
}


@pytest.fixture
def read(tmp_path):
    """What `read_plain_pickle` makes of these bytes."""

    def call(content):
        path = tmp_path / "p.pkl"
        path.write_bytes(content)
        return read_plain_pickle(path)[0]

    return call


def refused(read, content, *messages):
    with pytest.raises(DataError) as raised:
        read(content)
    line = str(raised.value)
    assert "\n" not in line and line.isprintable() and len(line) < 400 and "p.pkl: expected" in line
    for message in messages:
        assert message in line
    return line


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("inner", [b"numpy._core", b"numpy.core"])
def test_arrays_and_plain_containers_of_either_numpy(read, protocol, inner):
    content = pickle.dumps(PLAIN, protocol)
    if protocol < 4:  # here a name ends at its line; later its length comes before it
        content = content.replace(b"numpy._core", inner)
    elif inner == b"numpy.core":
        for name in (b"multiarray", b"numeric"):
            ours, theirs = b"numpy._core." + name, b"numpy.core." + name
            content = content.replace(bytes([len(ours)]) + ours, bytes([len(theirs)]) + theirs)
        content = content[:2] + content[11:]  # without the frame, whose length is another now
    assert inner + b"." in content
    found = read(content)
    for name, value in PLAIN.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype.newbyteorder("=") == value.dtype.newbyteorder("=")
            assert found[name].shape == value.shape
            np.testing.assert_array_equal(found[name], value)
        else:
            assert found[name] == value
    assert found["again"] is found["float"]
    assert {type(number) for number in found["scalars"]} == {float, int, bool}


class Calls:
    """An object whose pickle calls something."""

    def __init__(self, function, *arguments):
        self.how = function, arguments

    def __reduce__(self):
        return self.how


class WithState:
    def __init__(self):
        self.state = 1


def hostile_objects(marker):
    command = f"touch {marker}"
    yield "os.system", Calls(os.system, command)
    yield "eval", Calls(eval, f"open({str(marker)!r}, 'w')")
    yield "exec", Calls(exec, f"open({str(marker)!r}, 'w')")
    yield "getattr", Calls(getattr, Calls(__import__, "os"), "system")
    yield "open", Calls(open, str(marker), "w")
    yield "partial", functools.partial(os.system, command)
    yield "a class with a state", WithState()
    yield "in a dict", {"lb": {"A": CUBE, "B": Calls(os.system, command)}}
    yield "in a list after arrays", [CUBE, Calls(os.system, command)]
    yield "an array of objects", np.array([Calls(os.system, command), 1], dtype=object)
    yield "an array of records", np.zeros(2, dtype=[("a", object)])
    yield "an array of dates", np.zeros(2, dtype="M8[s]")
    yield "an array of another class", np.array(["x"]).view(np.char.chararray)
    yield "a masked array", np.ma.array([1.0], mask=[True])
    yield "a set", {1, 2}
    yield "a frozen set", frozenset((1, 2))
    yield "a complex number", 1j
    yield "a key that is a tuple", {(1, 2): 3}
    yield "a slice", slice(1, 2)
    yield "a range", range(3)
    yield "bytes in an array's place", Calls(np.frombuffer, b"12345678")
    yield "a function", os.system
    yield "a dtype alone", np.dtype("f8")
    yield "an array type alone", np.ndarray
    yield "a file of a module that is not imported yet", Calls(os.system, "import antigravity")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_else_is_read_or_run(read, tmp_path, protocol):
    marker = tmp_path / "it ran"
    for what, thing in hostile_objects(marker):
        try:
            content = pickle.dumps(thing, protocol)
        except TypeError:
            continue  # that protocol has no way to write it
        refused(read, content)
        assert not marker.exists(), what


def string(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


def named(module, name):
    return f"c{module}\n{name}\n".encode()


RECONSTRUCT = named("numpy._core.multiarray", "_reconstruct")
ARRAY = RECONSTRUCT + named("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
FLOAT = named("numpy", "dtype") + b"X\x02\x00\x00\x00f8\x89\x88\x87R"
OBJECT = named("numpy", "dtype") + b"X\x02\x00\x00\x00O8\x89\x88\x87R"
# By hand, since Python's own pickler does not write them: (what, instructions, what the refusal says).
INSTRUCTIONS = [
    ("a name with a dot in it", b"\x80\x04" + string("numpy") + string("ndarray.tofile") + b"\x93.", "ndarray.tofile"),
    ("an attribute of an allowed module", named("numpy", "load") + b".", "numpy.load"),
    ("a name that is computed", b"\x80\x04" + string("os") + b"]\x93.", "damaged"),
    ("a module that is not there", named("antigravity", "x") + b".", "antigravity.x"),
    ("control characters in a name", named("\x1b[2J", "x") + b".", "\\x1b"),
    ("INST", b"(S'true'\nios\nsystem\n.", ""),
    ("INST alone", b"(ios\nsystem\n.", "INST"),
    ("OBJ", b"(" + named("numpy", "ndarray") + b"o.", "OBJ"),
    ("NEWOBJ", named("numpy", "ndarray") + b"K\x01\x85\x81.", "NEWOBJ"),
    ("NEWOBJ_EX", named("numpy", "ndarray") + b"K\x01\x85}\x92.", "NEWOBJ_EX"),
    ("a persistent id", b"Pid\n.", "PERSID"),
    ("a persistent id from the stack", b"K\x01Q.", "BINPERSID"),
    ("an extension", b"\x82\x01.", "EXT1"),
    ("a buffer from outside", b"\x80\x05\x97.", "NEXT_BUFFER"),
    ("a name is no function", named("numpy", "ndarray") + b"K\x01\x85R.", "array type"),
    ("a call of a list", b"]K\x01\x85R.", "a call of list"),
    ("arguments that are no tuple", RECONSTRUCT + b"]R.", "a call of array"),
    ("an array of another type", RECONSTRUCT + b"]K\x00\x85C\x01b\x87R.", "another array"),
    ("attributes of a name", RECONSTRUCT + b"}" + string("__code__") + b"K\x01sb.", "another state of array"),
    ("slots of a name", RECONSTRUCT + b"N}" + string("__code__") + b"K\x01s\x86b.", "another state of array"),
    ("attributes of an array", ARRAY + b"}" + string("data") + b"K\x01sb.", "another state of ndarray"),
    ("a state for a dict", b"}}b.", "another state of dict"),
    ("a state for a list", b"]]b.", "another state of list"),
    ("an array of objects", ARRAY + b"(K\x01K\x01\x85" + OBJECT + b"\x89]K\x07atb.", "another dtype"),
    ("a list of numbers as an array", ARRAY + b"(K\x01K\x01\x85" + FLOAT + b"\x89]K\x07atb.", "another state"),
    ("a dtype with fields", FLOAT + b"(K\x03X\x01\x00\x00\x00<N]NJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.", "state"),
    ("a dtype alone", FLOAT + b".", "dtype"),
    ("more bytes than there are", ARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + FLOAT + b"\x89C\x0812345678tb.", "bytes of"),
    ("a negative size", ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + FLOAT + b"\x89C\x00tb.", "another shape"),
    (
        "a size that is no number",
        ARRAY + b"(K\x01G?\xf0\x00\x00\x00\x00\x00\x00\x85" + FLOAT + b"\x89C\x08" + b"1" * 8 + b"tb.",
        "another shape",
    ),
    ("another encoding", named("_codecs", "encode") + string("x") + string("zip") + b"\x86R.", "another encoding"),
    ("bytes of a size", named("__builtin__", "bytes") + b"J\xff\xff\xff\x7f\x85R.", "another bytes"),
    ("nothing on the stack", b"\x85.", "damaged"),
    ("an item for a number", b"K\x01K\x02K\x03s.", "damaged"),
    ("an append to a dict", b"}K\x01a.", "damaged"),
    ("a memo that was not filled", b"h\x07.", "damaged"),
    ("a mark that was not set", b"t.", "damaged"),
    ("two values", b"K\x01K\x02.", "damaged"),
    ("an unknown instruction", b"\xff.", "damaged"),
    ("a number that is none", b"Iabc\n.", "damaged"),
    ("a number of many digits", b"I" + b"9" * 100_000 + b"\n.", "damaged"),
    ("bytes that are not in the file", b"\x8e" + struct.pack("<Q", 2**62) + b"x.", "damaged"),
    ("a text that is not in the file", b"\x8d" + struct.pack("<Q", 2**62) + b"x.", "damaged"),
    ("nothing", b"", "damaged"),
    ("text", b"hello, world", "damaged"),
]


@pytest.mark.parametrize(("what", "content", "message"), INSTRUCTIONS, ids=[what for what, *_ in INSTRUCTIONS])
def test_instructions_written_by_hand(read, what, content, message):
    refused(read, content, message)
    assert "antigravity" not in sys.modules


def test_persistent_ids_and_extensions_of_real_picklers(read):
    class Persistent(pickle.Pickler):
        def persistent_id(self, thing):
            return "id" if isinstance(thing, float) else None

    for protocol in PROTOCOLS:
        written = io.BytesIO()
        Persistent(written, protocol).dump({"a": 0.5})
        refused(read, written.getvalue(), "PERSID")
    copyreg.add_extension(__name__, "WithState", 240)
    try:
        content = pickle.dumps(WithState(), 2)
    finally:
        copyreg.remove_extension(__name__, "WithState", 240)
    refused(read, content, "EXT1")


def memory():
    """Peak memory of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_bombs_do_not_go_off(read):
    """Files of at most a few hundred kB that ask for terabytes."""
    before = memory()
    doubling = b"]" + b"".join(b"q%ch%c\x86" % (k, k) for k in range(100)) + b"."
    assert len(read(doubling)) == 2  # 2^100 leaves, of a hundred tuples
    megabyte = b"B" + struct.pack("<I", 1 << 20) + bytes(1 << 20)
    shape = b"J" + struct.pack("<i", 1 << 17) + b"\x85"
    array = ARRAY + b"(K\x01" + shape + FLOAT + b"\x89h\x01tb"
    refused(read, b"(" + megabyte + b"q\x01" + array * 10_000 + b"l.", "larger ones")
    text = b"X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20) + b"q\x01"
    encoded = named("_codecs", "encode") + b"h\x01" + string("latin1") + b"\x86R"
    refused(read, b"(" + text + encoded * 10_000 + b"l.", "larger ones")
    assert read(b"]r\xff\xff\xff\x7f.") == []  # a memo place far out
    empty = ARRAY + b"(K\x01(J\xff\xff\xff\x7fJ\xff\xff\xff\x7fK\x00t" + FLOAT + b"\x89C\x00tb."
    refused(read, empty, "damaged")
    deep = read(b"]" * 50_000 + b"a" * 49_999 + b".")
    assert len(deep) == 1
    assert memory() - before < 100


def test_a_few_bytes_cannot_ask_for_hours(read):
    """Products of long numbers, hashes of them and of nested tuples, and masses of containers."""
    before = memory()
    long = b"\x8b" + struct.pack("<i", 3_000_000) + b"\x01" * 3_000_000 + b"q\x01"
    shape = b"(" + long + b"h\x01" * 5 + b"t"
    refused(read, ARRAY + b"(K\x01" + shape + FLOAT + b"\x89C\x00tb.", "64 bits")
    refused(read, b"}(" + long + b"N" + b"h\x01N" * 100_000 + b"u.", "64 bits")
    alike = b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(9, 50_000))
    refused(read, b"}(" + alike + b"u.", "64 bits")  # all of one hash
    nested = b")q\x01" + b"h\x01h\x01\x86q\x01" * 60
    refused(read, nested + b"h\x01\x93.", "a name that is no text")
    refused(read, b"(" + b"}" * 5_000_000 + b"t.", "4,194,304 instructions")
    assert memory() - before < 800


@pytest.mark.parametrize("code", ["<U1", ">U1"])
def test_text_of_no_characters(read, code):
    """numpy itself raises SystemError for these, when they are looked at."""
    text = np.array(["a"], dtype=code)
    content = pickle.dumps(text, 4)
    assert read(content)[0] == "a"
    refused(read, content.replace(text.tobytes(), b"\xff" * 4), "no characters")


def test_containers_that_hold_themselves(read):
    inside = []
    inside.append({"again": inside})
    found = read(pickle.dumps(inside))
    assert found[0]["again"] is found


def test_whatever_a_file_is_cut_to_or_turned_into_is_one_line(read):
    """Every prefix, and many changed bytes: an answer or a DataError, and never another exception."""
    content = pickle.dumps({"a": CUBE[0], "s": np.float64(1), "t": (1, "x", [2.5, None]), "b": b"1"}, 4)
    for end in range(len(content)):
        refused(read, content[:end], "damaged")
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(600):
        changed = bytearray(content)
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            changed[place] = rng.integers(256)
        try:
            read(bytes(changed))
            outcomes.add("read")
        except DataError as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_files_that_are_no_pickles(read, tmp_path):
    refused(read, gzip.compress(pickle.dumps([1])), "a gzip file")
    refused(read, b"PK\x03\x04rest", "a zip file")
    refused(read, b"version https://git-lfs.github.com/spec/v1\n", "git-lfs")
    for path in (tmp_path / "nowhere.pkl", tmp_path):
        with pytest.raises(DataError, match="expected a pickle, got: "):
            read_plain_pickle(path)
    large = tmp_path / "large.pkl"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match="expected a pickle of at most"):
        read_plain_pickle(large)
