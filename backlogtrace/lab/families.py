"""The families of scenarios: what is drawn at random in each, from a seed.

The same family, seed and length give the same script on every machine. Refuses to know how a script
is played.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any, Final

from backlogtrace.lab.scenario import App, Client, Odd, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULTS: Final = {
    "net.ipv4.tcp_syncookies": 1,
    "net.ipv4.tcp_abort_on_overflow": 0,
    "net.ipv4.tcp_max_syn_backlog": 2048,
    "net.core.somaxconn": 4096,
    "net.ipv4.tcp_synack_retries": 5,
    "net.ipv4.tcp_fastopen": 1,
    "net.ipv4.tcp_timestamps": 1,
    "net.ipv4.tcp_sack": 1,
    "net.ipv4.tcp_window_scaling": 1,
    "net.ipv4.tcp_ecn": 2,
    "net.ipv4.tcp_tw_reuse": 0,
}
"""What every scenario sets, whatever the machine's own defaults."""
_ABORT = "net.ipv4.tcp_abort_on_overflow"
_COOKIES = "net.ipv4.tcp_syncookies"
_RETRIES = "net.ipv4.tcp_synack_retries"
_SYN_BACKLOG = "net.ipv4.tcp_max_syn_backlog"
_SOMAXCONN = "net.core.somaxconn"
_MIGRATE = "net.ipv4.tcp_migrate_req"
_FAST_OPEN = "net.ipv4.tcp_fastopen"
_FIRST_MS = 40
_RETRIES_END_MS = 1300
_CLOCK = 200  # number of the client whose request shows when timers fire
_ODDITIES = (
    "rst", "rst_off", "ack_off", "seq_off", "paws", "far_data", "syn_again", "syn_later", "syn_earlier",
    "syn_fin", "syn_ack", "fin", "no_ack", "null", "stray_ack", "bare_ack",
)  # fmt: skip


