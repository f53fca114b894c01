"""Names of distributions, and the kernel release that each of them means.

`rhel8`, `Ubuntu 22.04` and `bookworm` stand for the current kernel of that distribution as far as
known. Refuses to know how that kernel behaves.
"""

from __future__ import annotations

import re
from typing import Final

_RHEL: Final = {
    "7": ("3.10.0-1160.el7.x86_64", "7.9"),
    "8": ("4.18.0-553.el8_10.x86_64", "8.10"),
    "9": ("5.14.0-611.el9.x86_64", "9.7"),
    "10": ("6.12.0-124.el10.x86_64", "10.1"),
}
_CLONES: Final = ("rhel", "centos", "rocky", "almalinux")
_OTHERS: Final[dict[str, tuple[str, str]]] = {
    "debian10": ("4.19.0-27-amd64", "its last kernel, 4.19.316"),
    "debian11": ("5.10.0-46-amd64", "kernel 5.10.262; 5.10.0-33 and older behave differently"),
    "debian12": ("6.1.0-56-amd64", "kernel 6.1.192; 6.1.0-54 and older behave differently"),
    "debian13": ("6.12.117+deb13-amd64", "kernel 6.12.117; those before 6.12.105 behave differently"),
    "ubuntu14.04": ("3.13.0-170-generic", "its first kernel line, 3.13"),
    "ubuntu16.04": ("4.4.178", "its first kernel line at about 4.4.178; before, SYNs were dropped later"),
    "ubuntu18.04": ("4.15.0-213-generic", "its first kernel line, 4.15"),
    "ubuntu20.04": ("5.4.0-216-generic", "kernel 5.4.0-216; 5.4.0-208 and older behave differently"),
    "ubuntu22.04": ("5.15.0-204-generic", "kernel 5.15.0-204; 5.15.0-140 and older behave differently"),
    "ubuntu24.04": ("6.8.0-150-generic", "kernel 6.8.0-150; 6.8.0-147 and older behave differently"),
    "amazonlinux2": ("5.10", "its 5.10 kernel; images with 4.14 are as common"),
    "amazonlinux2023": ("6.1", "its 6.1 kernel; newer images have 6.12"),
    "sles12": ("4.12.14-122-default", "service pack 5"),
    "sles15": ("6.4.0-150600-default", "service pack 6; its back-ports are not known"),
}
_CODE_NAMES: Final = {
    "buster": "debian10", "bullseye": "debian11", "bookworm": "debian12", "trixie": "debian13",
    "trusty": "ubuntu14.04", "xenial": "ubuntu16.04", "bionic": "ubuntu18.04", "focal": "ubuntu20.04",
    "jammy": "ubuntu22.04", "noble": "ubuntu24.04", "amzn2": "amazonlinux2", "al2": "amazonlinux2",
    "amzn2023": "amazonlinux2023", "al2023": "amazonlinux2023",
}  # fmt: skip
_SPELLINGS: Final = {
    "redhat": "rhel", "redhatenterpriselinux": "rhel", "centosstream": "centos", "rockylinux": "rocky",
    "alma": "almalinux", "amazon": "amazonlinux", "sle": "sles",
}  # fmt: skip
_NAME: Final = re.compile(r"([a-z]+)(\d+(?:\.\d{1,2})?)?")

NAMES: Final = (*(f"{clone}{major}" for clone in _CLONES for major in _RHEL), *_OTHERS)
"""All names, as they are suggested."""


def release(text: str) -> tuple[str, str] | None:
    """(`uname -r`, note) that the name of a distribution stands for; None when `text` is no such name.

    Case, blanks, dashes and colons do not matter (`Debian 12`, `ubuntu:22.04`); the minor release of
    RHEL and its clones is accepted, since no behaviour known here depends on it.
    """
    word = re.sub(r"[\s:_-]+", "", text.lower())
    word = _CODE_NAMES.get(word, word)
    match = _NAME.fullmatch(word)
    if match is None:
        return None
    family, version = _SPELLINGS.get(match[1], match[1]), match[2] or ""
    if family in _CLONES:
        found = _RHEL.get(version.partition(".")[0])
        return found and (found[0], f"{text} is taken as the kernel of release {found[1]}, {found[0]}")
    if f"{family}{version}" not in _OTHERS:
        return None
    kernel, meaning = _OTHERS[f"{family}{version}"]
    return kernel, f"{text} is taken as {meaning}"
