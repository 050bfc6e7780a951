"""Images for the node, built without a container engine: a Dockerfile whose last stage is scratch, by buildah. Each is
a file in the user's cache folder, named by the hash of what it is made of. `work` is a folder for what is temporary."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile

from harness import programs

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "tollgate/images"

GATEWAY = "localhost/tollgate:test"
CLIENT = "localhost/tollgate-client:test"
PAUSE = "localhost/pause:test"

GATEWAY_DOCKERFILE = """\
FROM scratch
COPY tollgate /tollgate
USER 65532:65532
ENTRYPOINT ["/tollgate"]
"""

PAUSE_DOCKERFILE = """\
FROM scratch
COPY pause /pause
USER 65535:65535
ENTRYPOINT ["/pause"]
"""

CLIENT_DOCKERFILE = """\
FROM scratch
COPY root /
ENV PATH=/usr/bin PYTHONPATH=/packages PYTHONUNBUFFERED=1 LD_LIBRARY_PATH={libraries}
USER 65532:65532
ENTRYPOINT ["/usr/bin/python3"]
"""

# Parts of Python's library that no client needs, most of its size.
NOT_COPIED = [
    "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "ensurepip", "turtledemo", "config-*",
    "_test*", "_tkinter*", "*.opt-?.pyc",
]


def pause(work):
    """The archive of the image that holds a pod's namespaces."""
    program = programs.built() / "pause"

    def fill(context):
        shutil.copy2(program, context)
        return PAUSE_DOCKERFILE

    return _archive(work, PAUSE, [PAUSE_DOCKERFILE, program], fill)


def gateway(work):
    """The archive of the image that holds the gateway under test alone."""
    program = programs.static_gateway()

    def fill(context):
        # Symbols stay, for backtraces with names; what is for debuggers is half of the size.
        _run(work, ["strip", "--strip-debug", "-o", context / "tollgate", program])
        return GATEWAY_DOCKERFILE

    return _archive(work, GATEWAY, [GATEWAY_DOCKERFILE, program], fill)


def client(work):
    """The archive of an image that holds Python and the packages of requirements-client.txt, unmodified."""
    requirements = programs.SUITE / "requirements-client.txt"

    def fill(context):
        return CLIENT_DOCKERFILE.format(libraries=":".join(_python_root(work, context / "root", requirements)))

    return _archive(work, CLIENT, [requirements, pathlib.Path(__file__), sys.version], fill)


def build(work, name, context, dockerfile, archive):
    """Builds the text `dockerfile` with the folder `context` into a file that containerd and Docker load. `work` is for
    what is temporary."""
    with tempfile.TemporaryDirectory(dir=work) as storage:
        # Storage of its own: nothing of the user's images is touched, and nothing stays.
        buildah = ["buildah", "--root", f"{storage}/root", "--runroot", f"{storage}/run", "--storage-driver", "vfs"]
        file = pathlib.Path(storage) / "Dockerfile"
        file.write_text(dockerfile)
        _run(work, [*buildah, "bud", "--isolation", "chroot", "--quiet", "--tag", name, "--file", file, context])
        _run(work, [*buildah, "push", "--quiet", name, f"docker-archive:{archive}:{name}"])


def _archive(work, name, made_of, fill):
    """The file of an image, built unless there is one of the same texts and files. `fill(context)` puts into a folder
    what the Dockerfile that it returns copies. Older files of the image are removed."""
    digest = hashlib.sha256()
    for part in made_of:
        digest.update(part.read_bytes() if isinstance(part, pathlib.Path) else part.encode())
    folder = CACHE / name.removeprefix("localhost/").removesuffix(":test")
    archive = folder / f"{digest.hexdigest()[:16]}.tar"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=work) as context:
            dockerfile = fill(pathlib.Path(context))
            unfinished = folder / f"{os.getpid()}"
            unfinished.unlink(missing_ok=True)
            build(work, name, context, dockerfile, unfinished)
        unfinished.rename(archive)
        for other in folder.iterdir():
            # What another process is writing has its identifier for a name.
            if other != archive and not pathlib.Path("/proc", other.name).exists():
                other.unlink(missing_ok=True)
    return archive


def _python_root(work, root, requirements):
    """Fills a root folder with this Python, its library, the packages, and the shared libraries of all; the folders of
    the latter. Everything is where it is on this machine, since Python finds its library by its own path."""
    python = pathlib.Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    _copy(python, root)
    shutil.copytree(library, root / library.relative_to("/"), ignore=shutil.ignore_patterns(*NOT_COPIED))
    packages = root / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run(work, [*pip, "--target", packages, "--requirement", requirements])
    link = root / "usr/bin/python3"
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(python)
    (root / "tmp").mkdir(mode=0o1777)

    folders = set()
    for file in [python, *root.rglob("*.so"), *root.rglob("*.so.*")]:
        for needed in _shared_libraries(file):
            if not str(needed).startswith(str(root)):
                _copy(needed, root)
                folders.add(str(needed.parent))
    return sorted(folders)


def _shared_libraries(file):
    """The absolute paths that the dynamic loader would open for it, itself among them."""
    listed = subprocess.run(["ldd", file], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return [pathlib.Path(word) for line in listed.splitlines() for word in line.split() if word.startswith("/")]


def _copy(file, root):
    target = root / file.relative_to("/")
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)


def _run(work, arguments):
    command = [str(argument) for argument in arguments]
    environment = {**os.environ, "TMPDIR": str(work)}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{command[0]} failed: {done.stderr}{done.stdout}"
