"""Mirror: copies of a share of the requests go to another upstream, whose responses are discarded or compared."""
