"""`python -m client` is the `warren` command."""

from client.cli.main import run

run()
