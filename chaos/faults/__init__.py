"""Faults that parts carry out; `chaos.scenario.spec.Fault` is their form in a scenario.

- `tcp`: on the wire, in a link.
- `answer`: in what a service answers.
- `inside`: in the process of a service.

Rules:

1. Chance comes from the generator of the part, so that a seed repeats a run.
2. Each fault has a time to live, and every part undoes its own when it stops.

Not here: faults of processes, names and policies (`chaos.timeline`).
"""
