"""Checks by name, for contributors who prefer nox to make: `nox -s lint types arch test`."""

import nox

nox.options.default_venv_backend = "none"  # the tools run in the environment that `make setup` made
nox.options.sessions = ["lint", "types", "arch", "test"]


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types strictly."""
    session.run("mypy")


@nox.session
def arch(session: nox.Session) -> None:
    """Check the import contracts."""
    session.run("lint-imports")


@nox.session
def test(session: nox.Session) -> None:
    """Run the default tests, the real napari canvas included."""
    session.run("pytest", "-q", "-n", "logical", "--dist", "loadfile", *session.posargs)


@nox.session
def gui(session: nox.Session) -> None:
    """Run only the tests that open a window."""
    session.run("pytest", "-q", "tests/gui", "tests/flows/test_window.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run the timings against peers; write benchmarks/RESULTS.md."""
    session.run("python", "benchmarks/run.py")


@nox.session
def docs(session: nox.Session) -> None:
    """Write the generated tables of the README."""
    session.run("python", "docs/tables.py")
