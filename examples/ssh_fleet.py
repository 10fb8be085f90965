"""Run one command on many hosts at once, and show what each says as soon as it has finished.

python examples/ssh_fleet.py "uptime"                   # on every host that Warren knows
python examples/ssh_fleet.py "uptime" web-1 web-2
"""

import sys

from warren import TaskFailed, Warren

command, *hosts = sys.argv[1:] or ["uptime"]

with Warren() as warren:
    hosts = hosts or [connection.name for connection in warren.connections.list()]
    # A command is never run twice by itself (at_most_once). A host that is away holds up nobody else.
    tasks = {warren.ssh(host, command, timeout_s=60): host for host in hosts}
    failed = 0
    for task in warren.as_completed(tasks, timeout_s=120):
        try:
            result = task.result()
        except TaskFailed as error:
            failed += 1
            print(f"{tasks[task]}: {error}", file=sys.stderr)
        else:
            for line in result.stdout_tail.splitlines():
                print(f"{tasks[task]}: {line}")

sys.exit(1 if failed else 0)
