"""Tells the other side that a proxy's process has ended: `guardian` runs it.

python -m imaging_ingestion.cli.obituary PROCESS [FILE…]
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from imaging_ingestion.cli.process import configure_logging
from imaging_ingestion.cli.run import proxy_values
from imaging_ingestion.tunnel.obituary import tell_gone
from imaging_ingestion.tunnel.settings import proxy_settings


def main() -> None:
    """Tell it, as the proxy's own settings say."""
    configure_logging()
    process_id, files = bytes.fromhex(sys.argv[1]), list(map(Path, sys.argv[2:]))
    settings = proxy_settings(proxy_values(files, os.environ))
    told = asyncio.run(tell_gone(settings.nats, settings.subjects, process_id))
    sys.exit(0 if told else 1)


if __name__ == "__main__":
    main()
