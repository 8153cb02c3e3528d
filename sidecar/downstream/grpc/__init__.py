"""gRPC on the client side.

- `answers`: what a call is; refusals as trailers only, and the status of an answer that breaks off.
- `web`: gRPC-Web: calls that become gRPC, and answers that are turned back.
"""
