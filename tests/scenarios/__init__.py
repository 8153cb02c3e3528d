"""Scenarios of `chaos/` in virtual time: whole systems, without sockets and without waiting."""
