"""Tests of redirected connections."""
