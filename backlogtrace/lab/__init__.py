"""Scenarios on the kernel this machine runs: clients made by hand, a real listen socket, what it did.

Knows TUN devices, network namespaces and /proc. Refuses to know what the model would have said.
"""
