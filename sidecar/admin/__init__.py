"""Admin listener: health, metrics, state, the live page, reload and purge.

    listener    start here: its sockets and its probes; hands all other connections to the application
    answers     answers to probes, and problem documents
    app         the aiohttp application, loaded by the first request that needs it
    access      who may use it: the bearer of its token, and no page of another site
    view        what it may see of the process, and the document of `/state`
    live        the stream of the live page and of `sidecar top`
    cache       caches: what they hold, and purging them
    page/       files of the live page

It knows the rest of the process only through the `AdminView` that it is given.
"""
