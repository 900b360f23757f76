"""What all tests share: how properties are searched, and no settings of the user's own."""

import os

from hypothesis import settings

os.environ.pop("MEDPACT_HOME", None)

# No deadline: a busy machine is slow at times, and pytest-timeout stops what hangs. A build server
# gives the same verdict twice; elsewhere every run searches further.
settings.register_profile("medpact", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("medpact")
