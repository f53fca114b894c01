"""Comments go in, nothing else changes: held to a reader of blocks that shares nothing with the writer."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backlogtrace.capture import annotate as module
from backlogtrace.capture.annotate import Comments, write_annotated
from tests.capture import capture_files as build
from tests.capture.capture_files import Packet

if TYPE_CHECKING:
    from pathlib import Path

SECTION, INTERFACE, OLD, SIMPLE, NAMES, STATISTICS, ENHANCED = 0x0A0D0D0A, 1, 2, 3, 4, 5, 6


class Block(NamedTuple):
    """A block as it stands in a file."""

    kind: int
    order: str
    data: bytes

    @property
    def options_at(self) -> int:
        """Where its options begin, for the kinds that get comments."""
        if self.kind == SECTION:
            return 24
        caplen: int = struct.unpack_from(self.order + "I", self.data, 20)[0]
        return 28 + (caplen + 3) // 4 * 4


def blocks(data: bytes) -> list[Block]:
    """All blocks; asserts that head and tail agree."""
    found, order, at = [], "<", 0
    while at < len(data):
        if data[at : at + 4] == b"\n\r\r\n":
            order = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}[data[at + 8 : at + 12]]
        kind, size = struct.unpack_from(order + "II", data, at)
        assert struct.unpack_from(order + "I", data, at + size - 4)[0] == size
        found.append(Block(kind, order, data[at : at + size]))
        at += size
    return found


def without_comment(block: Block) -> tuple[str, bytes]:
    """(the first option, a comment; the block as it was before the comment)."""
    at = block.options_at
    code, size = struct.unpack_from(block.order + "HH", block.data, at)
    assert code == 1
    text = block.data[at + 4 : at + 4 + size].decode()
    rest = block.data[at + 4 + (size + 3) // 4 * 4 : -4]
    return text, rest


def original(block: Block, was: Block) -> str:
    """Asserts that `block` is `was` with a comment, which is given back."""
    text, rest = without_comment(block)
    options = was.data[was.options_at : -4]
    assert rest == (options or bytes(4))
    assert block.data[8 : block.options_at] == was.data[8 : was.options_at]
    assert block.data[:4] == was.data[:4]
    return text


def annotated(
    path: Path, data: bytes, frames: list[int], section: str = ""
) -> tuple[bytes, Comments, list[str]]:
    """The output for the file `data`, with a comment of its number on each of `frames`."""
    path.write_bytes(data)
    out = io.BytesIO()
    comments = Comments(section, frames, lambda frame: f"frame {frame} é")
    info = write_annotated(str(path), comments, out)
    return out.getvalue(), comments, info.problems


def option_area(order: str, codes: list[tuple[int, bytes]], ended: bool) -> bytes:
    """Options, ended properly or not."""
    return b"".join(build.option(code, value, order) for code, value in codes) + (bytes(4) if ended else b"")


@st.composite
def sections(draw: st.DrawFn) -> bytes:
    """One section with blocks of all kinds."""
    order = draw(st.sampled_from("<>"))
    parts = [build.interface(order=order)]
    values = st.tuples(st.sampled_from([1, 2, 1234, 2988]), st.binary(max_size=9))
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from([ENHANCED, ENHANCED, ENHANCED, OLD, SIMPLE, NAMES, STATISTICS, 0xBAD]))
        data = draw(st.binary(max_size=9))
        options = option_area(order, draw(st.lists(values, max_size=2)), draw(st.booleans()))
        padded = data + bytes(-len(data) % 4)
        if kind == ENHANCED:
            parts.append(build.enhanced(Packet(data), order, options))
        elif kind == OLD:
            head = struct.pack(order + "HHIIII", 0, 0xFFFF, 0, 1, len(data), len(data))
            parts.append(build.block(OLD, head + padded + options, order))
        elif kind == SIMPLE:
            parts.append(build.block(SIMPLE, struct.pack(order + "I", len(data)) + padded, order))
        elif kind == STATISTICS:
            parts.append(build.block(STATISTICS, bytes(12) + options, order))
        else:
            parts.append(build.block(kind, padded, order))
    body = b"".join(parts)
    length = draw(st.sampled_from([-1, len(body)]))
    options = option_area(order, draw(st.lists(values, max_size=2)), draw(st.booleans()))
    head = build.block(SECTION, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, length) + options, order)
    return head + body


@pytest.fixture(params=["plain", "columns"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of finding blocks."""
    if request.param == "columns":
        monkeypatch.setattr(module, "SMALL", 0)
    return str(request.param)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(parts=st.lists(sections(), min_size=1, max_size=3), data=st.data())
