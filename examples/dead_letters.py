"""Look through the tasks that failed for good, and give those a second chance whose cause has passed.

python examples/dead_letters.py                      # what there is, by what went wrong
python examples/dead_letters.py --retry exit_status  # run those with this error again, and wait for them
"""

import sys
from collections import Counter

from warren import Conflict, DeadLetter, Warren


def code(letter: DeadLetter) -> str:
    """Return the word for what went wrong."""
    return (letter.error and letter.error.code) or letter.cause


with Warren() as warren:
    if sys.argv[1:2] != ["--retry"]:
        counted = Counter((letter.cause, code(letter), letter.action) for letter in warren.dead_letters.list())
        for (cause, word, action), number in counted.most_common():
            print(f"{number:>6}  {cause}  {word}  {action}")
        print(f"{counted.total()} dead letters")
        sys.exit()

    revived = []
    for letter in warren.dead_letters.list():
        if code(letter) == sys.argv[2]:
            try:
                revived.append(warren.dead_letters.retry(letter.id))
            except Conflict:
                continue  # someone else was faster
    for task in warren.as_completed(revived, timeout_s=600):
        print(task.id, task.state)
