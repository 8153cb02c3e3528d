"""Format of scenario files; start reading at `spec`.

- `spec`: services, load, faults, phases.
- `expect`: expectations, and the measures that they name.
- `files`: reads scenario files, their policies, and the same policies without some blocks.

Not here: how a measure is taken (`chaos.verdict.judge`).
"""
