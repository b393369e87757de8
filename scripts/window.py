"""Opens the live window on a display that nobody sees (Xvfb), presses every key, resizes, minimises, and checks what it
shows: the frame that `s` saves must be the headless frame bit for bit, also while the window shows a message, and GPU and CPU
frames must agree.

    python scripts/window.py [--eyas target/release/eyas] [--pictures DIR] [--apis vulkan gles]

Needs Xvfb, xdotool, openbox (without a window manager nothing is minimised or made fullscreen), ImageMagick's `import`.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models/shapes.onnx"
SCENE = ROOT / "models/shapes_scene.png"
DISPLAY = ":97"
PATIENCE_S = 120


def until(what, condition):
    """Waits for a condition to hold and gives its value."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.2)
    raise SystemExit(f"waited {PATIENCE_S} s in vain for: {what}")


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def run(*command, **options):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)


class Window:
    """A running `eyas live`."""

    def __init__(self, eyas, arguments, directory):
        self.directory = Path(directory)
        self.log = open(self.directory / "log.txt", "w+")
        command = [str(a) for a in (eyas, "live", *arguments, "-m", MODEL, "-v")]
        self.process = subprocess.Popen(command, cwd=directory, stderr=self.log)
        self.id = until("the window", self.find)

    def find(self):
        assert self.process.poll() is None, self.said()
        return run("xdotool", "search", "--onlyvisible", "--name", "eyas live").stdout.split()[:1]

    def do(self, verb, *arguments):
        done = run("xdotool", verb, *self.id, *arguments)
        assert done.returncode == 0, done.stderr

    def key(self, name):
        assert self.process.poll() is None, self.said()
        run("xdotool", "windowfocus", self.id[0], "key", name)

    def size(self):
        words = dict(line.split("=") for line in run("xdotool", "getwindowgeometry", "--shell", *self.id).stdout.split())
        return int(words["WIDTH"]), int(words["HEIGHT"])

    def shot(self, path):
        """The window's pixels as they are on the display, once it is there: after it was minimised it takes a while."""
        until("a screenshot", lambda: run("import", "-window", self.id[0], path).returncode == 0)
        return pixels(path)

    def saved(self):
        """The frame that the key s saves, once the file is complete."""
        before = set(self.directory.glob("eyas-*.png"))

        def press():
            # A window that has only just opened has no frame yet, and says so in the panel for four seconds.
            self.key("s")
            time.sleep(2)
            new = set(self.directory.glob("eyas-*.png")) - before
            return new or time.sleep(5)

        new = until("a saved frame", press).pop()
        until("the message that it is saved", lambda: new.name in self.said())
        return pixels(new)

    def said(self):
        return (self.directory / "log.txt").read_text()

    def quit(self):
        self.key("q")
        assert self.process.wait(PATIENCE_S) == 0, self.said()
        return self.said()


def scratch():
    return tempfile.TemporaryDirectory(prefix="eyas-window-")


def same_frames(eyas, api):
    """Window, headless and CPU frames of one picture at several sizes."""
    for size in (None, "200x150", "641x479", "1900x1000"):
        with scratch() as directory:
            more = ["--window", size] if size else []
            common = [SCENE, "--no-panel"]
            window = Window(eyas, [*common, "--backend", "gpu", "--gpu-api", api, *more], directory)
            saved = window.saved()
            # Pressed again while the window still says where the first one went.
            assert (window.saved() == saved).all(), f"{api} {size}: the saved frame contains a message"
            shown = window.shot(Path(directory) / "shot.png")
            window.quit()
            height, width, _ = saved.shape
            frames = {}
            for backend in ("gpu", "cpu"):
                out = Path(directory) / backend
                device = ["--backend", backend] + (["--gpu-api", api] if backend == "gpu" else [])
                size_px = f"{width}x{height}"
                run(eyas, "live", *common, "-m", MODEL, "--headless", "--window", size_px, "-o", out, *device, check=True)
                frames[backend] = pixels(out / "000000.png")
            assert (saved == frames["gpu"]).all(), f"{api} {size}: window and headless frames differ"
            # The message "saved" covers a corner of the display, so only the lower half is compared.
            half = height // 2
            assert (shown[half:] == saved[half:]).all(), f"{api} {size}: the display shows something else"
            apart = np.abs(frames["gpu"] - frames["cpu"]).max(2)
            within = (apart <= 2).mean()
            assert within > 0.995, f"{api} {size}: GPU and CPU frames agree in {within:.4f} of the pixels only"
            print(f"{api} {width}x{height}: window = headless, bit for bit; GPU and CPU frames: "
                  f"{(apart == 0).mean():.4%} of pixels equal, {within:.4%} within 2 levels, largest difference {apart.max()}")


