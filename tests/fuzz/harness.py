"""Harness that runs `check(data)` under atheris (libFuzzer), on a copy of the kept corpus."""

from __future__ import annotations

import contextlib
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

CORPUS = Path(__file__).with_name("corpus")
MAX_BYTES = 4096
"""Length in bytes of the longest input."""
MAX_SECONDS = 5
"""Seconds for one input; an input that takes longer is a finding."""
MEMORY = 1 << 30
"""Bytes that the fuzzer may allocate after the imports."""
SEED = 20260601


def instrumented() -> AbstractContextManager[object]:
    """Return a context in which imports of the sidecar are instrumented for coverage, if a fuzzer is going to run."""
    if atheris is None or not is_fuzzing():
        return contextlib.nullcontext()
    return atheris.instrument_imports(include=["sidecar"])  # type: ignore[no-any-return]


def is_fuzzing() -> bool:
    """True if this process is `python -m tests.fuzz.<target>`."""
    return Path(sys.argv[0]).parent == Path(__file__).parent or sys.argv[0] == "-m"


def fuzz(name: str, check: Callable[[bytes], object]) -> None:
    """Fuzz for the seconds of the command line (10), or for a number of inputs (`runs=1000`), and exit.

    Another seed of the fuzzer (`seed=2`) leads to other inputs from the same corpus.
    The exit code is 0, or that of libFuzzer, which prints the input that failed and writes it to a temporary file.
    """
    if atheris is None:
        raise SystemExit("atheris is not installed; it has wheels for some versions of CPython on Linux alone")
    said = sys.argv[1] if len(sys.argv) > 1 else "10"
    is_counted = said.startswith("runs=")
    seed = next((int(word[5:]) for word in sys.argv[2:] if word.startswith("seed=")), SEED)
    kept = CORPUS / name
    kept.mkdir(parents=True, exist_ok=True)
    if "keep" in sys.argv:
        found = kept
    else:
        found = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
        shutil.copytree(kept, found, dirs_exist_ok=True)
    options = {
        **({"runs": int(said[5:])} if is_counted else {"max_total_time": max(1, round(float(said)))}),
        "max_len": MAX_BYTES,
        "timeout": MAX_SECONDS,
        "rss_limit_mb": 0,  # would include the peak of the imports and of the parent process; `bound_memory` bounds it
        "seed": seed,
        "print_final_stats": 1,
        "verbosity": 1,
        "artifact_prefix": f"{tempfile.gettempdir()}/fuzz-{name}-",
    }
    bound_memory()
    atheris.Setup([sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), str(found)], check)
    atheris.Fuzz()


def bound_memory() -> None:
    """Limit the address space, so that an allocation beyond `MEMORY` raises MemoryError, which is a finding."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
