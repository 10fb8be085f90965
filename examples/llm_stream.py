"""Print a model's answer while it is being written.

python examples/llm_stream.py "Why do rabbits dig?" [PROVIDER MODEL]
"""

import sys

from warren import Warren

defaults = ["Why do rabbits dig?", "stand-in", "stand-in"]
prompt, provider, model = sys.argv[1:4] + defaults[len(sys.argv) - 1 :]

with Warren() as warren:
    task = warren.llm(provider, model, prompt, system="Answer in a few sentences.")
    attempt = 1
    for piece in task.stream():
        if piece.attempt != attempt:
            # The provider failed half-way, and the answer begins anew.
            attempt = piece.attempt
            print("\n--- once more ---")
        print(piece.text, end="", flush=True)
    print()

    task.result()  # raises TaskDead if there is no answer
    print("tokens:", (task.info.usage or {}).get("output_tokens"))
