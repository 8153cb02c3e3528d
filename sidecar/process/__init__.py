"""The process as its platform sees it.

    lifecycle      start here: start, signals, readiness, drain
    stall          the watch over the event loop
    interpreter    garbage collector and threads of the interpreter
    children       child processes that do not outlive their starter, for demos, chaos and benchmarks

What the process serves is made in `app.py`.
"""
