"""`python -m rallytrace`."""

from rallytrace.cli import main

if __name__ == "__main__":
    main()
