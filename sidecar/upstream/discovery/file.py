"""Source of endpoints: a file that lists them.

    # written by the deployment
    10.0.0.1:8080
    10.0.0.2:8080  weight=3 zone=eu-1a version=v2
    [2001:db8::7]:8080  priority=1      # used if no endpoint of priority 0 can be

Rules:

1. The file is polled (`file_watch`), so it is not read while it is being written.
2. A file that is missing, too large, without endpoints or wrong in any line changes nothing; the problem names the
   line.
3. Other words than weight, priority and zone are labels.  With `subset`, endpoints without its labels are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from sidecar.file_watch import FileWatch, look
from sidecar.upstream.discovery.discovery import Discovery
from sidecar.upstream.discovery.spec import LABEL_NAME, LABEL_VALUE, DiscoverSpec
from sidecar.upstream.endpoint import Target, parse_endpoint

POLL_SECONDS: Final = 0.5
"""Seconds between two polls."""
MOST_BYTES: Final = 4 * 2**20
"""Largest file in bytes."""
MOST_WEIGHT: Final = 65_535
"""Largest weight and priority, as in SRV records."""
NUMBERS: Final = ("weight", "priority")
ZONE: Final = "zone"
WORD: Final = re.compile(f"({LABEL_NAME})=({LABEL_VALUE})")
EXAMPLE: Final = "10.0.0.1:8080 weight=3"


class FileSource:
    """Source whose endpoints are the lines of a file."""

    def __init__(self, spec: DiscoverSpec) -> None:
        self._spec = spec
        self._path = Path(spec.file or "")

    async def run(self, sink: Discovery) -> None:
        """Read the file now, and again after each change."""
        path = str(self._path)
        watch = FileWatch(look(path))
        self.read(sink)
        while True:
            await sink.env.sleep(POLL_SECONDS)
            if watch.is_due(look(path)):
                self.read(sink)
            elif watch.is_changing:
                continue
            elif not sink.problem:
                sink.confirm()
            else:
                sink.drop_if_old()

    def read(self, sink: Discovery) -> None:
        """Read the file and report the endpoints."""
        try:
            with self._path.open("rb") as file:
                data = file.read(MOST_BYTES + 1)
            targets = parse(data, self._spec.scheme, self._spec.subset)
        except OSError as error:
            sink.fail(f"{self._path}: {(error.strerror or str(error)).lower()}")
        except ValueError as error:
            sink.fail(f"{self._path}{error}")
        else:
            sink.find(targets)

    def describe(self) -> dict[str, Any]:
        return {}


def parse(data: bytes, scheme: str, subset: Mapping[str, str] | None = None) -> list[Target]:
    """Return the endpoints of a file that have the labels of `subset`; None for all of them.

    Raises `ValueError` with the line, `:3: ...`, and the remedy.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f": is larger than {MOST_BYTES} bytes; list fewer endpoints")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError(": is not UTF-8; write it as plain text") from None
    found: dict[str, Target] = {}
    seen: set[str] = set()
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            target, labels = _parse_line(words, scheme)
            if target.url in seen:
                raise ValueError(f"names {words[0]} a second time; name it once")
        except ValueError as error:
            raise ValueError(f":{number}: {error}") from None
        seen.add(target.url)
        if not subset or subset.items() <= labels.items():
            found[target.url] = target
    if subset and seen and not found:
        words = [f"{name}={value}" for name, value in subset.items()]
        raise ValueError(f": has no endpoint with {' '.join(words)}; write it after one, such as {EXAMPLE} {words[0]}")
    if not found:
        raise ValueError(f": has no endpoints; write one a line, such as {EXAMPLE}")
    return list(found.values())


def _parse_line(words: list[str], scheme: str) -> tuple[Target, dict[str, str]]:
    """Return the endpoint of a line, and its labels.  Raises `ValueError`."""
    url = words[0] if "://" in words[0] else f"{scheme}://{words[0]}"
    if not url.startswith(f"{scheme}://"):
        raise ValueError(
            f"has {words[0]!r}, but the scheme of the block is {scheme}; write the host and the port alone"
        )
    address = parse_endpoint(url)
    if not re.search(r":[0-9]+$", words[0]):
        raise ValueError(f"has {words[0]!r} without a port; write it such as {EXAMPLE}")
    numbers = {"weight": 1, "priority": 0}
    labels: dict[str, str] = {}
    for word in words[1:]:
        match = WORD.fullmatch(word)
        name, value = match.groups() if match is not None else (word, "")
        if name in NUMBERS:
            if not re.fullmatch("[0-9]{1,5}", value) or int(value) > MOST_WEIGHT:
                raise ValueError(f"has {word!r}; write {name}=N, at most {MOST_WEIGHT}")
            numbers[name] = int(value)
        elif match is None or get_close_matches(name, NUMBERS):
            raise ValueError(f"has {word!r}; after the endpoint write weight=N, priority=N, zone=NAME or version=v2")
        else:
            labels[name] = value
    return Target(address.url, numbers["priority"], numbers["weight"], zone=labels.get(ZONE, "")), labels
