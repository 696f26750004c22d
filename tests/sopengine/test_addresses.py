"""An address that staff typed leads to the internet, or nowhere; what was looked at is what is called."""

import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sopengine.addresses import Network, is_allowed, is_public
from sopengine.errors import Permanent, StepError, Transient
from sopengine.http import Client
from tests.crm.rogue import Rogue

HOST = "crm.example.test"
PUBLIC = "93.184.216.34"
PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "169.254.170.2",
    "100.64.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::8.8.8.8",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2002:c0a8:101::",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "3fff::1",
    "2a00:1450::200:5efe:10.0.0.1",
    "2a00:1450::5efe:10.0.0.1",
    "100::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "5f00::1",
    "4000::1",
    "",
    "crm.example.test",
    "127.1",
]
PUBLIC_ONES = [
    PUBLIC,
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "11.0.0.0",
    "223.255.255.255",
    "168.63.129.17",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
    "2606:2800:220:1:248:1893:25c8:1946",
    "2a00:1450:4001:800::200e",
]


class Names(Network):
    """A network in which a name has these addresses, and each address is the server on loopback."""

    def __init__(self, port: int, *addresses: str) -> None:
        self.port = port
        self.addresses = list(addresses)
        self.asked: list[str] = []
        self.called: list[tuple[str, int]] = []

    def resolve(self, host: str) -> list[str]:
        self.asked.append(host)
        return list(self.addresses)

    def connect(self, address: str, port: int, seconds: float) -> socket.socket:
        self.called.append((address, port))
        return super().connect("127.0.0.1", self.port, seconds)


class Slow(Names):
    """Nobody says where names lead."""

    def resolve(self, host: str) -> list[str]:
        time.sleep(6)
        return super().resolve(host)


class HalfDead(Names):
    """The first of its addresses takes no connection."""

    def connect(self, address: str, port: int, seconds: float) -> socket.socket:
        if not self.called:
            self.called.append((address, port))
            time.sleep(seconds)
            raise TimeoutError
        return super().connect(address, port, seconds)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a certificate for HOST that nobody trusts of himself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=400))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + built.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def served(certificate: Path) -> Iterator[tuple[Rogue, list[str | None]]]:
    """An https server for HOST, and the names it was asked for in handshakes."""
    named: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _socket, name, _context: named.append(name)
    with Rogue(tls=context) as rogue:
        yield rogue, named


def guarded(address: str, network: Network, certificate: Path | str = "", **more: Any) -> Client:
    return Client("hook", address, guarded=True, network=network, authorities=str(certificate), **more)


def refusal(client: Client) -> StepError:
    with pytest.raises(StepError) as caught:
        client.call("POST", "/x", label="x", body={"a": 1})
    return caught.value


# -- which addresses are public ------------------------------------------------------------------------


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_for_everybody_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC_ONES)
def test_what_anybody_can_reach_is_public(address: str) -> None:
    assert is_public(address)


# -- a guarded call --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", [address for address in PRIVATE if ":" in address or address[:1].isdigit()]
)
def test_a_name_that_leads_into_a_private_network_is_not_called(address: str) -> None:
    network = Names(9, address)

    error = refusal(guarded("https://hooks.example.com", network))

    assert (type(error), error.reason, error.sent) == (Permanent, "address_refused", "no")
    assert network.called == []


@pytest.mark.parametrize("addresses", [(PUBLIC, "10.0.0.1"), ("10.0.0.1", PUBLIC)])
def test_one_private_address_among_public_ones_is_enough(addresses: tuple[str, str]) -> None:
    network = Names(9, *addresses)

    assert refusal(guarded("https://hooks.example.com", network)).reason == "address_refused"
    assert network.called == []


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "0x7f.0.0.1",
        "2130706433",
        "017700000001",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::]",
        "0",
    ],
)
def test_this_machine_is_not_called_however_it_is_spelt(host: str) -> None:
    with Rogue() as rogue:
        error = refusal(Client("hook", f"https://{host}:{rogue.port}", guarded=True))

        assert (error.reason, error.sent) == ("address_refused", "no")
        assert rogue.connections == 0


def test_without_tls_an_address_that_staff_typed_is_refused_at_once() -> None:
    with pytest.raises(Permanent) as caught:
        Client("hook", "http://hooks.example.com", guarded=True)

    assert caught.value.reason == "address_refused"


def test_the_address_that_was_looked_at_is_the_one_that_is_called(
    served: tuple[Rogue, list[str | None]], certificate: Path
) -> None:
    rogue, named = served
    network = Names(rogue.port, PUBLIC)

    answer = guarded(f"https://{HOST}:8443/in", network, certificate).call("GET", "/x", label="x")

    assert answer.value["name"] == "Ada"
    assert (network.asked, network.called) == ([HOST], [(PUBLIC, 8443)])
    assert named == [HOST]
    assert rogue.requests[0].headers["host"] == f"{HOST}:8443"


