import signal

import pytest

from umbel.pools.zygote import describe_exit


@pytest.mark.parametrize(
    ("exitcode", "words"),
    [
        (0, "exited with status 0"),
        (3, "exited with status 3"),
        (-signal.SIGSEGV, "was killed by SIGSEGV"),
        (-63, "was killed by signal 63"),
    ],
)
def test_the_end_of_a_process_is_told_in_words(exitcode, words):
    assert describe_exit(exitcode) == words
