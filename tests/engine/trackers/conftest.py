"""The folder of trackio is chosen before it is imported."""

import os
import tempfile

_TRACKIO = tempfile.TemporaryDirectory(prefix="xtuner-trackio-")
os.environ["TRACKIO_DIR"] = _TRACKIO.name
