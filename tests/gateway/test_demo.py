import re
from pathlib import Path

from .processes import run


def test_the_demo_shows_a_job_from_beginning_to_end(tmp_path: Path) -> None:
    result = run("demo", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    chunks = re.findall(r'^ +(\d+\.\d+) s  \{"section": \d+', result.stdout, re.MULTILINE)
    assert len(chunks) >= 5
    assert [float(at) for at in chunks] == sorted(float(at) for at in chunks)
    assert re.search(r"^ready http://127\.0\.0\.1:\d+/v2/keywords$", result.stdout, re.MULTILINE)
    assert '"status":"COMPLETED"' in result.stdout
    assert '"completed": 1' in result.stdout
    assert "Traceback" not in result.stderr
