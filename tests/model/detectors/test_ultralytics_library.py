from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, os, cv2, torch
from PIL import Image
cv2.setNumThreads(3)
def state():
    return [Image.open.__module__, torch.save.__module__, cv2.getNumThreads(), dict(os.environ)]
before = state()
import model.detectors.ultralytics_library
from ultralytics.utils import AUTOINSTALL
print(json.dumps([before == state(), AUTOINSTALL]))
"""


def test_importing_it_leaves_other_libraries_and_the_environment_alone() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [True, False]
