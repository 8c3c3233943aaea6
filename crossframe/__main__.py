"""`python -m crossframe`."""

from crossframe.cli import main

if __name__ == "__main__":
    main()
