"""What is sent to the host around a command, so that it can be ended again whatever happens.

The request names only a fixed POSIX script. What the task brings (command, directory, environment) follows on
standard input, so that it needs no quoting for the user's login shell, meets no length limit of a request, and
its variables do not show in the host's process list.

The script becomes the command by `exec`: the host reports the command's own status or signal. Before that it
prints one line on standard error, the marker and the process group, and leaves a watcher behind. The watcher
holds the other end of our standard input as its lifeline. At its end, be it a cancel or the loss of this
process, the watcher ends the process group: TERM, and KILL two seconds later. As a member of the group it also
keeps the group's number from being reused while it watches. A command that has ended by itself leaves it
nothing to do, so that what it left in the background lives on.

A command that wants standard input itself cannot have a watcher; it is ended by `end_group` from aside.
"""

import shlex

from worker.actions.ssh.command import Command

KILL_AFTER_SECONDS = 2.0
MARKER_SEARCH_BYTES = 64 * 1024
"""How much standard error may come before the marker: what the user's start-up files print."""

_BECOME_GROUP_LEADER = """\
if kill -s 0 -- "-$$" 2>/dev/null; then eval "$1"; else exec setsid sh -c "$1" sh "$@"; fi"""
# OpenSSH starts a command as the leader of its process group, other servers and forced commands do not.

_SCRIPT = r"""
script=
while IFS= read -r line; do
  case $line in "$2") break ;; esac
  script="$script$line
"
done
if [ "$3" = watched ]; then
  exec 3<&0 </dev/null
  ( (
    trap "" HUP INT TERM
    while read -r line; do :; done
    kill -s 0 "$$" || exit
    kill -s TERM -- "-$$"
    sleep 2
    kill -s KILL -- "-$$"
  ) <&3 >/dev/null 2>&1 & )
  exec 3<&-
fi
printf "%s %s\n" "$2" "$$" >&2
SHLVL=1
export SHLVL
eval "$script"
exec "${SHELL:-sh}" -c "$1"
"""
# SHLVL keeps bash from reading the user's start-up files a second time.


def exec_request(marker: str, *, watched: bool) -> str:
    """Return the command line that the host is asked to run."""
    mode = "watched" if watched else "fed"
    return f"exec sh -c {shlex.quote(_BECOME_GROUP_LEADER)} sh {shlex.quote(_SCRIPT)} {marker} {mode}"


def script_input(command: Command, marker: str) -> bytes:
    """Return what the script reads first from standard input: the task's part, ended by the marker."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in command.env.items()]
    if command.cwd is not None:
        directory = command.cwd if command.cwd.startswith("/") else f"./{command.cwd}"
        lines.append(f"cd {shlex.quote(directory)} || exit 125")
    lines.append(f"set -- {shlex.quote(command.command)}")
    return ("\n".join(lines) + f"\n{marker}\n").encode()


def end_group(signal: str, process_group: int) -> str:
    """Return the command line that sends `signal` to a whole process group."""
    return f"exec sh -c 'kill -s {signal} -- -{process_group}'"


class MarkerFilter:
    """Takes the marker's line out of standard error and learns the process group from it."""

    def __init__(self, marker: str) -> None:
        self._marker = marker.encode() + b" "
        self._held = b""
        self._done = False
        self.process_group: int | None = None

    def take(self, data: bytes) -> bytes:
        """Return what of `data` and what was held back before is the command's own."""
        if self._done:
            return data
        self._held += data
        before, found, rest = self._held.partition(self._marker)
        number, ended, after = rest.partition(b"\n")
        if found and ended:
            self._held, self._done = b"", True
            self.process_group = int(number) if number.isdigit() and int(number) > 1 else None
            return before + after
        if not found and len(self._held) > MARKER_SEARCH_BYTES:
            return self.flush()
        return b""

    def flush(self) -> bytes:
        """Return what is held back: no marker will come any more."""
        held, self._held, self._done = self._held, b"", True
        return held
