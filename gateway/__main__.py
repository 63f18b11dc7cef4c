"""`python -m gateway` is `runlane`."""

from .cli import main

if __name__ == "__main__":
    main()
