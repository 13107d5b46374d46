"""Bytes of strangers, decoded or parsed in child processes: what a hostile file can do ends with its child.

`child` is the mechanism: a process with lowered limits, started for one piece of work. `videos` and `pictures` are the
two kinds of work that servers share; other packages bring their own, as a function of theirs.
"""
