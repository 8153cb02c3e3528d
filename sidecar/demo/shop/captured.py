"""Shop in network namespaces, captured: no service has an address of a sidecar.

    python -m sidecar.demo.shop.captured     # as root; needs ip, nft, nsenter, setpriv, unshare and openssl

Each service is in a namespace of its own with its sidecar, as in a pod.  It dials the others by their names, and the
kernel redirects its connections (`sidecar capture`).  One more host, `outside`, has no sidecar: it has a server of TLS,
and one that speaks first.  Rules and namespaces end with the command, and the host's own network is left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sidecar.demo import examples
from sidecar.demo.shop import CALLS, TOKEN
from sidecar.process import children as processes

NEEDED: Final = ("ip", "nft", "nsenter", "setpriv", "unshare", "openssl", "mount")
"""Programs that the command runs."""
NAMESPACE: Final = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
HOSTS: Final = {name: f"10.88.0.{number}" for number, name in enumerate((*CALLS, "outside"), 2)}
"""Address of each service, by its name."""
HUB: Final = "10.88.0.1"
PORT: Final = 8080
"""Port at which a service is dialled: its sidecar's inbound listener."""
TLS_PORT: Final = 8443
GREETER_PORT: Final = 2525
USER: Final = "65532"
"""User of the sidecars, whose connections the rules exempt."""
OUTBOUND: Final = re.compile(r'^  outbound: \{address: "[^"]*"', re.MULTILINE)
READY_WITHIN: Final = 120.0
"""Longest time in seconds until all processes are ready."""
COUNTED: Final = re.compile(r"^sidecar_capture_connections_total\{(.*)\} (\d+)", re.MULTILINE)


def obstacle() -> str:
    """Return why the shop cannot run here; empty if it can."""
    if missing := [each for each in NEEDED if shutil.which(each) is None]:
        return f"needs {', '.join(missing)}"
    if os.geteuid() != 0:
        return "needs root"
    probe = "ip link add here type veth peer name there && nft add table inet a && mount -t tmpfs none /run"
    done = subprocess.run([*NAMESPACE, "sh", "-c", probe], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"needs network namespaces: {done.stderr.strip()}"


class CapturedShop:
    """All processes of the shop; use it in namespaces of its own (`NAMESPACE`)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.certificate = directory / "outside.pem"

    def open(self) -> None:
        """Start all services with their sidecars, and wait until they are ready.  Raises `TimeoutError`."""
        self._lay_network()
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=outside"]
        files = ["-keyout", str(self.directory / "outside.key"), "-out", str(self.certificate)]
        names = ["-addext", "subjectAltName=DNS:outside,DNS:bank.test"]
        subprocess.run([*command, *files, *names], check=True, capture_output=True)
        self.run("outside", "outside", [sys.executable, "-m", __spec__.name, "outside", str(self.directory)])
        shutil.copytree(examples.find("shop/web.yaml").parent, self.directory / "policies")
        for name in CALLS:
            self._start(name)
        self._wait()

    def _lay_network(self) -> None:
        """Make a namespace for each service, all on one bridge."""
        hosts = self.directory / "hosts"
        hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{host} {name}\n" for name, host in HOSTS.items()))
        lines = [
            "set -e",
            f"mount --bind {hosts} /etc/hosts",
            "mount -t tmpfs none /run",
            "ip link set lo up",
            "ip link add hub type bridge",
            f"ip addr add {HUB}/24 dev hub",
            "ip link set hub up",
        ]
        for number, (name, host) in enumerate(HOSTS.items()):
            lines += [
                f"ip netns add {name}",
                f"ip link add pod{number} master hub type veth peer name eth0 netns {name}",
                f"ip link set pod{number} up",
                f"ip -n {name} link set lo up",
                f"ip -n {name} addr add {host}/24 dev eth0",
                f"ip -n {name} link set eth0 up",
            ]
        subprocess.run(["sh", "-c", "\n".join(lines)], check=True)

    def _start(self, name: str) -> None:
        """Start a service and its sidecar, and redirect the connections of the service."""
        policies = self.directory / "policies" / f"{name}.yaml"
        text, number = OUTBOUND.subn(rf"\g<0>, original_destination: true{_names(name)}", policies.read_text())
        if number != bool(CALLS[name]):
            raise ValueError(f"{policies}: has no outbound listener on one line")
        if name == "orders":
            text = text.replace(
                "\nupstreams:\n", f'\nupstreams:\n  bank: {{endpoints: ["http://outside:{TLS_PORT}"]}}\n'
            )
        policies.write_text(text)
        env = {"INVENTORY_1": f"http://inventory:{PORT}", "INVENTORY_2": f"http://{HOSTS['inventory']}:{PORT}"}
        env |= {"ADMIN": f"{HOSTS[name]}:9901", "INBOUND": f"0.0.0.0:{PORT}", "OUTBOUND": "127.0.0.1:15001"}
        env["APP"] = "http://127.0.0.1:8000"
        as_user = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"]
        as_user += [
            "--inh-caps",
            "+dac_read_search",
            "--ambient-caps",
            "+dac_read_search",
        ]  # for an interpreter of root
        sidecar = [sys.executable, "-m", "sidecar"]
        self.run(name, f"{name}-sidecar", [*as_user, *sidecar, "run", str(policies)], **env)
        program = ["sidecar.demo.prices"] if name == "prices" else ["sidecar.demo.shop.service", name]
        dials = [] if name == "prices" else ["--outbound", f"http://{{name}}:{PORT}"]
        self.run(name, name, [sys.executable, "-m", *program, "--address", "127.0.0.1:8000", *dials])
        if CALLS[name]:
            apply = [*sidecar, "capture", "--apply", "--uid", USER, str(policies)]
            subprocess.run([*_within(name), *apply], check=True, capture_output=True, env={**os.environ, **env})

    def run(self, name: str, log: str, argv: Sequence[str], **env: str) -> None:
        """Start a program in the namespace of a service, with a log of its own."""
        processes.start([*_within(name), *argv], self.directory / f"{log}.log", env)

    def _wait(self) -> None:
        give_up = time.monotonic() + READY_WITHIN
        for name in CALLS:
            while get(f"http://{name}:9901/readyz")[0] != 200 or get(f"http://{name}:{PORT}/healthz")[0] in (
                0,
                502,
                503,
            ):
                if time.monotonic() > give_up:
                    raise TimeoutError(f"{name} is not ready")
                time.sleep(0.1)

    def visit(self) -> list[str]:
        """Visit the shop as a customer, and `outside` as the service `orders`; return one line for each visit."""
        said = []
        for title, path, token in (
            ("HTTP/1 and HTTP/2: an order through five services", "/orders/7", ""),
            ("aggregation and translation: a customer's page", "/profile", TOKEN),
        ):
            give_up = time.monotonic() + READY_WITHIN  # the first requests open connections, which may take too long
            while (status := get(f"http://web:{PORT}{path}", f"Bearer {token}" if token else "")[0]) != 200:
                if time.monotonic() > give_up:
                    break
            said.append(f"{title}: {status}")
        command = [*_within("orders"), sys.executable, "-m", __spec__.name, "inside", str(self.directory)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return said + done.stdout.splitlines() + done.stderr.splitlines()[-1:]

    @staticmethod
    def counts(name: str) -> dict[str, int]:
        """Return how many connections of a service were captured, by protocol and by where they went."""
        status, page = get(f"http://{name}:9901/metrics", "Bearer shop-demo-token")
        if status != 200:
            raise ValueError(f"the metrics beside {name} are answered with {status}")
        found = [(dict(re.findall(r'(\w+)="([^"]*)"', labels)), int(value)) for labels, value in COUNTED.findall(page)]
        return {f"{labels['protocol']} to {labels['to']}": value for labels, value in found if value}

    def logs(self) -> str:
        """Return the end of each log."""
        return "\n".join(f"{path.name}: {path.read_text()[-600:]}" for path in sorted(self.directory.glob("*.log")))


def _within(name: str) -> list[str]:
    """Return the beginning of a command in the namespace of a service."""
    return ["nsenter", f"--net=/run/netns/{name}"]


def _names(name: str) -> str:
    """Return the settings of `orders`: TLS connections with the server name `bank.test` go to an upstream."""
    return ", capture: {server_names: {bank.test: bank}}" if name == "orders" else ""


def get(url: str, authorization: str = "") -> tuple[int, str]:
    """Return status and body of a GET; 0 and an empty text without a response."""
    request = urllib.request.Request(url, headers={"Authorization": authorization} if authorization else {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


# ----- the host without a sidecar, and its clients


async def serve_outside(directory: Path) -> None:
    """Serve TLS, and a protocol whose server speaks first."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 outside\r\n")
        await reader.read(1)
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "outside.pem", directory / "outside.key")
    await asyncio.start_server(answer, HOSTS["outside"], TLS_PORT, ssl=context)
    await asyncio.start_server(answer, HOSTS["outside"], PORT)
    await asyncio.start_server(greet, HOSTS["outside"], GREETER_PORT)
    await asyncio.Event().wait()


