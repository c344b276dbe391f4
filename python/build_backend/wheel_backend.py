"""Builds the wheel of this package, without a network and without other packages (PEP 517).

A wheel is a zip file of the package and of a folder that describes it.
"""

import base64
import hashlib
import pathlib
import re
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "pilcrow"


def _field(name):
    """A field of the section `project` that is one text. Python 3.10 has no reader of TOML."""
    text = (ROOT / "pyproject.toml").read_text("utf-8").split("[project]")[1].split("\n[")[0]
    return re.search(rf'^{name} = (?:\{{ text = )?"([^"]*)"', text, re.MULTILINE)[1]


def _metadata():
    fields = [
        ("Metadata-Version", "2.1"),
        ("Name", _field("name")),
        ("Version", _field("version")),
        ("Summary", _field("description")),
        ("License", _field("license")),
        ("Requires-Python", _field("requires-python")),
        ("Description-Content-Type", "text/markdown"),
    ]
    head = "".join(f"{name}: {value}\n" for name, value in fields)
    return f"{head}\n{(ROOT / 'README.md').read_text('utf-8')}"


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """Called by pip: writes the wheel, and returns its name."""
    stem = f"{PACKAGE}-{_field('version')}"
    info = f"{stem}.dist-info"
    sources = [path for path in sorted((ROOT / PACKAGE).rglob("*")) if path.suffix == ".py" or path.name == "py.typed"]
    files = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in sources}
    files[f"{info}/METADATA"] = _metadata().encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: wheel_backend\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    name = f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / name, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, content in files.items():
            # The same bytes at each build: the time is left out.
            entry = zipfile.ZipInfo(path)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, content)
    return name


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """Refused in words: there is nothing to build, so the folder itself can be used."""
    raise RuntimeError(f"set PYTHONPATH={ROOT} in place of an editable install")


def _digest(content):
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
