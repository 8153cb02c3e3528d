"""Authenticate: identifies the caller of each request, and refuses requests without valid credentials.

- `spec.py`: the block in a policy file.
- `stage.py`: the stage, and the stage that drops claims about the caller on other routes.

`sidecar/identity/` has the identities; `docs/design/authentication.md` has the reasons.
"""
