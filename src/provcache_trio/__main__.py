"""``python -m provcache_trio`` is the command ``provcache``."""

from __future__ import annotations

import sys

from provcache_trio_command import main

if __name__ == "__main__":
    sys.exit(main())
