from __future__ import annotations

import pytest

from fastlangevin.kernels import build


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> build.Library:
    """A library that is compiled in a moment."""
    (tmp_path / "csrc" / "tiny").mkdir(parents=True)
    (tmp_path / "csrc" / "tiny" / "a.cpp").write_text(
        '#if __has_include("answer.h")\n#include "answer.h"\n#else\n#define ANSWER 42\n#endif\n'
        'extern "C" __attribute__((visibility("default"))) int answer() { return ANSWER; }\n'
    )
    monkeypatch.setattr(build, "csrc", lambda: tmp_path / "csrc")
    return build.Library("tiny", (("tiny/a.cpp", ()),))
