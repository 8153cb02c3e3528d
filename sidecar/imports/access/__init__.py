"""Access rules of other proxies, which several kinds share.

- `rules`: trees of conditions, and the `authenticate` and `authorize` of a route.
- `facts`: facts about requests and callers, as conditions of such trees.
- `tokens`: signed tokens as identities.
- `servers`: servers that are asked about each request.
- `protection`: routes that refuse, because the original keeps requests out.
- `closing`: requests that would reach other routes here than in the original.
"""
