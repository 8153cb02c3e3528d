"""Engine: what is written in C (by Cython) where the request path is compiled.

- `head`: reads ordinary heads of requests and responses (`head.pyx`; `head.pyi` has its types).
- `build`: whether this installation is pure or compiled.

Nothing depends on `head`: in the pure build there is no such module, and its twins in Python do its work
(`downstream/request_head.py`, `upstream/response_head.py`).
"""
