"""Programs' and people's side of Warren: the HTTP client and the `warren` command."""
