"""Replay of a log: recorded requests in virtual time, through the real pipeline under policies that may differ.

run       start here: both policy sets with all seeds, side by side
record    the record of a log: requests, attempts, and what could not be read
formats   lines of access logs: those of the sidecar, of nginx and of Envoy
fit       upstreams fitted to a record: answers drawn from attempts of the same time
load      latency and failures by calls in flight, where a record shows that they depend on them
peers     upstream's end of virtual connections
world     one policy set with one seed on a virtual loop
tally     numbers of one run
limits    sentences about what the log cannot tell
report    result as text and as a JSON document
page      result as a page of HTML
evidence  evidence for values of policies, and that of a log
figures   evidence of the figures that a sidecar keeps
changes   rate at which answers change, and the lifetime that it allows
cached    evidence about cached answers, from the same figures
advice    values that evidence suggests
recommend these values with their effect by replay, as edits of the files

Policy tests, whose upstreams follow a script, are in `policytest`; scenarios with made traffic are in `chaos`.
"""
