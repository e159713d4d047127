"""Build stage -> /opt/aiokpl-metricsd: a virtual environment with the daemon, its extras and nothing else.

    python3 -m deploy.image.build dependencies   # the network is needed for this step alone
    python3 -m deploy.image.build daemon

EXTRAS names the extras, by commas. Everything is pinned and hashed in `requirements`, what builds the
distributions as well. Only the standard library is used, and pip of the build stage.
"""

import os
import subprocess
import sys
import venv
from compileall import compile_dir, compile_file
from pathlib import Path
from py_compile import PycInvalidationMode

from deploy.image.prune import prune, rewrite_records

__all__ = ["compile_site", "install_daemon", "install_dependencies", "list_requirements", "main"]

TARGET = Path("/opt/aiokpl-metricsd")
TOOLS = Path("/opt/build-tools")
REQUIREMENTS = Path("requirements")
EXTRAS = ("cloudwatch", "otel", "datadog", "prometheus")

# Ours keep their sources, so that a traceback shows the line.
_OURS = ("aiokpl_metrics_protocol", "aiokpl_metricsd")


def main(arguments: list[str]) -> None:
    """Do one of the two steps."""
    if arguments == ["dependencies"]:
        try:
            files = list_requirements(os.environ.get("EXTRAS", ""))
        except ValueError as error:
            sys.exit(str(error))
        install_dependencies(files)
    elif arguments == ["daemon"]:
        install_daemon()
    else:
        sys.exit("usage: python3 -m deploy.image.build dependencies | daemon")


def list_requirements(extras: str) -> list[Path]:
    """Return the files of what the daemon needs with these extras, a text like "cloudwatch,otel".

    Raises:
        ValueError: there is no such extra.
    """
    names = [name.strip() for name in extras.split(",") if name.strip()]
    for name in names:
        if name not in (*EXTRAS, "all"):
            raise ValueError(f"EXTRAS: there is no extra {name!r}; choose from {', '.join(EXTRAS)}, all")
    names = list(EXTRAS) if "all" in names else list(dict.fromkeys(names))
    return [REQUIREMENTS / f"{name}.txt" for name in ("daemon", *names)]


def install_dependencies(files: list[Path]) -> None:
    """Make the environment, without pip in it, and install what is pinned."""
    venv.create(TARGET, symlinks=True)
    _pip("install", "--require-hashes", "--target", str(TOOLS), "-r", str(REQUIREMENTS / "build.txt"))
    options = [option for file in files for option in ("-r", str(file))]
    _pip("install", "--require-hashes", *options, target=True)


def install_daemon() -> None:
    """Build and install our own distributions, and leave out whatever nothing reads."""
    environ = {**os.environ, "PYTHONPATH": str(TOOLS)}
    for source in ("./protocol", "./daemon"):
        _pip(
            "install", "--no-deps", "--no-index", "--no-build-isolation", source, target=True, environ=environ
        )
    (site,) = TARGET.glob("lib/python3*/site-packages")
    for script in (TARGET / "bin").iterdir():
        if not script.name.startswith("python") and script.name != "aiokpl-metricsd":
            script.unlink()
    freed = prune(site, str(TARGET / "bin/python3"))
    compile_site(site)
    print(f"left out {freed / 1e6:.0f} MB")


def compile_site(site: Path) -> None:
    """Compile what is imported, once and for all, since a read-only file system keeps nothing.

    Of what is not ours only the compiled form stays. It is not compared with sources, whose dates an image
    may not keep.
    """
    mode = PycInvalidationMode.UNCHECKED_HASH
    for path in sorted(site.iterdir()):
        ours = path.name in _OURS
        if path.is_dir():
            done = compile_dir(path, quiet=1, legacy=not ours, invalidation_mode=mode, maxlevels=50)
        elif path.suffix == ".py":
            done = compile_file(path, quiet=1, legacy=True, invalidation_mode=mode)
        else:
            continue
        if not done:
            raise ValueError(f"{path} cannot be compiled")
        if not ours:
            for source in [path] if path.is_file() else list(path.rglob("*.py")):
                source.unlink()
    rewrite_records(site)


def _pip(command: str, *arguments: str, target: bool = False, environ: dict[str, str] | None = None) -> None:
    chosen = ["--python", str(TARGET / "bin/python3")] if target else []
    options = ["--no-cache-dir", "--no-compile", "--quiet", "--root-user-action=ignore"]
    options += ["--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", *chosen, command, *options, *arguments], check=True, env=environ
    )


if __name__ == "__main__":
    main(sys.argv[1:])
