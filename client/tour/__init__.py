"""What `warren up` shows: the whole of Warren on this machine, step by step, with real tasks."""
