"""Transform: requests and responses rewritten, as rules that are compiled when policies are loaded.

- `spec.py`, `fields.py`: what a policy file may say; `fields.py` has the parts that both directions share.
- `stage.py`: the stage, between whose two rewriters the stages further in stand.  Start reading here.
- `request.py`, `response.py`: the rewriter of each direction.
- `bodies.py`: which bodies are read, and the operations on them.
- `vary.py`: the request fields that a rewritten response depends on.

The operations themselves (paths, query, fields, cookies, JSON, codings) are in `sidecar.transform`, and conditions in
`sidecar.expression`.  `docs/design/transform.md` has the reasons.
"""
