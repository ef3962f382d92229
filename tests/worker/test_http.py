import socket
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from umbel.exceptions import ImproperlyConfigured
from umbel.worker.http import Health, address_of


def get(url):
    try:
        with urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


def test_an_address_is_read():
    assert address_of(":9100") == ("", 9100)
    assert address_of("9100") == ("", 9100)
    assert address_of("127.0.0.1:9100") == ("127.0.0.1", 9100)
    assert address_of("[::1]:9100") == ("::1", 9100)
    for nonsense in ("", "localhost", ":http", ":99999"):
        with pytest.raises(ValueError, match="no address"):
            address_of(nonsense)


def test_pages_are_served_until_it_stops():
    def broken():
        raise RuntimeError("no")

    health = Health(
        ("127.0.0.1", 0), {"/live": lambda: (200, "alive\n"), "/ready": lambda: (503, "not yet\n"), "/x": broken}
    )
    health.start()
    health.start()
    url = f"http://127.0.0.1:{health.port}"
    try:
        assert get(f"{url}/live?verbose=1") == (200, "alive\n")
        assert get(f"{url}/ready/") == (503, "not yet\n")
        assert get(f"{url}/nothing") == (404, "there are /live, /ready, /x\n")
        assert get(f"{url}/x") == (500, "RuntimeError('no')\n")
    finally:
        health.stop()
        health.stop()
    with pytest.raises(OSError):
        get(f"{url}/live")


def test_an_address_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ImproperlyConfigured, match=rf"127\.0\.0\.1:{port}.*another port"):
            Health(("127.0.0.1", port), {})
