"""TCP options as tcp_parse_options() reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlogtrace.capture.options import NO_OPTIONS, parse_options


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", NO_OPTIONS),
        ("020405b40402080a0000000a000000140103030f", (1460, 14, True, 10, 20, None)),
        ("0101080affffffff00000000", (0, -1, False, 0xFFFFFFFF, 0, None)),
        ("00020405b4", NO_OPTIONS),  # nothing counts behind the end
        ("0201020405b4", NO_OPTIONS),  # a length below 2 ends the list
        ("020405b40304", (1460, -1, False, -1, -1, None)),  # an option that overruns ends it
        ("020405b402040000", (1460, -1, False, -1, -1, None)),  # an MSS of 0 is none
        ("020405b402040218", (536, -1, False, -1, -1, None)),  # the last one counts
        ("0203050404020304030700", NO_OPTIONS),  # of the wrong size: passed over
        ("2202", (0, -1, False, -1, -1, b"")),
        ("220601020304", (0, -1, False, -1, -1, b"\1\2\3\4")),
        ("2205010203", NO_OPTIONS),  # cookies have an even size
        ("22040102", NO_OPTIONS),  # and 4 bytes at least
        ("fe04f989", (0, -1, False, -1, -1, b"")),
        ("fe08f98901020304", (0, -1, False, -1, -1, b"\1\2\3\4")),
        ("fe04f988", NO_OPTIONS),
    ],
)
def test_options_of_a_syn(options: str, expected: tuple[object, ...]) -> None:
    assert parse_options(bytes.fromhex(options), syn=True) == expected


def test_only_timestamps_count_outside_a_syn() -> None:
    options = bytes.fromhex("020405b40402080a0000000a00000014010303072202")
    assert parse_options(options, syn=False) == (0, -1, False, 10, 20, None)


@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_give_values_in_range(options: bytes, syn: bool) -> None:
    mss, wscale, _, tsval, tsecr, fastopen = parse_options(options, syn=syn)
    assert 0 <= mss < 1 << 16
    assert -1 <= wscale <= 14
    assert -1 <= tsval < 1 << 32
    assert -1 <= tsecr < 1 << 32
    assert fastopen is None or len(fastopen) in {0, 4, 6, 8, 10, 12, 14, 16}
