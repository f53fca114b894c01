"""Sans-I/O model of the Linux listen path: packets, events and time in, decisions out."""