class _Draw:
    """The dice of one scenario, and what they are thrown for in several families."""

    def __init__(self, family: str, seed: int, lasts: int) -> None:
        self.rng = Random(f"{family} {seed}")  # noqa: S311 - repeatable, no secret
        self.family, self.seed, self.lasts = family, seed, lasts

    def one(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def maybe(self, chance: float) -> bool:
        return self.rng.random() < chance

    def moment(self, first: float = 0.0, last: float = 1.0) -> int:
        """A time between two parts of the scenario."""
        return _FIRST_MS + int(self.rng.uniform(first, last) * (self.lasts - _FIRST_MS))

    def client(self, number: int, start: int, **given: Any) -> Client:
        """Client `number` with an address of its own and a stack like many that exist."""
        rng = self.rng
        drawn: dict[str, Any] = {
            "address": f"10.9.1.{2 + number}",
            "port": 20001 + number,
            "isn": rng.getrandbits(32),
            "rtt": rng.randint(3, 400),
            "mss": self.one(536, 1400, 1460, 1460, 1460, 8960),
            "wscale": self.one(-1, 0, 2, 7, 7, 14),
            "sack": self.maybe(0.8),
            "tsval": rng.getrandbits(31) if self.maybe(0.8) else -1,
            "ecn": self.maybe(0.2),
            "manner": "silent" if self.maybe(0.15) else "refuse" if self.maybe(0.05) else "normal",
            "lost_acks": self.one(0, 0, 0, 0, 1, 2),
            "data_after": rng.randint(20, 800) if self.maybe(0.6) else None,
            "data_length": self.one(1, 10, 200, 1000),
            "data_first": self.maybe(0.1),
            "ending": self.one("stay", "stay", "stay", "fin", "reset"),
            "ends_after": rng.randint(50, 1500),
            "syn_data": 30 if self.maybe(0.03) else 0,
        }
        return Client(start=start, **drawn | given)

    def crowd(self, count: int, last: float = 0.6, **given: Any) -> tuple[Client, ...]:
        """Clients that arrive within the first part of the scenario."""
        starts = sorted(self.moment(0, last) for _ in range(count))
        return tuple(self.client(number, start, **given) for number, start in enumerate(starts))

    def accepts(self, count: int, first: float = 0.0) -> tuple[App, ...]:
        """accept() calls, some of them followed by a write or a close."""
        steps = []
        for number in range(count):
            at = self.moment(first, 0.95)
            steps.append(App(at, "accept", self.one(1, 1, 2, 100)))
            if self.maybe(0.4):
                steps.append(App(at + self.rng.randint(5, 300), self.one("write", "finish"), number))
        return tuple(sorted(steps, key=lambda step: step.at))

    def scenario(self, backlog: int, clients: tuple[Client, ...], **given: Any) -> Scenario:
        """The scenario; `sysctl` in `given` is added to the defaults."""
        sysctl = DEFAULTS | given.pop("sysctl", {})
        app: tuple[App, ...] = given.pop("app", ())
        if not sysctl[_RETRIES]:
            sysctl[_RETRIES] = 1
            app = (*app, App(0, "sysctl", 0, _RETRIES))
        if any(step.name == _RETRIES and not step.value for step in app):
            # Requests that expire without a SYN-ACK sent again leave no trace, and the capture would not
            # show when this machine's timers fire. One request does, before the retries end.
            app = tuple(
                replace(step, at=max(step.at, _RETRIES_END_MS)) if step.name == _RETRIES else step
                for step in app
            )
            clock = self.client(_CLOCK, _FIRST_MS, manner="silent", syn_retries=(), lost_acks=0, syn_data=0)
            clients = (*clients, clock)
        return Scenario(self.family, self.seed, self.lasts, sysctl, backlog, clients, app=app, **given)


def _documents(draw: _Draw) -> Scenario:
    """The experiments of the articles that the project started from."""
    plain: dict[str, Any] = {
        "manner": "normal", "lost_acks": 0, "ending": "stay", "syn_data": 0, "data_first": False, "wscale": 7,
        "mss": 1460, "sack": True, "ecn": False,
    }  # fmt: skip
    match draw.seed % 6:
        case 0:  # two fit, the third is told nothing
            starts = enumerate((40, 90, 800))
            clients = tuple(draw.client(n, at, **plain, rtt=40, data_after=None) for n, at in starts)
            return draw.scenario(1, clients)
        case 1 | 2:  # cookies first, overflow of both kinds later
            clients = tuple(draw.client(n, 40 + 30 * n, **plain, rtt=450, data_after=2000) for n in range(10))
            return draw.scenario(5, clients, sysctl={_ABORT: draw.seed % 6 - 1})
        case 3:  # Java's default backlog
            clients = draw.crowd(60, 0.4, **plain, data_after=80)
            return draw.scenario(50, clients, app=(App(draw.lasts * 3 // 4, "accept", 100),))
        case 4:  # somaxconn limits the backlog
            clients = draw.crowd(30, 0.3, **plain, data_after=80)
            return draw.scenario(128, clients, sysctl={_SOMAXCONN: 4}, app=draw.accepts(2, 0.5))
    clients = draw.crowd(24, 0.3, **plain | {"manner": "silent"})
    return draw.scenario(128, clients, sysctl={_COOKIES: 0, _SYN_BACKLOG: 16})


def _stalled(draw: _Draw) -> Scenario:
    clients = draw.crowd(draw.rng.randint(4, 12), data_after=200)
    return draw.scenario(draw.one(1, 1, 2, 3), clients, sysctl={_RETRIES: draw.one(0, 1, 3, 5)})


def _cookies(draw: _Draw) -> Scenario:
    clients = draw.crowd(draw.rng.randint(10, 30), 0.3)
    return draw.scenario(
        draw.rng.randint(3, 12), clients, sysctl={_ABORT: draw.one(0, 1), _RETRIES: draw.one(0, 2, 5)}
    )


def _no_cookies(draw: _Draw) -> Scenario:
    clients = draw.crowd(draw.rng.randint(8, 30), 0.5, manner=draw.one("silent", "normal"))
    return draw.scenario(
        draw.one(2, 7, 8, 16),
        clients,
        sysctl={_COOKIES: 0, _SYN_BACKLOG: draw.one(4, 8, 64, 128), _RETRIES: draw.one(0, 1, 2, 5)},
    )


def _default_drop(draw: _Draw) -> Scenario:
    settings = {
        _COOKIES: 0, _ABORT: draw.one(0, 1), _SYN_BACKLOG: draw.one(8, 16, 64, 256),
        _SOMAXCONN: draw.one(4, 128, 4096), _RETRIES: draw.one(0, 1, 2, 5),
    }  # fmt: skip
    clients = draw.crowd(draw.rng.randint(8, 30))
    apps = draw.accepts(draw.one(0, 4, 10))
    return draw.scenario(draw.one(1, 4, 8, 16), clients, sysctl=settings, app=apps)


def _mixed(draw: _Draw) -> Scenario:
    settings = {
        _COOKIES: draw.one(0, 1, 1, 2), _ABORT: draw.one(0, 1), _SYN_BACKLOG: draw.one(4, 8, 64, 2048),
        _SOMAXCONN: draw.one(4, 128, 4096), _RETRIES: draw.one(0, 1, 3, 5),
        "net.ipv4.tcp_timestamps": draw.one(0, 1, 1, 2), "net.ipv4.tcp_sack": draw.one(0, 1, 1),
        "net.ipv4.tcp_window_scaling": draw.one(0, 1, 1),
    }  # fmt: skip
    clients = draw.crowd(draw.rng.randint(5, 35), 0.8)
    apps = draw.accepts(draw.one(0, 3, 12))
    return draw.scenario(
        draw.one(0, 2, 4, 16, 30), clients, sysctl=settings, app=apps, syncnt=draw.one(None, None, 1, 3)
    )


def _burst(draw: _Draw) -> Scenario:
    """Many SYNs at once; more than half full, requests expire early."""
    count = draw.one(16, 40, 70)
    clients = tuple(
        draw.client(number, _FIRST_MS + draw.rng.randint(0, 60), manner=manner)
        for number in range(count)
        for manner in [draw.one("silent", "silent", "normal")]
    )
    settings = {_COOKIES: draw.one(0, 1), _RETRIES: draw.one(1, 2, 4, 5)}
    return draw.scenario(draw.one(4, 10, 40, 64), clients, sysctl=settings, app=draw.accepts(draw.one(0, 3)))


def _relisten(draw: _Draw) -> Scenario:
    changes: list[App] = list(draw.accepts(draw.one(0, 4)))
    changes += [
        App(draw.moment(0.1, 0.8), "listen", draw.one(0, 1, 3, 8, 20)) for _ in range(draw.rng.randint(1, 4))
    ]
    for _ in range(draw.rng.randint(0, 2)):
        name = draw.one(_ABORT, _COOKIES, _RETRIES)
        changes.append(App(draw.moment(0.1, 0.8), "sysctl", draw.one(0, 1), name))
    changes.sort(key=lambda step: step.at)
    return draw.scenario(draw.one(1, 3, 6, 10), draw.crowd(draw.rng.randint(8, 25), 0.8), app=tuple(changes))


def _ipv6(draw: _Draw) -> Scenario:
    clients = tuple(
        client if draw.maybe(0.15) else replace(client, address=f"fd09::1:{number + 2:x}")
        for number, client in enumerate(draw.crowd(draw.rng.randint(8, 25)))
    )
    settings = {_ABORT: draw.one(0, 1), _COOKIES: draw.one(0, 1, 1, 2), _RETRIES: draw.one(0, 2, 3, 5)}
    return draw.scenario(
        draw.one(3, 5, 7, 8, 12), clients, sysctl=settings, address="::", app=draw.accepts(draw.one(0, 3))
    )


def _cookie_only(draw: _Draw) -> Scenario:
    clients = draw.crowd(draw.rng.randint(6, 25))
    settings = {_COOKIES: draw.one(1, 2, 2, 2), _ABORT: draw.one(0, 1)}
    return draw.scenario(draw.one(0, 1, 3, 10), clients, sysctl=settings, app=draw.accepts(draw.one(0, 3, 8)))


def _cookie_options(draw: _Draw) -> Scenario:
    """Cookies on their way while the options that their timestamps keep are switched off and on."""
    names = ("net.ipv4.tcp_sack", "net.ipv4.tcp_window_scaling", "net.ipv4.tcp_timestamps")
    changes = [
        App(draw.moment(0.05, 0.7), "sysctl", draw.one(0, 1), draw.one(*names))
        for _ in range(draw.rng.randint(2, 8))
    ]
    clients = draw.crowd(draw.rng.randint(8, 25), 0.7, rtt=draw.rng.randint(100, 900))
    apps = tuple(sorted([*changes, *draw.accepts(draw.one(0, 3))], key=lambda step: step.at))
    return draw.scenario(draw.one(1, 3, 20), clients, sysctl={_COOKIES: draw.one(1, 2, 2)}, app=apps)


def _odd_segments(draw: _Draw) -> Scenario:
    clients = draw.crowd(draw.rng.randint(6, 18))
    odd = tuple(
        Odd(draw.moment(0.02, 0.95), draw.rng.randrange(len(clients)), draw.one(*_ODDITIES))
        for _ in range(draw.rng.randint(15, 40))
    )
    settings = {_COOKIES: draw.one(0, 1, 2), _ABORT: draw.one(0, 1), _RETRIES: draw.one(0, 1, 3)}
    apps = draw.accepts(draw.one(0, 3))
    return draw.scenario(draw.one(0, 2, 5), clients, odd=odd, sysctl=settings, app=apps)


def _closing(draw: _Draw) -> Scenario:
    apps = (*draw.accepts(draw.one(0, 2)), App(draw.moment(0.3, 0.7), "close"))
    apps = tuple(step for step in apps if step.at <= apps[-1].at)
    return draw.scenario(draw.one(1, 3, 20), draw.crowd(draw.rng.randint(5, 14), 0.9), app=apps)


def _reopening(draw: _Draw) -> Scenario:
    """A service that is restarted: the same port, another socket; its clients go on."""
    closed = draw.moment(0.2, 0.5)
    opened = closed + draw.one(5, 100, 600, 1500)
    apps = [step for step in draw.accepts(draw.one(0, 3)) if not closed <= step.at <= opened]
    apps += [App(closed, "close"), App(opened, "open", draw.one(0, 2, 10))]
    apps.sort(key=lambda step: step.at)
    settings = {_COOKIES: draw.one(0, 1, 1, 2), _ABORT: draw.one(0, 1), _RETRIES: draw.one(1, 3, 5)}
    return draw.scenario(
        draw.one(1, 3, 20), draw.crowd(draw.rng.randint(6, 18), 0.9), sysctl=settings, app=tuple(apps)
    )


def _migrating(draw: _Draw) -> Scenario:
    """A service that is replaced: a second socket opens, the first one closes, what it had moves or not."""
    closed = draw.moment(0.25, 0.6)
    opened = closed - draw.one(1, 1, 1, 30)
    apps = [replace(step, socket=int(step.at >= opened)) for step in draw.accepts(draw.one(0, 2, 6))]
    apps += [App(opened, "open", draw.one(0, 1, 3, 10), socket=1), App(closed, "close")]
    if draw.maybe(0.3):
        apps.append(App(draw.moment(0.1, 0.7), "sysctl", draw.one(0, 1), _MIGRATE))
    if draw.maybe(0.2):
        apps.append(App(draw.moment(0.7, 0.9), "close", socket=1))
    clients = draw.crowd(draw.rng.randint(5, 16), 0.8, rtt=draw.rng.randint(3, 900))
    odd = tuple(
        Odd(draw.moment(0.1, 0.9), draw.rng.randrange(len(clients)), draw.one(*_ODDITIES))
        for _ in range(draw.one(0, 0, 10))
    )
    settings = {
        _MIGRATE: draw.one(0, 1, 1, 1), _COOKIES: draw.one(0, 1, 1, 2), _ABORT: draw.one(0, 1),
        _RETRIES: draw.one(1, 3, 5),
    }  # fmt: skip
    return draw.scenario(
        draw.one(1, 3, 20, 20), clients, odd=odd, sysctl=settings, app=tuple(sorted(apps, key=_time)),
        sockets=2, defer_accept=draw.one(None, None, None, 3),
    )  # fmt: skip


def _time(step: App) -> int:
    return step.at


def _defer(draw: _Draw) -> Scenario:
    clients = draw.crowd(draw.rng.randint(4, 12))
    return draw.scenario(
        draw.one(1, 1, 20),
        clients,
        sysctl={_RETRIES: draw.one(0, 2, 5)},
        app=draw.accepts(draw.one(0, 3)),
        defer_accept=draw.one(1, 3, 10),
    )


def _timewait(draw: _Draw) -> Scenario:
    """Connections that the server closes first, and clients that come back from the same port."""
    sure: dict[str, Any] = {"manner": "normal", "lost_acks": 0, "syn_data": 0, "data_after": None}
    rtt = draw.rng.randint(3, 60)
    first = [
        draw.client(number, draw.moment(0, 0.05), **sure, rtt=rtt, ending="fin", ends_after=30)
        for number in range(draw.rng.randint(2, 4))
    ]
    done = draw.lasts // 4
    apps = [App(done, "accept", 100)]
    apps += [App(done + 20 + 10 * number, "finish", number) for number in range(len(first))]
    again = []
    for old in first:
        start = draw.moment(0.45, 0.7)
        passed = start - old.start
        again.append(replace(
            draw.client(0, start, manner=draw.one("normal", "silent")),
            address=old.address, port=old.port,
            isn=(old.isn + draw.one(-1000, 0, 1, 2, 70_000, 2_000_000)) & 0xFFFFFFFF,
            tsval=-1 if old.tsval < 0 or draw.maybe(0.2) else old.tsval + draw.one(passed, passed, -5000),
        ))  # fmt: skip
    others = [draw.client(10 + number, draw.moment(0.3, 0.9)) for number in range(draw.rng.randint(2, 10))]
    settings = {_COOKIES: draw.one(0, 0, 1), "net.ipv4.tcp_tw_reuse": draw.one(0, 0, 1)}
    clients = tuple(sorted([*first, *again, *others], key=lambda client: client.start))
    return draw.scenario(draw.one(4, 8), clients, sysctl=settings, app=tuple(apps))


def _fastopen(draw: _Draw) -> Scenario:
    clients = tuple(
        replace(
            client,
            address=f"10.9.1.{draw.one(2, 3, 4)}",
            fastopen=draw.one(None, "request", "cookie", "cookie", "cookie", "bad"),
            syn_data=draw.one(0, 20, 300),
        )
        for client in draw.crowd(draw.rng.randint(5, 16), 0.8)
    )
    settings = {
        _FAST_OPEN: draw.one(2, 3, 3, 0x203, 0x403, 0x603, 1), _COOKIES: draw.one(0, 1, 1, 2),
        _ABORT: draw.one(0, 1), _RETRIES: draw.one(0, 1, 5),
    }  # fmt: skip
    return draw.scenario(
        draw.one(1, 3, 10),
        clients,
        sysctl=settings,
        app=draw.accepts(draw.one(0, 3, 6)),
        fastopen_qlen=draw.one(None, 1, 2, 4),
    )


FAMILIES: Final[dict[str, Callable[[_Draw], Scenario]]] = {
    "seed_documents": _documents,
    "seed_stalled": _stalled,
    "seed_cookies": _cookies,
    "no_cookies": _no_cookies,
    "default_drop": _default_drop,
    "mixed": _mixed,
    "burst": _burst,
    "relisten": _relisten,
    "ipv6": _ipv6,
    "cookie_only": _cookie_only,
    "cookie_options": _cookie_options,
    "odd_segments": _odd_segments,
    "closing": _closing,
    "reopening": _reopening,
    "migrating": _migrating,
    "defer": _defer,
    "timewait": _timewait,
    "fastopen": _fastopen,
}
"""Family -> what draws one of its scenarios."""


def make(family: str, seed: int, seconds: float) -> Scenario:
    """The scenario number `seed` of a family, `seconds` long."""
    return FAMILIES[family](_Draw(family, seed, int(seconds * 1000)))
