"""Command `sidecar top`: the live page in a terminal, read from the stream of an admin listener.

    run       start here: draws the screen at each event, and connects again when the stream ends
    stream    reads the stream into a model
    view      draws the model as a screen
    keys      the key that ends the command
    words     numbers and times, formatted for people

The command is a process of its own, apart from the sidecar that it watches.
"""
