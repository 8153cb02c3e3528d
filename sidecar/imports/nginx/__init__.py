"""nginx configurations.

- `servers`: servers and locations.
- `upstream`: upstreams.
- `policies`: directives of locations.
- `grammar`: words, quotes and blocks of directives.
"""
