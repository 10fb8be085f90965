"""The worker daemon: receives tasks from lanes, claims them, executes actions, reports outcomes."""
