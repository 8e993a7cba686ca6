"""Makes a context of its own, which breaks programs that use the primary one."""

raise AssertionError("autoinit must not be imported")
