"""Traefik's dynamic configuration, as a file (YAML or TOML) or as objects of Kubernetes.

- `routers`: routers and IngressRoutes as routes.
- `rules`: rules of routers as matches.
- `middlewares`: middlewares as policies of routes.
- `services`: services and transports as upstreams.
"""
