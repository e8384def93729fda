"""What this machine has: room on its disks, a GPU, the certificate of the proxy in front, the folders of the models."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import time
from pathlib import Path

from cryptography import x509

from checks.finding import Finding, State
from config import Settings
from engine.errors import StartError
from engine.loading.checkpoint import ARCHITECTURES, find_checkpoint, find_tokenizer
from engine.loading.device import DeviceRequest, choose_devices, find_gpus, find_torch_support
from engine.types import is_further, model_of
from models.folders import choose_checkpoints

GIB, MIB = 1024**3, 1024**2
FULL, NEARLY_FULL = GIB // 4, 0.9  # bytes that are left; share that is used
NGINX_SITE = Path("/etc/nginx/sites-available/avito-ai.conf")
TLS_SECONDS = 3.0
SOON_DAYS = 14  # certbot renews 30 days before the end
SERVER_NAME = re.compile(r"^\s*server_name\s+([A-Za-z0-9.-]+)\s*;", re.MULTILINE)
CERTIFICATE = re.compile(r"^\s*ssl_certificate\s", re.MULTILINE)


def check_disk(settings: Settings) -> Finding:
    """Look at the disks that the service writes to."""
    log_file = settings.logging.log_file
    folders = [settings.data.state_dir, *([log_file.parent] if log_file else []), Path("/")]
    worst = Finding(State.OK, "")
    shown = []
    for folder in dict.fromkeys(map(_existing, folders)):
        usage = shutil.disk_usage(folder)
        shown.append(f"{folder} has {_size(usage.free)} free of {_size(usage.total)}")
        if usage.free < FULL:
            worst = Finding(State.FAILED, "")
        elif usage.used > NEARLY_FULL * (usage.used + usage.free) and worst.state is State.OK:
            worst = Finding(State.WARNING, "")
    return Finding(worst.state, f"{'; '.join(shown)}.")


def _size(bytes_: int) -> str:
    """Return a size in words; small disks in MiB, so that none shows as empty."""
    return f"{bytes_ / GIB:.1f} GiB" if bytes_ >= GIB else f"{bytes_ / MIB:.0f} MiB"


def check_device(settings: Settings, visible: str | None) -> Finding:
    """Choose the devices of the models as a start would, which imports torch. visible: CUDA_VISIBLE_DEVICES."""
    request = DeviceRequest(settings.model.device, visible, settings.production)
    try:
        chosen = choose_devices(request, settings.model.own_devices, find_gpus, find_torch_support)
    except StartError as error:
        return Finding(State.FAILED, str(error))
    gpus = sorted(set(chosen.values()) - {"cpu"})
    return Finding(State.OK, f"The models run on {' and '.join(gpus)}.") if gpus else _off("The models run on the CPU.")


def check_models(settings: Settings) -> Finding:
    """Look for the checkpoint and the tokenizer of each model and version, without loading them."""
    names, lost = list[str](), list[str]()
    try:
        chosen = choose_checkpoints(settings)
        for name, folders in chosen.items():
            try:
                find_checkpoint(folders.model_dir, name, ARCHITECTURES[model_of(name)])
                find_tokenizer(folders.tokenizer_dir, name)
                names.append(f"{name} in {folders.model_dir}")
            except StartError as error:
                if not is_further(name):
                    raise
                lost.append(f" A start would leave {name} out: {error}")
    except StartError as error:
        return Finding(State.FAILED, str(error))
    demo = settings.production and any(folders.demo for folders in chosen.values())
    return Finding(State.WARNING if demo or lost else State.OK, f"{', '.join(names)}.{''.join(lost)}")


def check_certificate(site: Path = NGINX_SITE, port: int = 443) -> Finding:
    """Ask the nginx of this machine for the certificate of the site that deploy.sh installed, and when it ends."""
    try:
        written = site.read_text(encoding="utf-8")
    except OSError:
        return _off("deploy.sh has installed no nginx site here; what is in front has the certificate.")
    name = SERVER_NAME.search(written)
    if name is None or not CERTIFICATE.search(written):
        return _off(f"{site} has no certificate.")
    try:
        end = _end_of_certificate(name[1], port)
    except (OSError, ValueError) as error:
        return Finding(State.FAILED, f"{name[1]}: nginx shows no certificate ({type(error).__name__}).")
    days = (end - time.time()) / 86400
    state = State.OK if days > SOON_DAYS else State.WARNING if days > 0 else State.FAILED
    return Finding(state, f"The certificate of {name[1]} {f'ends in {days:.0f} days' if days > 0 else 'has ended'}.")


def _end_of_certificate(name: str, port: int) -> float:
    """Return when the certificate ends that this machine shows for a name, in seconds since the epoch."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # whoever issued it: what is asked is until when
    with (
        socket.create_connection(("127.0.0.1", port), TLS_SECONDS) as connection,
        context.wrap_socket(connection, server_hostname=name) as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(shown or b"").not_valid_after_utc.timestamp()


def _existing(folder: Path) -> Path:
    return next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())


def _off(detail: str) -> Finding:
    return Finding(State.OFF, detail)
