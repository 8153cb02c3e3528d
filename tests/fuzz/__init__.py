"""Coverage-guided fuzzing (atheris) of everything that reads what others have written.

    python -m tests.fuzz.request 60          # a minute of requests; the Makefile names all targets
    python -m tests.fuzz.request 60 keep     # and keep the inputs that reach what the corpus did not

A target is a module with `check(data)`, which raises `AssertionError` where a law is broken; any other exception is a
bug too.  The corpus is in `corpus/<target>/`; every file of it is checked by `test_corpus.py` on every Python, and what
made a target fail once goes there under a name that says what it was.  Where atheris has no wheel, `test_fuzzing.py` is
skipped and the rest holds.
"""
