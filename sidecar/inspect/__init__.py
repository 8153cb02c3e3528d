"""Inspection of policies without serving them: `sidecar routes`, `explain` and `promote`.

explain            start here: text of all routes, and of the route that one request takes with the reasons
explain_cache      what a cache would do with the request and its response
explain_aggregate  parts of an answer in their order, and the worst case
explain_translate  which call of gRPC the request would become
explain_authorize  which rule of `authorize` decides on the request
explain_cors       what pages of the request's origin may do
explain_capture    where a listener sends redirected connections of each protocol
explain_token      who accepts a token or an API key on the route of a request
explain_limits     which keys a request has under rate limits
explain_workers    scope of each limit under several workers
documents          types of the JSON documents that the commands print with `--json`
explain_json       documents of routes and of one request, from the same facts as `explain`
dry                compilation with a stopped clock and an event loop that does not run
promote            edit of a policy file that makes a candidate the route itself
edit               sets one value of a route or an upstream in the text of a file
effective          effective values of a block, each with its place in a file
"""
