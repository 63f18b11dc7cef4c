"""`python -m loadtest`."""

from .cli import main

if __name__ == "__main__":  # the processes that generate the load import this too
    main(prog_name="runlane-load")
