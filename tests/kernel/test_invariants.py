"""Whatever arrives, in whatever order: the queues stay consistent, and the same steps give the same end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from backlogtrace.kernel.clock import PruneClock, TickClock, WindowClock
from backlogtrace.kernel.connection import Child, child_sent
from backlogtrace.kernel.listener import at_timer
from backlogtrace.kernel.path import path, settle
from backlogtrace.kernel.profiles import PROFILES
from backlogtrace.kernel.request import Request
from backlogtrace.segment import ACK, FIN, PSH, RST, SYN
from tests.kernel.build import MS, SERVER, START, Server, client, isn, segment, server_isn

if TYPE_CHECKING:
    from collections.abc import Callable

    from backlogtrace.kernel.clock import Clock
    from backlogtrace.kernel.listener import ListenSocket
    from backlogtrace.kernel.outcome import Reply
    from backlogtrace.kernel.profile import Profile

BOOT = START - 290 * 1000 * MS  # the overflow stamp of 0 lies within reach
FLAGS = (
    SYN,
    SYN,
    SYN,
    ACK,
    ACK,
    ACK,
    ACK | PSH,
    RST,
    RST | ACK,
    FIN | ACK,
    FIN,
    SYN | ACK,
    SYN | FIN,
    SYN | RST,
    0,
)
OFFSETS = (0, 0, 0, 0, 0, 0, 1, -1, 5, 70_000, -70_000, 1 << 31)
STAMPS = (-1, -1, 1, 100, 2**32 - 1)
COOKIES = (None, None, b"", b"12345678")
SYSCTLS = {
    "net.core.somaxconn": (0, 3, 4096),
    "net.ipv4.tcp_syncookies": (0, 1, 2),
    "net.ipv4.tcp_abort_on_overflow": (0, 1),
    "net.ipv4.tcp_max_syn_backlog": (0, 4, 1024),
    "net.ipv4.tcp_synack_retries": (0, 1, 5, 255),
    "net.ipv4.tcp_fastopen": (0, 3, 0x203, 0x403, 0x1002),
    "net.ipv4.tcp_timestamps": (0, 1),
    "net.ipv4.tcp_tw_recycle": (0, 1),
    "net.ipv4.tcp_rfc1337": (0, 1),
    "net.ipv4.tcp_invalid_ratelimit": (0, 500),
    "net.ipv4.tcp_challenge_ack_limit": (0, 1, 2, 1000),
    "net.ipv4.tcp_migrate_req": (0, 1, 1),
    "net.ipv4.tcp_ecn": (0, 2),
}
PACKETS = st.tuples(
    st.sampled_from((0, 0, 1, 200, 600)),  # ms before it
    st.tuples(
        st.integers(1, 5), st.sampled_from(FLAGS), st.sampled_from(OFFSETS), st.sampled_from(OFFSETS),
        st.sampled_from((0, 0, 10)), st.sampled_from(STAMPS), st.sampled_from(COOKIES),
    ),
)  # fmt: skip
Step = tuple[str, Any]


def clock_of(profile: Profile, *, exact: bool) -> Clock:
    if profile.timer == "prune":
        return PruneClock(1000 if exact else 0, BOOT if exact else 0)
    return TickClock(250, BOOT, wheel=profile.timer == "wheel") if exact else WindowClock()


class World:
    """A server, the time, and every step as plain data."""

    def __init__(self, profile: Profile, *, exact: bool, backlog: int, **options: int) -> None:
        self.server = Server(
            profile, backlog, clock=clock_of(profile, exact=exact), fastopen_qlen=2, **options
        )
        self.listeners: list[ListenSocket] = [self.server.listener]
        self.most = {self.server.listener: backlog + 1}
        self.now = 0
        self.totals: dict[str, int] = {}
        self.moved = False
        """Whether what a closed socket had may have gone to another one, full or not."""

    def apply(self, step: Step) -> object:
        """Carry out one step; what is returned must be the same every time."""
        name, arguments = step
        action: Callable[..., object] = getattr(self, name)
        return action(*arguments)

    def packet(
        self, c: int, flags: int, seq: int, ack: int, length: int, tsval: int, cookie: bytes | None
    ) -> object:
        base = isn(c) + (not flags & SYN)
        inbound = segment(
            flags, c, self.now, seq=(base + seq) % 2**32, ack=(server_isn(c) + 1 + ack) % 2**32,
            length=length, tsval=tsval, tsecr=50 if tsval >= 0 else -1,
            fastopen=cookie if flags & SYN else None,
        )  # fmt: skip
        checks = path(self.server.stack, inbound)
        outcome = self.server.receive(inbound, c, tsval=50 if tsval >= 0 else -1)
        last = settle(checks, outcome)[-1]
        assert last.ends in {outcome.rule, ""}  # "": only the wire can tell
        for counter, value in outcome.counters.items():
            assert value > 0
            self.totals[counter] = self.totals.get(counter, 0) + value
        return outcome

    def server_sends(self, c: int, flags: int, ack: int) -> object:
        """On a connection that is no request any more."""
        inbound = segment(flags, c, self.now, ack=(isn(c) + 1 + ack) % 2**32)
        outbound = inbound._replace(src=SERVER, dst=client(c), seq=server_isn(c) + 1)
        child = self.server.stack.ehash.get(client(c) + SERVER)
        if isinstance(child, Child):
            child_sent(self.server.stack, child, outbound)
        return type(child).__name__

    def wire_shows(self, answer: Reply | None) -> None:
        """What the wire says from now on where it is asked."""
        self.server.stack.witness = lambda _: answer

    def wait(self, ms: int) -> object:
        self.now += ms
        fired = []
        stack = self.server.stack
        end = START + self.now * MS
        while stack.timers.next_due <= end:
            for request in stack.timers.pop_due(stack.timers.next_due):
                assert request.due <= request.deadline
                listener = at_timer(request)
                expire, send = request.listener.timer_plan(request)
                assert not (expire and send)
                gone = listener is None or not listener.listening
                fired.append((request.due, request.key, expire or gone, send))
                request.listener.timer_fired(
                    request, request.due, expire=expire or gone, send=send and not gone
                )
        return fired

    def accept(self) -> object:
        child = self.server.listener.accept()
        return child and child.key

    def listen(self, backlog: int) -> object:
        listener = self.server.listener
        if not listener.listening:
            listener = self.server.listener = self.server.stack.open(SERVER, backlog)
            self.listeners.append(listener)
        listener.listen(backlog)
        self.most[listener] = max(self.most.get(listener, 0), listener.accept_capacity)
        return listener.backlog

    def close(self) -> object:
        return (
            [child.key for child in self.server.listener.close()] if self.server.listener.listening else None
        )

    def replace(self, backlog: int) -> object:
        """Another socket of the group begins to listen, and the one before is closed."""
        if not self.server.listener.listening:
            return None
        before = self.server.listener
        self.server.listener = self.server.stack.open(SERVER, backlog)
        self.listeners.append(self.server.listener)
        self.most[self.server.listener] = self.server.listener.accept_capacity
        self.moved = self.moved or before.migrates
        return [child.key for child in before.close()]

    def sysctl(self, name: str, value: int) -> None:
        self.server.stack.settings.set(name, value)

    def check(self) -> None:
        """The invariants."""
        entries = list(self.server.stack.ehash.values())
        for listener in self.listeners:
            requests = [e for e in entries if isinstance(e, Request) and e.listener is listener]
            assert listener.requests == len(requests)
            if not listener.miscounted:
                assert 0 <= listener.young <= listener.qlen
                assert listener.young == sum(not request.num_timeout for request in requests)
            assert self.moved or len(listener.accept_queue) <= self.most[listener]
            assert listener.listening or not listener.accept_queue
            opening = [e for e in entries if isinstance(e, Child) and e.listener is listener and e.fastopen]
            in_syn_recv = sum(child.fin_seq_out is None for child in opening)
            in_syn_recv += sum(
                isinstance(e, Child) and e.listener is listener and e.half_open for e in entries
            )
            assert listener.fastopen.pending == in_syn_recv
            assert self.moved or len(opening) <= listener.fastopen.qlen
            assert listener.syn_length == listener.qlen + in_syn_recv
            assert listener.expiring == 0  # windows are the replay's business
        assert self.totals.get("ListenDrops", 0) >= self.totals.get("ListenOverflows", 0)
        assert self.server.stack.timers.next_due > START + self.now * MS or not entries


class Machine(RuleBasedStateMachine):
    """Random clients, timers, applications and administrators."""

    profile: Profile

    @initialize(
        exact=st.booleans(), backlog=st.sampled_from((0, 1, 3)), defer=st.sampled_from((0, 0, 5)),
        cookies=st.sampled_from((0, 1, 2)), fastopen=st.sampled_from((1, 0x203, 0x403)),
    )  # fmt: skip
    def start(self, exact: bool, backlog: int, defer: int, cookies: int, fastopen: int) -> None:
        self.made = {
            "exact": exact, "backlog": backlog, "defer_accept": defer, "tcp_syncookies": cookies,
            "tcp_fastopen": fastopen,
        }  # fmt: skip
        self.world = World(self.profile, **self.made)  # type: ignore[arg-type]
        self.steps: list[tuple[Step, object]] = []

    def do(self, name: str, *arguments: object) -> None:
        step = (name, arguments)
        self.steps.append((step, self.world.apply(step)))

    @rule(packets=st.lists(PACKETS, min_size=3, max_size=12))
    def segments_arrive(self, packets: list[tuple[int, tuple[object, ...]]]) -> None:
        for gap, packet in packets:
            self.do("wait", gap)
            self.do("packet", *packet)

    @rule(first=st.integers(1, 5), count=st.integers(1, 6), data=st.sampled_from((0, 10)))
    def clients_come_together(self, first: int, count: int, data: int) -> None:
        for flags in (SYN, ACK):
            for c in range(first, first + count):
                self.do("packet", c, flags, 0, 0, data, -1, None)

    @rule(
        c=st.integers(1, 5), flags=st.sampled_from((ACK, FIN | ACK, FIN | ACK, RST | ACK)),
        ack=st.sampled_from((0, 1, 10)),
    )  # fmt: skip
    def server_answers(self, c: int, flags: int, ack: int) -> None:
        self.do("server_sends", c, flags, ack)

    @rule(answer=st.sampled_from((None, "ack", "rst", "synack")))
    def capture_tells(self, answer: Reply | None) -> None:
        self.do("wire_shows", answer)

    @rule(ms=st.sampled_from((500, 1100, 3000, 10_000, 61_000, 130_000)))
    def time_passes(self, ms: int) -> None:
        self.do("wait", ms)

    @rule()
    def application_accepts(self) -> None:
        self.do("accept")

    @rule(backlog=st.sampled_from((-1, 0, 1, 2, 5, 100)))
    def application_listens(self, backlog: int) -> None:
        self.do("listen", backlog)

    @rule(packet=PACKETS, ms=st.sampled_from((0, 2000)))
    def application_starts_anew(self, packet: tuple[int, tuple[object, ...]], ms: int) -> None:
        self.do("close")
        self.do("wait", ms)
        self.do("packet", *packet[1])
        self.do("listen", 2)

    @rule(backlog=st.sampled_from((0, 1, 3)))
    def application_is_replaced(self, backlog: int) -> None:
        self.do("replace", backlog)

    @rule(setting=st.sampled_from([(name, value) for name, values in SYSCTLS.items() for value in values]))
    def administrator_sets(self, setting: tuple[str, int]) -> None:
        self.do("sysctl", *setting)

    @invariant()
    def queues_are_consistent(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        """The same steps again: the same outcomes (they are interned, so identity shows in equality)."""
        if hasattr(self, "world"):
            again = World(self.profile, **self.made)  # type: ignore[arg-type]
            for step, result in self.steps:
                assert again.apply(step) == result


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_random_life_of_a_listener(profile: Profile) -> None:
    """Every family, every clock that it can have."""
    machine = type("MachineOfOneKernel", (Machine,), {"profile": profile})
    run_state_machine_as_test(
        seed(profile.name)(machine),  # other steps for every family, the same in every run
        settings=settings(
            max_examples=8, stateful_step_count=25, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
