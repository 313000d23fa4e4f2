"""A disk of a few hundred kilobytes that can be filled and made larger."""

import subprocess
from contextlib import contextmanager


class SmallDisk:
    """A tmpfs; `path` is where it is mounted."""

    def __init__(self, path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def mount(self, kilobytes):
        """Whether that could be done: it takes root, and a container that lets it."""
        return self._mount(f"size={kilobytes}k")

    def grow(self, kilobytes):
        """Make room; what is there stays."""
        assert self._mount(f"remount,rw,size={kilobytes}k")

    def protect(self):
        """Let nothing be written, by root neither, until it is made larger."""
        assert self._mount("remount,ro")

    def _mount(self, options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)]
        try:
            return subprocess.run(command, capture_output=True).returncode == 0
        except FileNotFoundError:
            return False

    def fill(self, but=0):
        """Leave only some bytes free."""
        with open(self.path / "filling", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                file.truncate(max(0, file.tell() - but))

    def unmount(self):
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)


@contextmanager
def small_disk(path, kilobytes):
    """Yields a mounted `SmallDisk`, or None where nothing can be mounted."""
    disk = SmallDisk(path)
    if not disk.mount(kilobytes):
        yield None
        return
    try:
        yield disk
    finally:
        disk.unmount()
