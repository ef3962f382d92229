from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from umbel import Umbel
from umbel.app.parts import Site, open_backend, open_broker, same_server
from umbel.backends.memory import MemoryBackend
from umbel.brokers.memory_store import MemoryStores
from umbel.exceptions import ImproperlyConfigured


@pytest.fixture
def site(tmp_path):
    return Site(home=tmp_path, memory=MemoryStores(), options={})


@pytest.mark.parametrize("url", ["memory://", "memory://name", "sqlite:///q.db"])
def test_a_url_opens_what_its_scheme_names(site, url):
    with closing(open_broker(url, site)) as broker, closing(open_backend(url, site)) as backend:
        assert broker.sizes() == {}
        assert backend.fetch(["t1"]) == {}


def test_relative_files_lie_where_the_app_is_at_home(site, tmp_path):
    with closing(open_broker("sqlite:///q.db", site)) as broker:
        broker.pause("q")

    assert (tmp_path / "q.db").exists()


class OwnBackend(MemoryBackend):
    """A store of a project's own."""

    def __init__(self, url, site):
        super().__init__(site.memory.at("memory://"))
        self.url = url


@pytest.mark.row("API-546", "TB-145")
def test_a_store_of_a_projects_own_is_opened_by_its_alias_or_its_class(site):
    named = msgspec.structs.replace(site, conf=Umbel(set_as_current=False).conf)
    named.conf.override_backends = {"own": f"{__name__}:OwnBackend", "memory": OwnBackend}

    for url in ("own://here", "memory://", f"{__name__}:OwnBackend", f"{__name__}.OwnBackend"):
        with closing(open_backend(url, named)) as backend:
            assert (type(backend).__name__, backend.url) == ("OwnBackend", url)
    with pytest.raises(ImproperlyConfigured, match="name a class, called with url and site"):
        open_backend("umbel.app.parts", site)


@pytest.mark.row("TB-130")
def test_the_cache_in_memory_of_celery_is_our_memory(site):
    with closing(open_backend("cache+memory://", site)) as backend:
        assert backend.fetch(["t1"]) == {}


@pytest.mark.parametrize("opener", [open_broker, open_backend])
def test_an_unknown_scheme_is_an_error_that_says_what_there_is(site, opener):
    with pytest.raises(ImproperlyConfigured, match=r"'sqlit'.*did you mean 'sqlite'.*memory.*, sqlite") as caught:
        opener("sqlit://user:sesame@host/x", site)

    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("broker", "backend", "same"),
    [
        ("memory://", "memory://", True),
        ("memory://a", "memory://b", False),
        ("memory://", None, False),
        ("memory://", "sqlite:///q.db", False),
        ("sqlite:///q.db", "sqlite:///q.db?durability=full", True),
        ("sqlite:///q.db", "sqlite:///other.db", False),
    ],
)
def test_one_server_for_both_is_recognised(site, broker, backend, same):
    assert same_server(broker, backend, site) is same


def test_one_file_is_recognised_by_its_place(site, tmp_path):
    assert same_server("sqlite:///q.db", f"sqlite:///{Path(tmp_path, 'q.db')}", site)
