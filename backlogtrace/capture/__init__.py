"""Captures to segments: pcap and pcapng, compressed or not, link layers, IP, TCP headers and options.

Knows bytes and selection by provable irrelevance. Refuses to know what a listen socket does with a segment.
"""

from backlogtrace.capture.info import CaptureInfo
from backlogtrace.capture.reader import READERS, Capture, open_capture

__all__ = ["READERS", "Capture", "CaptureInfo", "open_capture"]
