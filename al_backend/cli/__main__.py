"""`python -m al_backend.cli`, for an environment without the console script."""

from __future__ import annotations

from al_backend.cli import main

if __name__ == "__main__":
    main()
