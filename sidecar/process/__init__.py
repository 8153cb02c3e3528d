"""Life of the operating-system process, apart from the requests that it serves.

    lifecycle      start here: start, signals, readiness, drain
    stall          detection of a blocked event loop
    interpreter    settings of the garbage collector and of thread switching
    children       child processes that end with their parent, for demos, chaos and benchmarks

All parts of the process are put together in `app.py`.
"""
