"""Translate: REST requests to calls of gRPC, by the HTTP rules in a descriptor set (`google.api.http`).

- `spec.py`: the block in a policy file.
- `source.py`: descriptor files, read and kept.
- `stage.py`: the stage.  Start reading here.
- `answers.py`: answers to one message and to streams, and errors, as JSON.
- `websocket.py`: streams over a WebSocket, which needs `streams: websocket`.
- `frames.py`: frames of a WebSocket, from bytes and to bytes.
- `error_details.py`: Google's types of error details, which a descriptor set seldom has.

Messages, bindings and JSON are in `sidecar.grpc`.  `docs/transcoding.md` says what clients see.
"""
