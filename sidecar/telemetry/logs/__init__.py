"""Logs: lines for people and machines, written off the event loop.

log        diagnostics on standard error: one line for each transition or trouble, never one for a request
access     the access log on standard output: one line for each request
lines      the writer of both: a bounded queue, and a thread that empties it
"""
