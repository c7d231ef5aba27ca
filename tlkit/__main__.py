"""python -m tlkit"""

from __future__ import annotations

from tlkit.cli import main

if __name__ == "__main__":
    main()
