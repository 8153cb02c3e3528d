"""Retry: the same request again if that may help, can do no harm, and is affordable.

- `spec.py`: what a policy file may say.
- `stage.py`: the stage, and the questions that can end retrying.  Start reading here.
- `strategies.py`: the adapter of tenacity, and the only file that imports it: when to stop, how long to wait.

The retry budget belongs to the upstream (`sidecar.upstream.budget`).  Why the questions come in this order stands in
`docs/design/retry.md`.
"""
