"""Faults, each a small file or family.  How one is written in a scenario: `chaos.scenario.spec.Fault`.

`tcp` acts on the bytes of a link, `answer` on what a service says, `inside` in the service's process, `process` on the
process as a whole, `names` on the resolution of names.  Chance comes from the generator of the part, so that a seed
repeats a run; each fault has a time to live, and every part undoes its own when it stops, however that comes about.
"""
