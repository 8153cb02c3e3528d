"""The command `sidecar top`: the live page in a terminal, from the stream of an admin listener.

    run       start here: draws the screen with each event, and connects again when the stream ends
    stream    reads the stream, and keeps what it says in a model
    view      the model as a screen
    keys      the key that ends it
    words     numbers and times as people read them

It shares no process with the sidecar that it watches.
"""
