"""What a scenario is made of: services, the load, and the links between them.

Each part is plain asyncio and is told its clock, so that the same code runs in a process of its own on real sockets
and, in `chaos simulate`, beside all others on one loop whose time and network are virtual.
"""
