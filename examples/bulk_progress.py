"""Submit many tasks with a few requests, and watch them finish.

    python examples/bulk_progress.py 100

Run it again after an interruption: under the same key what was submitted is found again, not repeated.
"""

import sys

from rich.progress import Progress

from warren import Warren, forms

count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
key = f"bulk-example-{count}"

with Warren() as warren, Progress() as progress:
    submitting = progress.add_task("submitting", total=count)
    many = (forms.ssh("this-machine", ["echo", f"number {number}"], title="bulk example") for number in range(count))
    tasks = warren.submit_many(
        many, idempotency_key=key, progress=lambda done: progress.update(submitting, completed=done)
    )

    finishing = progress.add_task("finishing", total=count)
    states: dict[str, int] = {}
    for task in warren.as_completed(tasks, timeout_s=600):
        states[task.state] = states.get(task.state, 0) + 1
        progress.advance(finishing)

print(", ".join(f"{number} {state}" for state, number in sorted(states.items())))
