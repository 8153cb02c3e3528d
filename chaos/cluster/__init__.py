"""Places in which the parts of an arm run; all have the interface `base.Cluster`.

- `base`: that interface; start reading here.
- `simulate`: parts and sidecars on one virtual loop.
- `local`: processes on loopback; each part is a `node`, each sidecar a `sidecar_process`.
- `namespaces`: the same in network namespaces, where the connections of captured services are redirected.
- `containers`: the same in containers of Docker or Podman.

Not here: what runs there (`chaos.parts`) and how it is wired (`chaos.topology`).
"""
