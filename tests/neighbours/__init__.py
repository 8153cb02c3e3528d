"""The sidecar between other proxies: do any two ever disagree on where a message ends?

Client, one of nginx, HAProxy and Envoy, the sidecar and a recording upstream stand in a row, in both orders.  Whoever
is in front marks every request that it sends on; at the end exactly those must arrive that bear one mark, each once.
A request without a mark was smuggled, a mark inside a body is a request that was swallowed.  Proxies that are not
installed are skipped.
"""
