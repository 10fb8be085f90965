"""The control plane: stores tasks, decides what runs next, answers claims, serves the HTTP API."""
