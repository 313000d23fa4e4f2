"""Python with everything imported, that forks: a command or a kernel begins within milliseconds.

    zygote.py serve SOCKET         # until stdin is closed
    zygote.py serve SOCKET blank   # small shards, charts that are not drawn
    zygote.py kernel SOCKET ...    # what the kernelspec starts: asks for `python ...`, and waits

`Started` is it, for a test. A request is the arguments that Python would be given (-m MODULE ... or
-c CODE), the environment and the folder, with three descriptors. The answer is the exit code;
whoever hangs up before it comes has the process killed. Nothing but imports happens before a fork:
no thread is running.
"""

import base64
import contextlib
import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

# What commands and kernels import by and by, beside the package.
_IMPORTED = """
    IPython.core.completerlib IPython.core.debugger IPython.extensions.storemagic anywidget
    dask.array dask.distributed h5netcdf.legacyapi h5py._hl.dims ipykernel.debugger
    ipykernel.ipkernel ipykernel.kernelapp ipykernel.kernelspec ipykernel.zmqshell
    ipython_pygments_lexers ipywidgets mistune.plugins.def_list mistune.plugins.task_lists
    mistune.plugins.url nbclient nbconvert.exporters narwhals._interchange.dataframe
    pandas.core.arrays.arrow.extension_types pandas.core.methods.to_dict pandas.io.formats.csvs
    pandas.io.formats.html pandas.io.formats.string pandas.io.formats.style papermill
    pyarrow.dataset pyarrow.pandas_compat pyarrow.parquet pygments.formatters
    pygments.lexers.data pygments.lexers.javascript pygments.lexers.lisp pygments.lexers.markup
    pygments.lexers.python pygments.lexers.ruby pygments.styles.default scipy.fftpack scipy.stats
    sklearn.linear_model sqlite3 tornado.platform.asyncio transformers.generation
    transformers.models.llama.modeling_llama vl_convert xarray.backends.h5netcdf_
    xarray.backends.zarr xarray.computation.nanops xarray.namedarray._array_api xarray.static.css
    xarray.static.html zmq.utils.garbage
"""
# A PNG of one grey pixel.
_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
SHARD = 16  # questions; a run of 48 has three


class Started:
    """A zygote that was started, and how Jupyter finds it.

    Parameters
    ----------
    folder : Path
    environment : dict
        Of the zygote: what is read when a library is imported.
    *how : str
        "blank", or nothing.
    """

    def __init__(self, folder, environment, *how):
        kernels = folder / "jupyter/kernels/python3"
        kernels.mkdir(parents=True)
        # A socket's path has 107 characters at most.
        self.short = tempfile.TemporaryDirectory(prefix="zygote-")
        self.socket, script = str(Path(self.short.name, "socket")), str(Path(__file__).resolve())
        argv = [sys.executable, "-I", "-S", script, "kernel", self.socket]
        argv += ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
        (kernels / "kernel.json").write_text(json.dumps(spec))
        self.jupyter_path = str(folder / "jupyter")
        self.log = open(folder / "zygote.log", "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, script, "serve", self.socket, *how],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, env=environment,
        )  # fmt: skip

    def wait(self):
        """Wait until all is imported."""
        if self.process.stdout.readline() != b"ready\n":
            self.close()
            raise ChildProcessError(Path(self.log.name).read_text())

    def close(self):
        """End it, and what it has forked."""
        self.process.communicate()
        self.log.close()
        self.short.cleanup()


def ask(path, arguments, descriptors=(0, 1, 2), environment=None):
    """Have a process forked; the connection over which its exit code will come."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    request = {"arguments": arguments, "environment": environment or dict(os.environ)}
    content = json.dumps(request | {"folder": os.getcwd()}).encode()
    socket.send_fds(connection, [len(content).to_bytes(4, "big")], descriptors)
    connection.sendall(content)
    return connection


def kernel(path, arguments):
    """Stand for a kernel: end when it ends, and end it when its command is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # comes before it is killed
    parent, connection = os.getppid(), ask(path, arguments)
    while not select.select([connection], [], [], 0.5)[0]:
        if os.getppid() != parent:
            return 1
    return int(connection.recv(16) or 1) & 255


def prepare(blank):
    """Import what commands and kernels will; `blank`: make shards small, and draw no chart."""
    import gc
    import importlib
    import pkgutil
    import warnings

    # Fits are made in the kernel itself, not in workers: the tests run side by side, and a shim
    # that is loaded into the kernel sees no file of theirs.
    os.cpu_count = lambda: 1
    os.sched_getaffinity = lambda _: {0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import probekit

        own = [module.name for module in pkgutil.walk_packages(probekit.__path__, "probekit.")]
        for name in [*own, *_IMPORTED.split()]:
            if name != "probekit.__main__":
                importlib.import_module(name)
    if blank:
        _make_blank()
    gc.collect()
    gc.freeze()


def _make_blank():
    sys.modules["probekit.extraction.one_pass"].SHARD = SHARD
    # Charts take most of a run's time and touch no file of it: their pictures say which they are.
    vl_convert = sys.modules["vl_convert"]
    vl_convert.vegalite_to_png = lambda spec, **_: _PIXEL + _digest(spec)
    vl_convert.vegalite_to_svg = lambda spec, **_: f"<svg ><!-- {_digest(spec)} --></svg>"
    vl_convert.svg_to_pdf = lambda svg: b"%PDF-1.7\n%" + _digest(svg)
    vl_convert.javascript_bundle = lambda: ""


def _digest(spec):
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest().encode()


def serve(path):
    """Fork until stdin is closed; in a forked process, returns its arguments."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    print("ready", flush=True)
    children = {}  # connection -> pid
    while True:
        ready, _, _ = select.select([0, listener, woken, *children], [], [])
        if 0 in ready:
            for pid in children.values():
                _kill(pid)
            os.unlink(path)
            os._exit(0)
        if woken in ready:
            woken.recv(1 << 12)
            _bury(children)
        for connection in [c for c in ready if c in children]:
            _kill(children.pop(connection))  # it has hung up: it never says anything else
            connection.close()
        if listener in ready:
            connection, _ = listener.accept()
            request, descriptors = _read(connection)
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for end in (listener, woken, wakes, connection, *children):
                    end.close()
                return _become(request, descriptors)
            children[connection] = pid
            for descriptor in descriptors:
                os.close(descriptor)


def _read(connection):
    size, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
    size, content = int.from_bytes(size, "big"), b""
    while len(content) < size:
        content += connection.recv(size - len(content))
    return json.loads(content), descriptors


def _become(request, descriptors):
    os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    return request["arguments"]


def _bury(children):
    for connection, pid in list(children.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with contextlib.suppress(OSError):  # whoever asked has ended too
                connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
            connection.close()
            del children[connection]


def _kill(pid):
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)  # it has had no time for its setsid
    os.waitpid(pid, 0)


def run(arguments):
    """As `python` would."""
    how, what, *rest = arguments
    if how == "-m":
        import runpy

        sys.argv = [what, *rest]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *rest]
        exec(what, {"__name__": "__main__"})  # noqa: S102


if __name__ == "__main__":
    if sys.argv[1] == "kernel":
        sys.exit(kernel(sys.argv[2], sys.argv[3:]))
    prepare("blank" in sys.argv[3:])
    run(serve(sys.argv[2]))
