"""Coverage-guided fuzzing (atheris) of all parsers of foreign input.

    python -m tests.fuzz.request 60          # a minute of requests; the Makefile names all targets
    python -m tests.fuzz.request 60 keep     # and keep the inputs that reach what the corpus did not
    python -m tests.fuzz.request 60 seed=2   # other inputs, from the same corpus

1. A target is a module with `check(data)`, which raises `AssertionError` if a law is broken; any other exception is a
   bug too.
2. The corpus is in `corpus/<target>/`; `test_corpus.py` checks every file of it on every Python.  An input that made a
   target fail is added under a name that describes it.
3. The tests run without atheris; `make fuzz` needs its wheel.
"""
