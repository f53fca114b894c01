"""What a SYN-ACK shows of its origin: a SYN cookie, or a request that the kernel keeps.

Each function looks at one kind of trace and returns signs: how much more likely it is from a cookie
than from a request, or that only one of the two can leave it. Signs are data; who collects them
adds up their odds. Refuses to know what the model believes.

Sources: net/ipv4/syncookies.c (cookie_init_timestamp, secure_tcp_syn_cookie), net/ipv4/tcp_output.c
(tcp_make_synack), net/core/secure_seq.c (seq_scale, secure_tcp_ts_off), net/ipv4/tcp_minisocks.c
(tcp_check_req).
"""

from __future__ import annotations

from math import inf, log
from typing import TYPE_CHECKING, Literal, NamedTuple

from backlogtrace.kernel.cookies import mss_index
from backlogtrace.segment import ECE, FIN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backlogtrace.kernel.profile import Profile
    from backlogtrace.segment import Segment

Origin = Literal["cookie", "request", "either"]

TSBITS = 6
TSVALUES = 1 << TSBITS
"""A cookie's TSval keeps the client's options in its low bits, so it is up to this many ticks old."""
_WSCALE_NONE = 0xF
_SACK_BIT = 0x10
_ECN_BIT = 0x20
_HALF = 1 << 31
_U32 = 0xFFFFFFFF
_IPV4 = 6  # bytes of an endpoint
_COOKIE_LOW = 1 << 24  # COOKIEBITS: below the minute counter
_ISN_TICK_NS = 64
_SKEW_NS = 1_000_000
_DRIFT = 500e-6  # a clock is slewed by no more
_UNSEEN_OPTIONS = log(20)  # a server without SACK and window scaling is this rare
_CLOCKLIKE = log(1000)
_LIKELY = log(100)
_MINUTE_NS = 60_000_000_000


class Sign(NamedTuple):
    """One trace."""

    name: str
    """What was seen, e.g. `options_kept`."""
    odds: float
    """Natural logarithm of P(seen | cookie) / P(seen | request); infinite where it is a proof."""


class Offers(NamedTuple):
    """Options the server is known to answer with; None: not known."""

    sack: bool | None = None
    wscale: bool | None = None


def weigh(signs: Iterable[Sign]) -> tuple[Origin, float]:
    """(what the signs say, the sum of their odds); contradicting proofs say nothing."""
    odds = [sign.odds for sign in signs]
    if not odds:
        return "either", 0.0
    if inf in odds and -inf in odds:
        return "either", 0.0
    total = sum(odds)
    if abs(total) < _LIKELY:
        return "either", total
    return ("cookie" if total > 0 else "request"), total


def encoded_options(syn: Segment, synack: Segment) -> int:
    """The low six bits that a cookie's TSval has: the client's window scale, SACK, and ECN if accepted."""
    wscale = min(syn.wscale, 14) if syn.wscale >= 0 and synack.wscale >= 0 else _WSCALE_NONE
    sack = _SACK_BIT if syn.sack_ok and synack.sack_ok else 0
    return wscale | sack | (_ECN_BIT if synack.flags & ECE else 0)


def option_signs(syn: Segment, synack: Segment, offers: Offers) -> list[Sign]:
    """What the options of a SYN-ACK say: a cookie without timestamps keeps only the MSS."""
    acked = (synack.ack - syn.seq - 1) & _U32
    if synack.fastopen is not None:
        return [Sign("fastopen_answered", -inf)]
    if acked and acked == syn.length + bool(syn.flags & FIN):
        return [Sign("data_acknowledged", -inf)]
    if synack.tsval >= 0:
        return []
    if synack.sack_ok or synack.wscale >= 0 or synack.flags & ECE:
        return [Sign("options_kept", -inf)]
    asked = [
        offer for wanted, offer in ((syn.sack_ok, offers.sack), (syn.wscale >= 0, offers.wscale)) if wanted
    ]
    if True in asked:
        return [Sign("options_lost", inf)]
    return [Sign("options_lost", _UNSEEN_OPTIONS)] if None in asked else []


def residue(syn: Segment, synack: Segment) -> int:
    """TSval without the options a cookie would keep in it: the same for all cookies of one clock."""
    return (synack.tsval - encoded_options(syn, synack)) % TSVALUES


def residue_sign(seen: int, of_cookies: int) -> Sign:
    """A SYN-ACK's residue next to the one that all cookies of its clock have."""
    return Sign("timestamp_bits", log(TSVALUES) if seen == of_cookies else -inf)


