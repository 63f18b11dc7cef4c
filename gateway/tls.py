"""The server's certificate, which is served anew when its files change.

New files make a new context, and the context of the listener hands each handshake to the newest. (To load them into
the living one would be less: a pair that does not match leaves it with half of each, and after a change from RSA to
ECDSA it would serve the old certificate to whoever prefers it.)
"""

import contextlib
import datetime
import logging
import ssl
from pathlib import Path

from cryptography import x509

from .errors import StartupError

logger = logging.getLogger(__name__)

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: with forward secrecy and authenticated encryption alone. Those of TLS 1.3 are all of that kind."""

_Stamp = tuple[tuple[int, int, int], ...]


class Certificate:
    """A pair of files, and what they held when they last matched."""

    def __init__(self, certificate: str, key: str) -> None:
        """Takes the paths.

        Raises:
            StartupError: one cannot be read, they do not belong together, or the certificate has expired.
        """
        self._files = (Path(certificate), Path(key))
        self._stamp = self._look()
        self._refused: _Stamp | None = None
        self._newest = self._load()
        self.context = _context()
        self.context.sni_callback = self._choose  # also called for a client that names no server

    def reload(self) -> None:
        """Takes the pair anew if it has changed. One that cannot be served is reported once, and the one before stays:
        the two files may well be replaced one after the other."""
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            newest = self._load()
        except StartupError as error:
            self._complain(str(error))
            return
        if self._look_again() == stamp:  # else the next time
            self._newest, self._stamp, self._refused = newest, stamp, None
            logger.info("serving the new certificate in %s", self._files[0])

    def _choose(self, handshake: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: ssl.SSLContext) -> None:
        handshake.context = self._newest

    def _complain(self, message: str) -> None:
        stamp = self._look_again()
        if stamp != self._refused:
            self._refused = stamp
            logger.warning("the changed certificate is not served, the one before stays: %s", message)

    def _look_again(self) -> _Stamp:
        with contextlib.suppress(StartupError):
            return self._look()
        return ()

    def _look(self) -> _Stamp:
        found = []
        for file in self._files:
            try:
                status = file.stat()
            except OSError as error:
                raise StartupError(f"cannot read {file}: {error.strerror}") from None
            found.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return tuple(found)

    def _load(self) -> ssl.SSLContext:
        certificate, key = self._files
        context = _context()
        _check_dates(certificate)
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise StartupError(f"the key in {key} is not that of the certificate in {certificate}") from None
            raise StartupError(
                f"{key} holds no key in PEM without a password, or {certificate} no certificate"
            ) from None
        except OSError as error:
            raise StartupError(f"cannot read {certificate} or {key}: {error.strerror}") from None
        return context


def open_certificate(certificate: str, key: str) -> Certificate | None:
    """The pair of the settings; None when there is none.

    Raises:
        StartupError: there is one without the other, or it cannot be served.
    """
    if bool(certificate) != bool(key):
        raise StartupError("tls_cert and tls_key go together: set both (--tls-cert, --tls-key), or neither")
    return Certificate(certificate, key) if certificate else None


def _check_dates(file: Path) -> None:
    try:
        first = x509.load_pem_x509_certificates(file.read_bytes())[0]
    except OSError as error:
        raise StartupError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, IndexError):
        raise StartupError(f"{file} holds no certificate in PEM") from None
    if first.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        raise StartupError(f"the certificate in {file} has expired on {first.not_valid_after_utc:%Y-%m-%d}")


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _no_password() -> str:
    return ""  # OpenSSL would ask for it at the terminal
