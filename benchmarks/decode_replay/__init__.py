"""What a router costs data-parallel decoding: traces replayed step by step under every rule.

    python -m equipoise.benchmarks.decode_replay [--traces DIR] [--trace azure] [--workers 16] [--policy NAME …]

Without `--traces`, samples of the traces are replayed: README.md tells where the whole ones come from.
From Python, for a setting of one's own:

    from equipoise.benchmarks.decode_replay import ours, plain, read_trace, replay
    trace = read_trace("azure2023_conv.csv")
    replay(trace, RULES["BF-IO H=0"], workers=16, slots=72, seed=0)   # RULES: the peers, by name
    replay(trace, ours(max_bypass=48, horizon=[0, 4, 16, 64]))        # any field of the spec, through a session
    replay(trace, plain(lambda step: …))                              # a function of a `Snapshot` of plain arrays

**The replay.** G workers of B slots decode in lock-step. Requests are rows of a trace (prompt tokens, output tokens)
drawn with replacement. Every worker starts with B of them, the initial requests; the others stand in line, and the
pool of waiting requests is refilled from the line to 4·G before each step. (With `--start empty`, the workers start
idle beside a full pool, whose requests are the initial ones, as figures of BF-IO were measured.) A step: the
policy admits; the loads (the resident tokens of each worker) are measured; every active request makes one token,
grows by one, and leaves after its output tokens. `rounds` requests per slot in all make a trace of rounds·G·B.

**The window.** Measured are the steps from when every initial request has left, which is the same step for all
policies, until the pool runs dry. Decisions are timed in the window, and only where there is a slot and somebody waits.

**The metrics**, with M the heaviest load of a step, Σ the sum of the loads, C = (0.6 ms·B + 35 ms)/16 and
t = 1.005e-7 s per token (arXiv 2601.17855):
- imbalance: mean over steps of G·M − Σ, tokens; idle: mean of 1 − Σ/(G·M);
- a step lasts C + t·M; tokens/s = tokens made / time; `of_limit` = Σ of C + t·Σ/G over Σ of C + t·M: the share of the
  tokens/s that the same steps would give if nobody idled;
- tpot: time per output token of the requests that finish in the window, each its time over its tokens; mean, p95;
- makespan: time of the whole replay, from the first step until the last request leaves;
- waits of the requests admitted in the window, steps from the one in which they joined the pool: p50, p99, max; and
  the longest of the whole replay, which at the start is long for everyone, since nobody has finished yet;
- energy: a worker of load l draws 100 + 300·(l/M)^0.7 W; joules per token made;
- decision: time of the policy on the machine that replays, p50 and p99.
"""

from .policies import POLICIES, RULES, ours, plain
from .simulator import Metrics, Setting, Timeline, replay, simulate
from .traces import FORESIGHT, TRACES, Trace, read_trace

__all__ = [
    "FORESIGHT", "POLICIES", "RULES", "TRACES", "Metrics", "Setting", "Timeline", "Trace", "ours", "plain",
    "read_trace", "replay", "simulate",
]  # fmt: skip
