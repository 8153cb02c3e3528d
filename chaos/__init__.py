"""Chaos: scenarios that break a system of services, run without and with sidecars, and judged.

Start reading at `battery`, then one arm's way: `run`, `topology`, `timeline`.

- `cli`: the command `chaos`.
- `deep`: the margin of the routes of any policies, for `sidecar lint --deep`.
- `battery`: a scenario in all its arms, judged; `run`: one arm, from the start of its parts to its recording.
- `topology`: which parts an arm has and where their calls go; `timeline`: its faults in time.
- `margin`: searches the highest load at which a system still recovers.
- `scenario/`: format of scenario files.  `scenarios/`, `policies/`: those that come with the sidecar.
- `cluster/`: where parts run: processes, containers, or one virtual loop.
- `parts/`: services, load, links and stores; also clients and servers for tests and the benchmark.
- `faults/`: what can go wrong in them.
- `peers/`: Envoy, configured for the same policies.
- `verdict/`: recording, judge, comparison, report.

Not here: demonstrations (`sidecar.demo`) and measurements of cost (`bench`).
"""
