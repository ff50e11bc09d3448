"""What a benchmark may count as time: by the clock, or on the CPU, for a machine that others use too."""

from __future__ import annotations

import time

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
