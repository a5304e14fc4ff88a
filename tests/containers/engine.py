"""Finds a container engine, or installs Debian's and starts it for the length of a drill."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PLUGINS: Final = {"docker-compose": "compose", "docker-buildx": "buildx"}
PLUGIN_FOLDER: Final = "usr/libexec/docker/cli-plugins"
START_S: Final = 60.0
STOP_S: Final = 60.0


class Engine:
    """Runs `docker` against one engine.

    Args:
        folder: for what this starts and brings: the engine's data, plugins, packages. It is kept between drills.
        say: is told what takes long.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self._say = folder, say
        self.env = dict(os.environ)

    def install(self, *packages: str, of: str) -> None:
        """Install Debian's packages, unless the program `of` is there. They start no service."""
        if shutil.which(of):
            return
        if os.getuid() or not shutil.which("apt-get"):
            raise RuntimeError(
                f"wanted the program {of}, found none; as root on Debian this installs {' '.join(packages)}"
            )
        self._say(f"installing {' '.join(packages)}")
        policy = Path("/usr/sbin/policy-rc.d")
        ours = not policy.exists()
        if ours:
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        try:
            env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            _run(["apt-get", "update", "-qq"], env)
            _run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], env)
        finally:
            if ours:
                policy.unlink()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Use the engine that answers (`DOCKER_HOST`, or its usual socket), else run Debian's during the block."""
        if shutil.which("docker") and self._answers():
            self._plugins()
            yield
            return
        self.install("docker.io", "iptables", of="dockerd")
        socket = self.folder / "docker.sock"
        self.env["DOCKER_HOST"] = f"unix://{socket}"
        self._plugins()
        self._say(f"starting dockerd, DOCKER_HOST={self.env['DOCKER_HOST']}")
        command = ["dockerd", "-H", self.env["DOCKER_HOST"], "--data-root", str(self.folder / "data")]
        command += ["--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "docker.pid")]
        with (self.folder / "dockerd.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            until = time.monotonic() + START_S
            while not self._answers():
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"dockerd does not start, see {self.folder / 'dockerd.log'}")
                time.sleep(0.3)
            yield
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _answers(self) -> bool:
        return subprocess.run(["docker", "version"], env=self.env, capture_output=True).returncode == 0

    def _plugins(self) -> None:
        """Bring compose and buildx, unless docker has them: from Debian's trixie, unpacked, not installed."""
        missing = [name for name, verb in PLUGINS.items() if not self._knows(verb)]
        if not missing:
            return
        plugins = self.folder / "config/cli-plugins"
        if not all((plugins / name).exists() for name in PLUGINS):
            self.unpack(*PLUGINS, into=self.folder / "root")
            plugins.mkdir(parents=True, exist_ok=True)
            for name in PLUGINS:
                shutil.copy(self.folder / "root" / PLUGIN_FOLDER / name, plugins / name)
        self.env["DOCKER_CONFIG"] = str(self.folder / "config")

    def _knows(self, verb: str) -> bool:
        return subprocess.run(["docker", verb, "version"], env=self.env, capture_output=True).returncode == 0

    def unpack(self, *packages: str, into: Path) -> None:
        """Unpack packages of Debian's trixie into a folder, whatever release this machine has."""
        self._say(f"unpacking {' '.join(packages)} of Debian's trixie")
        apt = self.folder / "apt"
        for name in ("lists/partial", "cache/archives/partial", "parts"):
            (apt / name).mkdir(parents=True, exist_ok=True)
        (apt / "status").touch()
        keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
        (apt / "sources.list").write_text(f"deb [signed-by={keys}] http://deb.debian.org/debian trixie main\n")
        (apt / "apt.conf").write_text(
            f'Dir::State "{apt}"; Dir::State::lists "{apt}/lists"; Dir::State::status "{apt}/status";\n'
            f'Dir::Cache "{apt}/cache"; Dir::Etc::sourcelist "{apt}/sources.list"; APT::Sandbox::User "root";\n'
            f'Dir::Etc::sourceparts "{apt}/parts"; Dir::Etc::preferencesparts "{apt}/parts";\n'
        )
        env = {**os.environ, "APT_CONFIG": str(apt / "apt.conf")}
        _run(["apt-get", "update", "-qq"], env)
        with tempfile.TemporaryDirectory(dir=apt) as folder:
            _run(["apt-get", "download", "-qq", *packages], env, cwd=folder)
            for package in Path(folder).glob("*.deb"):
                _run(["dpkg", "-x", str(package), str(into)], env)

    def docker(self, *arguments: str, timeout_s: float = 1800.0) -> str:
        """Run a docker command; return what it printed. Raises RuntimeError with the end of its output."""
        return self.run(["docker", *arguments], timeout_s=timeout_s)

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        timeout_s: float = 1800.0,
    ) -> str:
        """Run a command with the engine's environment, as `docker`."""
        return _run(command, self.env if env is None else env, cwd=cwd, timeout_s=timeout_s)

    def version(self) -> str:
        """Return the engine's and compose's versions."""
        compose = self.docker("compose", "version", "--short").strip()
        return f"engine {self.docker('version', '--format', '{{.Server.Version}}').strip()}, compose {compose}"

    def has(self, image: str) -> bool:
        """Return whether the engine has an image."""
        found = subprocess.run(["docker", "image", "inspect", image], env=self.env, capture_output=True)
        return found.returncode == 0


def _run(command: Sequence[str], env: dict[str, str], cwd: Path | str | None = None, timeout_s: float = 600.0) -> str:
    done = subprocess.run(command, env=env, cwd=cwd, text=True, capture_output=True, timeout=timeout_s)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout
