"""How a transcript is read, disguised and written, without running anything."""

from tools.transcripts import Disguise, Step, differences

BLOCK = """\
$ warren task list
ID      AGE
task_1  5s

$ cat > a <<'END'
> one
>
> two
> END

$ warren task watch task_1
error: it is dead
[3]
"""
TASK = "task_01973cf0a6b07c3d8f0e2a4b6c8d9e1f"


def test_a_block_is_read_and_written_as_it_was() -> None:
    """Commands over several lines, outputs and exit statuses come back byte for byte."""
    steps = list(Step.read(BLOCK))
    assert [step.status for step in steps] == [0, 0, 3]
    assert steps[1].command == "cat > a <<'END'\none\n\ntwo\nEND"
    assert steps[0].output == "ID      AGE\ntask_1  5s"
    assert "\n".join(step.written() for step in steps) == BLOCK


def test_other_numbers_change_nothing_and_other_words_do() -> None:
    """What was recorded stays unless more than times and counts differ."""
    recorded = Step("warren task list", "task_1  5s  0.2 s")
    assert recorded.merged(Step("warren task list", "task_1   1m  3.0 s")) is recorded
    changed = Step("warren task list", "task_1  gone")
    assert recorded.merged(changed) is changed
    failed = Step("warren task list", recorded.output, 6)
    assert recorded.merged(failed) is failed


def test_a_disguise_comes_off_again() -> None:
    """Ids, keys, paths and ports are shown as others, always the same, and commands get the real ones."""
    disguise = Disguise([("/tmp/w1234", "/home/rosa"), ("8012", "8000"), ("root", "rosa")])
    said = f"{TASK} of root in /tmp/w1234/x, at 127.0.0.1:8012, rooted, SHA256:{'A' * 43}"
    shown = disguise.put_on(said)
    assert "task_01980000000000000000000000000001 of rosa in /home/rosa/x, at 127.0.0.1:8000, rooted" in shown
    assert "A" * 43 not in shown
    assert disguise.put_on(said) == shown
    assert disguise.take_off(shown) == said


def test_a_check_tells_which_command_ends_otherwise() -> None:
    """The exit status counts and the output does not."""
    page = f"# A page\n\n```console\n{BLOCK}```\n"
    assert differences("page", page, page.replace("5s", "7s").replace("it is dead", "it has died")) == ""
    told = differences("page", page, page.replace("[3]", "[0]"))
    assert "-warren task watch task_1  # exits 3" in told
