"""Logs: lines for people and machines, written by a thread beside the event loop.

log        diagnostics on standard error: one line for each event of the sidecar, never one for a request
access     access log on standard output: one line for each request
lines      writer of both: a bounded queue, and a thread that empties it
"""
