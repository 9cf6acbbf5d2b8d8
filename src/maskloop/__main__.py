"""Run the command line as ``python -m maskloop``."""

from __future__ import annotations

from maskloop.cli import main

if __name__ == "__main__":
    main()
