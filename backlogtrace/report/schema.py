"""JSON Schemas (2020-12) of the JSON Lines output and of the host file.

Knows the shape of both formats; tests hold the writers and the host reader to it.
Refuses to know how the values come about.
"""

from __future__ import annotations

from typing import Any

from backlogtrace.kernel.sysctl import SYSCTLS

_Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NUMBER: _Schema = {"type": "integer", "minimum": 0}
_TEXT: _Schema = {"type": "string"}
_TIME: _Schema = {"type": "integer", "description": "nanoseconds since the epoch"}
_FRAME: _Schema = {
    "type": "integer",
    "minimum": 1,
    "description": "number of the packet, as Wireshark counts",
}
_BOUNDS: _Schema = {
    "type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2,
    "description": "[lowest, highest] the evidence allows",
}  # fmt: skip
_COUNTS: _Schema = {"type": "object", "additionalProperties": _NUMBER}
_TEXTS: _Schema = {"type": "array", "items": _TEXT}
_DECISIONS = (
    "queued", "cookie", "fastopen", "retransmitted", "established", "dropped", "overflow", "rst", "deferred",
    "aborted", "ignored", "passed",
)  # fmt: skip
_MISMATCHES = ("unexpected_reply", "missing_reply", "wrong_reply", "unexpected_packet", "missing_packet")
_FLAGS: _Schema = {"type": "string", "pattern": "^S?A?F?R?P?U?E?C?$"}


def _or_null(schema: _Schema) -> _Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(required: _Schema, optional: _Schema | None = None) -> _Schema:
    """A closed object: a key that is not listed is an error."""
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


_WHERE: _Schema = {"listener": _TEXT, "peer": _TEXT}

_JSONL: dict[str, _Schema] = {
    "header": _object(
        {
            "type": {"const": "header"}, "schema_version": {"const": "1"}, "capture": _TEXT,
            "packets": _NUMBER, "handshake_packets": _NUMBER, "kernel": _TEXT,
            "mode": {"enum": ["predict", "infer"]}, "assumed": _TEXTS,
            "quality": {"enum": ["A", "B", "C", "D"]},
        },
        {"quality_reasons": _TEXTS, "notes": _TEXTS, "skipped": _COUNTS, "problems": _TEXTS},
    ),
    "packet_in": _object({
        "type": {"const": "packet"}, "frame": _FRAME, "time_ns": _TIME, **_WHERE, "dir": {"const": "in"},
        "flags": _FLAGS, "decision": {"enum": list(_DECISIONS)}, "reason": _TEXT, "rule": _TEXT,
        "function": _TEXT, "reply": {"enum": ["synack", "rst", "ack", None]}, "counters": _COUNTS,
        "accept_queue": _BOUNDS, "syn_queue": _BOUNDS,
        "certainty": {"enum": ["certain", "likely", "undecided"]}, "resolved_by": _or_null(_FRAME),
        "rivals": _TEXTS,
    }),
    "packet_out": _object(
        {
            "type": {"const": "packet"}, "frame": _FRAME, "time_ns": _TIME, **_WHERE, "dir": {"const": "out"},
            "flags": _FLAGS, "decision": {"enum": ["synack", "rst", "ack", "passed"]}, "reason": _TEXT,
            "cause": _or_null(_FRAME), "attempt": _or_null(_NUMBER), "expected": {"type": "boolean"},
        },
        {"counters": _COUNTS},
    ),
    "event": _object(
        {
            "type": {"const": "event"}, "time_ns": _TIME, "listener": _TEXT, "peer": _or_null(_TEXT),
            "event": _TEXT, "accept_queue": _BOUNDS, "syn_queue": _BOUNDS,
        },
        {"counters": _COUNTS, "detail": _TEXT},
    ),
    "mismatch": _object({
        "type": {"const": "mismatch"}, "frame": _or_null(_FRAME), "time_ns": _TIME, **_WHERE,
        "what": {"enum": list(_MISMATCHES)},
        "detail": _TEXT,
    }),
    "summary": _object({
        "type": {"const": "summary"}, "listener": _TEXT, "kernel": _TEXT,
        "backlog": _or_null({"type": "integer"}), "decisions": _COUNTS, "counters": _COUNTS,
        "peak_accept_queue": _BOUNDS, "peak_syn_queue": _BOUNDS, "mismatches": _NUMBER,
    }),
}  # fmt: skip

_C_INT: _Schema = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
_COUNT_OR_NULL = _or_null({"type": "integer", "minimum": 0, "maximum": 2**31 - 1})
_EVENT = {"time_ns": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}}
_INDEX = {"listener": _or_null(_NUMBER)}
_SYSCTL_NAMES = [name for entry in SYSCTLS for name in (entry, entry.rpartition(".")[2])]


def _sysctl_schema(name: str) -> _Schema:
    entry = next(entry for full, entry in SYSCTLS.items() if name in {full, full.rpartition(".")[2]})
    return {"type": "integer", "minimum": entry.low, "maximum": entry.high, "description": entry.meaning}


_HOST_LISTENER = _object(
    {"port": {"type": "integer", "minimum": 1, "maximum": 65535}},
    {
        "address": {"type": "string", "description": "numeric; :: (assumed when missing) also serves IPv4"},
        "backlog": _or_null(_C_INT),
        "opened_ns": _or_null(_TIME),
        "defer_accept": _COUNT_OR_NULL,
        "fastopen_qlen": _COUNT_OR_NULL,
        "syncnt": _or_null({"type": "integer", "minimum": 0, "maximum": 255}),
    },
)
_HOST_EVENT = {
    "oneOf": [
        _object(_EVENT | {"op": {"const": "accept"}}, _INDEX | {"peer": _or_null(_TEXT)}),
        _object(_EVENT | {"op": {"const": "listen"}, "backlog": _C_INT}, _INDEX),
        _object(_EVENT | {"op": {"const": "close"}}, _INDEX),
        _object(
            _EVENT
            | {"op": {"const": "sysctl"}, "name": {"enum": _SYSCTL_NAMES}, "value": {"type": "integer"}},
            _INDEX,
        ),
    ]
}

SCHEMAS: dict[str, _Schema] = {
    "jsonl": {
        "$schema": _DIALECT,
        "title": "one line of backlogtrace analyze -T jsonl, schema_version 1",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in _JSONL],
        "$defs": _JSONL,
    },
    "host": {
        "$schema": _DIALECT,
        "title": "backlogtrace host file",
        **_object(
            {},
            {
                "kernel": _or_null({"type": "string", "minLength": 1}),
                "hz": _or_null({"type": "integer", "minimum": 1, "maximum": 10_000}),
                "boot_ns": _or_null(_TIME),
                "sysctl": _object({}, {name: _sysctl_schema(name) for name in _SYSCTL_NAMES}),
                "listeners": {"type": "array", "items": _HOST_LISTENER},
                "events": {"type": "array", "items": _HOST_EVENT},
            },
        ),
    },
}
"""Name of a format -> its schema."""
