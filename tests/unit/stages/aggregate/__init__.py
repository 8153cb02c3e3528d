"""Tests of the stage `aggregate`."""
