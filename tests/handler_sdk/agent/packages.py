"""Packages that are installed without a network: a wheel made by hand, and a project that makes its own."""

WHEEL = """
import zipfile

def make(path, name, text):
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", text)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
"""
"""Makes a wheel: PyPA's specification "Binary distribution format"."""

PROJECT = {
    "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
    "backend.py": WHEEL
    + """
def build_wheel(folder, config_settings=None, metadata_directory=None):
    make(f"{folder}/shouting-1.0-py3-none-any.whl", "shouting", "def shout(text): return text.upper()")
    return "shouting-1.0-py3-none-any.whl"
""",
}
"""A project that pip builds with what is in it, and the module that it installs."""