def test_all_but_the_comments_stays(
    tmp_path: Path, way: str, parts: list[bytes], data: st.DataObject
) -> None:
    before = blocks(b"".join(parts))
    packets = [block for block in before if block.kind in {OLD, SIMPLE, ENHANCED}]
    chosen = data.draw(st.lists(st.sampled_from(range(1, len(packets) + 1)), unique=True)) if packets else []
    output, comments, problems = annotated(tmp_path / "x", b"".join(parts), sorted(chosen), "all")
    after = blocks(output)
    assert problems == []
    assert len(after) == len(before)
    frame = simple = 0
    for number, (block, was) in enumerate(zip(after, before, strict=True)):
        frame += was.kind in {OLD, SIMPLE, ENHANCED}
        due = was.kind in {OLD, SIMPLE, ENHANCED} and frame in chosen
        if due and was.kind == SIMPLE:
            simple += 1
            assert block == was
        elif due:
            assert original(block, was) == f"frame {frame} é"
        elif was.kind == SECTION:
            length = struct.unpack_from(was.order + "q", was.data, 16)[0]
            following = after[number + 1 :]
            inside = next((n for n, one in enumerate(following) if one.kind == SECTION), len(following))
            true = sum(len(one.data) for one in following[:inside])
            assert struct.unpack_from(block.order + "q", block.data, 16)[0] == (-1 if length < 0 else true)
            rest = block._replace(data=block.data[:16] + was.data[16:24] + block.data[24:])
            assert rest == was if number else original(rest, was) == "all"
        else:
            assert block == was
    assert comments.simple == simple


PACKETS = [
    Packet(bytes(range(size)), 1_795_322_240 * build.SECOND + size * 1000, size + 3) for size in range(9)
]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nano", [True, False])
@pytest.mark.parametrize("modified", [True, False])
def test_pcap_becomes_pcapng(tmp_path: Path, way: str, order: str, nano: bool, modified: bool) -> None:
    nano = nano and not modified
    data = build.pcap(PACKETS, 101, order, nano, 1234, modified)
    output, _, problems = annotated(tmp_path / "x", data, [2, 9], "all")
    assert problems == []
    head, interface, *packets = blocks(output)
    assert without_comment(head) == ("all", bytes(4))
    assert {block.order for block in (head, interface, *packets)} == {order}
    assert struct.unpack_from(order + "HHIHHB", interface.data, 8) == (101, 0, 1234, 9, 1, 9 if nano else 6)
    for number, (block, packet) in enumerate(zip(packets, PACKETS, strict=True), 1):
        _, high, low, caplen, wirelen = struct.unpack_from(order + "5I", block.data, 8)
        assert (high << 32 | low) * (1 if nano else 1000) == packet.time_ns
        assert (block.data[28 : 28 + caplen], wirelen) == (packet.data, packet.wirelen)
        if number in {2, 9}:
            assert without_comment(block) == (f"frame {number} é", bytes(4))
        else:
            assert len(block.data) == 32 + (caplen + 3) // 4 * 4


@pytest.mark.parametrize("kind", ["pcap", "pcapng"])
def test_of_a_cut_file_all_whole_packets_are_written(tmp_path: Path, way: str, kind: str) -> None:
    data = getattr(build, kind)(PACKETS)
    whole = blocks(annotated(tmp_path / "x", data, [1, 9])[0])
    output, _, problems = annotated(tmp_path / "x", data[:-1], [1, 9])
    assert blocks(output) == whole[:-1]
    assert len(problems) == 1
    assert "frame 9" in problems[0]


def test_a_block_that_would_become_too_large_keeps_its_size(tmp_path: Path) -> None:
    room = (1 << 24) - 32
    options = b"".join(build.option(2988, bytes(65532 - 4 * (n == 0))) for n in range(room // 65536))
    options += build.option(2988, bytes(room - len(options) - 4 - 4))
    data = build.section() + build.interface() + build.enhanced(Packet(b""), options=options)
    output, comments, problems = annotated(tmp_path / "x", data, [1])
    assert (output, comments.crowded, problems) == (data, 1, [])


def test_a_very_long_comment_is_cut_between_characters(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(build.pcapng(PACKETS[:1]))
    out = io.BytesIO()
    write_annotated(str(tmp_path / "x"), Comments("", [1], lambda _: "aé" * 60_000), out)
    text, _ = without_comment(blocks(out.getvalue())[-1])
    assert text == "aé" * 20_000
    assert len(text.encode()) == module.MAX_COMMENT


def test_packets_of_a_real_window_size_are_copied_in_runs(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW", 100)  # windows end inside blocks
    data = build.pcapng(PACKETS * 5)
    output, _, _ = annotated(tmp_path / "x", data, list(range(1, 46, 7)))
    after, before = blocks(output), blocks(data)
    texts = [
        original(block, was)
        for block, was in zip(after, before, strict=True)
        if len(block.data) > len(was.data)
    ]
    assert texts == [f"frame {number} é" for number in range(1, 46, 7)]
    same = [block for block, was in zip(after, before, strict=True) if block == was]
    assert len(same) == len(before) - len(texts)
