"""Only what is signed by somebody we trust is read, and a real Celery reads what we sign."""

import base64
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from umbel import Umbel, current
from umbel.app.security import disable_untrusted_serializers
from umbel.contrib.testing.worker import start_worker
from umbel.exceptions import CeleryError, ContentDisallowed, DecodeError, ImproperlyConfigured, SecurityError
from umbel.wire.codecs import Codecs
from umbel.wire.signing import CONTENT_TYPE, Certificate, PrivateKey, certificates_at, signing_codec

PEER = Path(os.environ.get("UMBEL_TEST_PEER_PYTHON") or Path(__file__).parents[2] / ".venv-peer" / "bin" / "python")
TODAY = datetime.now(UTC)
PEM = serialization.Encoding.PEM


def certified(folder, name, *, key=None, days=30, password=None):
    """Write a key and its certificate into *folder*."""
    key = key or rsa.generate_private_key(public_exponent=65537, key_size=2048)
    who = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Umbel"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(TODAY - timedelta(days=60))
        .not_valid_after(TODAY + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    (folder / f"{name}.key").write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, encryption))
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(PEM))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Keys of `me`, who is trusted, and of `stranger`, who is not; certificates that nobody should use."""
    folder = tmp_path_factory.mktemp("keys")
    certified(folder, "me")
    certified(folder, "stranger", password=b"sesame")
    for name, more in (("old", {"days": -1}), ("curve", {"key": ec.generate_private_key(ec.SECP256R1())})):
        certified(folder, name, **more)
    (folder / "trusted").mkdir()
    (folder / "trusted" / "me.pem").write_bytes((folder / "me.pem").read_bytes())
    return folder


def codec_of(home, name="me", password=None, **options):
    return signing_codec(
        Codecs(),
        key=PrivateKey((home / f"{name}.key").read_bytes(), password),
        certificate=Certificate((home / f"{name}.pem").read_bytes()),
        trusted=certificates_at(str(home / "trusted")),
        **options,
    )


@pytest.mark.row("PRT-088", "PRT-110", "PRT-111", "PRT-112", "PRT-114")
def test_what_is_signed_is_read_again(home):
    codec = codec_of(home)
    assert (codec.name, codec.content_type, codec.content_encoding) == ("auth", "application/data", "utf-8")

    text = codec.encode([[1, "é"], {}])

    assert codec.decode(text.encode()) == [[1, "é"], {}]
    who, signature, *rest = base64.b64decode(text).split(b"\x00\x01", 4)
    assert base64.b64decode(who).startswith(b"Umbel me ")
    assert len(base64.b64decode(signature)) == 256
    assert rest == [b"application/json", b"utf-8", b'[[1, "\\u00e9"], {}]']


@pytest.mark.row("PRT-113", "API-522")
def test_what_is_not_signed_by_somebody_trusted_is_refused(home):
    codec = codec_of(home)
    with pytest.raises(SecurityError, match="no trusted certificate"):
        codec.decode(codec_of(home, "stranger", b"sesame").encode("x").encode())

    parts = base64.b64decode(codec.encode("pay 1")).split(b"\x00\x01", 4)
    forged = base64.b64encode(b"\x00\x01".join([*parts[:4], b'"pay 9"']))
    with pytest.raises(SecurityError, match="bad signature"):
        codec.decode(forged)

    late = codec_of(home, now=lambda: TODAY + timedelta(days=31))
    with pytest.raises(SecurityError, match="expired"):
        late.decode(codec.encode("x").encode())


@pytest.mark.parametrize("junk", [b"", b"xx", b"\xff\xfe", base64.b64encode(b"a\x00\x01b\x00\x01c"), b"A" * 99])
def test_what_is_damaged_is_refused(home, junk):
    with pytest.raises(DecodeError, match="no signed body"):
        codec_of(home).decode(junk)


def test_signed_or_not_only_the_agreed_serializers_are_decoded(home):
    pickled = codec_of(home, serializer="pickle").encode({1})
    assert codec_of(home, allowed={"pickle"}).decode(pickled.encode()) == {1}
    with pytest.raises(ContentDisallowed, match="pickle"):
        codec_of(home).decode(pickled.encode())


@pytest.mark.row("API-522")
@pytest.mark.parametrize(("name", "words"), [("old", "expired"), ("curve", "RSA"), ("me", "two certificates")])
def test_a_store_with_a_certificate_that_cannot_be_used_is_refused(home, tmp_path, name, words):
    for number in range(2):
        (tmp_path / f"{number}.pem").write_bytes((home / f"{name}.pem").read_bytes())
    with pytest.raises(SecurityError, match=words):
        certificates_at(str(tmp_path / "*.pem"))


def test_keys_that_cannot_be_used_say_so(home, tmp_path):
    for data, password in (
        (b"junk", None),
        ((home / "stranger.key").read_bytes(), b"wrong"),
        ((home / "curve.key").read_bytes(), None),
    ):
        with pytest.raises(SecurityError, match="key"):
            PrivateKey(data, password)
    with pytest.raises(SecurityError, match="no certificate"):
        Certificate(b"junk")
    with pytest.raises(ImproperlyConfigured, match="no certificates"):
        certificates_at(str(tmp_path))
    with pytest.raises(ImproperlyConfigured, match="md0"):
        codec_of(home, digest="md0").encode(1)


# -- In an app ---------------------------------------------------------------------------------------------------------


def settings_of(home):
    return {
        "task_serializer": "auth", "accept_content": ["auth"], "result_serializer": "auth",
        "security_key": str(home / "me.key"), "security_certificate": str(home / "me.pem"),
        "security_cert_store": str(home / "trusted" / "*.pem"),
    }  # fmt: skip


@pytest.fixture
def make_app():
    apps = []

    def make(**settings):
        app = Umbel("signed", broker="memory://", backend="cache+memory://", set_as_current=False, **settings)
        app.task(name="add")(lambda x, y: x + y)
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.close()


@pytest.mark.row("API-052", "API-519", "CFG-206", "CFG-208", "CFG-209")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task_serializer": "json"}, "task_serializer"),
        ({"accept_content": ["json", "auth"]}, "accept_content"),
        ({"security_key": None}, "security_key"),
        ({"security_cert_store": None}, "security_cert_store"),
        ({"security_certificate": "/nowhere.pem"}, "nowhere"),
    ],
)
def test_security_is_set_up_completely_or_not_at_all(home, make_app, change, words):
    app = make_app(**{**settings_of(home), **change})
    with pytest.raises(ImproperlyConfigured, match=words):
        app.setup_security()


@pytest.mark.row("API-521")
def test_without_the_library_it_says_what_to_install(home, make_app, monkeypatch):
    app = make_app(**settings_of(home))
    monkeypatch.setitem(sys.modules, "cryptography", None)

    with pytest.raises(ImproperlyConfigured, match="auth"):
        app.setup_security()


@pytest.mark.row("API-523")
@pytest.mark.parametrize(("allowed", "left"), [(None, ["auth", "json"]), (["yaml"], ["auth", "json", "yaml"])])
def test_untrusted_serializers_of_the_current_app_are_forgotten(home, make_app, allowed, left):
    app = make_app(**settings_of(home))
    app.setup_security(allowed_serializers=["yaml"])
    before = current.get_current_app()
    app.set_current()
    try:
        disable_untrusted_serializers(allowed)
    finally:
        current.set_current_app(before)

    assert app.codecs.names == left


@pytest.mark.row("API-520", "CFG-207", "CFG-210")
def test_other_serializers_are_forgotten(home, make_app):
    app = make_app(**settings_of(home))
    app.setup_security(allowed_serializers=["yaml"], digest="sha512")
    assert app.codecs.names == ["auth", "json", "yaml"]

    second = make_app(**settings_of(home))
    second.setup_security(key=str(home / "stranger.key"), key_password=b"sesame")
    assert second.codecs.names == ["auth", "json"]


@pytest.mark.row("API-052", "PRT-113")
def test_a_worker_runs_what_is_signed_and_nothing_else(home, make_app, caplog):
    app = make_app(**settings_of(home))
    app.setup_security()
    with start_worker(app):
        assert app.tasks["add"].delay(1, 2).get(timeout=20) == 3
        plain = app.send_task("add", (1, 2), serializer="json", task_id="plain")
        assert app.tasks["add"].delay(2, 2).get(timeout=20) == 4
        assert plain.state != "SUCCESS"
    with app.lend_broker() as broker:
        assert broker.find_dead("plain").reason == "invalid"


CELERY = """
import json, sys
from celery import Celery
from kombu.serialization import dumps, loads
settings, texts = json.load(sys.stdin)
app = Celery("peer", broker="memory://")
app.conf.update(settings)
app.setup_security()
content_type, encoding, body = dumps([[1, "é"], {"a": None}], "auth")
print(json.dumps([body, content_type, [loads(text, content_type, encoding) for text in texts]]))
"""


@pytest.mark.process
@pytest.mark.row("PRT-110", "PRT-112")
def test_celery_and_umbel_read_what_the_other_has_signed(home):
    if not PEER.exists():
        pytest.skip("no real Celery: make .venv-peer/.celery")
    codec = codec_of(home)
    said = json.dumps([settings_of(home), [codec.encode([[2, "ü"], {}])]])

    done = subprocess.run([PEER, "-c", CELERY], input=said, capture_output=True, text=True, timeout=50, check=False)

    assert done.returncode == 0, done.stderr
    body, content_type, read = json.loads(done.stdout)
    assert read == [[[2, "ü"], {}]]
    assert content_type == CONTENT_TYPE
    assert codec.decode(body.encode()) == [[1, "é"], {"a": None}]


def test_every_refusal_is_an_error_of_ours(home):
    codec = codec_of(home)
    good = codec.encode([1]).encode()
    for place in range(0, len(good), 97):
        with pytest.raises(CeleryError):
            codec.decode(good[:place] + (b"B" if good[place : place + 1] == b"A" else b"A") + good[place + 1 :])
