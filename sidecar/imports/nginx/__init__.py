"""nginx configurations.

- `servers`: servers and locations.
- `upstream`: upstreams.
- `policies`: directives of locations.
- `access`: directives that keep requests out.
- `scope`: blocks around a location.
- `grammar`: words, quotes and blocks of directives.
"""
