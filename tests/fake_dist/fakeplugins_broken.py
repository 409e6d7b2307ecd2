raise RuntimeError("no such compiler")
