"""Tests of the engine: pipelines, quick readers of heads, and the build."""
