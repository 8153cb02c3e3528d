"""Engine: what takes a request on its way.

- `pipeline`: a route's stages, and the call that takes one request through them; start reading here.
- `head`: reads ordinary heads of requests and responses (`head.pyx`; `head.pyi` has its types).
- `build`: whether this installation is pure or compiled.

`head` is written in C (by Cython), and nothing depends on it: in the pure build there is no such module, and its twins
in Python do its work (`downstream/request_head.py`, `upstream/response_head.py`).
"""
