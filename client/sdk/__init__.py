"""The Python library; users import it as `warren`."""
