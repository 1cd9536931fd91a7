"""A script's requirements.txt, installed by real pip out of wheels that the tests write, or an index on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest

from horovod_node import contract
from horovod_node.node.errors import ReleasedError
from horovod_node.node.failure import Failure, NodeFailedError
from horovod_node.node.folders import Layout
from horovod_node.node.identity import Node
from horovod_node.transfer.requirements import Requirements, compiled_packages, rank_python, rank_variables
from support.waiting import eventually
from support.wheels import write_wheel


class Index:
    """A package index on loopback, which serves one folder of wheels and can be unwell."""

    def __init__(self, wheels: Path) -> None:
        self.refusals = 0
        """So many requests are answered with 503."""
        self.hangs = threading.Event()
        """While set, nothing is answered."""
        self.asked: list[str] = []
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append(self.path)
                while index.hangs.is_set():
                    time.sleep(0.05)
                project, _, wheel = self.path.removeprefix("/simple/").partition("/")
                found = sorted(wheels.glob(f"{project.replace('-', '_')}-*.whl"))
                status, body = 200, "".join(f"<a href='{each.name}'>{each.name}</a>" for each in found).encode()
                if index.refusals:
                    index.refusals -= 1
                    status, body = 503, b""
                elif wheel:
                    body = (wheels / wheel).read_bytes()
                elif not found:
                    status, body = 404, b""
                self.send_response(status)
                self.send_header("Content-Type", "application/octet-stream" if wheel else "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # pip was stopped
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: ARG002 - the signature is http.server's
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/simple"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self.hangs.clear()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(autouse=True)
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give pip no settings of this machine, and an index that nobody serves."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """Serve the wheels of `tmp_path / "index"`."""
    served = Index(tmp_path / "index")
    monkeypatch.setenv("PIP_INDEX_URL", served.url)
    yield served
    served.close()


@pytest.fixture
def layout(node: Node) -> Layout:
    layout = Layout(root=node.ml_root)
    layout.create()
    return layout


def require(layout: Layout, *lines: str) -> None:
    """Write the script's requirements.txt."""
    (layout.code / contract.REQUIREMENTS_FILE).write_text("\n".join(lines) + "\n")


def wheels(layout: Layout) -> Path:
    """Give the folder of the script's own wheels."""
    return layout.code / contract.WHEELS_FOLDER


def failure(node: Node, layout: Layout) -> Failure:
    """Install what cannot be installed, and give the failure."""
    with pytest.raises(NodeFailedError) as failed:
        Requirements(node, layout=layout).install()
    return failed.value.failure


def rank(layout: Layout, *arguments: str) -> list[str]:
    """Run a rank's Python, or with a name alone a program of its environment, and give the lines that it prints."""
    environment = {**os.environ, **rank_variables(layout, os.environ)}
    command = [rank_python(layout), "-P", *arguments] if arguments[0] == "-c" else list(arguments)
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_script_without_requirements_runs_in_the_image(node: Node, layout: Layout) -> None:
    """Nothing is made, and ranks get the agent's Python and no other variables."""
    # WHEN
    installation = Requirements(node, layout=layout).install()
    # THEN
    assert installation is None
    assert not layout.environment.exists()
    assert (rank_python(layout), rank_variables(layout, os.environ)) == (sys.executable, {})


def test_wheels_beside_the_file_need_no_index(node: Node, layout: Layout, caplog: pytest.LogCaptureFixture) -> None:
    """Packages, what they depend on, programs, .pth files and namespaces are there for ranks, and for nobody else."""
    # GIVEN
    write_wheel(
        wheels(layout),
        "greeting",
        files={
            "greeting.py": "import names.first\ndef main(): print('hello', names.first.NAME)",
            "SCRIPTS": "[console_scripts]\ngreet = greeting:main\n",
        },
        requires=["first_name>=1", "numpy"],
    )
    write_wheel(
        wheels(layout), "first_name", files={"names/first.py": "NAME = 'Ada'", "extra.pth": "import sys; sys.seen = 1"}
    )
    write_wheel(wheels(layout), "last_name", files={"names/last.py": "NAME = 'L.'"})
    require(layout, "greeting", "./wheels/last_name-1.0-py3-none-any.whl")
    began = time.time()
    # WHEN
    with caplog.at_level(logging.INFO):
        installation = Requirements(node, layout=layout).install()
    # THEN
    assert installation is not None
    assert began <= installation.began_at < installation.ended_at <= time.time()
    assert rank(layout, "greet") == ["hello Ada"]
    code = "import names.first, names.last, horovod, horovod_node, numpy, sys"
    assert rank(layout, "-c", f"{code}; print(sys.seen, sys.prefix, numpy.__version__)") == [
        f"1 {layout.environment} {metadata.version('numpy')}"
    ]
    # AND the image has none of it
    assert subprocess.run([sys.executable, "-c", "import greeting"], capture_output=True, check=False).returncode == 1
    # AND what pip says is among the agent's lines
    assert "pip: Successfully installed first_name-1.0 greeting-1.0 last_name-1.0" in caplog.text.replace(
        "first-name", "first_name"
    ).replace("last-name", "last_name")


