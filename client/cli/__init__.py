"""The `warren` command: one file per noun."""
