"""`.pth` files: the same tensors as torch reads and writes, and nothing hostile or damaged gets further than
one line."""

import io
import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from rwkv7_reference import needs_reference

from egg_reason.models.formats.pickled import Storage, View, dump_tensors
from egg_reason.models.formats.pth import read_pth, replacing, write_pth

BF16 = ml_dtypes.bfloat16


def tensors():
    """All dtypes; no, one and many axes; no elements."""
    rng = np.random.default_rng(0)
    return {
        "a.weight": rng.standard_normal((3, 4), np.float32),
        "b": rng.standard_normal((1, 1, 5), np.float32).astype(BF16),
        "c": rng.standard_normal((2, 3, 4), np.float32).astype(np.float16),
        "größe": np.array(3.5, np.float32),
        "empty": np.zeros((0, 7), np.float32),
    }


def same(found, expected):
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert found[key].shape == array.shape and found[key].dtype == array.dtype
        assert found[key].read().tobytes() == array.tobytes()


def archive(path, pickled, records=None, folder="model"):
    """A zip as torch.save makes it, around any pickle."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr(f"{folder}/data.pkl", pickled)
        for key, data in (
            records if records is not None else {"0": np.arange(6, dtype=np.float32).tobytes()}
        ).items():
            file.writestr(f"{folder}/data/{key}", data)
    return path


def refusal(path):
    """The one line with which a file is refused, on opening or on reading its tensors."""
    with pytest.raises(ValueError) as caught:
        for entry in read_pth(path).values():
            entry.read()
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < len(str(path)) + 300
    return message


def test_round_trip_and_the_same_bytes_every_time(tmp_path):
    write_pth(tmp_path / "one.pth", tensors().items())
    write_pth(tmp_path / "two.pth", iter(tensors().items()))
    same(read_pth(tmp_path / "one.pth"), tensors())
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "two.pth").read_bytes()


def test_transposed_arrays_are_written_in_row_major_order(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    write_pth(tmp_path / "x.pth", [("x", array)])
    np.testing.assert_array_equal(read_pth(tmp_path / "x.pth")["x"].read(), [[0, 3], [1, 4], [2, 5]])


def test_storages_can_be_mapped(tmp_path):
    write_pth(tmp_path / "x.pth", tensors().items())
    assert all(entry.position % 64 == 0 for entry in read_pth(tmp_path / "x.pth").values())


@needs_reference("torch")
@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_what_we_write(tmp_path, mmap):
    import torch

    write_pth(tmp_path / "x.pth", tensors().items())
    loaded = torch.load(str(tmp_path / "x.pth"), weights_only=True, mmap=mmap)
    assert list(loaded) == list(tensors())
    for key, array in tensors().items():
        assert str(loaded[key].dtype) == f"torch.{array.dtype.name}"
        np.testing.assert_array_equal(loaded[key].float().numpy(), array.astype(np.float32))


@needs_reference("torch")
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_we_read_what_torch_writes(tmp_path, protocol):
    """Contiguous, transposed, sliced and shared tensors, parameters, all dtypes, in every pickle protocol."""
    import torch

    base = torch.randn(6, 8)
    saved = {
        "plain": base,
        "transposed": base.t(),
        "slice": base[1:5:2, 2:7],
        "strided": base[:, ::3],
        "parameter": torch.nn.Parameter(base[0].clone()),
        "half": base.half(),
        "bfloat16": base.bfloat16().view(1, 1, 48),
        "scalar": base[2, 3],
        "empty": torch.zeros(3, 0),
    }
    torch.save(saved, tmp_path / "x.pth", pickle_protocol=protocol)
    found = read_pth(tmp_path / "x.pth")
    assert list(found) == list(saved)
    for key, tensor in saved.items():
        assert f"torch.{found[key].dtype.name}" == str(tensor.dtype)
        np.testing.assert_array_equal(found[key].read().astype(np.float32), tensor.detach().float().numpy())


@needs_reference("torch")
def test_we_read_the_state_dict_of_a_module(tmp_path):
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    torch.save(module.state_dict(), tmp_path / "x.pth")  # an OrderedDict with attributes
    found = read_pth(tmp_path / "x.pth")
    assert list(found) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    np.testing.assert_array_equal(found["0.weight"].read(), module[0].weight.detach().numpy())


class Calls:
    """Pickles as a call, which `pickle.loads` makes."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("name", ["system", "eval", "exec"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_is_run(tmp_path, name, protocol):
    sentinel = tmp_path / "it-ran"
    code = f"open({str(sentinel)!r}, 'w').close()"
    call = (
        Calls(os.system, f"touch {sentinel}")
        if name == "system"
        else Calls({"eval": eval, "exec": exec}[name], code)
    )
    pickled = pickle.dumps({"emb.weight": call}, protocol)
    path = archive(tmp_path / "x.pth", pickled)

    message = refusal(path)
    assert "refused" in message and (protocol == 0 or name in message)
    assert not sentinel.exists()

    pickle.loads(pickled)  # the attack is a real one
    assert sentinel.exists()


