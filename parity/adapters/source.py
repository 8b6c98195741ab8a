"""The line of somebody's code that called an operation."""

import linecache
import os
import sys

_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def calling_line(*frameworks: str) -> str:
    """File, line and text of the innermost line outside of some packages and of this one; "" if there is none.

    Args:
        frameworks: names of packages, as they lie in site-packages.
    """
    inside = tuple(os.path.join("site-packages", name) + os.sep for name in frameworks)
    frame, deep = sys._getframe(1), False
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_OWN):
            if deep:
                return ""  # a layer of the framework's own was called by nobody but us
        elif any(part in path for part in inside):
            deep = True
        elif not path.startswith("<"):
            text = linecache.getline(path, frame.f_lineno).strip()
            return f"{os.path.basename(path)}:{frame.f_lineno}  {text}".rstrip()
        frame = frame.f_back
    return ""
