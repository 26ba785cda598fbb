"""How this command is called, so that a printed next step can be pasted."""

import os
import shutil
import sys
from pathlib import Path


def command() -> str:
    """``chartloom`` where that is on the PATH, else the path by which it was started."""
    invoked = Path(sys.argv[0])
    if invoked.name != "chartloom":
        return "chartloom"
    if (found := shutil.which("chartloom")) and invoked.exists() and Path(found).samefile(invoked):
        return "chartloom"
    relative = os.path.relpath(invoked)
    return str(invoked) if relative.startswith("..") else relative