def test_what_the_image_has_is_not_installed_again(node: Node, layout: Layout) -> None:
    """NumPy, Horovod, and TensorFlow by each of its names are met without any index."""
    # GIVEN
    require(layout, "numpy>=1.20", "horovod[tensorflow]", "tensorflow>=2.12", "tensorflow-cpu", "tensorflow-gpu")
    # WHEN
    Requirements(node, layout=layout).install()
    # THEN
    assert rank(layout, "-c", "import numpy; print(numpy.__file__)")[0].startswith(sys.prefix)


def test_other_version_stands_in_front_of_the_images(node: Node, layout: Layout) -> None:
    """The script gets the version that it names; the image's stays as it was."""
    # GIVEN
    before = metadata.version("pathspec")
    write_wheel(wheels(layout), "pathspec", "99.0", files={"pathspec/__init__.py": "__version__ = '99.0'"})
    require(layout, "pathspec==99.0")
    # WHEN
    Requirements(node, layout=layout).install()
    # THEN
    assert rank(layout, "-c", "import pathspec; print(pathspec.__version__)") == ["99.0"]
    assert metadata.version("pathspec") == before


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        ("tensorflow==99.0", "The user requested tensorflow==99.0"),
        ("tensorflow-cpu==99.0", "The user requested tensorflow-cpu==99.0"),
        ("horovod==99.0", "The user requested horovod==99.0"),
        ("numpy==99.0", "depends on numpy<2.0.0 and >=1.23.5"),
        ("needy", "needy 1.0 depends on tensorflow==99.0"),
    ],
)
def test_what_horovod_is_compiled_for_is_not_replaced(node: Node, layout: Layout, requirement: str, words: str) -> None:
    """Another TensorFlow, Horovod or NumPy is refused in one sentence, and pip says which requirement it is."""
    # GIVEN
    for name in ("tensorflow", "tensorflow_cpu", "horovod", "numpy"):
        write_wheel(wheels(layout), name, "99.0", files={f"{name}/__init__.py": ""})
    write_wheel(wheels(layout), "needy", files={"needy.py": ""}, requires=["tensorflow==99.0"])
    require(layout, requirement)
    # WHEN
    failed = failure(node, layout)
    # THEN
    kept = " and ".join(f"{name} {version}" for name, version in compiled_packages().items())
    assert (failed.error, failed.origin) == (contract.ERROR_REQUIREMENTS, "node")
    assert failed.summary == (
        "requirements.txt could not be installed on node node-1 (127.0.0.1): pip ended with exit code 1. The image's "
        f"{kept} and what they depend on must stay, because Horovod is compiled for them."
    )
    assert failed.details.startswith("pip's last words:\nERROR: ")
    assert words in failed.details


def test_requirement_that_nobody_has_fails_in_pips_words(node: Node, layout: Layout, index: Index) -> None:
    """An index that answers and does not have it: the run cannot succeed on any node."""
    # GIVEN
    require(layout, "not-there==1.2")
    # WHEN
    failed = failure(node, layout)
    # THEN
    assert index.asked == ["/simple/not-there/"]
    assert failed.error == contract.ERROR_REQUIREMENTS
    assert failed.summary.endswith("(127.0.0.1): pip ended with exit code 1.")
    assert failed.details == (
        "pip's last words:\n"
        "ERROR: Could not find a version that satisfies the requirement not-there==1.2 (from versions: none)\n"
        "ERROR: No matching distribution found for not-there==1.2"
    )


@pytest.mark.parametrize("requirement", ["far-away", "https://127.0.0.1:9/far_away-1.0-py3-none-any.whl"])
def test_index_that_cannot_be_reached_is_no_fault_of_the_script(node: Node, layout: Layout, requirement: str) -> None:
    """The run may begin anew, and the cause says what serves without an index."""
    # GIVEN
    require(layout, requirement)
    # WHEN
    failed = failure(node, layout)
    # THEN
    assert failed.error == contract.ERROR_NODE_FAILED
    assert "It could not reach the package index." in failed.summary
    assert "into a folder 'wheels' beside requirements.txt." in failed.summary