@pytest.mark.parametrize(
    "name",
    [
        "torch LongStorage",
        "torch._utils _rebuild_qtensor",
        "collections OrderedDict.fromkeys",
        "builtins getattr",
    ],
)
def test_other_names_are_refused_by_name(tmp_path, name):
    module, attribute = name.split()
    path = archive(tmp_path / "x.pth", f"\x80\x02c{module}\n{attribute}\n.".encode("latin1"))
    assert f"{module}.{attribute}" in refusal(path)


@pytest.mark.parametrize(
    "pickled, message",
    [
        (b"\x80\x02]q\x00.", "opcode EMPTY_LIST"),
        (b"\x80\x02}.", None),
        (b"\x80\x02K\x05.", "not a dictionary of tensors"),
        (b"\x80\x02}X\x01\x00\x00\x00aK\x05s.", "'a' is not a float32, float16 or bfloat16 tensor"),
        (b"\x80\x02}K\x01K\x05s.", "text keys"),
        (b"\x80\x02}r\xff\xff\xff\xff.", None),  # a memo index that would take 64 GiB as a list
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02R.", "damaged"),
        (b"\x80\x02t.", "damaged"),
        (b"\x80\x02}X\xff\xff\xff\x7fa.", "damaged"),
        (b"\x80\x02" + b")" + b"\x85" * 200_000 + b"K\x01\x86.", "not a dictionary"),  # deep nesting
        (b"", "damaged"),
        (b"garbage", "damaged"),
    ],
)
def test_pickles_that_are_no_dictionary_of_tensors(tmp_path, pickled, message):
    path = archive(tmp_path / "x.pth", pickled)
    if message is None:
        assert read_pth(path) == {}
    else:
        assert message in refusal(path)


@pytest.mark.parametrize(
    "view, message",
    [
        (View(Storage("1", "float32", 6), 0, (6,), (1,)), "storage '1' is missing"),
        (View(Storage("../0", "float32", 6), 0, (6,), (1,)), "is missing"),
        (
            View(Storage("0", "float32", 7), 0, (6,), (1,)),
            "should hold 7 numbers of float32, but has 24 bytes",
        ),
        (View(Storage("0", "bfloat16", 13), 0, (6,), (1,)), "should hold 13 numbers"),
        (View(Storage("0", "float32", 6), 1, (6,), (1,)), "beyond its storage"),
        (View(Storage("0", "float32", 6), 0, (7,), (1,)), "beyond its storage"),
        (View(Storage("0", "float32", 6), 0, (2, 3), (4, 1)), "beyond its storage"),
        (
            View(Storage("0", "float32", 6), 0, (1000, 1000), (0, 0)),
            "beyond its storage",
        ),  # would grow a few bytes to gigabytes
        (View(Storage("0", "float32", 6), 5, (6,), (-1,)), "sizes, strides and offset of 0 or more"),
        (View(Storage("0", "float32", 6), -1, (2,), (1,)), "sizes, strides and offset of 0 or more"),
        (View(Storage("0", "float32", 6), 0, (-6,), (1,)), "sizes, strides and offset of 0 or more"),
        (View(Storage("0", "float32", 6), 0, (2**60, 0), (1, 1)), "sizes, strides and offset of 0 or more"),
        (View(Storage("0", "float32", 6), 0, (2, 3), (1,)), "a tensor's sizes and strides"),
        (View(Storage("0", "float32", -6), 0, (6,), (1,)), "a storage's key and size"),
    ],
)
def test_tensors_that_reach_beyond_their_storage(tmp_path, view, message):
    assert message in refusal(archive(tmp_path / "x.pth", dump_tensors({"x": view})))


