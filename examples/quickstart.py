"""Run a command on a host and ask a model, side by side, and wait for both.

warren up                          # in another terminal; its tour makes the host and the model used here
python examples/quickstart.py
"""

from warren import TaskDead, Warren

with Warren() as warren:
    # Both are durable as soon as these lines return, and run while this program does something else.
    command = warren.ssh("this-machine", "uname -sr", title="quickstart")
    question = warren.llm("stand-in", "stand-in", "In one sentence: what is a warren?", max_tokens=100)

    try:
        print("the host:", command.result(timeout_s=60).stdout_tail.strip())
        print("the model:", question.result(timeout_s=60).text)
    except TaskDead as dead:
        print("it failed for good:", dead)

    for event in command.events():
        print(f"{event.at:%H:%M:%S.%f} {event.type}")
