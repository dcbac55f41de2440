"""The command line. A thin layer over the library, which does all of the work."""


def main() -> None:
    """Run the command line."""
