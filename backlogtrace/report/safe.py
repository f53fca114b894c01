"""Makes foreign text fit for a terminal, a log line or a CSV cell.

Knows which characters do something else than show themselves. Refuses to know where the text goes.
"""

from __future__ import annotations

import re

LENGTH_LIMIT = 200
"""Characters of one foreign text that are shown."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_PLAIN = re.compile(r"[ -~]*")


def safe(text: str, limit: int = LENGTH_LIMIT) -> str:
    r"""`text` with everything unprintable as `\xNN` or `\uNNNN`, cut to `limit` characters.

    Covers C0, DEL, C1, bidirectional controls, line separators and lone surrogates (undecodable
    bytes of a file name), so that no text can move the cursor, fake a row or raise on output.
    """
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    if _PLAIN.fullmatch(text):
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x100:  # noqa: PLR2004
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - surrogateescape: the byte that was not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # noqa: PLR2004


def csv_text(text: str) -> str:
    """`text` as a CSV cell that no spreadsheet takes for a formula (CWE-1236)."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
