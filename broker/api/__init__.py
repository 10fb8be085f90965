"""HTTP and WebSocket endpoints, one file per noun."""
