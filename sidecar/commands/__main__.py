"""`python -m sidecar.commands`, the same as `sidecar`."""

from __future__ import annotations

from sidecar.commands import main

main(prog_name="sidecar")
