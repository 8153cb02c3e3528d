"""Tests of the sidecar in a row with another proxy: both must agree on the end of every message.

A request passes from a client through nginx, HAProxy or Envoy and the sidecar, in both orders, to a recording upstream.
The first proxy marks every request that it forwards; each arriving request must have exactly one mark, and each mark
arrives once.  A request without a mark was smuggled; a mark inside a body is a swallowed request.  Proxies that are not
installed are skipped.
"""
