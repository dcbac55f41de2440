"""`python -m equipoise` is the command line."""

from .clients.cli.app import main

main()
