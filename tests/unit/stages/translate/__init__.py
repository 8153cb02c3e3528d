"""Tests of the stage `translate`."""
