"""Capture x model: replays a capture through the kernel model and compares the two."""

from backlogtrace.replay.analysis import Analysis, Options, analyze, infer_capture

__all__ = ["Analysis", "Options", "analyze", "infer_capture"]
