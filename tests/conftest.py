"""Property tests have no deadline: what a first run imports, or a busy machine, says nothing about the code."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
