"""Files that claim more than they hold: refused before torch takes memory for them."""

import io
import struct
import tracemalloc
import types
import zipfile
import zlib

import pytest
import torch

from utils.errors import Refused
from utils.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from utils.runs.torch_file import read_torch_file, write_torch_file

GLOBALS = {"bytearray": "builtins\nbytearray", "OrderedDict": "collections\nOrderedDict", "set": "__builtin__\nset"}


def written(path, state=None, change=lambda name, content: content, compression=zipfile.ZIP_STORED, more=()):
    """A file of torch.save, whose entries are written again as change(name, content) has them."""
    buffer = io.BytesIO()
    torch.save({"state_dict": {"w": torch.arange(6.0)}} if state is None else state, buffer)
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(path, "w", compression) as other:
        for name in archive.namelist():
            other.writestr(name, change(name, archive.read(name)))
        for name, content in more:
            other.writestr(name, content)
    return path


def with_pickle(path, content):
    return written(path, change=lambda name, old: content if name.endswith("data.pkl") else old)


def text(word):
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def state_of(value):
    return b"\x80\x02}" + text("state_dict") + value + b"s."


def refused(path, why):
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=why) as told:
            load_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert len(str(told.value).splitlines()) == 1


def test_a_call_that_takes_memory_by_a_number_is_refused(tmp_path):
    call = f"c{GLOBALS['bytearray']}\n".encode() + b"(J" + struct.pack("<i", 1_500_000_000) + b"tR"
    refused(with_pickle(tmp_path / "a.pth", state_of(call)), r"refused: it refers to builtins\.bytearray; only tensors")


