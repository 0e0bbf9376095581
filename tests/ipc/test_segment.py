"""Segments: what they are, who may write them, how they travel, and when they are gone."""

import gc
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tradeengine.ipc.segment import HEADER_BYTES, Segment, SegmentError

READ_ONE_BYTE = """
import sys
from tradeengine.ipc.segment import Segment
segment = Segment.attach(int(sys.argv[1]), writable=False)
print(segment.name, segment.array("u1", 100, 1)[0])
"""


def test_attached_segment_is_the_same_memory() -> None:
    """What is written through one mapping is read through another, at the same offset."""
    segment = Segment.create("books", 4096)
    other = Segment.attach(os.dup(segment.fd), writable=True)
    segment.array("<i8", 64, 2)[:] = [3, 4]
    assert (other.name, other.size) == ("books", 4096)
    assert other.array("<i8", 64, (2, 1)).tolist() == [[3], [4]]
    assert other.buffer(72, 8).cast("q")[0] == 4


def test_new_segment_is_zero_and_aligned() -> None:
    """A new segment is all zero bytes and begins at a cache line."""
    segment = Segment.create("zeros", 1000)
    assert not segment.array("u1", 0, 1000).any()
    assert segment.address(0) % 64 == 0


@pytest.mark.parametrize(("offset", "count"), [(-8, 1), (0, 513), (4089, 1)])
def test_array_outside_the_segment_is_refused(offset: int, count: int) -> None:
    """An array that would reach beyond the segment is our mistake, and asserted."""
    with pytest.raises(AssertionError):
        Segment.create("short", 4096).array("<i8", offset, count)


def test_read_only_descriptor_cannot_be_mapped_for_writing() -> None:
    """A read-only descriptor gives read-only arrays, and neither it nor a copy of it gives more."""
    segment = Segment.create("events", 64)
    reader = Segment.attach(segment.read_only_descriptor(), writable=False)
    assert not reader.array("u1", 0, 64).flags.writeable
    with pytest.raises(PermissionError):
        Segment.attach(os.dup(reader.fd), writable=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(reader.fd, b"x", HEADER_BYTES)


def test_nobody_resizes_a_segment() -> None:
    """A segment can be neither shrunk nor grown, so that no holder's mapping ends in a SIGBUS."""
    segment = Segment.create("sealed", 8192)
    for size in (0, 4096, 1 << 20):
        with pytest.raises(PermissionError):
            os.ftruncate(segment.fd, size)


def test_other_descriptors_are_refused(tmp_path: Path) -> None:
    """A descriptor that is no segment is refused with a reason, before anything in it is believed."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 4096)
    with pytest.raises(SegmentError, match="no magic"):
        Segment.attach(os.open(path, os.O_RDONLY), writable=False)
    path.write_bytes(b"")
    with pytest.raises(SegmentError, match="0 bytes"):
        Segment.attach(os.open(path, os.O_RDONLY), writable=False)


@pytest.mark.parametrize(("offset", "value", "reason"), [(8, 99, "layout version 99"), (16, 1 << 40, "says")])
def test_damaged_header_is_refused(offset: int, value: int, reason: str) -> None:
    """A header of another version, or with another size than the memory has, is refused."""
    segment = Segment.create("damaged", 64)
    os.pwrite(segment.fd, struct.pack("<q", value), offset)
    with pytest.raises(SegmentError, match=reason):
        Segment.attach(os.dup(segment.fd), writable=True)


def test_unsealed_memory_is_refused() -> None:
    """Memory that its holder could shrink is refused, even when its content is a segment's."""
    segment = Segment.create("copied", 64)
    fd = os.memfd_create("copy", os.MFD_CLOEXEC)
    os.write(fd, os.pread(segment.fd, HEADER_BYTES + 64, 0))
    with pytest.raises(SegmentError, match="resized"):
        Segment.attach(fd, writable=True)


def test_program_gets_a_segment_by_pass_fds() -> None:
    """A child program that inherits the descriptor reads what was written."""
    segment = Segment.create("inherited", 4096)
    segment.array("u1", 100, 1)[0] = 42
    program = [sys.executable, "-c", READ_ONE_BYTE, str(segment.fd)]
    result = subprocess.run(program, pass_fds=[segment.fd], capture_output=True, check=True, text=True)
    assert result.stdout == "inherited 42\n"


def test_client_gets_a_segment_by_socket() -> None:
    """A descriptor sent over a Unix socket is the same memory, read-only when it was opened so."""
    segment = Segment.create("sent", 64)
    ours, theirs = socket.socketpair()
    fd = segment.read_only_descriptor()
    with ours, theirs:
        socket.send_fds(ours, [b"segment"], [fd])
        _, (received,), _, _ = socket.recv_fds(theirs, 16, 1)
    os.close(fd)
    other = Segment.attach(received, writable=False)
    segment.array("u1", 0, 1)[0] = 9
    assert other.array("u1", 0, 1)[0] == 9


def test_memory_goes_with_its_last_holder() -> None:
    """Closing gives back the descriptor; arrays stay valid, and the memory is unmapped with the last of them."""
    with Segment.create("short-lived", 4096) as segment:
        array = segment.array("<i8", 0, 1)
    array[0] = 5
    assert array[0] == 5
    assert "tradeengine:short-lived" in Path("/proc/self/maps").read_text()
    del array, segment
    gc.collect()
    assert "tradeengine:short-lived" not in Path("/proc/self/maps").read_text()
