"""`warren serve`: the control plane alone, in the foreground."""

from pathlib import Path
from typing import Annotated

import typer

from client.cli.commands import alone
from protocols.errors import InvalidInput

DEFAULT_PORT = 8000
DataDir = Annotated[
    Path | None,
    typer.Option(envvar="WARREN_DATA_DIR", show_default="~/.local/share/warren", help="Where it keeps everything."),
]
Host = Annotated[str, typer.Option(envvar="WARREN_HOST", help="The address to listen on.")]
Port = Annotated[int, typer.Option(envvar="WARREN_PORT", min=1, max=65535, help="The port to listen on.")]


def serve(
    data_dir: DataDir = None,
    host: Host = "127.0.0.1",
    port: Port = DEFAULT_PORT,
    tls_cert: Annotated[Path | None, typer.Option(envvar="WARREN_TLS_CERT", help="The certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(envvar="WARREN_TLS_KEY", help="Its private key, PEM.")] = None,
) -> None:
    """Run the control plane."""
    from client.profile import resolve_data_dir
    from client.programs import become, broker_environ, require

    require("broker")
    if (tls_cert is None) != (tls_key is None):
        raise InvalidInput("--tls-cert and --tls-key go together: give both or none")
    become("broker", broker_environ(resolve_data_dir(data_dir), host, port, tls_cert, tls_key))


app = alone(serve, "warren serve --host 0.0.0.0 --tls-cert chain.pem --tls-key key.pem")
