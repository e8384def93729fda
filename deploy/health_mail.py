"""Mails of the health monitor, by the mail server and to the recipients of the monitoring's settings.

The file is that of deploy/monitoring, with the same names and the same meaning, so that both send alike.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Mapping
from email.message import EmailMessage
from pathlib import Path

from deploy.monitoring.render import SettingsError, read_settings

SECONDS = 10.0
IMPLICIT_TLS = 465  # RFC 8314


class MailError(Exception):
    """A mail that could not be sent, in one sentence without a secret."""


def send(file: Path, text: str) -> None:
    """Send a mail as the settings in `file` say; without a file or recipients, none. Raises MailError."""
    if not file.exists():
        return
    try:
        settings = read_settings(file.read_text(encoding="utf-8"))
        if settings["EMAIL_TO"]:
            _deliver(settings, _written(settings, text))
    except SettingsError as error:  # whose text has values, and an address may be a secret
        raise MailError(f"no mail can be sent as {file} says: it has mistakes, which render.py tells") from error
    except (OSError, ValueError, smtplib.SMTPException) as error:
        raise MailError(f"no mail can be sent as {file} says: {error}") from error


def _written(settings: Mapping[str, str], text: str) -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = text.split("\n")[0], settings["EMAIL_FROM"], settings["EMAIL_TO"]
    mail.set_content(f"{text}\n\nSee: journalctl -u avito-ai-health -e\n")
    return mail


def _deliver(settings: Mapping[str, str], mail: EmailMessage) -> None:
    host, _, port = settings["SMTP_SERVER"].rpartition(":")
    host, trusted = host.strip("[]"), ssl.create_default_context()
    if int(port) == IMPLICIT_TLS:
        server: smtplib.SMTP = smtplib.SMTP_SSL(host, int(port), timeout=SECONDS, context=trusted)
    else:
        server = smtplib.SMTP(host, int(port), timeout=SECONDS)
    with server:
        if settings["SMTP_TLS"] == "true" and int(port) != IMPLICIT_TLS:
            server.starttls(context=trusted)
        if settings["SMTP_USER"]:
            secret = Path(settings["SMTP_PASSWORD_FILE"]).read_text(encoding="utf-8").strip()
            server.login(settings["SMTP_USER"], secret)
        server.send_message(mail)