def test_views_within_a_storage_are_read(tmp_path):
    """The same crafted pickles with honest numbers: the refusals above are not for another reason."""
    views = {
        "x": View(Storage("0", "float32", 6), 1, (2, 2), (3, 1)),
        "y": View(Storage("0", "float32", 6), 0, (3, 2), (1, 3)),
    }
    found = read_pth(archive(tmp_path / "x.pth", dump_tensors(views)))
    np.testing.assert_array_equal(found["x"].read(), [[1, 2], [4, 5]])
    np.testing.assert_array_equal(found["y"].read(), [[0, 3], [1, 4], [2, 5]])


def test_every_truncation_is_noticed(tmp_path):
    write_pth(tmp_path / "whole.pth", tensors().items())
    whole, path = (tmp_path / "whole.pth").read_bytes(), tmp_path / "cut.pth"
    for length in [*range(0, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert "not a zip archive" in refusal(path) or length > len(whole) - 22


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path):
    write_pth(tmp_path / "whole.pth", tensors().items())
    whole, path = (tmp_path / "whole.pth").read_bytes(), tmp_path / "flipped.pth"
    noticed = 0
    for index in range(0, len(whole), 3):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 0x55]) + whole[index + 1 :])
        try:
            same(read_pth(path), tensors())
        except ValueError as error:
            assert "\n" not in str(error)
            noticed += 1
    assert noticed > len(whole) / 3 / 3


def test_other_files(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "git lfs pull" in refusal(path)
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2))  # how the format before torch 1.6 begins
    assert "before 1.6" in refusal(path)
    path.write_bytes(b"<html>not found</html>")
    assert "not a zip archive" in refusal(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("other.txt", "text")
    assert "0 data.pkl records" in refusal(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/data.pkl", b"\x80\x02}.")
    assert "compressed" in refusal(path)
    archive(path, b"\x80\x02}.")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("model/byteorder", "big")
    assert "big-endian" in refusal(path)


def test_no_such_file(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file"):
            read_pth(path)


def test_a_failed_write_leaves_everything_as_it_was(tmp_path):
    path = tmp_path / "x.pth"
    path.write_text("before")

    def failing():
        yield "a", np.zeros(3, np.float32)
        raise RuntimeError("out of weights")

    with pytest.raises(RuntimeError):
        write_pth(path, failing())
    with pytest.raises(ValueError, match="b: dtype must be one of float32, float16, bfloat16, not float64"):
        write_pth(path, [("b", np.zeros(3))])
    assert [file.name for file in tmp_path.iterdir()] == ["x.pth"] and path.read_text() == "before"
    with (
        pytest.raises(FileNotFoundError, match="its folder does not exist"),
        replacing(tmp_path / "none" / "x.pth"),
    ):
        pass


def test_large_sizes_are_written_as_long_integers():
    """Beyond 2^31 the pickle needs another opcode; the file itself would be too large for a test."""
    pickled = dump_tensors({"x": View(Storage("0", "float32", 2**32), 0, (2**32,), (1,))})
    assert b"\x8a\x08" + struct.pack("<q", 2**32) in pickled

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            return lambda *arguments: arguments

        def persistent_load(self, identifier):
            return identifier[-1]

    assert Unpickler(io.BytesIO(pickled)).load() == {"x": (2**32, 0, (2**32,), (1,), False, ())}
