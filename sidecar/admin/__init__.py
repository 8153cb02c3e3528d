"""Admin listener: health, metrics, state, the live page, reload and purge.

    listener    start here: sockets and probes; hands all other connections to the application
    responses   responses to probes, and problem documents
    app         aiohttp application, loaded by the first request that needs it
    access      access control: bearer token, Host, and origin of requests
    view        view of the process, and the document of `/state`
    live        stream of the live page and of `sidecar top`
    commands    commands that concern one process
    cache       contents and purges of caches
    what_if     trial of policies that are not in force
    history     figures of the last hours, kept in a file if policies name one
    advice      values that these figures suggest
    subcommand  commands of this program in processes of their own
    page/       files of the live page

These modules know the rest of the process only through the `AdminView` that they are given.
"""
