"""Being here puts this folder on the path, so that tests can import the helpers beside it."""

from hypothesis import settings

# A slow or busy machine is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