def every_key(eyas, api, pictures):
    """Plays a clip, presses each key, and looks whether it did what it says."""
    with scratch() as directory:
        clip = Path(directory) / "clip.y4m"
        run(eyas, "live", "pattern:shapes,480x360", "-m", MODEL, "--backend", "cpu", "--headless", "--no-panel", "--conf", "1",
            "--frames", "60", "-o", clip, check=True)
        window = Window(eyas, [clip, "--loop", "--backend", "gpu", "--gpu-api", api], directory)

        def shot(name):
            return window.shot(pictures / f"{api}_{name}.png")

        def changed_by(name, press, where=lambda p: p):
            before = where(shot("before"))
            press()
            until(f"a change by {name}", lambda: (where(shot(name)) != before).any())

        def still():
            one = shot("paused")
            time.sleep(1)
            two = shot("paused")
            return one.shape == two.shape and (one == two).all()

        until("playing", lambda: not still())
        shot("playing")
        window.key("space")
        until("a pause", still)
        assert window.saved().shape == (360, 480, 3)
        changed_by("help", lambda: window.key("h"), lambda p: p[-20:, :60])
        changed_by("no_help", lambda: window.key("h"), lambda p: p[-20:, :60])
        for key, word in (("b", "inference on the CPU"), ("b", "inference on the GPU")):
            window.key(key)
            until(word, lambda: word in window.said())
        boxes = lambda p: p[p.shape[0] // 2 :]
        changed_by("high_threshold", lambda: [window.key("plus") or time.sleep(0.1) for _ in range(14)], boxes)
        changed_by("low_threshold", lambda: [window.key("minus") or time.sleep(0.1) for _ in range(13)], boxes)
        window.key("space")
        until("playing again", lambda: not still())
        window.key("f")
        until("fullscreen", lambda: window.size() == (2000, 1100))
        until("the picture on the whole display", lambda: shot("fullscreen")[1000, 1000].any())
        window.key("f")
        until("a window again", lambda: window.size() == (480, 360))
        for size in ((200, 150), (1900, 1000), (480, 360)):
            window.do("windowsize", *(str(v) for v in size))
            until(f"the size {size}", lambda: window.size() == size)
            until("playing at that size", lambda: not still())
            shot(f"{size[0]}x{size[1]}")
        window.do("windowminimize")
        time.sleep(2)
        window.do("windowmap")
        until("playing after it was minimised", lambda: not still())
        shot("back")
        said = window.quit()
        summary = [line for line in said.splitlines() if "shown" in line or "map operations" in line]
        print(f"{api}: every key, three sizes, fullscreen, minimised and back;", *summary, sep="\n  ")
        assert any("0 in the loop" in line for line in summary), "something was read back in the loop"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--eyas", default=ROOT / "target/release/eyas", type=Path)
    parser.add_argument("--pictures", default=ROOT / "target/window", type=Path, help="where screenshots go")
    parser.add_argument("--apis", nargs="+", default=["vulkan", "gles"])
    arguments = parser.parse_args()
    arguments.pictures.mkdir(parents=True, exist_ok=True)
    eyas = arguments.eyas.resolve()
    missing = [tool for tool in ("Xvfb", "xdotool", "openbox", "import") if not shutil.which(tool)]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}")
    os.environ["DISPLAY"] = DISPLAY
    os.environ.pop("WAYLAND_DISPLAY", None)
    with contextlib.ExitStack() as stack:
        for command in (["Xvfb", DISPLAY, "-screen", "0", "2000x1100x24"], ["openbox"]):
            server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(server.wait)
            stack.callback(server.terminate)
            until(command[0], lambda: run("xdotool", "getdisplaygeometry").returncode == 0)
        time.sleep(1)
        for api in arguments.apis:
            same_frames(eyas, api)
            every_key(eyas, api, arguments.pictures)


if __name__ == "__main__":
    main()