class Answer(NamedTuple):
    """A SYN and the SYN-ACK that answered it."""

    syn: Segment
    synack: Segment

    def created_after(self, earlier: Answer) -> tuple[int, int]:
        """(least, most) ns between the making of two SYN-ACKs: each was made between its two packets."""
        least = self.syn.time_ns - earlier.synack.time_ns
        most = self.synack.time_ns - earlier.syn.time_ns
        slack = _SKEW_NS + int(most * _DRIFT)
        return least - slack, most + slack


class IsnRelation(NamedTuple):
    """How the ISNs of two SYN-ACKs to the same 4-tuple relate."""

    kind: Literal["same", "cookies", "maybe_cookies", "clock", "later_minute", "unrelated"]
    """same: one request or two equal cookies. cookies: only two cookies of one minute differ like this;
    maybe_cookies: the client's ISNs follow a clock, as a server's would. clock: two requests.
    later_minute: cookies of two minutes may differ so. unrelated: neither two requests nor two cookies."""
    chance: float = 0.0
    """later_minute: how often other ISNs differ so."""


def relate(profile: Profile, before: Answer, after: Answer) -> IsnRelation:
    """How the ISN of a SYN-ACK follows from an earlier one's, to the same client address and port.

    A cookie is hash + client ISN + (minute << 24) + (hash of the minute + MSS index) mod 2^24; a
    request's ISN is hash + the time in units of 64 ns.
    """
    ipv6 = len(before.syn.src) > _IPV4
    index = [mss_index(profile, answer.syn.mss, ipv6=ipv6) for answer in (before, after)]
    step = index[1] - index[0]
    client = signed(after.syn.seq - before.syn.seq)
    server = signed(after.synack.seq - before.synack.seq)
    if not server and not client and not step:
        return IsnRelation("same")
    least, most = (ns // _ISN_TICK_NS for ns in after.created_after(before))
    if _within(client + step, server):
        clocklike = least <= client <= most or (server - least) % (1 << 32) <= most - least
        return IsnRelation("maybe_cookies" if clocklike else "cookies")
    if (server - least) % (1 << 32) <= most - least:
        return IsnRelation("clock")
    minutes = after.created_after(before)[1] // _MINUTE_NS + 1
    beyond = (server - client - step) & _U32
    if 0 < beyond < (minutes + 1) * _COOKIE_LOW:
        return IsnRelation("later_minute", (minutes + 1) * _COOKIE_LOW / (1 << 32))
    return IsnRelation("unrelated")


def _within(wanted: int, seen: int) -> bool:
    """Equal as cookies' ISNs are: the low 24 bits may carry over into the minute counter's place."""
    return (seen - wanted) & _U32 in {0, _COOKIE_LOW, -_COOKIE_LOW & _U32}


def signed(difference: int) -> int:
    """A difference of 32-bit numbers as a signed one."""
    return (difference + _HALF & _U32) - _HALF


MAYBE_COOKIES = Sign("isn_arithmetic", _CLOCKLIKE)
COOKIES = Sign("isn_arithmetic", inf)
REQUESTS = Sign("isn_clock", -_CLOCKLIKE)
FORGOTTEN = Sign("isn_forgotten", inf)
"""The same SYN again got another ISN, before any request could have expired."""
NOT_THE_CLOCK = Sign("isn_not_clock", log(10_000))
"""Its ISN does not follow from that of an earlier request; only a clock that was set does so, too."""
NOT_A_COOKIE = Sign("isn_not_cookie", -inf)
"""Its ISN does not follow from that of an earlier cookie."""
REPEATED = Sign("repeated_by_timer", -inf)
NOT_REPEATED = Sign("not_repeated", log(100))
"""The client was silent and the server alive, but its SYN-ACK was not repeated; or it closed the socket."""
BEHIND = Sign("timestamp_behind", inf)
"""Its TSval is older than the server's clock."""


def later_minute(relation: IsnRelation) -> Sign:
    """The ISN differs from an earlier cookie's as that of a later minute may."""
    return Sign("isn_arithmetic", log(1 / relation.chance))


def current(slack: float) -> Sign:
    """TSval is that of the server's clock to `slack` ticks, as one of 64 cookies' for each tick."""
    return Sign("timestamp_current", log(min((slack + 1) / TSVALUES, 1)))


def lag_slack(hz: int, ns: int) -> float:
    """Ticks that an honest TSval may seem late over `ns`: rounding, drift, a tick counted late."""
    return 2 + hz * 1e-3 + abs(ns) * _DRIFT * hz / 1e9
