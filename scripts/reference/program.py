"""Calls the eyas program for the scripts beside this folder."""

import json
import shlex
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


class Failed(Exception):
    """The program ended with another code than 0, or not in time; the text is what it said on stderr."""


def add_option(parser):
    parser.add_argument("--eyas", default=str(REPOSITORY / "target/release/eyas"), help="the program [%(default)s]")


def call(eyas, *arguments, timeout_s=900):
    """Standard output of one call."""
    command = [str(eyas), *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except FileNotFoundError as error:
        raise Failed(f"{eyas}: {error.strerror}; build it with cargo build --release, or give --eyas") from error
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{shlex.join(command)}: not done after {timeout_s} s") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["nothing on stderr"]
        raise Failed(f"{shlex.join(command)}: exit code {done.returncode}: {said[-1]}")
    return done.stdout


def call_json(eyas, *arguments, timeout_s=900):
    """The JSON objects that one call prints, one a line."""
    text = call(eyas, *arguments, timeout_s=timeout_s)
    return [json.loads(line) for line in text.splitlines() if line.lstrip().startswith("{")]


def version(eyas):
    try:
        return call(eyas, "--version").strip()
    except Failed as error:
        return f"unknown ({error})"


def commit():
    """The commit of the checkout, marked where tracked files differ from it."""
    git = ["git", "-C", str(REPOSITORY)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True)
    return (head.stdout.strip() or "unknown") + (" with changes" if changed.stdout.strip() else "")
