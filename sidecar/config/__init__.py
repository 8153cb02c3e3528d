"""Policy files: read, merged, checked, and resolved into specs.

The way of a file, in this order:

    files                  reads a file or directory, and parses YAML 1.2
    tree, scalars, node    nodes that know where they were written, within limits that hold while parsing
    origin                 values that environment variables give, which no printer shows
    merge                  several files as one document; several layers of policies as one block
    load                   start here: the whole way from files to `PolicySpec`
    resolve                each route with its policies merged
    validate               a node as a pydantic model; pydantic_errors turns its errors into problems with a place
    checks/                what cannot work or has no effect
    report                 problems and warnings of one run

Specs, which are what files may say:

    spec                   the policies as a whole: `PolicySpec`, `RouteSpec`, `UpstreamSpec`
    process_spec           the sections `listeners`, `admin` and `limits`
    listen_address         the address of a listener
    schema                 the JSON Schema of them all, for editors; docstrings reads its descriptions from the source

Specs of blocks stand with their stages, those of upstreams and telemetry with their packages.  Nothing here builds
anything that runs: that is `control/`.
"""
