"""Engine: runs requests through the stages of a route.

- `pipeline`: a route's stages, and the call that takes one request through them; start reading here.
- `inner`: requests that the sidecar itself makes through a pipeline, with the whole response.
- `head`: fast parsers of common request and response heads (`head.pyx`; `head.pyi` has its types).
- `build`: report of the build, pure or compiled.

`head` is a Cython module and optional.  The pure build does not have it, and uses equivalent Python code
(`downstream/request_head.py`, `upstream/response_head.py`).
"""
