"""`python -m babygpt`: the command."""

from __future__ import annotations

import sys

from babygpt.cli import main

if __name__ == "__main__":
    sys.exit(main())