def test_sick_index_is_no_fault_of_the_script(node: Node, layout: Layout, index: Index) -> None:
    """An index that answers with 503 each time is as good as none."""
    # GIVEN
    index.refusals = 100
    require(layout, "far-away")
    # THEN
    assert failure(node, layout).error == contract.ERROR_NODE_FAILED


def test_index_that_recovers_serves(
    node: Node, layout: Layout, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip asks again by itself; a node that failed can install in the run's next attempt."""
    # GIVEN
    write_wheel(tmp_path / "index", "far_away", files={"far_away.py": "print('here')"})
    require(layout, "far-away")
    requirements = Requirements(node, layout=layout)
    index.refusals = 1
    with pytest.raises(NodeFailedError):
        requirements.install()
    monkeypatch.setenv("PIP_RETRIES", "2")
    index.refusals = 1
    # WHEN
    requirements.install()
    # THEN
    assert rank(layout, "-c", "import far_away") == ["here"]


def test_index_adds_what_the_wheels_lack(node: Node, layout: Layout, index: Index, tmp_path: Path) -> None:
    """A folder with some of the wheels does not keep pip from the others."""
    # GIVEN
    write_wheel(wheels(layout), "near", files={"near.py": "print('near')"})
    write_wheel(tmp_path / "index", "far", files={"far.py": "print('far')"})
    require(layout, "near", "far")
    # WHEN
    Requirements(node, layout=layout).install()
    # THEN
    assert rank(layout, "-c", "import near, far") == ["near", "far"]
    assert "/simple/far/" in index.asked


def test_index_has_the_version_that_the_wheels_lack(node: Node, layout: Layout, index: Index, tmp_path: Path) -> None:
    """Wheels that do not go together are no reason to fail where an index has one that does."""
    # GIVEN
    write_wheel(wheels(layout), "near", files={"near.py": "import far"}, requires=["far>=2"])
    write_wheel(wheels(layout), "far", "1.0", files={"far.py": "print('far 1')"})
    write_wheel(tmp_path / "index", "far", "2.0", files={"far.py": "print('far 2')"})
    require(layout, "near", "far")
    # WHEN
    Requirements(node, layout=layout).install()
    # THEN
    assert rank(layout, "-c", "import near") == ["far 2"]
    assert "/simple/far/" in index.asked


def test_settings_of_pip_count(node: Node, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`PIP_*` variables of the image lead to an index of its own, and so do lines of the file."""
    # GIVEN
    write_wheel(tmp_path / "one", "first", files={"first.py": "print(1)"})
    write_wheel(tmp_path / "two", "second", files={"second.py": "print(2)"})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "one"))
    require(layout, "--no-index", f"--find-links {tmp_path / 'two'}", "first", "second")
    # WHEN
    Requirements(node, layout=layout).install()
    # THEN
    assert rank(layout, "-c", "import first, second") == ["1", "2"]


@pytest.mark.parametrize("right", [True, False])
def test_hashes_are_compared(node: Node, layout: Layout, right: bool) -> None:
    """A file with hashes is held to them; that the image's own packages have none does not matter."""
    # GIVEN
    wheel = write_wheel(wheels(layout), "sealed", files={"sealed.py": "print('sealed')"})
    digest = hashlib.sha256(wheel.read_bytes() if right else b"").hexdigest()
    require(layout, f"sealed==1.0 --hash=sha256:{digest}")
    # WHEN
    if right:
        Requirements(node, layout=layout).install()
        # THEN
        assert rank(layout, "-c", "import sealed") == ["sealed"]
    else:
        assert "DO NOT MATCH THE HASHES" in failure(node, layout).details


def test_pip_ends_with_the_agent(node: Node, layout: Layout, index: Index) -> None:
    """A stop does not wait for an index, and pip does not begin again."""
    # GIVEN
    index.hangs.set()
    require(layout, "far-away")
    requirements = Requirements(node, layout=layout)
    ends: list[BaseException] = []

    def install() -> None:
        try:
            requirements.install()
        except ReleasedError as end:
            ends.append(end)

    installing = threading.Thread(target=install)
    installing.start()
    assert eventually(lambda: index.asked) != []
    # WHEN
    requirements.stop()
    installing.join(timeout=30)
    # THEN
    assert [type(end) for end in ends] == [ReleasedError]
    with pytest.raises(ReleasedError):
        requirements.install()
