"""Whether the model sees what a browser shows: `python -m tests.clients.pictures FOLDER`.

Each file of the folder, at any depth, is shown by a headless Chromium, decoded by the processes that decode for the
service, and sent to a running service with the demo Avision. Sizes and mean colours are compared. Prints a table, and
what is not the same; ends with 1 where the service answered 5xx or not in time, or where something was not the same.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Error, Page, sync_playwright

from engine.errors import ServiceError
from engine.text import images
from engine.text.image_decoder import Job
from engine.text.image_header import reader_for
from engine.text.image_workers import ImageWorkers
from engine.wanted import Wanted
from tests.e2e import demo_service
from tests.e2e.browser.conftest import FLAGS
from tests.system_programs import program

NEAR = 6.0  # levels by which means may differ
PATIENCE = 60.0  # seconds for an answer of the service
BOUNDARY = "picture"
SAME, NOTHING, PARTLY, OVER = "same", "nothing shown", "incomplete", "over a limit"
VERDICTS = (SAME, "other size", "other colours", "refused", PARTLY, OVER, NOTHING, "read here only", "read by neither")
BAD = ("other size", "other colours", "refused")
LOOK = """async (data) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const image = new Image();
  const loaded = new Promise((resolve) => {
    image.onload = () => resolve(true);
    image.onerror = () => resolve(false);
    setTimeout(() => resolve(false), 20000);
  });
  image.src = URL.createObjectURL(new Blob([bytes]));
  const fine = (await loaded) && image.naturalWidth > 0;
  URL.revokeObjectURL(image.src);
  if (!fine) return null;
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const brush = canvas.getContext("2d", { willReadFrequently: true });
  brush.fillStyle = "white";
  brush.fillRect(0, 0, width, height);
  const sums = [0, 0, 0];
  try {
    brush.drawImage(image, 0, 0);
    for (let top = 0; top < height; top += 64) {
      const rows = brush.getImageData(0, top, width, Math.min(64, height - top)).data;
      for (let at = 0; at < rows.length; at += 4) for (let one = 0; one < 3; one++) sums[one] += rows[at + one];
    }
  } catch {
    return null;
  }
  return { size: [width, height], mean: sums.map((sum) => sum / (width * height)) };
}"""


@dataclass(frozen=True)
class Look:
    """Width and height, and the mean of red, green and blue."""

    size: tuple[int, int]
    mean: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.size[0]} x {self.size[1]} of {' '.join(f'{level:.1f}' for level in self.mean)}"


def in_browser(page: Page, data: bytes) -> Look | None:
    """Return what Chromium shows, None where it shows no picture."""
    found: dict[str, Any] | None = page.evaluate(LOOK, base64.b64encode(data).decode())
    return None if found is None else Look(tuple(found["size"]), tuple(found["mean"]))


def here(decoder: ImageWorkers, data: bytes) -> Look | ServiceError:
    """Return what the model sees, or why it does not."""
    try:
        images.check_header(data)
        pixels = decoder.decode(Job(data, 0, 0, images.MAX_IMAGE_SIDE), Wanted())
    except ServiceError as error:
        return error
    rows = np.frombuffer(pixels.data, np.uint8).reshape(-1, 3)
    return Look((pixels.width, pixels.height), tuple(rows.mean(axis=0).tolist()))


def verdict(shown: Look | None, seen: Look | ServiceError) -> str:
    """Return how both compare, one of VERDICTS."""
    if shown is None:
        return "read by neither" if isinstance(seen, ServiceError) else "read here only"
    blank = min(shown.mean) > 254.99
    if isinstance(seen, ServiceError):
        if blank:
            return NOTHING
        limits = images.SIDE_TOO_LONG, images.TOO_MANY_PIXELS, images.TOO_NARROW, images.TOO_LARGE
        return OVER if seen.message in limits else PARTLY if seen.message == images.DAMAGED else "refused"
    if shown.size != seen.size:
        return "other size"
    if max(abs(a - b) for a, b in zip(shown.mean, seen.mean, strict=True)) <= NEAR:
        return SAME
    return NOTHING if blank else "other colours"


def answer(port: int, data: bytes) -> int:
    """Return the status of a question about a picture, 0 where there is none in time."""
    fields = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nWhat is it?\r\n--{BOUNDARY}\r\n'
    fields += 'Content-Disposition: form-data; name="max_tokens"\r\n\r\n1\r\n'
    fields += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    body = fields.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        connection.request("POST", "/api/v1/image/analyze", body, kind)
        return connection.getresponse().status
    except TimeoutError:
        return 0
    finally:
        connection.close()


@contextmanager
def browser() -> Iterator[Page]:
    """Run a Chromium with one page."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program("chromium"), args=FLAGS)
        print(f"Chromium {running.version}", file=sys.stderr)
        yield running.new_page()
        running.close()


def format_of(data: bytes) -> str | None:
    """Return the name of a format that is read here, None for another."""
    reader = reader_for(data)
    return None if reader is None else reader.__name__.removeprefix("read_").upper()


def compare(folder: Path) -> tuple[Counter[tuple[str, str]], Counter[int], list[str]]:
    """Return how many pictures of each format have each verdict, the statuses of the service, and what to look at."""
    counts, statuses, notes = Counter[tuple[str, str]](), Counter[int](), list[str]()
    decoder, slowest = ImageWorkers(1), 0.0
    with tempfile.TemporaryDirectory() as scratch, demo_service.start(Path(scratch)) as service, browser() as page:
        decoder.start()
        try:
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                data = file.read_bytes()
                began = time.monotonic()
                status = answer(service.port, data)
                slowest = max(slowest, time.monotonic() - began)
                statuses[status] += 1
                if status == 0 or status >= 500:
                    notes.append(f"{file.relative_to(folder)}: answered {status}")
                if (name := format_of(data)) is None:
                    continue
                try:
                    shown = in_browser(page, data)
                except Error:  # larger than what a canvas holds
                    shown = None
                seen = here(decoder, data)
                counts[name, said := verdict(shown, seen)] += 1
                if said not in (SAME, "read by neither"):
                    notes.append(f"{file.relative_to(folder)}: {said}; Chromium {shown}; here {seen}")
        finally:
            decoder.stop()
    notes.append(f"slowest answer: {slowest:.1f} s")
    return counts, statuses, notes


def table(counts: Counter[tuple[str, str]]) -> str:
    """Return the counts as Markdown."""
    rows = [["format", *VERDICTS], ["---"] * (len(VERDICTS) + 1)]
    names = sorted({name for name, _ in counts})
    rows += [[name, *(str(counts[name, said] or "") for said in VERDICTS)] for name in names]
    rows.append(["all", *(str(sum(counts[name, said] for name in names)) for said in VERDICTS)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    """Compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    counts, statuses, notes = compare(parser.parse_args().folder)
    print(*notes, "", table(counts), "", f"statuses: {dict(sorted(statuses.items()))}", sep="\n")
    failed = statuses[0] + sum(number for status, number in statuses.items() if status >= 500)
    return int(failed > 0 or any(counts[key] for key in counts if key[1] in BAD))


if __name__ == "__main__":
    sys.exit(main())
