"""Operating-system process: lifecycle, stalls of the event loop, settings of the interpreter.

    start          first steps: standard streams, signals during the start
    lifecycle      start here: start, signals, readiness, drain
    stall          detection of a blocked event loop
    interpreter    settings of the garbage collector and of thread switching
    handover       listening sockets that pass to a new process
    redirect       rules of the kernel for redirected connections, and the programs that apply them
    workers/       several worker processes under one supervisor
    children       child processes that end with their parent, for demos, chaos and benchmarks

All parts of the process are put together in `app.py`.
"""
