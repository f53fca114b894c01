"""What the wire says of a packet, as bits: set by replay/evidence.py, read by replay/acceptance.py.

Sixteen bits have to do for every packet of a capture: what is said of a client's later packets shares some of
them with what is said of SYNs and SYN-ACKs only.
"""

SYNACK_REPLY = 0x001
RST_REPLY = 0x002
ACK_REPLY = 0x004
"""The server's next packet on the connection, before the client sent again."""
REPEATED = 0x008
"""The SYN-ACK came again: the packet did not complete the handshake."""
IGNORED = 0x010
"""The client sent the same data again, and the server had said nothing: likewise."""
USED = 0x020
"""The server used the connection later: it acknowledged data, or sent some."""
COOKIE_SIGN = 0x040
"""A SYN: the SYN-ACK that answers it looks like a SYN cookie."""
REQUEST_SIGN = 0x080
"""A SYN: the SYN-ACK that answers it does not look like one, or comes again without being asked for."""
FASTOPEN_SIGN = 0x100
"""A SYN: the SYN-ACK that answers it acknowledges its data."""
GONE = 0x200
"""The client reset the connection before the server had shown what it did with the packet."""
FOREIGN = 0x400
"""The connection began before the capture."""
CROSSED = 0x800
"""A SYN-ACK that came again so soon after the client's packet that it may have been sent before it."""
CLOCK_SIGN = 0x1000
"""A SYN: the SYN-ACK that answers it shows the server's clock, as few cookies' do by chance."""
UNSEEN_SYN = 0x2000
"""A SYN-ACK: the capture lost the SYN that it answers."""
UNSEEN_ACK = 0x4000
"""A SYN-ACK: the capture lost the ACK that came after it and completed the handshake."""
GOES_ON = 0x8000
"""A SYN or SYN-ACK: the request is there until later, when a timer sends the SYN-ACK again, or a RST answers
a SYN within the window."""

WAITED = COOKIE_SIGN
"""A packet of the client: the server reset its connection, on which nobody had said anything. So does
close() of a listener with what was never accepted."""
ACKED_AGAIN = REQUEST_SIGN
"""A bare ACK of a client that sent the same once more: so does who gets the SYN-ACK again, which the capture
may have lost."""
SENT_DATA = FASTOPEN_SIGN
"""A client's first packet after the SYN-ACK: it has data."""
LATE = CROSSED
"""Likewise: it came later than a round trip takes."""
REMINDED = CLOCK_SIGN
"""Likewise: the SYN-ACK had been sent more than once."""
NOT_RESET = UNSEEN_SYN
"""A packet of the client: when the listener was closed older connections got a RST, this one's did not."""

REPLY = SYNACK_REPLY | RST_REPLY | ACK_REPLY
