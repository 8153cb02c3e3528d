"""Mirror: copies of a share of the requests go to another upstream, whose responses are discarded or compared.

- `spec.py`: the block in a policy file.
- `stage.py`: the stage, and the state that survives a reload.
- `differences.py`: the comparison of two responses.
"""
