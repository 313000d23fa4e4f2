"""A real JupyterLab and a real browser that can reach nothing but this machine."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

FAILED = pytest.StashKey[bool]()
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Names do not resolve at all, for web sockets and for the browser's own requests too, which
    # the abort below does not see.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]
# Lab's own settings that a test cannot do without: every cell in the page whether scrolled to or
# not, and no question about news over the page.
LAB_SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address without a path, its token, its root folder, its log."""

    address: str
    token: str
    root: Path
    log: Path

    def url(self, path=""):
        """Address of a file, given relative to the root, opened in Lab with nothing else open."""
        # A workspace of its own: Lab would restore what the test before had open.
        workspace = f"{self.address}/lab/workspaces/{secrets.token_hex(4)}"
        return f"{workspace}/tree/{quote(path)}?token={self.token}"


@dataclass
class Traffic:
    """What the page asked of other machines (all refused) and what its console complained of."""

    refused: list = field(default_factory=list)
    errors: list = field(default_factory=list)


def _elsewhere(url):
    """Whether ``url`` is on another machine; data:, blob: and file: have no host."""
    host = urlsplit(url).hostname
    return host is not None and host not in LOOPBACK


def _free_port():
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _wait_until_answers(lab, process, seconds=60):
    deadline = time.monotonic() + seconds
    request = urllib.request.Request(  # noqa: S310 - our own loopback address
        f"{lab.address}/api/status", headers={"Authorization": f"token {lab.token}"}
    )
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(request, timeout=5):  # noqa: S310
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not answer within {seconds} s:\n{lab.log.read_text()[-3000:]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Tell the page fixture, which is torn down later, that the test failed."""
    report = yield
    if call.when == "call" and report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(scope="module")
def jupyterlab(tmp_path_factory):
    """Return ``jupyterlab(root) -> Lab``: starts JupyterLab as ``make lab`` does, in ``root``.

    The user's own Jupyter and IPython settings are out of the way. All servers started are ended,
    with their kernels, when the module's tests are done.
    """
    with contextlib.ExitStack() as stack:

        def start(root):
            own = tmp_path_factory.mktemp("jupyter")
            for name, setting in LAB_SETTINGS.items():
                path = own / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(setting))
            environment = os.environ | {
                "JUPYTER_CONFIG_DIR": str(own / "config"),
                "JUPYTER_DATA_DIR": str(own / "data"),
                "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
                "JUPYTERLAB_SETTINGS_DIR": str(own / "settings"),
                "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
                "IPYTHONDIR": str(own / "ipython"),
                "JUPYTER_TOKEN": secrets.token_hex(24),
            }
            port = _free_port()
            command = [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", "--no-browser"]
            command += [f"--port={port}", "--ServerApp.port_retries=0"]
            command += [f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True"]
            if os.geteuid() == 0:
                command.append("--allow-root")
            lab = Lab(
                address=f"http://127.0.0.1:{port}",
                token=environment["JUPYTER_TOKEN"],
                root=Path(root),
                log=own / "lab.log",
            )
            log = stack.enter_context(lab.log.open("w"))
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(_end, process)
            _wait_until_answers(lab, process)
            return lab

        yield start


def _end(process):
    """End a server and its kernels, which lead process groups of their own."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
        _, alive = psutil.wait_procs(family, timeout=1)
        for child in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    if process.poll() is None:
        process.kill()
    process.wait(timeout=15)


@pytest.fixture(scope="module")
def chromium(require):
    """A headless Chromium: PROBEKIT_CHROMIUM, or the first of the usual names on the PATH."""
    from playwright.sync_api import sync_playwright

    names = ["chromium", "chromium-browser", "google-chrome"]
    executable = os.environ.get("PROBEKIT_CHROMIUM") or next(
        filter(None, map(shutil.which, names)), None
    )
    require(executable, "no Chromium found: install it, or set PROBEKIT_CHROMIUM to its path")
    # One playwright a module, not a session: while it is open its event loop counts as running,
    # and tests that run notebooks start a loop of their own.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=CHROMIUM_ARGUMENTS, chromium_sandbox=False
        )
        yield browser
        browser.close()


@pytest.fixture
def traffic():
    """What the test's page asked of other machines, and its console's errors."""
    return Traffic()


@pytest.fixture
def page(chromium, traffic, request, screenshot):
    """A new page, 1400 x 1000, for which only this machine exists.

    Requests to any other are aborted and listed in ``traffic.refused``; console errors and uncaught
    exceptions are in ``traffic.errors``. After a failure a picture of the page is kept.
    """
    context = chromium.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(30_000)

    def refuse(route):
        traffic.refused.append(route.request.url)
        route.abort()

    context.route(_elsewhere, refuse)
    page = context.new_page()
    page.on("console", lambda m: m.type == "error" and traffic.errors.append(m.text))
    page.on("pageerror", lambda error: traffic.errors.append(str(error)))

    page.on("websocket", lambda s: _elsewhere(s.url) and traffic.refused.append(s.url))
    yield page
    if request.node.stash.get(FAILED, False):
        screenshot(page, f"failed-{request.node.name}")
    context.close()


@pytest.fixture
def screenshot(repository):
    """Return ``screenshot(page_or_locator, name)``: keeps a picture in tests/artefacts."""
    folder = repository / "tests" / "artefacts"

    def keep(target, name):
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.png"
        target.screenshot(path=path)
        return path

    return keep