def test_a_name_that_changes_its_mind_between_calls_is_looked_at_again(
    served: tuple[Rogue, list[str | None]], certificate: Path
) -> None:
    rogue, _ = served
    network = Names(rogue.port, PUBLIC)
    client = guarded(f"https://{HOST}", network, certificate)
    client.call("GET", "/x", label="x")
    network.addresses = ["169.254.169.254"]

    client.call("GET", "/x", label="x")  # on the connection that was looked at
    rogue.does("hang_up", times=1)
    refusal(client)
    error = refusal(client)

    assert error.reason == "address_refused"
    assert network.called == [(PUBLIC, 443)]


def test_a_guarded_call_never_uses_a_connection_of_one_that_is_not(
    served: tuple[Rogue, list[str | None]], certificate: Path
) -> None:
    rogue, _ = served
    network = Names(rogue.port, "10.0.0.1")
    Client("crm", f"https://{HOST}", network=network, authorities=str(certificate)).call(
        "GET", "/", label="x"
    )

    assert refusal(guarded(f"https://{HOST}", network, certificate)).reason == "address_refused"


def test_a_redirect_leads_nowhere_even_where_it_is_allowed(
    served: tuple[Rogue, list[str | None]], certificate: Path
) -> None:
    rogue, _ = served
    with Rogue() as other:
        rogue.does("redirect", other.url)

        error = refusal(guarded(f"https://{HOST}", Names(rogue.port, PUBLIC), certificate))

        assert error.reason == "redirect"
        assert other.connections == 0


# -- hosts that are configured ----------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["127.0.0.1", "127.0.0.1:{port}"])
def test_a_host_that_is_allowed_may_be_private_and_without_tls(word: str, settings: Any) -> None:
    with Rogue() as rogue:
        settings.HTTP_ALLOWED_HOSTS = [word.format(port=rogue.port)]

        assert Client("hook", rogue.url, guarded=True).call("GET", "/x", label="x").found


@pytest.mark.parametrize("word", ["127.0.0.2", "127.0.0.1:1", "0.0.1", "localhost", ""])
def test_a_host_that_is_not_the_allowed_one_is_not_allowed(word: str, settings: Any) -> None:
    settings.HTTP_ALLOWED_HOSTS = [word]

    with pytest.raises(Permanent):
        Client("hook", "http://127.0.0.1:8000", guarded=True)


def test_allowed_hosts_are_compared_in_any_spelling_of_the_same_name(settings: Any) -> None:
    settings.HTTP_ALLOWED_HOSTS = ["crm.example.com:443", "[::1]:8080", "[fd00::1]"]

    assert is_allowed("CRM.example.com.", 443)
    assert is_allowed("::1", 8080)
    assert is_allowed("fd00::1", 1)
    assert not is_allowed("crm.example.com", 444)
    assert not is_allowed("::1", 8081)


# -- every call ---------------------------------------------------------------------------------------------


def test_a_certificate_for_another_name_or_of_a_stranger_is_not_accepted(
    served: tuple[Rogue, list[str | None]], certificate: Path
) -> None:
    rogue, _ = served
    for host, trusted in (("other.example.test", certificate), (HOST, "")):
        error = refusal(guarded(f"https://{host}", Names(rogue.port, PUBLIC), trusted))

        assert (type(error), error.reason, error.sent) == (Transient, "unreachable", "no")
        assert "certificate" in error.message
    assert rogue.requests == []


def test_a_connection_is_not_shared_with_who_trusts_others(
    served: tuple[Rogue, list[str | None]], certificate: Path
) -> None:
    rogue, _ = served
    network = Names(rogue.port, PUBLIC)
    assert guarded(f"https://{HOST}", network, certificate).call("GET", "/", label="x").found

    assert refusal(guarded(f"https://{HOST}", network)).reason == "unreachable"


def test_a_server_that_never_shakes_hands_is_given_up_in_time() -> None:
    with Rogue() as rogue:  # it waits for a request in plain words
        client = guarded(f"https://{HOST}", Names(rogue.port, PUBLIC), connect_seconds=0.5)
        started = time.monotonic()

        error = refusal(client)

        assert (type(error), error.sent) == (Transient, "no")
        assert time.monotonic() - started < 4


def test_a_resolver_that_does_not_answer_is_given_up_in_time() -> None:
    started = time.monotonic()

    error = refusal(Client("crm", "http://crm.example.test", network=Slow(9, PUBLIC), connect_seconds=0.3))

    assert (error.reason, error.sent) == ("connect_timeout", "no")
    assert time.monotonic() - started < 4


def test_a_name_without_address_is_unreachable() -> None:
    error = refusal(Client("crm", "http://crm.example.test", network=Names(9)))

    assert (error.reason, error.sent) == ("unreachable", "no")


def test_where_the_first_address_is_dead_the_second_one_is_called() -> None:
    with Rogue() as rogue:
        network = HalfDead(rogue.port, "2606:2800::1", PUBLIC)
        client = Client("crm", "http://crm.example.test", network=network, connect_seconds=1.0)

        assert client.call("GET", "/x", label="x").found
        assert network.called == [("2606:2800::1", 80), (PUBLIC, 80)]