async def visit_outside(directory: Path) -> None:
    """Dial the host without a sidecar in each protocol, and print what comes back."""
    context = ssl.create_default_context(cafile=str(directory / "outside.pem"))
    for title, port, name in (
        ("HTTP/1 without a route", PORT, ""),
        ("TLS, by its server name to an upstream", TLS_PORT, "bank.test"),
        ("TLS, to where it was dialled", TLS_PORT, "outside"),
    ):
        secured = {"ssl": context, "server_hostname": name} if name else {}
        reader, writer = await asyncio.open_connection("outside", port, **secured)  # type: ignore[arg-type]
        writer.write(b"GET / HTTP/1.1\r\nHost: outside\r\nConnection: close\r\n\r\n")
        print(f"{title}: {(await reader.read(-1)).split(b' ')[1].decode()}")
        writer.close()
    reader, writer = await asyncio.open_connection("outside", GREETER_PORT)
    print(f"TCP, whose server speaks first: {(await reader.readline()).decode().split()[0]}")
    writer.close()


def main() -> int:
    match sys.argv[1:]:
        case ["outside", directory]:
            asyncio.run(serve_outside(Path(directory)))
            return 0
        case ["inside", directory]:
            asyncio.run(visit_outside(Path(directory)))
            return 0
        case ["open"]:
            return _open()
    if why := obstacle():
        print(f"shop: {why}", file=sys.stderr)
        return 1
    return subprocess.run([*NAMESPACE, sys.executable, "-m", __spec__.name, "open"], check=False).returncode


def _open() -> int:
    """Open the shop in the namespaces of this process, visit it, and print what was captured."""
    with tempfile.TemporaryDirectory(prefix="sidecar-captured-") as temporary:
        Path(temporary).chmod(0o755)
        shop = CapturedShop(Path(temporary))
        try:
            shop.open()
            said = shop.visit()
            print("\n".join(said))
            for name in CALLS:
                if CALLS[name]:
                    counts = sorted(shop.counts(name).items())
                    print(f"captured beside {name}: {', '.join(f'{way} {number}' for way, number in counts)}")
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            print(f"shop: {error}\n{shop.logs()}", file=sys.stderr)
            return 1
        is_good = all(line.endswith((": 200", ": 220")) for line in said)
        if not is_good:
            print(shop.logs(), file=sys.stderr)
        return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