def test_a_copy_of_a_copy_is_paid_for(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.runs.torch_file._INSTRUCTIONS", 10_000)
    items = b"]q\0(" + b"N" * 1000 + b"e"
    copies = b"(" + (f"c{GLOBALS['set']}\n".encode() + b"h\0\x85R") * 100 + b"t"
    refused(with_pickle(tmp_path / "a.pth", state_of(b"(" + items + copies + b"t")), "too many values")


def test_a_compressed_entry_is_refused(tmp_path):
    zeros = {"state_dict": {"w": torch.zeros(1_000_000)}}
    path = written(tmp_path / "a.pth", zeros, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    refused(path, "its entries are compressed")


def test_a_storage_larger_than_its_entry_is_refused(tmp_path):
    path = written(tmp_path / "a.pth", change=lambda name, content: content.replace(b"K\6", b"J\xff\xff\xff\x0f"))
    refused(path, "a storage has another size than its bytes")


@pytest.mark.parametrize("size", [b"K\7\x85", b"J\xff\xff\xff\x0f\x85", b"J\xff\xff\xff\xff\x85"])
def test_a_tensor_larger_than_its_storage_is_refused(tmp_path, size):
    path = written(tmp_path / "a.pth", change=lambda name, content: content.replace(b"K\6\x85", size))
    refused(path, "a tensor is larger than its storage|not that of a checkpoint")


def test_a_tensor_stretched_over_a_small_storage_is_refused(tmp_path):
    torch.save({"state_dict": {"w": torch.zeros(1).expand(10**10)}}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "larger than their storages")
    torch.save({"state_dict": {"w": torch.zeros(1).expand(10**4)}}, tmp_path / "b.pth")
    assert load_checkpoint(tmp_path / "b.pth")["state_dict"]["w"].shape == (10**4,)


def test_storages_of_the_old_format_are_held_against_the_file(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"w": torch.arange(6.0)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(load_checkpoint(path)["state_dict"]["w"], torch.arange(6.0))
    path.write_bytes(path.read_bytes().replace(b"K\6N", b"J\xff\xff\xff\x3fN"))
    refused(path, "its storages are larger than the file")


@pytest.mark.parametrize("name", ["archive/data.pkl", "archive/DATA.PKL", "other/x", "archive/a\n"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entries_that_readers_could_take_for_each_other_are_refused(tmp_path, name):
    refused(written(tmp_path / "a.pth", more=[(name, b"x")]), "one name|one folder")


def extra_field(kind, content):
    return struct.pack("<2H", kind, len(content)) + content


def renamed(name, other):
    """An entry whose Unicode path, which Python 3.12 and later read, is not the name that torch reads."""
    info = zipfile.ZipInfo(name)
    info.extra = extra_field(0x7075, struct.pack("<BL", 1, zlib.crc32(name.encode())) + other.encode())
    return info


def test_an_entry_with_a_second_name_in_an_extra_field_is_refused(tmp_path):
    harmful = state_of(f"c{GLOBALS['bytearray']}\n".encode() + b"(J" + struct.pack("<i", 1_500_000_000) + b"tR")
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr(renamed("archive/data.pkl", "archive/decoy"), harmful)
        archive.writestr(renamed("archive/decoy", "archive/data.pkl"), state_of(b"}"))
    refused(tmp_path / "a.pth", "a second name")


def test_an_entry_with_two_sizes_in_extra_fields_is_refused(tmp_path):
    path = written(tmp_path / "a.pth")
    info = zipfile.ZipInfo("archive/last")
    info.extra = extra_field(9, bytes(8)) * 2
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, b"x")
    content = path.read_bytes()
    path.write_bytes(content.replace(extra_field(9, bytes(8)), extra_field(1, bytes(8))))
    refused(path, "a second name or size")


@pytest.mark.parametrize("name", ["archive/data/é", "archive/a\0b"])
def test_a_name_that_readers_decode_differently_is_refused(tmp_path, name):
    path = written(tmp_path / "a.pth", more=[(name.replace("\0", "!"), b"x")])
    path.write_bytes(path.read_bytes().replace(b"archive/a!b", b"archive/a\0b"))
    refused(path, "its entries are not in one folder")


def test_a_file_without_crc32_is_read(tmp_path):
    computes = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        save_checkpoint({"state_dict": {"w": torch.arange(6.0)}}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(computes)
    with zipfile.ZipFile(tmp_path / "a.pth") as archive, pytest.raises(zipfile.BadZipFile):
        archive.read("archive/data.pkl")
    assert torch.equal(load_checkpoint(tmp_path / "a.pth")["state_dict"]["w"], torch.arange(6.0))


def test_entries_that_overlap_are_refused(tmp_path):
    path = written(tmp_path / "a.pth", {"state_dict": {"v": torch.zeros(2), "w": torch.zeros(2)}})
    with zipfile.ZipFile(path) as archive:
        first, second = (archive.getinfo(f"archive/data/{i}").header_offset for i in range(2))
    content, place = path.read_bytes(), struct.pack("<L", second)
    at = content.rindex(place)
    path.write_bytes(content[:at] + struct.pack("<L", first) + content[at + 4 :])
    refused(path, "its entries overlap")


def test_an_entry_larger_than_the_file_is_refused(tmp_path):
    path = written(tmp_path / "a.pth")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/last", b"x")
    content, sizes = path.read_bytes(), struct.pack("<2L", 1, 1)
    at = content.rindex(sizes)
    path.write_bytes(content[:at] + struct.pack("<2L", 2**31, 2**31) + content[at + 8 :])
    refused(path, "its entries are larger than the file")


@pytest.mark.parametrize("after", [False, True])
def test_an_archive_with_a_second_directory_is_refused(tmp_path, after):
    first, second = (written(tmp_path / name).read_bytes() for name in ("a.pth", "b.pth"))
    (tmp_path / "a.pth").write_bytes(first + second if after else first + second[second.rindex(b"PK\5\6") :])
    refused(tmp_path / "a.pth", "its directory is not at its end")


def test_a_directory_that_its_zip64_record_does_not_agree_with_is_refused(tmp_path):
    torch.save({"state_dict": {"w": torch.arange(6.0)}}, tmp_path / "a.pth")  # which writes such a record
    content = (tmp_path / "a.pth").read_bytes()
    locator = content.rindex(b"PK\6\7")
    place = struct.unpack_from("<Q", content, locator + 8)[0]
    changed = struct.pack("<Q", place - 1)
    (tmp_path / "a.pth").write_bytes(content[: locator + 8] + changed + content[locator + 16 :])
    refused(tmp_path / "a.pth", "its directory is not at its end")


def test_a_pickle_of_many_objects_in_few_bytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.runs.torch_file._INSTRUCTIONS", 10_000)
    refused(with_pickle(tmp_path / "a.pth", state_of(b"(" + b"}" * 20_000 + b"t")), "too many values")


@pytest.mark.parametrize("state", [b"(1", b"}q\0j\xff\xff\xff\xff", b"N" * 10, b"c\n", b"\x8b\xff\xff\xff\x7f", b"Q"])
def test_nonsense_is_refused(tmp_path, state):
    refused(with_pickle(tmp_path / "a.pth", state_of(state)), "not that of a checkpoint|refers to")


def test_tensors_of_other_kinds_are_refused(tmp_path):
    with_attribute = torch.zeros(3)
    with_attribute.note = 1
    for tensor in (torch.zeros(3, device="meta"), with_attribute):
        torch.save({"state_dict": {"w": tensor}}, tmp_path / "a.pth")
        refused(tmp_path / "a.pth", "refused: it refers to torch")


@pytest.mark.parametrize("zipped", [True, False])
def test_what_honest_files_hold_is_read(tmp_path, zipped):
    base = torch.arange(12.0).reshape(3, 4)
    state = {
        "views": [base, base[1:], base.T, base[:, 2], base[:0], torch.tensor(3)],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "dtypes": [torch.zeros(2, dtype=d) for d in (torch.bfloat16, torch.bool, torch.complex64)],
        "sparse": torch.eye(3).to_sparse(),
        "plain": [torch.Size([2, 3]), {1, 2}, b"x", -(2**62), 10**20, 1.5, None, True, torch.float16, ("a",)],
    }
    if zipped:
        state["new"] = torch.zeros(2, dtype=torch.uint16)  # which the old format does not know
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    read = read_torch_file(tmp_path / "a.pth")
    assert read["plain"] == state["plain"] and torch.equal(read["sparse"].to_dense(), torch.eye(3))
    assert all(torch.equal(a, b) for a, b in zip(read["views"], state["views"], strict=True))


@pytest.mark.slow
def test_every_flipped_byte_of_a_directory_is_refused_or_harmless(tmp_path):
    path = written(tmp_path / "a.pth")
    content = path.read_bytes()
    for i in range(content.index(b"PK\1\2"), len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 0x41]) + content[i + 1 :])
        try:
            read_torch_file(path)
        except (Refused, KeyError, ValueError, struct.error, RuntimeError, OSError, zipfile.BadZipFile):
            continue


def test_tensors_are_written_as_the_cpu_s_so_that_plain_torch_reads_them_anywhere():
    of_gpu = types.SimpleNamespace(device=torch.device("cuda", 1))  # what torch asks of a storage
    places = []

    class File(io.BytesIO):
        def write(self, data):
            places.append(torch.serialization.location_tag(of_gpu))
            return super().write(data)

    write_torch_file({"w": torch.arange(6.0)}, file := File())
    assert set(places) == {"cpu"} and torch.serialization.location_tag(of_gpu) == "cuda:1"
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True)["w"], torch.arange(6.0))
