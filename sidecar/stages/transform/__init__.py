"""Transform: rewriting of requests and responses, by rules that are compiled when policies are loaded.

- `spec.py`, `fields.py`: the block in a policy file; `fields.py` has the parts that both directions share.
- `stage.py`: the stage with its two rewriters, one for each direction.  Start reading here.
- `request.py`, `response.py`: the rewriter of each direction.
- `bodies.py`: reading of bodies, and the operations on them.
- `vary.py`: the request fields that a rewritten response depends on.

The operations themselves (paths, query, fields, cookies, JSON, codings) are in `sidecar.transform`, and conditions in
`sidecar.expression`.  `docs/design/transform.md` has the reasons.
"""
