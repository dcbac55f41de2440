"""Where solves run that must not cost anybody else: worker processes of this machine, or of a Ray cluster.

`worker.py` says what a worker is asked and what it tells; `process.py` and `ray_worker.py` are the two that there are,
and `pool.py` keeps a number of either at work.
"""
