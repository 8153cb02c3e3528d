"""Messages rewritten: pure functions and compiled operations, below the stage of that name.

    values                   texts of a policy that may be templates
    headers, cookies         header fields over their raw lines; attributes of Set-Cookie
    paths, query, back       where a request goes, and the way back for Location and Set-Cookie
    pointer, jsonbody        operations on JSON by RFC 6901 pointers, over documents that are opened only where touched
    forms, coding, intake    form bodies; gzip, deflate and br; a message's body taken whole
    validators               fields that a changed body makes untrue

It imports only `core`.  No I/O, no clock.  Each operation is
compiled once, when policies are loaded, and takes time linear in what it rewrites.
"""
