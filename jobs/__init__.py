"""The commands. Only this package imports Ray, and no other package imports this one."""

import os
import sys

# ``python -m jobs.cli`` puts the current folder first on the path, where a ``pipeline/`` or a
# ``torch.py`` of the user's would be imported instead of the real one. While Python looks for the
# module that -m names, "-m" is the program's name.
if sys.argv[:1] == ["-m"]:
    _here, _root = os.path.realpath(os.getcwd()), os.path.realpath(os.path.join(__path__[0], ".."))
    if os.path.realpath(sys.path[0]) == _here != _root:
        del sys.path[0]
