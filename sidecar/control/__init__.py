"""Rank 2, the control plane: from policy files to running pipelines."""
