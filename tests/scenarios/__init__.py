"""Scenarios of `chaos/` in virtual time: whole systems, but neither sockets nor seconds."""
