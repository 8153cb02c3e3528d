"""Policy files: read, merged, checked, and resolved into specs.

Start with `load`, which calls the others.  In the order of their work:

    files                  reads a file or directory, and parses YAML 1.2
    tree, scalars, node    tree of values, each with its place in a file; limits hold while parsing
    origin                 values of environment variables, which are never printed
    merge                  several files joined to one document; several layers of policies merged to one block
    load                   files to `PolicySpec`, with all problems and warnings
    resolve                routes, each with its policies merged
    second                 policies of the directory `candidate`, whose routes become candidates
    validate               nodes to pydantic models
    pydantic_errors        errors of pydantic as problems with a place in a file
    checks/                policies that cannot work, and settings without effect
    report                 problems and warnings of one run

Specs, which define what a file may contain:

    spec                   the policies as a whole: `PolicySpec`, `RouteSpec`, `UpstreamSpec`
    process_spec           the sections `listeners`, `admin`, `limits` and `process`
    listen_address         the address of a listener
    schema                 the JSON Schema of a policy file, for editors
    docstrings             descriptions in that schema, read from the source of the specs

The specs of blocks are in `stages/`, those of upstreams and telemetry in their packages.  Building what runs is the
task of `control/`.
"""
