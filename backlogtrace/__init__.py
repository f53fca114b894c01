"""Explains packet captures by what the Linux listen socket did with each packet.

Knows its version only; the parts are imported from their own packages.
"""

__version__ = "0.1.0"
