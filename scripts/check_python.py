"""Says what is missing on this machine before anything is installed; runs on any Python 3."""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "Python 3.11 or later is needed, this is %d.%d: name another, make PYTHON=python3.11 …"
        % sys.version_info[:2]
    )
try:
    import pip
except ImportError:
    sys.exit("pip is missing: on Debian, apt-get install python3-pip")
if tuple(int(part) for part in pip.__version__.split(".")[:2]) < (22, 3):
    sys.exit("pip 22.3 or later is needed, this is %s" % pip.__version__)
